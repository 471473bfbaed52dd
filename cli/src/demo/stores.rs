//! The demo's stores: names, domains and sizes, the same on every machine.
//!
//! Sizes follow Zipf's law over the tenant's number: store 1 is the largest, store `n` has a `1/n` share of it. Load
//! generation draws tenants by the same law, so that the busiest store is also the biggest.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::exit::{Explain, Failure};

/// Domain below which every store has its platform hostname. `example` is reserved for such use (RFC 2606).
pub(super) const PLATFORM_DOMAIN: &str = "stores.example";

/// Every third store has custom domains.
const CUSTOM_DOMAINS_EVERY: usize = 3;

/// Rows of the largest store.
const PRODUCTS_MAX: u32 = 1_500;
const CUSTOMERS_MAX: u32 = 2_500;
const ORDERS_MAX: u32 = 3_000;

/// The word lists rows are made of.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Words {
    adjectives: Vec<String>,
    nouns: Vec<String>,
    trades: Vec<Trade>,
    first_names: Vec<String>,
    last_names: Vec<String>,
    cities: Vec<String>,
    countries: Vec<String>,
}

/// What a kind of store sells.
#[derive(Debug, Deserialize, Serialize)]
struct Trade {
    name: String,
    collections: Vec<String>,
    kinds: Vec<String>,
    things: Vec<String>,
    option: String,
    values: Vec<String>,
    price_min: u32,
    price_max: u32,
}

impl Words {
    /// The embedded lists.
    pub(super) fn load() -> Result<Self, Failure> {
        serde_json::from_str(include_str!("words.json"))
            .explain(|| "the demo's word lists are damaged".to_owned())
    }

    /// What shoppers type: words of product titles.
    pub(super) fn search_terms(self) -> Vec<String> {
        self.trades
            .into_iter()
            .flat_map(|trade| trade.kinds.into_iter().chain(trade.things))
            .collect()
    }
}

/// One store to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Store {
    /// Tenant id, from 1.
    pub(super) id: i64,
    pub(super) slug: String,
    pub(super) name: String,
    /// Position of the trade in the word lists.
    trade: usize,
    pub(super) plan: &'static str,
    /// Platform hostname first, custom domains after it.
    #[serde(skip)]
    pub(super) hostnames: Vec<String>,
    pub(super) products: u32,
    pub(super) customers: u32,
    pub(super) orders: u32,
}

/// The first `count` stores.
pub(super) fn plan(words: &Words, count: u32) -> Vec<Store> {
    let mut taken = HashSet::new();
    (1..=count)
        .map(|rank| {
            let trade = draw(rank, 0, words.trades.len());
            let adjective = &words.adjectives[draw(rank, 1, words.adjectives.len())];
            let noun = &words.nouns[draw(rank, 2, words.nouns.len())];
            let mut name = format!("{adjective} {noun} {}", words.trades[trade].name);
            if !taken.insert(name.clone()) {
                name = format!("{name} {rank}");
            }
            store(rank, name, trade)
        })
        .collect()
}

/// A number below `bound` that depends on its arguments only: the finalizer of SplitMix64, written out so that no
/// library upgrade renames the stores.
fn draw(rank: u32, salt: u64, bound: usize) -> usize {
    let mut z = ((u64::from(rank) << 8) | salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((u128::from(z ^ (z >> 31)) * bound as u128) >> 64) as usize
}

fn store(rank: u32, name: String, trade: usize) -> Store {
    let slug = name.to_ascii_lowercase().replace(' ', "-");
    let mut hostnames = vec![format!("{slug}.{PLATFORM_DOMAIN}")];
    if rank as usize % CUSTOM_DOMAINS_EVERY == 1 {
        hostnames.push(format!("{slug}.example"));
        hostnames.push(format!("www.{slug}.example"));
    }
    Store {
        id: i64::from(rank),
        plan: match rank {
            1..=2 => "enterprise",
            3..=20 => "pro",
            _ => "basic",
        },
        slug,
        name,
        trade,
        hostnames,
        products: share(PRODUCTS_MAX, rank, 8),
        customers: share(CUSTOMERS_MAX, rank, 10),
        orders: share(ORDERS_MAX, rank, 6),
    }
}

/// Zipf's law with exponent 1, and a floor so that even the smallest store has something to show.
fn share(largest: u32, rank: u32, least: u32) -> u32 {
    (largest / rank).max(least)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_are_valid_unique_and_stable() {
        let words = Words::load().unwrap();
        let stores = plan(&words, 2_000);
        let slugs: HashSet<&str> = stores.iter().map(|store| store.slug.as_str()).collect();
        assert_eq!(slugs.len(), stores.len());
        for slug in slugs {
            assert!(
                slug.len() <= 63
                    && slug
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            );
        }
        assert_eq!(plan(&words, 2_000), stores);
        assert_eq!(plan(&words, 5)[..], stores[..5]);
        insta::assert_json_snapshot!(stores[0], @r#"
        {
          "id": 1,
          "slug": "nordic-bramble-cycles",
          "name": "Nordic Bramble Cycles",
          "trade": 4,
          "plan": "enterprise",
          "products": 1500,
          "customers": 2500,
          "orders": 3000
        }
        "#);
    }

    #[test]
    fn sizes_follow_zipf_down_to_a_floor() {
        let words = Words::load().unwrap();
        let orders: Vec<u32> = plan(&words, 1_000)
            .iter()
            .map(|store| store.orders)
            .collect();
        assert_eq!(
            (orders[0], orders[1], orders[9], orders[999]),
            (3_000, 1_500, 300, 6)
        );
        assert!(orders.is_sorted_by(|a, b| a >= b));
    }
}
