//! The question that goes before each transaction of a tenant that moves: is it served on this shard?
//!
//! The guard looks lazily, inside the client's statement, when rows may have been sent and effects be there. So the
//! router asks first, in the client's transaction, and waits for the answer: it holds the tenant's lock then, and no
//! fence comes before the transaction's end. If the answer is no, nothing of the client's has been sent, its message is
//! still in the buffer, and the session is as it was. The round trip is paid by tenants whose cutover is near, and by
//! nobody else.

use std::sync::Arc;

use tenantry_wire::backend::{ErrorFields, TxStatus};
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::sqlstate;

use super::expect::Expect;
use super::{Session, Tx};
use crate::holds::TenantRefusal;
use crate::server::Link;

/// What asks, and takes the tenant's lock for the transaction.
const PROBE: &str = "SELECT tenantry.tenant()";

/// A question that has not been answered, or whose failure is being cleared away.
#[derive(Debug)]
pub(super) struct Asked {
    /// The texts of a transaction that it opens.
    deferred: Option<Vec<String>>,
}

impl Asked {
    /// Nobody asked: something else is being cleared away.
    pub(super) fn nothing() -> Self {
        Self { deferred: None }
    }
}

/// Why the client's transaction did not begin.
#[derive(Debug)]
pub(crate) enum Turned {
    /// The tenant is not served here, or not now: to be run again.
    Away(Box<TenantRefusal>),
    /// The client has cancelled it.
    Canceled,
}

impl Session {
    /// Whether the guard is asked before each transaction.
    pub(crate) fn set_probes(&mut self, probes: bool) {
        self.probes = probes;
    }

    /// Whether the next transaction must not begin before the guard has been asked.
    pub(crate) fn must_probe(&self) -> bool {
        self.probes && !self.shuns_probe && self.is_at_rest()
    }

    /// The message that waits cannot run behind a question in the same transaction: it gives its transaction an
    /// isolation level, or ends it.
    pub(super) fn shun_probe(&mut self) {
        self.shuns_probe = true;
    }

    /// Opens the transaction and asks.
    pub(crate) fn ask_guard(&mut self, server: &mut Link) {
        let deferred = match &self.tx {
            Tx::Deferred { prologue } => Some(prologue.clone()),
            _ => None,
        };
        self.prepare_server(server);
        let prepared = self.internal(PROBE);
        self.prepare_on(server, &prepared);
        let portal = self.own_portal();
        frontend::put_bind(
            &mut server.output,
            portal,
            &prepared.name,
            &[],
            Format::Text,
        );
        frontend::put_execute(&mut server.output, portal, 0);
        self.expects.push(Expect::HiddenBind);
        self.expects.push(Expect::Probe);
        self.leave_portal(server, portal);
        self.flush(server);
        self.unproven = true;
        self.asked = Some(Box::new(Asked { deferred }));
    }

    /// Asks in passing: what is sent behind it is skipped if the answer is no.
    pub(super) fn take_lock(&mut self, server: &mut Link) {
        let prepared = self.internal(PROBE);
        self.run_hidden_prepared(server, &prepared);
    }

    /// The tenant is served here until this transaction ends.
    pub(super) fn probe_passed(&mut self) {
        self.expects.pop();
        self.asked = None;
        self.entered = true;
        self.flush_local();
    }

    /// The question failed, or what had to be in force for it. What was sent is taken back; who drives the session asks
    /// with [`Self::take_turned`] what comes next.
    pub(super) fn probe_failed(&mut self, fields: &ErrorFields, server: &mut Link) {
        match TenantRefusal::read(fields).filter(TenantRefusal::is_of_a_move) {
            Some(met) => self.turned = Some(Turned::Away(Box::new(met))),
            None if fields.code == sqlstate::QUERY_CANCELED => {
                self.turned = Some(Turned::Canceled);
            }
            // The statement itself will tell the client.
            None => self.shuns_probe = true,
        }
        self.distrust(fields, &mut server.state);
        let skipped = self.expects.skip_to_sync();
        self.undo(skipped, &mut server.state);
        self.clear_away(server);
    }

    /// Ends the transaction that failed before the client's first statement in it, behind the client's back.
    fn clear_away(&mut self, server: &mut Link) {
        frontend::put_sync(&mut server.output);
        self.expects.push(Expect::Aside);
        let deferred = self.asked.as_mut().and_then(|asked| asked.deferred.take());
        if let Some(prologue) = deferred {
            frontend::put_query(&mut server.output, "ROLLBACK");
            self.expects.push(Expect::Aside);
            server.state.unnamed = None;
            self.tx = Tx::Deferred { prologue };
        }
        // What the server reports of the settings that went with it, the client need not know.
        self.reverted = Some(Arc::clone(&self.reported));
    }

    /// The server is ready again behind a failure that the client knows nothing of.
    pub(super) fn cleared_away(&mut self, status: TxStatus, server: &mut Link) {
        self.expects.pop();
        if matches!(self.expects.front(), Some(Expect::Aside)) {
            return;
        }
        if status != TxStatus::Idle {
            // A late cancel has hit the ROLLBACK.
            frontend::put_query(&mut server.output, "ROLLBACK");
            self.expects.push(Expect::Aside);
            return;
        }
        server.state.transaction_ended(false);
        self.reverted = None;
        self.unproven = false;
        self.batch.flushed = false;
        self.asked = None;
    }

    /// Whether a transaction that was to begin did not.
    pub(crate) fn is_turned(&self) -> bool {
        self.turned.is_some()
    }

    /// Why the transaction that was to begin did not, once that is cleared away.
    pub(crate) fn take_turned(&mut self) -> Option<Turned> {
        if self.asked.is_some() {
            return None;
        }
        self.turned.take()
    }

    /// Whether nothing that the client sent came behind the answer: the transaction is open for nothing.
    pub(crate) fn is_entered_for_nothing(&self) -> bool {
        self.entered
            && self.settled()
            && matches!(self.tx, Tx::Idle)
            && !self.batch.forwarded
            && !self.sync_owed
            && !self.copy_in
            && !self.copy_starting
    }

    /// Ends it.
    pub(crate) fn leave(&mut self, server: &mut Link) {
        frontend::put_sync(&mut server.output);
        self.expects.push(Expect::HiddenSync);
        self.entered = false;
    }

    /// The server is lost while it was asked: nothing of the client's was sent, another can be asked.
    pub(super) fn forget_probe(&mut self) -> bool {
        let Some(asked) = self.asked.take() else {
            return false;
        };
        self.expects.abandon();
        if let Some(prologue) = asked.deferred {
            self.tx = Tx::Deferred { prologue };
        }
        true
    }
}
