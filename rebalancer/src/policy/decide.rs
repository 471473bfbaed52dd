//! The decisions themselves: within a budget of spares and moves, hottest tenants first.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use tenantry_schema::shard::{ShardId, ShardKind, ShardState};

use super::{
    Act, Decision, HotTenant, IsolatedTenant, Mode, Policy, Rule, ShardNow, Situation, WithoutSpare,
};
use crate::plan::{bytes_in_words, count};

/// Decides about every tenant that is hot and every isolated one that is cold, hottest first. A tenant that is hot and
/// is left alone is told of as well, with the reason.
pub fn decide(policy: &Policy, situation: &Situation) -> Vec<Decision> {
    if policy.mode == Mode::Off {
        return Vec::new();
    }
    let automatic = situation
        .isolated
        .iter()
        .filter(|tenant| tenant.is_automatic);
    let mut budget = Budget {
        policy,
        situation,
        moves: policy.at_once_max.saturating_sub(situation.under_way),
        isolations: policy.isolated_max.saturating_sub(automatic.count()),
        taken: BTreeSet::new(),
        shifted: BTreeMap::new(),
    };
    let mut hot: Vec<&HotTenant> = situation.hot.iter().collect();
    hot.sort_by(|a, b| b.busy.total_cmp(&a.busy).then(a.tenant.cmp(&b.tenant)));
    let mut decisions: Vec<Decision> = hot
        .into_iter()
        .map(|tenant| budget.about_hot(tenant))
        .collect();
    // Hot tenants hurt others; returning only tidies up, so it gets what is left.
    let mut cold: Vec<(&IsolatedTenant, Timestamp)> = situation
        .isolated
        .iter()
        .filter(|tenant| policy.returns && tenant.is_automatic)
        .filter_map(|tenant| Some((tenant, tenant.cold_since?)))
        .collect();
    cold.sort_by_key(|(tenant, since)| (*since, tenant.tenant));
    decisions.extend(
        cold.into_iter()
            .map(|(tenant, since)| budget.about_cold(tenant, since)),
    );
    decisions
}

/// What may still be done.
struct Budget<'a> {
    policy: &'a Policy,
    situation: &'a Situation,
    moves: usize,
    isolations: usize,
    /// Spares given away just now.
    taken: BTreeSet<ShardId>,
    /// Busy connections that come to a shard by what was decided just now, or leave it.
    shifted: BTreeMap<ShardId, f64>,
}

