//! What a tenant may use: the limits of its plan, its own that override them, and the kill switch.
//!
//! Pure data. Limits are exceptional per tenant and plans are few, so a [`FleetLimits`] is small whatever the number of
//! tenants. What is counted, and what happens beyond a limit, is the router's.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::tenant::{TenantId, UnknownName};

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum LimitKind {
    /// Statements per second over the whole fleet.
    QueriesPerSecond,
    /// Statements at once beyond that rate; without it as many as the rate gives in a second.
    QueryBurst,
    /// Transactions at once over the whole fleet.
    Transactions,
    /// Client connections over the whole fleet.
    Connections,
    /// How long a statement may run, milliseconds.
    StatementTime,
    /// How long a transaction may be open, milliseconds.
    TransactionTime,
    /// Share of a busy pool, in relation to the other tenants' weights.
    Weight,
}

impl LimitKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::QueriesPerSecond,
        Self::QueryBurst,
        Self::Transactions,
        Self::Connections,
        Self::StatementTime,
        Self::TransactionTime,
        Self::Weight,
    ];

    /// As the catalog writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueriesPerSecond => "queries_per_second",
            Self::QueryBurst => "query_burst",
            Self::Transactions => "transactions",
            Self::Connections => "connections",
            Self::StatementTime => "statement_time_ms",
            Self::TransactionTime => "transaction_time_ms",
            Self::Weight => "weight",
        }
    }

    /// The largest value.
    pub fn max(self) -> u32 {
        match self {
            Self::Weight => 1000,
            _ => 1_000_000_000,
        }
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a plan or a tenant says of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit {
    /// Nothing: the plan decides, and there it means none.
    #[default]
    Unsaid,
    /// There is none.
    Unlimited,
    /// So much; positive.
    At(u32),
}

impl Limit {
    /// The number, if there is one.
    pub fn value(self) -> Option<u32> {
        match self {
            Self::At(value) => Some(value),
            Self::Unsaid | Self::Unlimited => None,
        }
    }

    /// Says nothing, and so leaves the word to another.
    pub fn is_unsaid(self) -> bool {
        self == Self::Unsaid
    }
}

/// The limits of a plan, the overrides of a tenant, or what results from both.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits([Limit; LimitKind::ALL.len()]);

impl Limits {
    /// What is said of one limit.
    pub fn of(&self, kind: LimitKind) -> Limit {
        self.0.get(kind as usize).copied().unwrap_or_default()
    }

    /// The number of one limit, if it has one.
    pub fn value(&self, kind: LimitKind) -> Option<u32> {
        self.of(kind).value()
    }

    /// Says so of one limit.
    pub fn set(&mut self, kind: LimitKind, limit: Limit) {
        if let Some(place) = self.0.get_mut(kind as usize) {
            *place = limit;
        }
    }

    /// Whether nothing is said of anything.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|limit| limit.is_unsaid())
    }

    /// These limits, and where they say nothing, those.
    #[must_use]
    pub fn or(&self, plan: &Self) -> Self {
        let mut both = *self;
        for (own, planned) in both.0.iter_mut().zip(plan.0) {
            if own.is_unsaid() {
                *own = planned;
            }
        }
        both
    }

    /// The weight among tenants that wait for one pool; 1 if nobody says.
    pub fn weight(&self) -> u32 {
        self.value(LimitKind::Weight).unwrap_or(1)
    }

    /// What is said, in the order of [`LimitKind::ALL`].
    pub fn said(&self) -> impl Iterator<Item = (LimitKind, Limit)> {
        LimitKind::ALL
            .into_iter()
            .zip(self.0)
            .filter(|(_, limit)| !limit.is_unsaid())
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = self
            .said()
            .map(|(kind, limit)| (kind.as_str(), limit.value()));
        f.debug_map().entries(said).finish()
    }
}

/// A map: a number, or null for no limit; what is unsaid is absent.
impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.said().count()))?;
        for (kind, limit) in self.said() {
            map.serialize_entry(kind.as_str(), &limit.value())?;
        }
        map.end()
    }
}

/// Names of a later version are passed over; the catalog itself refuses what is no limit.
impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LimitsVisitor)
    }
}

struct LimitsVisitor;

impl<'de> Visitor<'de> for LimitsVisitor {
    type Value = Limits;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from limits to numbers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Limits, A::Error> {
        let mut limits = Limits::default();
        while let Some(name) = map.next_key::<String>()? {
            let value: Option<u32> = map.next_value()?;
            if value == Some(0) {
                return Err(de::Error::custom("a limit is positive"));
            }
            let kind = LimitKind::ALL
                .into_iter()
                .find(|kind| kind.as_str() == name);
            if let Some(kind) = kind {
                limits.set(kind, value.map_or(Limit::Unlimited, Limit::At));
            }
        }
        Ok(limits)
    }
}

/// What a kill switch does to those it is thrown for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum KillMode {
    /// Nothing.
    #[default]
    Off,
    /// Their transactions only read.
    ReadOnly,
    /// They have no transactions.
    Refuse,
}

impl KillMode {
    /// From the weakest to the strongest.
    pub const ALL: [Self; 3] = [Self::Off, Self::ReadOnly, Self::Refuse];

    /// As the catalog writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::ReadOnly => "read_only",
            Self::Refuse => "refuse",
        }
    }
}

impl fmt::Display for KillMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KillMode {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| UnknownName::new("mode of a kill switch", text))
    }
}

/// A kill switch, of one tenant or of the whole fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillSwitch {
    /// Whose; `None`: everybody's.
    pub tenant: Option<TenantId>,
    /// What it does.
    pub mode: KillMode,
    /// Why it was thrown; told to clients.
    pub reason: Option<String>,
    /// When its mode was last changed.
    pub since: Timestamp,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
}

