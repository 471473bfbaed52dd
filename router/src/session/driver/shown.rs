//! What others see of a session: its state, its counts, the statements that took long.

use std::time::Duration;

use super::Connection;
use crate::activity::ClientState;
use crate::pool::Lease;

impl Connection {
    /// Shows what the session does while it waits for bytes.
    pub(super) fn note_rest(&mut self, lease: &mut Option<Lease>) {
        let state = self.session.activity();
        if state == ClientState::Idle && lease.is_some() {
            // Pinned to its connection: what it did is counted at the end of each transaction.
            let counts = self.session.take_counts();
            if counts.transactions > 0 {
                self.meter.rests(state);
                self.gate.has_run(counts.statements);
                self.meter.hand_over(counts, &self.router.activity.tenants);
            }
        }
        self.meter.rests(state);
        self.log_slow(lease.as_ref());
        let settings = self.session.settings();
        let name = || settings.application_name();
        self.meter
            .shows(self.session.tenant(), settings.hash(), name);
    }

    pub(super) fn note_release(&mut self, lease: &mut Lease) {
        let prepared = lease
            .server()
            .map_or(0, |server| server.link.state.prepared.len());
        let counts = self.session.take_counts();
        self.gate.has_run(counts.statements);
        self.gate.end();
        self.meter
            .released(counts, prepared, &self.router.activity.tenants);
        self.log_slow(Some(lease));
    }

    /// The tenant as logs show it.
    pub(super) fn tenant_text(&self) -> Option<String> {
        let key = self.session.fleet().settings.tenant_key;
        self.session.tenant().map(|id| id.display(key).to_string())
    }

    /// Logs the request that has just ended if it took long; never with its values.
    pub(super) fn log_slow(&mut self, lease: Option<&Lease>) {
        let Some(us) = self.meter.take_request_us() else {
            return;
        };
        let Some(observed) = self.session.take_observed() else {
            return;
        };
        let config = self.router.config();
        let limit = config.log_min_duration_statement;
        let took = Duration::from_micros(us);
        if limit.is_zero() || took < limit {
            return;
        }
        let tenant = self.tenant_text();
        let shard = lease.and_then(Lease::pool).map(|pool| pool.shard_name());
        let identity = self.session.identity();
        let record = self.meter.record();
        let trace = observed.trace.as_ref().or(record.origin().trace.as_ref());
        tracing::info!(
            duration_ms = us as f64 / 1e3,
            tenant,
            shard,
            session = identity.session,
            role = %identity.role.name,
            trace_id = trace,
            fingerprint = format_args!("{:016x}", observed.fingerprint),
            statement = config.log_statement_text.then_some(observed.statement.as_str()),
            "slow statement"
        );
    }
}
