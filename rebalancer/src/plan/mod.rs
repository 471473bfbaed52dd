//! The planner: which tenants should move where, and why, as a pure function of what the fleet looks like.
//!
//! A plan is made of up to three parts, in this order, and no tenant is in two of them: tenants that leave a shard
//! ([`Goal::Drain`]), tenants that a ring change left behind a pin ([`Goal::Pins`]), and tenants that move so that
//! bytes and load become even over the shards ([`Goal::Even`]). The plan says in words and numbers why each move is in it,
//! and what it could not do. Nothing here reads a clock, a catalog or a shard: the same inventory gives the same plan.

mod drain;
mod even;
mod explain;
mod ledger;
mod next;
mod pins;
mod target;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tenantry_schema::pin::PinReason;
use tenantry_schema::shard::{ShardId, ShardKind, ShardState};
use tenantry_schema::tenant::TenantId;

pub use ledger::Fill;
pub use next::{LiveMove, Waiting, next_moves};
pub use target::{NoTarget, Target, Wish, target};
pub use words::bytes as bytes_in_words;
pub(crate) use words::count;

use ledger::Ledger;

/// What the planner is told of the fleet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// Every shard.
    pub shards: Vec<ShardEntry>,
    /// Every tenant that lives on one of them, in any order.
    pub tenants: Vec<TenantEntry>,
}

/// A shard, as far as planning cares.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardEntry {
    /// Its number.
    pub id: ShardId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: ShardKind,
    /// What it may be used for now.
    pub state: ShardState,
    /// Its share, against the other shards' weights.
    pub weight: u32,
    /// Failure domain.
    pub zone: Option<String>,
}

impl ShardEntry {
    /// Whether planned moves may end here, and whether it counts where things are made even.
    pub fn takes_tenants(&self) -> bool {
        self.kind == ShardKind::Shared && self.state == ShardState::Active && self.weight > 0
    }

    /// Whether a tenant can leave it while it is used: moves write on the shard they start from.
    fn gives_tenants(&self) -> bool {
        matches!(self.state, ShardState::Active | ShardState::Draining)
    }
}

/// A tenant, as far as planning cares.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantEntry {
    /// Its id.
    pub tenant: TenantId,
    /// Its slug, for people.
    pub slug: String,
    /// Where it lives.
    pub shard: ShardId,
    /// Why it is pinned there, if it is.
    pub pin: Option<PinReason>,
    /// Where the ring would have it.
    pub ring: Option<ShardId>,
    /// What its rows take; `None`: not measured yet.
    pub bytes: Option<u64>,
    /// Server connections it keeps busy, on average.
    pub busy: f64,
    /// What keeps it from moving now.
    pub obstacle: Option<Obstacle>,
}

impl TenantEntry {
    fn size(&self) -> u64 {
        self.bytes.unwrap_or(0)
    }
}

/// What keeps a tenant from being moved now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// A move of it is under way.
    Moving,
    /// Its shard has not taken it in yet.
    Provisioning,
    /// It is being closed, or is gone.
    Closing,
    /// It has a database of its own.
    Silo,
}

impl Obstacle {
    /// As it is told to people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Moving => "a move of it is under way",
            Self::Provisioning => "its shard has not taken it in yet",
            Self::Closing => "it is being closed",
            Self::Silo => "it is a silo, with a database of its own",
        }
    }
}

/// What a plan is to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Tenants go where the ring wants them, then bytes and load are made even.
    Balance,
    /// Only that tenants go where the ring wants them, so that their pins can go.
    Pins,
    /// Only that bytes and load become even.
    Even,
    /// Nobody is left on this shard.
    Drain(ShardId),
}

/// Which shards a tenant may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZoneRule {
    /// Any; its own zone is preferred where shards are equally good.
    #[default]
    Prefer,
    /// Only those of its own zone.
    Stay,
}

