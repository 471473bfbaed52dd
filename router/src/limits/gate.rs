//! A session's own way through the limits of its tenant.
//!
//! Owned by the session's task. Remembers what was found until the fleet's limits change or the tenant does; holds the
//! session's place among the tenant's connections and its transaction's among the tenant's transactions.

use std::sync::Arc;

use jiff::Timestamp;
use tenantry_schema::fleet::Fleet;
use tenantry_schema::limits::{KillMode, KillSwitch, LimitKind, Limits};
use tenantry_schema::tenant::TenantId;

use super::Limiters;
use super::limiter::{Connected, Limiter, Permit};
use crate::error::Refusal;

/// Why a tenant's transactions only read, or are refused: what clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Killed {
    /// `None`: it holds for the whole fleet.
    pub(crate) tenant: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) since: Timestamp,
    pub(crate) until: Option<Timestamp>,
}

/// One session's.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Of the fleet's limits when it last looked; 0: they limit nobody.
    version: u64,
    tenant: Option<TenantId>,
    /// There is something to heed.
    found: Option<Box<Found>>,
}

#[derive(Debug)]
struct Found {
    limiter: Option<Arc<Limiter>>,
    connected: Option<Connected>,
    permit: Option<Permit>,
    /// Statements that have been paid for, of those run since the session was last asked for their number.
    paid: u64,
    /// A kill switch is thrown, for now or forever.
    switched: bool,
}

/// How long statements and transactions of a session may take, milliseconds; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TimeLimits {
    pub(crate) statement_ms: u32,
    pub(crate) transaction_ms: u32,
}

impl TimeLimits {
    pub(crate) fn of(limits: &Limits) -> Self {
        let ms = |kind| limits.value(kind).unwrap_or_default();
        Self {
            statement_ms: ms(LimitKind::StatementTime),
            transaction_ms: ms(LimitKind::TransactionTime),
        }
    }
}

impl Gate {
    /// Whether what it has found holds for this tenant at this version of the limits.
    pub(crate) fn is_current(&self, version: u64, tenant: Option<TenantId>) -> bool {
        self.version == version && (version == 0 || self.tenant == tenant)
    }

    /// Whether nothing limits this tenant, as far as is known at this version.
    pub(crate) fn is_open(&self, version: u64, tenant: Option<TenantId>) -> bool {
        self.found.is_none() && self.is_current(version, tenant)
    }

    /// Whether nothing limits the tenant it has looked for, as far as is known at this version.
    pub(crate) fn is_open_at(&self, version: u64) -> bool {
        self.found.is_none() && self.version == version
    }

    /// Looks again; answers the time limits that hold from now on.
    pub(crate) fn look(
        &mut self,
        version: u64,
        fleet: &Fleet,
        limiters: &Limiters,
        tenant: Option<TenantId>,
    ) -> TimeLimits {
        let record = tenant.and_then(|tenant| fleet.directory.by_id(tenant));
        let limits = record.map_or_else(Limits::default, |record| fleet.limits_of(&record));
        let limiter = tenant.and_then(|tenant| limiters.limiter(tenant, limits));
        let switches = &fleet.limits.switches;
        let switched = !switches.is_empty()
            && (switches.contains_key(&None) || switches.contains_key(&tenant));
        let kept = self.found.take().filter(|_| self.tenant == tenant);
        let (connected, permit, paid) = match kept.map(|found| *found) {
            Some(found) => (found.connected, found.permit, found.paid),
            None => (None, None, 0),
        };
        if limiter.is_some() || switched {
            self.found = Some(Box::new(Found {
                connected: connected.filter(|_| limiter.is_some()),
                limiter,
                permit,
                paid,
                switched,
            }));
        }
        self.version = version;
        self.tenant = tenant;
        TimeLimits::of(&limits)
    }

    /// Counts the session among its tenant's connections.
    pub(crate) fn connect(&mut self, fleet: &Fleet) -> Result<(), Refusal> {
        let Some(found) = &mut self.found else {
            return Ok(());
        };
        found.connect().map_err(|turned| turned.refusal(fleet))
    }

    /// Begins a transaction, if none is begun. Tells why it may only read, if so.
    pub(crate) fn begin(&mut self, fleet: &Fleet) -> Result<Option<Box<Killed>>, Refusal> {
        let tenant = self.tenant;
        let Some(found) = &mut self.found else {
            return Ok(None);
        };
        let killed = found.killed(fleet, tenant)?;
        let begun = found.connect().and_then(|()| found.begin());
        begun.map_err(|turned| turned.refusal(fleet))?;
        Ok(killed)
    }

