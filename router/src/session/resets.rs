//! RESET and DISCARD: back to what the startup packet said, on whichever connection the session has then.
//!
//! A server connection was started by somebody else, so that its own defaults are not the client's.

use tenantry_wire::backend;
use tenantry_wire::sql::DiscardTarget;
use tenantry_wire::sqlstate;

use super::client::Handled;
use super::special::Mode;
use super::{Session, Tx};
use crate::error::Refusal;
use crate::server::Link;

impl Session {
    pub(super) fn discard(
        &mut self,
        target: DiscardTarget,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let tag = match target {
            DiscardTarget::All => return self.discard_all(mode, server),
            DiscardTarget::Plans => "DISCARD PLANS",
            DiscardTarget::Sequences => "DISCARD SEQUENCES",
            DiscardTarget::Temp => "DISCARD TEMP",
        };
        self.command_complete(tag)
    }

    fn discard_all(
        &mut self,
        mode: &Mode,
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let alone = !matches!(mode, Mode::Simple { only: false, .. });
        if !matches!(self.tx, Tx::Idle) || !alone {
            return Err(Refusal::InTransactionBlock {
                what: "DISCARD ALL",
            });
        }
        if self.batch.executed {
            return Err(Refusal::InPipeline {
                what: "DISCARD ALL",
            });
        }
        if self.changes_reports() {
            let Some(server) = server else {
                return Ok(self.acquire());
            };
            self.begin_implicit();
            self.state.reset_all();
            if self.batch.forwarded {
                let prepared = self.internal("CLOSE ALL");
                self.run_hidden_prepared(server, &prepared);
            }
            self.forget_everything(Some(&mut *server));
            server.state.applied = None;
            self.prepare_server(server);
            let done = self.complete_on_server("DISCARD ALL", mode, server);
            // It is committed at once.
            self.batch.ended = true;
            return done;
        }
        self.state.reset_all();
        if self.batch.forwarded
            && let Some(server) = server.as_deref_mut()
        {
            // Portals of the batch so far.
            let prepared = self.internal("CLOSE ALL");
            self.run_hidden_prepared(server, &prepared);
        }
        self.forget_everything(server);
        self.answer(|out| backend::put_command_complete(out, "DISCARD ALL"));
        if self.batch.forwarded {
            self.batch.ended = true;
        } else {
            self.end_implicit();
        }
        Ok(Handled::Done)
    }

    fn forget_everything(&mut self, server: Option<&mut Link>) {
        self.statements.clear();
        self.clear_portals();
        if let Some(server) = server {
            server.state.dirty |= self.is_pinned();
        }
        self.pinned = false;
        self.held_cursors.clear();
        self.state.forget_channels();
        // In pool mode `session` too, what is left on the connection is given up.
        self.set_held(None);
    }

    /// RESET of a setting that the startup packet gave a value: a server connection was started by somebody else,
    /// and its own default is not the client's.
    pub(super) fn restore(
        &mut self,
        name: &str,
        local: bool,
        tag: &'static str,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_implicit();
        if local && matches!(self.tx, Tx::Idle) && !self.batch.split {
            self.warn(
                sqlstate::NO_ACTIVE_SQL_TRANSACTION,
                "SET LOCAL can only be used in transaction blocks",
            );
        }
        self.prepare_server(server);
        if let Some(value) = self.state.startup_value(name) {
            let text = value.statement(name, local);
            self.run_hidden_unnamed(server, text.as_bytes());
        }
        if !local {
            self.state.reset(name);
            server.state.applied = Some(self.state.settings().clone());
            server.state.applied_in_transaction = true;
        }
        self.complete_on_server(tag, mode, server)
    }

    /// RESET ALL: every value of the session and of the transaction goes, so the server resets all and is given the
    /// startup packet's values again.
    pub(super) fn restore_all(
        &mut self,
        mode: &Mode,
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        // The reset of a driver's pool is one Query that ends so: what ran before in it was the
        // tenant's that the session leaves now.
        let leaves = self.state.startup_tenant() != self.state.tenant();
        if leaves
            && matches!(mode, Mode::Simple { .. })
            && matches!(self.tx, Tx::Idle)
            && !self.come_to_rest(server.as_deref_mut())
        {
            return Ok(Handled::Later);
        }
        self.check_switch(self.state.startup_tenant())?;
        let inside = !matches!(self.tx, Tx::Idle) || self.batch.forwarded || self.sync_owed;
        if !inside && !self.changes_reports() {
            self.begin_implicit();
            self.state.reset_all();
            return self.command_complete("RESET");
        }
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.begin_implicit();
        self.state.reset_all();
        // In a transaction, BEGIN comes first.
        server.state.applied = None;
        self.prepare_server(server);
        self.complete_on_server("RESET", mode, server)
    }

    /// Whether a reset would change a value that the server reports.
    fn changes_reports(&self) -> bool {
        self.is_pinned() || self.state.settings().hash() != self.state.startup_hash()
    }
}
