//! One router's share of a limit that holds over the whole fleet.
//!
//! Pure. Routers publish how much of a tenant each was lately asked for; each computes its own share from the same
//! figures, and the shares of all add up to the limit. No router asks another anything while a query waits. What is
//! asked for moves faster than the figures, so a part of each limit is split evenly: a router that nobody expected to
//! be asked has something to give at once.

/// The part of a limit that is split by demand; the rest is split evenly.
const BY_DEMAND: f64 = 0.9;

/// What one router was asked for, and what of it cannot be taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Demand {
    /// Asked for lately, refused or not.
    pub(crate) asked: f64,
    /// Held, and not given up before it ends by itself: connections.
    pub(crate) held: u32,
}

/// The part of a rate that the router at `own` may give. `demands` are those of all live routers, in an order that all
/// of them agree on.
pub(crate) fn rate(limit: f64, demands: &[Demand], own: usize) -> f64 {
    let weight = weights(demands).nth(own);
    limit * weight.unwrap_or(1.0)
}

/// The same of something that is counted, and of which some is held already. One at least, so that a router that has
/// not been asked so far is not shut; a limit below the number of routers in use therefore is one for each of them.
pub(crate) fn count(limit: u32, demands: &[Demand], own: usize) -> u32 {
    let held = demands
        .iter()
        .fold(0_u32, |sum, demand| sum.saturating_add(demand.held));
    let free = limit.saturating_sub(held);
    let weights: Vec<f64> = weights(demands).collect();
    let part = split(free, &weights).get(own).copied().unwrap_or(free);
    let held = demands.get(own).map_or(0, |demand| demand.held);
    held.saturating_add(part).max(1)
}

/// Whole parts by weight that add up to `whole`; what rounding leaves goes to the largest remainders.
fn split(whole: u32, weights: &[f64]) -> Vec<u32> {
    let exact: Vec<f64> = weights
        .iter()
        .map(|weight| f64::from(whole) * weight)
        .collect();
    let mut parts: Vec<u32> = exact.iter().map(|part| part.floor() as u32).collect();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by(|a, b| {
        let rest = |index: &usize| exact.get(*index).map_or(0.0, |part| part.fract());
        rest(b).total_cmp(&rest(a)).then(a.cmp(b))
    });
    let mut left = whole.saturating_sub(parts.iter().sum());
    for index in order {
        if left == 0 {
            break;
        }
        if let Some(part) = parts.get_mut(index) {
            *part += 1;
            left -= 1;
        }
    }
    parts
}

/// They add up to 1.
fn weights(demands: &[Demand]) -> impl Iterator<Item = f64> {
    let asked: f64 = demands.iter().map(|demand| demand.asked).sum();
    let even = 1.0 / demands.len().max(1) as f64;
    demands.iter().map(move |demand| {
        if asked > 0.0 {
            BY_DEMAND * demand.asked / asked + (1.0 - BY_DEMAND) * even
        } else {
            even
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(asked: &[f64]) -> Vec<Demand> {
        let demand = |asked: &f64| Demand {
            asked: *asked,
            held: 0,
        };
        asked.iter().map(demand).collect()
    }

    fn counts(limit: u32, demands: &[Demand]) -> Vec<u32> {
        let own = 0..demands.len();
        own.map(|own| count(limit, demands, own)).collect()
    }

    #[test]
    fn shares_follow_demand_and_leave_something_for_who_comes() {
        assert_eq!(rate(100.0, &asked(&[7.0]), 0), 100.0);
        let two = asked(&[30.0, 10.0]);
        assert!((rate(100.0, &two, 0) - 72.5).abs() < 1e-9);
        assert!((rate(100.0, &two, 1) - 27.5).abs() < 1e-9);
        assert!((rate(100.0, &asked(&[40.0, 0.0]), 1) - 5.0).abs() < 1e-9);
        assert!((rate(100.0, &asked(&[0.0, 0.0]), 1) - 50.0).abs() < 1e-9);
        assert_eq!(counts(10, &asked(&[3.0, 1.0, 0.0])), [7, 3, 1]);
        assert_eq!(counts(10, &asked(&[0.0, 0.0, 0.0])), [4, 3, 3]);
    }

    #[test]
    fn what_is_held_is_not_given_twice() {
        let held = |held, asked| Demand { asked, held };
        assert_eq!(counts(4, &[held(4, 4.0), held(0, 4.0)]), [4, 1]);
        assert_eq!(counts(4, &[held(2, 3.0), held(1, 1.0)]), [3, 1]);
        // More is held than the limit is now: nobody gets another.
        assert_eq!(counts(2, &[held(3, 3.0), held(2, 1.0)]), [3, 2]);
    }

    proptest! {
        #[test]
        fn the_shares_of_all_add_up(
            limit in 1_u32..100_000,
            demands in proptest::collection::vec((0.0_f64..1e6, 0_u32..1000), 1..40)
        ) {
            let demands: Vec<Demand> = demands.into_iter().map(|(asked, held)| Demand { asked, held }).collect();
            let held: u32 = demands.iter().map(|demand| demand.held).sum();
            let rates: f64 = (0..demands.len()).map(|own| rate(limit.into(), &demands, own)).sum();
            prop_assert!((rates - f64::from(limit)).abs() < 1e-6 * f64::from(limit));
            let given: u32 = counts(limit, &demands).iter().sum();
            // One for each router that would have none.
            let routers = u32::try_from(demands.len()).unwrap_or(u32::MAX);
            prop_assert!(given >= limit.max(held) && given <= limit.max(held) + routers);
            if limit > held + 20 * routers {
                prop_assert_eq!(given, limit);
            }
        }
    }
}