impl KillSwitch {
    /// What it does at this moment.
    pub fn mode_at(&self, now: Timestamp) -> KillMode {
        match self.until {
            Some(until) if until <= now => KillMode::Off,
            _ => self.mode,
        }
    }
}

/// Every limit of a fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetLimits {
    /// By the name of the plan; those that limit something.
    pub plans: BTreeMap<String, Limits>,
    /// Overrides by tenant, where there are any.
    pub tenants: HashMap<TenantId, Limits>,
    /// Switches that are not off, by whose they are.
    pub switches: HashMap<Option<TenantId>, KillSwitch>,
}

impl FleetLimits {
    /// What a tenant of this plan may use.
    pub fn of(&self, tenant: TenantId, plan: Option<&str>) -> Limits {
        let own = self.tenants.get(&tenant).copied().unwrap_or_default();
        match plan.and_then(|plan| self.plans.get(plan)) {
            Some(plan) => own.or(plan),
            None => own,
        }
    }

    /// The switch that is in force for a tenant, or for sessions without one: its own or the fleet's, whichever does
    /// more.
    pub fn switch(&self, tenant: Option<TenantId>, now: Timestamp) -> Option<&KillSwitch> {
        if self.switches.is_empty() {
            return None;
        }
        let own = tenant.and_then(|_| self.switches.get(&tenant));
        let strongest = own
            .into_iter()
            .chain(self.switches.get(&None))
            .max_by_key(|switch| switch.mode_at(now))?;
        (strongest.mode_at(now) != KillMode::Off).then_some(strongest)
    }

    /// The plan limits this now.
    pub fn set_plan(&mut self, name: &str, limits: Limits) {
        if limits.is_empty() {
            self.plans.remove(name);
        } else {
            self.plans.insert(name.to_owned(), limits);
        }
    }

    /// The tenant has these overrides now.
    pub fn set_tenant(&mut self, tenant: TenantId, limits: Limits) {
        if limits.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            self.tenants.insert(tenant, limits);
        }
    }

    /// The switch is so now.
    pub fn set_switch(&mut self, switch: KillSwitch) {
        if switch.mode == KillMode::Off {
            self.switches.remove(&switch.tenant);
        } else {
            self.switches.insert(switch.tenant, switch);
        }
    }

    /// The tenant is gone.
    pub fn forget(&mut self, tenant: TenantId) {
        self.tenants.remove(&tenant);
        self.switches.remove(&Some(tenant));
    }

    /// Whether anything is said of this tenant itself.
    pub fn names(&self, tenant: TenantId) -> bool {
        self.tenants.contains_key(&tenant) || self.switches.contains_key(&Some(tenant))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn limits(json: &str) -> Limits {
        serde_json::from_str(json).unwrap()
    }

    fn id(number: i64) -> TenantId {
        TenantId::from_bigint(number).unwrap()
    }

    fn switch(tenant: Option<TenantId>, mode: KillMode, until: Option<i64>) -> KillSwitch {
        KillSwitch {
            tenant,
            mode,
            reason: Some("test".to_owned()),
            since: Timestamp::UNIX_EPOCH,
            until: until.map(|second| Timestamp::from_second(second).unwrap()),
        }
    }

    #[test]
    fn a_tenants_own_word_counts_before_its_plans() {
        let mut all = FleetLimits::default();
        all.set_plan(
            "small",
            limits(r#"{"queries_per_second": 50, "connections": 5, "weight": 2}"#),
        );
        all.set_tenant(
            id(1),
            limits(r#"{"queries_per_second": 900, "connections": null}"#),
        );
        let own = all.of(id(1), Some("small"));
        assert_eq!(own.value(LimitKind::QueriesPerSecond), Some(900));
        assert_eq!(own.of(LimitKind::Connections), Limit::Unlimited);
        assert_eq!(own.weight(), 2);
        let planned = all.of(id(2), Some("small"));
        assert_eq!(planned.value(LimitKind::Connections), Some(5));
        assert!(all.of(id(2), Some("other")).is_empty());
        all.set_tenant(id(1), Limits::default());
        assert_eq!(all.of(id(1), Some("small")), planned);
    }

    #[test]
    fn limits_are_written_as_they_are_read() {
        let text = r#"{"query_burst":7,"transactions":null}"#;
        assert_eq!(serde_json::to_string(&limits(text)).unwrap(), text);
        assert_eq!(limits(r#"{"of_a_later_version": 3}"#), Limits::default());
        for bad in [r#"{"weight": 0}"#, r#"{"weight": "3"}"#, "[]"] {
            assert!(serde_json::from_str::<Limits>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_stronger_switch_is_in_force_until_its_end() {
        let mut all = FleetLimits::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let mode = |all: &FleetLimits, tenant, second| {
            all.switch(tenant, at(second))
                .map_or(KillMode::Off, |switch| switch.mode_at(at(second)))
        };
        all.set_switch(switch(Some(id(1)), KillMode::Refuse, Some(10)));
        assert_eq!(mode(&all, Some(id(1)), 9), KillMode::Refuse);
        assert_eq!(mode(&all, Some(id(1)), 10), KillMode::Off);
        assert_eq!(mode(&all, Some(id(2)), 9), KillMode::Off);
        assert_eq!(mode(&all, None, 9), KillMode::Off);
        all.set_switch(switch(None, KillMode::ReadOnly, None));
        assert_eq!(mode(&all, Some(id(1)), 9), KillMode::Refuse);
        assert_eq!(mode(&all, Some(id(1)), 10), KillMode::ReadOnly);
        assert_eq!(mode(&all, None, 0), KillMode::ReadOnly);
        all.set_switch(switch(None, KillMode::Off, None));
        assert!(all.switch(Some(id(2)), at(0)).is_none());
    }
}
