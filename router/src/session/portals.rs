//! Execute and Close: the server's portals, and those of statements that the router runs itself.
//!
//! A portal ends with its transaction. The unnamed one is the server's as long as a client may still name it: what the
//! router runs in between takes another name.

use bytes::Bytes;
use tenantry_wire::backend;
use tenantry_wire::frontend::{Execute, Target, TargetKind};
use tenantry_wire::sql::{self, Kind};

use super::client::{ClientMessage, Handled};
use super::expect::{Effect, Expect};
use super::extended::{malformed, malformed_target};
use super::special::Mode;
use super::statements::Portal;
use super::{Session, Tx};
use crate::error::Refusal;
use crate::server::Link;

impl Session {
    pub(super) fn execute(
        &mut self,
        message: ClientMessage<'_>,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let execute = Execute::decode(message.body).map_err(malformed)?;
        if execute.portal.is_empty() && self.failed_portal && matches!(self.tx, Tx::Failed) {
            if !self.settle(server) {
                return Ok(Handled::Later);
            }
            return Err(Refusal::TransactionAborted);
        }
        let effects = match self.statements.portal(execute.portal) {
            Some(Portal::Router { .. }) => {
                let handled = self.execute_own(execute.portal, server)?;
                self.batch.executed |= handled == Handled::Done;
                return Ok(handled);
            }
            Some(Portal::Server(effects)) => effects.clone(),
            None => Vec::new(),
        };
        if self.lacks_portal(execute.portal) {
            return self.unknown_portal(execute.portal, server);
        }
        let expect = Expect::Execute {
            effects,
            withhold: false,
        };
        self.note_in_flight(false);
        self.batch.executed = true;
        let handled = self.forward_extended(message, server, expect)?;
        if handled == Handled::Done
            && let Some(Portal::Server(effects)) = self.statements.portal(execute.portal)
        {
            // Whatever it calls it has called: executed again, it only goes on with its rows.
            effects.retain(|effect| !matches!(effect, Effect::Set { .. } | Effect::Reset(_)));
        }
        Ok(handled)
    }

    /// Whether there is no such portal, whatever the server holds under that name.
    pub(super) fn lacks_portal(&self, portal: &[u8]) -> bool {
        // A transaction that never reached a server has no portal there.
        let nowhere = matches!(
            self.tx,
            Tx::FailedHere {
                open_on_server: false,
                ..
            }
        );
        if portal.is_empty() {
            !self.unnamed_portal
        } else {
            nowhere && self.lost.is_none()
        }
    }

    pub(super) fn unknown_portal(
        &mut self,
        portal: &[u8],
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        if !self.settle(server) {
            return Ok(Handled::Later);
        }
        Err(Refusal::UnknownPortal {
            name: String::from_utf8_lossy(portal).into_owned(),
        })
    }

    /// What a simple Query does to the unnamed portal.
    pub(super) fn forget_unnamed_portal(&mut self) {
        self.statements.set_portal(b"", None);
        self.unnamed_portal = false;
        self.failed_portal = false;
    }

    /// Portals end with their transaction.
    pub(super) fn clear_portals(&mut self) {
        self.statements.clear_portals();
        self.unnamed_portal = false;
        self.failed_portal = false;
    }

    fn execute_own(
        &mut self,
        portal: &[u8],
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        if !self.settle(server.as_deref_mut()) {
            return Ok(Handled::Later);
        }
        self.batch.flushed = false;
        let Some(Portal::Router {
            text,
            parameters,
            binary,
            done,
        }) = self.statements.portal(portal).map(|portal| portal.clone())
        else {
            return Err(Refusal::UnknownPortal {
                name: String::from_utf8_lossy(portal).into_owned(),
            });
        };
        let kind = sql::classify(&text, self.scs());
        if done && !matches!(self.tx, Tx::Failed | Tx::FailedHere { .. }) {
            return match kind {
                Kind::SetConfig { .. } => self.command_complete("SELECT 0"),
                Kind::Show(_) => self.command_complete("SHOW"),
                _ => Err(Refusal::PortalDone {
                    name: String::from_utf8_lossy(portal).into_owned(),
                }),
            };
        }
        let mode = Mode::Extended { parameters, binary };
        let handled = self.run_statement(&text, &kind, &mode, server)?;
        if handled == Handled::Done
            && let Some(Portal::Router { done, .. }) = self.statements.portal(portal)
        {
            *done = true;
        }
        Ok(handled)
    }

    pub(super) fn close(
        &mut self,
        message: ClientMessage<'_>,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let target =
            Target::decode(message.body).map_err(|error| malformed_target(&message, error))?;
        match target.kind {
            TargetKind::Statement => {
                let name = Bytes::copy_from_slice(target.name);
                let undo = self.statements.change(name, None);
                self.answer(backend::put_close_complete);
                self.remember(undo);
                return Ok(Handled::Done);
            }
            TargetKind::Portal => {
                let own = matches!(
                    self.statements.portal(target.name),
                    Some(Portal::Router { .. })
                );
                self.statements.set_portal(target.name, None);
                self.unnamed_portal &= !target.name.is_empty();
                let on_server =
                    self.batch.forwarded || matches!(self.tx, Tx::Open { .. } | Tx::Failed);
                if let Some(server) = server
                    && on_server
                    && !own
                {
                    server.output.extend_from_slice(message.bytes);
                    self.batch.forwarded = true;
                    self.expects.push(Expect::Close);
                    return Ok(Handled::Done);
                }
            }
        }
        self.answer(backend::put_close_complete);
        Ok(Handled::Done)
    }
}