impl Budget<'_> {
    fn about_hot(&mut self, tenant: &HotTenant) -> Decision {
        let (act, rule, why) = match self.reason_to_leave_alone(tenant) {
            Some((rule, why)) => (Act::Wait, rule, why),
            None => self.relieve(tenant),
        };
        if let Some(to) = act.destination() {
            self.moves -= 1;
            *self.shifted.entry(tenant.shard).or_default() -= tenant.busy;
            *self.shifted.entry(to).or_default() += tenant.busy;
        }
        Decision {
            tenant: tenant.tenant,
            slug: tenant.slug.clone(),
            shard: tenant.shard,
            act,
            rule,
            why: format!("{}; {why}", heat(tenant, self.situation.now)),
        }
    }

    fn reason_to_leave_alone(&self, tenant: &HotTenant) -> Option<(Rule, String)> {
        let (policy, now) = (self.policy, self.situation.now);
        let home = self.shard(tenant.shard);
        if let Some(obstacle) = tenant.obstacle {
            return Some((Rule::Obstacle, obstacle.in_words().to_owned()));
        }
        if home.is_some_and(|home| home.entry.kind != ShardKind::Shared || home.tenants <= 1) {
            return Some((Rule::Alone, "it has its shard to itself".to_owned()));
        }
        if tenant.pin.is_some_and(|reason| !reason.may_move()) {
            return Some((Rule::Pinned, "an operator has pinned it there".to_owned()));
        }
        if tenant.share < policy.share_min {
            return Some((
                Rule::Share,
                format!(
                    "less than the {:.2} of the shard that the policy asks for",
                    policy.share_min
                ),
            ));
        }
        if tenant.busy < policy.busy_min {
            return Some((
                Rule::Busy,
                format!(
                    "less than the {:.1} connections that the policy asks for",
                    policy.busy_min
                ),
            ));
        }
        if tenant.bytes.is_some_and(|bytes| bytes > policy.bytes_max) {
            let most = bytes_in_words(policy.bytes_max);
            return Some((
                Rule::Size,
                format!("it is larger than the {most} that the policy moves"),
            ));
        }
        if let Some(left) = left(now, Some(tenant.since), policy.hot_for_s) {
            return Some((
                Rule::Time,
                format!(
                    "not for the {} s that the policy asks for, {left} s are left",
                    policy.hot_for_s
                ),
            ));
        }
        if let Some(left) = left(now, tenant.moved_at, policy.cool_down_s) {
            return Some((
                Rule::CoolDown,
                format!("it has moved lately and cools down for {left} s more"),
            ));
        }
        (self.moves == 0).then(|| {
            let why = format!(
                "the policy may have {} under way at a time, and no more",
                count(policy.at_once_max, "move")
            );
            (Rule::AtOnce, why)
        })
    }

    /// To a spare, else to the least loaded shard.
    fn relieve(&mut self, tenant: &HotTenant) -> (Act, Rule, String) {
        let (policy, situation) = (self.policy, self.situation);
        let mut spares: Vec<&ShardNow> = situation
            .shards
            .iter()
            .filter(|shard| is_free_spare(shard) && !self.taken.contains(&shard.entry.id))
            .collect();
        // One of its own zone first.
        let zone = self
            .shard(tenant.shard)
            .and_then(|home| home.entry.zone.as_deref());
        spares.sort_by_key(|shard| (shard.entry.zone.as_deref() != zone, shard.entry.id));
        let none = if self.isolations == 0 {
            format!(
                "the policy may isolate {}, and no more",
                count(policy.isolated_max, "tenant")
            )
        } else if spares.is_empty() {
            "no spare is left".to_owned()
        } else if spares.len() <= policy.spares_kept {
            format!(
                "what is left is kept for operators ({})",
                count(spares.len(), "spare")
            )
        } else {
            let spare = &spares[0].entry;
            self.isolations -= 1;
            self.taken.insert(spare.id);
            return (
                Act::Isolate { to: spare.id },
                Rule::Spare,
                format!("the spare {} becomes its own", spare.name),
            );
        };
        if policy.without_spare == WithoutSpare::Stay {
            return (
                Act::Wait,
                Rule::Stays,
                format!("{none}, and the policy lets it stay then"),
            );
        }
        let rest = self
            .shard(tenant.shard)
            .map_or(0.0, |home| self.busy(home) - tenant.busy);
        let Some(shard) = self.least_loaded(tenant.shard) else {
            return (
                Act::Wait,
                Rule::NowhereBetter,
                format!("{none}, and there is no other shared shard"),
            );
        };
        let (name, there) = (&shard.entry.name, self.busy(shard));
        // Where it would have more company than at home nothing is won.
        if there < rest.max(0.0) {
            let why = format!(
                "{none}; on {name}, the least loaded shard, {there:.1} connections of others are busy instead of {rest:.1}"
            );
            (Act::Relieve { to: shard.entry.id }, Rule::LeastLoaded, why)
        } else {
            let why = format!(
                "{none}, and on {name}, the least loaded shard, no fewer connections of others are busy ({there:.1}, here {rest:.1})"
            );
            (Act::Wait, Rule::NowhereBetter, why)
        }
    }

    fn about_cold(&mut self, tenant: &IsolatedTenant, since: Timestamp) -> Decision {
        let (policy, now) = (self.policy, self.situation.now);
        let wait = |rule: Rule, why: String| (Act::Wait, rule, why);
        let (act, rule, why) = if let Some(obstacle) = tenant.obstacle {
            wait(Rule::Obstacle, obstacle.in_words().to_owned())
        } else if tenant.busy > policy.busy_back_max {
            wait(
                Rule::Busy,
                format!("it returns at {:.1} or less", policy.busy_back_max),
            )
        } else if let Some(left) = left(now, Some(since), policy.cold_for_s) {
            wait(
                Rule::Time,
                format!(
                    "it returns after {} s, {left} s are left",
                    policy.cold_for_s
                ),
            )
        } else if let Some(left) = left(now, tenant.moved_at, policy.cool_down_s) {
            wait(
                Rule::CoolDown,
                format!("it has moved lately and cools down for {left} s more"),
            )
        } else if self.moves == 0 {
            wait(
                Rule::AtOnce,
                format!(
                    "the policy may have {} under way at a time, and no more",
                    count(policy.at_once_max, "move")
                ),
            )
        } else {
            self.back(tenant)
        };
        if act.destination().is_some() {
            self.moves -= 1;
        }
        let cold = seconds(now, since);
        Decision {
            tenant: tenant.tenant,
            slug: tenant.slug.clone(),
            shard: tenant.shard,
            act,
            rule,
            why: format!(
                "{} has been cold for {cold} s and keeps {:.1} connections busy; {why}",
                tenant.slug, tenant.busy
            ),
        }
    }

    fn back(&self, tenant: &IsolatedTenant) -> (Act, Rule, String) {
        let home = tenant
            .ring
            .and_then(|home| self.shard(home))
            .filter(|home| home.entry.takes_tenants());
        if let Some(home) = home {
            let why = format!("it returns to {}, where the ring wants it", home.entry.name);
            return (Act::Return { to: home.entry.id }, Rule::Cold, why);
        }
        match self.least_loaded(tenant.shard) {
            Some(shard) => {
                let why = format!("it returns to {}, the least loaded shard", shard.entry.name);
                (Act::Return { to: shard.entry.id }, Rule::Cold, why)
            }
            None => (
                Act::Wait,
                Rule::NoShard,
                "there is no shared shard to return to".to_owned(),
            ),
        }
    }

    fn shard(&self, id: ShardId) -> Option<&ShardNow> {
        self.situation
            .shards
            .iter()
            .find(|shard| shard.entry.id == id)
    }

    /// Busy connections of a shard once what was decided is done.
    fn busy(&self, shard: &ShardNow) -> f64 {
        shard.busy
            + self
                .shifted
                .get(&shard.entry.id)
                .copied()
                .unwrap_or_default()
    }

    /// The shared shard with the fewest busy connections for its weight, other than this.
    fn least_loaded(&self, but: ShardId) -> Option<&ShardNow> {
        let others = self
            .situation
            .shards
            .iter()
            .filter(|shard| shard.entry.id != but && shard.entry.takes_tenants());
        let level = |shard: &ShardNow| self.busy(shard) / f64::from(shard.entry.weight);
        others.min_by(|a, b| {
            level(a)
                .total_cmp(&level(b))
                .then(a.entry.id.cmp(&b.entry.id))
        })
    }
}

fn is_free_spare(shard: &ShardNow) -> bool {
    let entry = &shard.entry;
    entry.kind == ShardKind::Spare && entry.state == ShardState::Active && shard.tenants == 0
}

fn heat(tenant: &HotTenant, now: Timestamp) -> String {
    format!(
        "{} has been hot for {} s: {:.1} connections busy, {:.0} % of its shard",
        tenant.slug,
        seconds(now, tenant.since),
        tenant.busy,
        tenant.share * 100.0
    )
}

/// Whole seconds from `since` to `now`; never negative, clocks differ.
fn seconds(now: Timestamp, since: Timestamp) -> i64 {
    now.duration_since(since).as_secs().max(0)
}

/// Seconds that are left of a time that began at `since`; `None`: it is over.
fn left(now: Timestamp, since: Option<Timestamp>, lasts_s: u32) -> Option<i64> {
    let passed = now.duration_since(since?);
    let left = SignedDuration::from_secs(i64::from(lasts_s)) - passed;
    // Rounded up, so that nobody reads of 0 seconds that are left.
    left.is_positive()
        .then(|| left.as_secs() + i64::from(left.subsec_nanos() > 0))
}