    /// The same for a session that has kept its server connection: its permit is that connection's, and stays.
    pub(crate) fn go_on(&mut self, fleet: &Fleet) -> Result<Option<Box<Killed>>, Refusal> {
        let tenant = self.tenant;
        let Some(found) = &mut self.found else {
            return Ok(None);
        };
        let killed = found.killed(fleet, tenant)?;
        found.go_on().map_err(|turned| turned.refusal(fleet))?;
        Ok(killed)
    }

    /// A transaction is open for this tenant on a connection that its session had kept, and was let in for another. Too
    /// late to refuse it: it is counted.
    pub(crate) fn count(&mut self) {
        if let Some(found) = &mut self.found {
            found.count();
        }
    }

    /// Whether a kill switch lets the tenant only read, or refuses it.
    pub(crate) fn killed(&self, fleet: &Fleet) -> Result<Option<Box<Killed>>, Refusal> {
        match &self.found {
            Some(found) => found.killed(fleet, self.tenant),
            None => Ok(None),
        }
    }

    /// So many statements were run so far. Whether the tenant may run another at once.
    pub(crate) fn ran(&mut self, statements: u64) -> bool {
        let Some(found) = &mut self.found else {
            return true;
        };
        let Some(limiter) = &found.limiter else {
            return true;
        };
        let owed = statements.saturating_sub(found.paid);
        found.paid = found.paid.max(statements);
        limiter.charge(owed)
    }

    /// So many statements were run in all; counting begins anew.
    pub(crate) fn has_run(&mut self, statements: u64) {
        self.ran(statements);
        if let Some(found) = &mut self.found {
            found.paid = 0;
        }
    }

    /// The server connection is given up.
    pub(crate) fn end(&mut self) {
        if let Some(found) = &mut self.found {
            found.permit = None;
        }
    }
}

impl Found {
    fn connect(&mut self) -> Result<(), Turned> {
        if let (Some(limiter), None) = (&self.limiter, &self.connected) {
            let connected = limiter.connect();
            self.connected = Some(connected.map_err(|over| Turned::by(limiter, over))?);
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Turned> {
        if let (Some(limiter), None) = (&self.limiter, &self.permit) {
            let permit = limiter.begin();
            self.permit = Some(permit.map_err(|over| Turned::by(limiter, over))?);
            self.paid = 1;
        }
        Ok(())
    }

    fn go_on(&mut self) -> Result<(), Turned> {
        self.connect()?;
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        if self.permit.is_none() {
            let permit = limiter.permit();
            self.permit = Some(permit.map_err(|over| Turned::by(limiter, over))?);
        }
        limiter.go_on().map_err(|over| Turned::by(limiter, over))
    }

    fn count(&mut self) {
        if let Some(limiter) = &self.limiter {
            self.connected
                .get_or_insert_with(|| limiter.count_connection());
            self.permit
                .get_or_insert_with(|| limiter.count_transaction());
        }
    }

    fn killed(
        &self,
        fleet: &Fleet,
        tenant: Option<TenantId>,
    ) -> Result<Option<Box<Killed>>, Refusal> {
        if !self.switched {
            return Ok(None);
        }
        let now = Timestamp::now();
        let Some(switch) = fleet.kill_switch(tenant, now) else {
            return Ok(None);
        };
        let killed = Box::new(Killed::by(fleet, switch));
        match switch.mode_at(now) {
            KillMode::Off => Ok(None),
            KillMode::ReadOnly => Ok(Some(killed)),
            KillMode::Refuse => Err(Refusal::Killed(killed)),
        }
    }
}

impl Killed {
    pub(crate) fn by(fleet: &Fleet, switch: &KillSwitch) -> Self {
        let key = fleet.settings.tenant_key;
        Self {
            tenant: switch.tenant.map(|id| id.display(key).to_string()),
            reason: switch.reason.clone(),
            since: switch.since,
            until: switch.until,
        }
    }
}

/// A tenant that was turned away.
struct Turned {
    tenant: TenantId,
    over: super::Over,
}

impl Turned {
    fn by(limiter: &Limiter, over: super::Over) -> Self {
        Self {
            tenant: limiter.tenant(),
            over,
        }
    }

    fn refusal(self, fleet: &Fleet) -> Refusal {
        let key = fleet.settings.tenant_key;
        Refusal::OverLimit {
            tenant: self.tenant.display(key).to_string(),
            over: Box::new(self.over),
        }
    }
}
