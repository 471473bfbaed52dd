//! The limits of a session's tenant, at the points where the session begins, goes on with, and ends a transaction.
//!
//! A tenant without limits costs a comparison here; everything else is in functions of its own.

use jiff::Timestamp;
use tenantry_schema::tenant::TenantId;

use super::Connection;
use crate::error::Refusal;
use crate::limits::Killed;
use crate::overtime::Overtime;

impl Connection {
    /// Lets the session begin a transaction for a tenant.
    pub(super) fn admit(&mut self, tenant: Option<TenantId>) -> Result<(), Refusal> {
        let version = self.router.fleet.limits_version();
        if self.gate.is_open(version, tenant) {
            return Ok(());
        }
        self.admit_limited(version, tenant)
    }

    #[cold]
    fn admit_limited(&mut self, version: u64, tenant: Option<TenantId>) -> Result<(), Refusal> {
        self.look(version, tenant);
        let killed = self.gate.begin(&self.router.fleet.current())?;
        self.session.set_read_only(killed);
        self.session.set_pauses(false);
        Ok(())
    }

    /// Whether a session that was let in may still go on after it has waited for its connection.
    pub(super) fn admit_late(&mut self, tenant: Option<TenantId>) -> Result<(), Refusal> {
        let version = self.router.fleet.limits_version();
        if !self.gate.is_current(version, tenant) {
            self.look(version, tenant);
            let killed = self.gate.killed(&self.router.fleet.current())?;
            self.session.set_read_only(killed);
        }
        Ok(())
    }

    /// Lets a session that has kept its server connection, and has nothing open on it, begin another transaction.
    pub(super) fn admit_kept(&mut self) -> Result<(), Refusal> {
        let (version, tenant) = (self.router.fleet.limits_version(), self.session.tenant());
        if self.gate.is_open(version, tenant) {
            return Ok(());
        }
        self.look(version, tenant);
        let killed = self.gate.go_on(&self.router.fleet.current())?;
        self.session.set_read_only(killed);
        Ok(())
    }

    /// While something runs: what it has run so far is charged, so that a client that pipelines without end is stopped
    /// between two transactions; and the limits may have changed: from its next statement on an open transaction may only
    /// read. One that is refused altogether is ended by the watch over time limits.
    pub(super) fn heed_limits(&mut self) {
        let version = self.router.fleet.limits_version();
        if version == 0 && self.gate.is_open_at(version) {
            return;
        }
        let tenant = self.session.tenant();
        if !self.gate.is_open(version, tenant) {
            self.heed_limited(version, tenant);
        }
    }

    #[cold]
    fn heed_limited(&mut self, version: u64, tenant: Option<TenantId>) {
        if !self.gate.is_current(version, tenant) {
            self.look(version, tenant);
            self.gate.count();
            if let Ok(killed) = self.gate.killed(&self.router.fleet.current()) {
                self.session.set_read_only(killed);
            }
        }
        let may_go_on = self.gate.ran(self.session.statements_run());
        self.session.set_pauses(!may_go_on);
    }

    /// What a client is told whose session was called; `None`: the reason is gone.
    pub(super) fn why_ended(&self, overtime: Overtime) -> Option<Refusal> {
        if overtime == Overtime::Killed {
            let fleet = self.session.fleet();
            let switch = fleet.kill_switch(self.session.tenant(), Timestamp::now())?;
            return Some(Refusal::Killed(Box::new(Killed::by(&fleet, switch))));
        }
        let limits = self.meter.record().time_limits();
        let limit = overtime.limit(&self.router.config().timeouts, limits)?;
        Some(Refusal::Overtime {
            what: overtime,
            limit,
        })
    }

    /// Looks its tenant's limits up again, if what was found is old.
    fn look(&mut self, version: u64, tenant: Option<TenantId>) {
        if !self.gate.is_current(version, tenant) {
            let fleet = self.router.fleet.current();
            let limits = self
                .gate
                .look(version, &fleet, &self.router.limiters, tenant);
            self.meter.record().set_time_limits(limits);
        }
    }
}
