//! How a session gets its server connection: an idle one at once, or else by waiting for one.

use std::future::poll_fn;
use std::sync::Arc;

use tenantry_schema::tenant::TenantId;

use super::Connection;
use super::sockets::client_gone;
use crate::buffers;
use crate::error::Refusal;
use crate::pool::Lease;

/// Why a session gets no connection.
#[derive(Debug)]
pub(crate) enum Unavailable {
    Refused(Refusal),
    ClientGone,
    /// An operator ended the session.
    Killed,
}

impl From<Refusal> for Unavailable {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Connection {
    /// A server connection that is idle right now, unless the session is to have none.
    pub(super) fn acquire_at_once(
        &mut self,
        withheld: Option<Box<Refusal>>,
        tenant: Option<TenantId>,
    ) -> Result<Option<Lease>, Refusal> {
        if let Some(refusal) = withheld {
            return Err(*refusal);
        }
        self.admit(tenant)?;
        let idle = self
            .router
            .idle_connection(&self.session, tenant, &mut self.route)?;
        Ok(idle.map(|lease| {
            // Just now, or nearly so.
            let since = lease.since_us();
            self.attach(lease, tenant, since)
        }))
    }

    /// Waits for a server connection for the tenant's shard.
    pub(super) async fn acquire(&mut self, tenant: Option<TenantId>) -> Result<Lease, Unavailable> {
        // What the session has answered already must not wait for the connection, nor the connection for a client
        // that does not read.
        let mut output = std::mem::take(&mut self.session.output);
        let owed = output.len();
        let router = Arc::clone(&self.router);
        let slot = Arc::clone(&self.slot);
        let queued = slot.queue();
        self.meter.waits();
        let mut called = self.called.clone();
        let lease = tokio::select! {
            biased;
            () = poll_fn(|cx| called.poll_killed(cx)) => Err(Unavailable::Killed),
            lease = router.connection(&self.session, tenant) => lease.map_err(Unavailable::from),
            () = queued.cancelled() => Err(Refusal::Canceled.into()),
            () = client_gone(&mut self.stream, &mut self.input, &mut output, &self.bells.client) => {
                Err(Unavailable::ClientGone)
            }
        };
        drop(queued);
        self.meter.sent(owed - output.len());
        self.session.note_sent(owed - output.len());
        self.session.output = output;
        let lease = lease?;
        // Limits and switches may have come while it waited.
        if let Err(refusal) = self.admit_late(tenant) {
            lease.give_back();
            return Err(refusal.into());
        }
        let now = self.router.activity.clock.now_us();
        Ok(self.attach(lease, tenant, now))
    }

    fn attach(&mut self, mut lease: Lease, tenant: Option<TenantId>, since: u64) -> Lease {
        let shard = lease.pool().map(|pool| pool.shard_id());
        if tenant.is_none() {
            self.session.set_home(shard);
        }
        self.session.set_held(shard);
        // Its socket has not been asked for this session yet.
        self.bells.server.ring();
        let session_pooled = self.session.is_session_pooled();
        if let Some(server) = lease.server() {
            // What a session leaves behind that has a connection to itself is not followed.
            server.link.state.dirty |= session_pooled;
            buffers::lend(&mut server.link.output);
            self.slot.attach(&server.link.state.key);
            self.meter.leased(server.listed.record(), tenant, since);
            self.session.observe(self.router.logs_slow());
        }
        lease
    }
}