/// What bounds a plan and its execution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Moves in one plan.
    pub moves_max: usize,
    /// Bytes that one plan moves.
    pub bytes_max: u64,
    /// Moves at once that work on one shard, as source or destination.
    pub per_shard_max: usize,
    /// Moves at once that are not over on one shard: those whose way back is still open or whose source is still cleaned
    /// keep a slot, and servers have few.
    pub per_shard_open_max: usize,
    /// Moves at once that work in the fleet.
    pub at_once_max: usize,
    /// How long the way back of each move is kept open, seconds.
    pub probation_s: u64,
    /// How far above its share a shard may be before anything is moved off it: 0.1 is ten percent.
    pub tolerance: f64,
    /// Bytes above its share that a shard may have in any case.
    pub slack_bytes: u64,
    /// Busy connections above its share that a shard may have in any case.
    pub slack_busy: f64,
    /// Which shards a tenant may go to.
    pub zones: ZoneRule,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            moves_max: 500,
            bytes_max: u64::MAX,
            per_shard_max: 2,
            per_shard_open_max: 6,
            at_once_max: 4,
            probation_s: 10,
            tolerance: 0.1,
            slack_bytes: 64 << 20,
            slack_busy: 0.5,
            zones: ZoneRule::Prefer,
        }
    }
}

/// Which of a shard's two burdens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Burden {
    /// What its tenants' rows take.
    Bytes,
    /// Server connections that its tenants keep busy.
    Load,
}

/// Why a move is in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The shard it leaves has more than its share of this.
    Above(Burden),
    /// The ring wants it there, and a pin held it back.
    Ring,
    /// The shard it leaves is being emptied.
    Drain,
}

/// One move of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// Who moves.
    pub tenant: TenantId,
    /// Its slug.
    pub slug: String,
    /// From where.
    pub source: ShardId,
    /// To where.
    pub destination: ShardId,
    /// How many bytes that are; `None`: not measured.
    pub bytes: Option<u64>,
    /// Busy connections that come along.
    pub busy: f64,
    /// Why.
    pub cause: Cause,
    /// Why, in words and numbers as they are when the moves before it are done.
    pub why: String,
}

/// A tenant that should move and does not, or a shard that stays above its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The tenant; `None`: the whole shard is meant.
    pub tenant: Option<TenantId>,
    /// Where.
    pub shard: ShardId,
    /// Why, in words.
    pub why: String,
}

/// What a shard has before and after a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// The shard.
    pub shard: ShardId,
    /// Its name.
    pub name: String,
    /// Tenants before and after.
    pub tenants: (usize, usize),
    /// Bytes before and after.
    pub bytes: (u64, u64),
    /// Busy connections before and after.
    pub busy: (f64, f64),
    /// Against its share before and after; `None` where the shard has no share.
    pub fill: Option<(Fill, Fill)>,
}

/// What should be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What it is to reach.
    pub goal: Goal,
    /// In this order.
    pub moves: Vec<PlannedMove>,
    /// Pins that only repeat what the ring says: they can go, nobody moves.
    pub unpins: Vec<TenantId>,
    /// What it leaves undone.
    pub left: Vec<Left>,
    /// What it makes of the shards.
    pub shards: Vec<Forecast>,
}

impl Plan {
    /// Bytes that it moves, as far as they are known.
    pub fn bytes(&self) -> u64 {
        self.moves.iter().filter_map(|planned| planned.bytes).sum()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.unpins.is_empty()
    }
}

/// Makes a plan.
pub fn plan(inventory: &Inventory, goal: Goal, limits: &Limits) -> Plan {
    let mut draft = Draft::new(inventory, goal, limits);
    match goal {
        Goal::Drain(shard) => drain::draft(&mut draft, shard),
        Goal::Pins => pins::draft(&mut draft),
        Goal::Even => even::draft(&mut draft),
        Goal::Balance => {
            pins::draft(&mut draft);
            even::draft(&mut draft);
        }
    }
    explain::finish(draft, goal)
}

