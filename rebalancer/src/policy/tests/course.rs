//! A small world that carries decisions out at once, with heat that comes and goes at random.

use proptest::prelude::*;

use super::*;

const TENANTS: i64 = 5;
const SPARES: u16 = 3;
/// Seconds between two looks.
const STEP: i64 = 10;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Shared(u16),
    Own(u16),
}

struct World {
    places: Vec<Place>,
    hot_since: Vec<Option<i64>>,
    cold_since: Vec<Option<i64>>,
    busy: Vec<f64>,
    moved_at: Vec<Option<i64>>,
}

impl World {
    fn new() -> Self {
        let count = TENANTS as usize;
        Self {
            places: vec![Place::Shared(1); count],
            hot_since: vec![None; count],
            cold_since: vec![Some(0); count],
            busy: vec![0.1; count],
            moved_at: vec![None; count],
        }
    }

    fn heat(&mut self, tenant: usize, busy: f64, now: i64) {
        self.busy[tenant] = busy;
        if busy >= 1.0 {
            self.hot_since[tenant].get_or_insert(now);
            self.cold_since[tenant] = None;
        } else {
            self.hot_since[tenant] = None;
            self.cold_since[tenant].get_or_insert(now);
        }
    }

    fn situation(&self, now: i64) -> Situation {
        let on = |place: Place| -> Vec<usize> {
            (0..self.places.len())
                .filter(|index| self.places[*index] == place)
                .collect()
        };
        let busy = |tenants: &[usize]| tenants.iter().map(|index| self.busy[*index]).sum::<f64>();
        let mut shards = Vec::new();
        for number in 1..=2 {
            let here = on(Place::Shared(number));
            shards.push(shard(number, ShardKind::Shared, busy(&here), here.len()));
        }
        for number in 10..10 + SPARES {
            let here = on(Place::Own(number));
            let kind = if here.is_empty() {
                ShardKind::Spare
            } else {
                ShardKind::Dedicated
            };
            shards.push(shard(number, kind, busy(&here), here.len()));
        }
        let mut situation = Situation {
            now: at(now),
            shards,
            hot: Vec::new(),
            isolated: Vec::new(),
            under_way: 0,
        };
        for (index, place) in self.places.iter().enumerate() {
            let number = index as i64 + 1;
            let moved_at = self.moved_at[index].map(at);
            match (place, self.hot_since[index]) {
                (Place::Shared(shard), Some(since)) => situation.hot.push(HotTenant {
                    moved_at,
                    ..hot(number, *shard, since, self.busy[index])
                }),
                (Place::Own(shard), _) => situation.isolated.push(IsolatedTenant {
                    moved_at,
                    ..isolated(number, *shard, self.cold_since[index], self.busy[index])
                }),
                (Place::Shared(_), None) => {}
            }
        }
        situation
    }
}

proptest! {
    #[test]
    fn nobody_goes_back_and_forth(
        course in proptest::collection::vec((0..TENANTS as usize, 0.0_f64..6.0), 1..400),
        spares_kept in 0_usize..3,
        isolated_max in 0_usize..4,
    ) {
        let policy = Policy {
            cool_down_s: 120,
            cold_for_s: 300,
            spares_kept,
            isolated_max,
            ..acting()
        };
        let mut world = World::new();
        for (step, (tenant, busy)) in course.into_iter().enumerate() {
            let now = step as i64 * STEP;
            world.heat(tenant, busy, now);
            let situation = world.situation(now);
            let decisions = decide(&policy, &situation);
            prop_assert_eq!(&decisions, &decide(&policy, &situation));
            let mut given = BTreeSet::new();
            for decision in &decisions {
                let index = decision.tenant.as_u128() as usize - 1;
                let Some(to) = decision.act.destination() else { continue };
                if let Some(before) = world.moved_at[index] {
                    prop_assert!(now - before >= 120, "moved again after {} s", now - before);
                }
                match decision.act {
                    Act::Isolate { .. } => {
                        prop_assert!(given.insert(to), "a spare was given twice");
                        prop_assert!(world.busy[index] >= policy.busy_min);
                        prop_assert!(now - world.hot_since[index].unwrap() >= 5);
                        world.places[index] = Place::Own(to.number());
                    }
                    Act::Relieve { .. } => {
                        prop_assert!(world.busy[index] >= policy.busy_min);
                        world.places[index] = Place::Shared(to.number());
                    }
                    Act::Return { .. } => {
                        prop_assert!(world.busy[index] <= policy.busy_back_max);
                        prop_assert!(now - world.cold_since[index].unwrap() >= 300);
                        world.places[index] = Place::Shared(to.number());
                    }
                    Act::Wait => {}
                }
                world.moved_at[index] = Some(now);
            }
            let own = world.places.iter().filter(|place| matches!(place, Place::Own(_))).count();
            prop_assert!(own <= isolated_max, "{} isolated", own);
            prop_assert!(own + spares_kept <= usize::from(SPARES) || own == 0, "{} of the spares taken", own);
        }
    }
}