/// A plan in the making: who lives where, where each shard stands, and what is left of the limits.
struct Draft<'a> {
    limits: &'a Limits,
    shards: BTreeMap<ShardId, &'a ShardEntry>,
    /// Tenants by shard and id, so that a plan does not depend on the inventory's order.
    homes: BTreeMap<ShardId, Vec<&'a TenantEntry>>,
    /// As it is before any move.
    start: Ledger<'a>,
    /// As it is after the moves so far.
    ledger: Ledger<'a>,
    moves: Vec<DraftMove<'a>>,
    unpins: Vec<TenantId>,
    left: Vec<Left>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct DraftMove<'a> {
    tenant: &'a TenantEntry,
    destination: ShardId,
    /// `None`: to make things even; by which burden is found when the moves are in their final order.
    cause: Option<Cause>,
}

impl<'a> Draft<'a> {
    fn new(inventory: &'a Inventory, goal: Goal, limits: &'a Limits) -> Self {
        let mut homes: BTreeMap<ShardId, Vec<&TenantEntry>> = BTreeMap::new();
        for tenant in &inventory.tenants {
            homes.entry(tenant.shard).or_default().push(tenant);
        }
        for tenants in homes.values_mut() {
            tenants.sort_unstable_by_key(|tenant| tenant.tenant);
        }
        // Who is being emptied has no share, even while the catalog does not say so yet.
        let emptied = match goal {
            Goal::Drain(shard) => Some(shard),
            _ => None,
        };
        let ledger = Ledger::new(&inventory.shards, &homes, emptied, limits);
        Self {
            limits,
            shards: inventory
                .shards
                .iter()
                .map(|shard| (shard.id, shard))
                .collect(),
            homes,
            start: ledger.clone(),
            ledger,
            moves: Vec::new(),
            unpins: Vec::new(),
            left: Vec::new(),
            bytes: 0,
        }
    }

    /// The limit that one more move of this size would exceed, in words.
    fn limit_hit(&self, tenant: &TenantEntry) -> Option<String> {
        if self.moves.len() >= self.limits.moves_max {
            Some(format!(
                "a plan has at most {}",
                words::count(self.limits.moves_max, "move")
            ))
        } else if self.bytes.saturating_add(tenant.size()) > self.limits.bytes_max {
            let most = words::bytes(self.limits.bytes_max);
            Some(format!("a plan moves at most {most}"))
        } else {
            None
        }
    }

    fn push(&mut self, tenant: &'a TenantEntry, destination: ShardId, cause: Option<Cause>) {
        self.ledger.shift(tenant, tenant.shard, destination);
        self.bytes = self.bytes.saturating_add(tenant.size());
        self.moves.push(DraftMove {
            tenant,
            destination,
            cause,
        });
    }

    fn leave(&mut self, tenant: &TenantEntry, why: impl Into<String>) {
        self.left.push(Left {
            tenant: Some(tenant.tenant),
            shard: tenant.shard,
            why: why.into(),
        });
    }

    /// Who moves already.
    fn moving(&self) -> BTreeSet<TenantId> {
        self.moves
            .iter()
            .map(|planned| planned.tenant.tenant)
            .collect()
    }

    fn name(&self, shard: ShardId) -> String {
        match self.shards.get(&shard) {
            Some(entry) => entry.name.clone(),
            None => format!("shard {shard}"),
        }
    }

    /// Whether the zone rule lets a tenant of `source` live on `destination`.
    fn zones_allow(&self, source: ShardId, destination: ShardId) -> bool {
        self.limits.zones == ZoneRule::Prefer || self.same_zone(source, destination)
    }

    fn same_zone(&self, source: ShardId, destination: ShardId) -> bool {
        let zone = |shard| {
            self.shards
                .get(&shard)
                .and_then(|entry| entry.zone.as_deref())
        };
        zone(source) == zone(destination)
    }
}
