//! Holds the ring still: a change of the hash, or an upgrade of a crate below it, must not re-place a single tenant.

#![allow(clippy::unwrap_used, clippy::panic)]

use tenantry_schema::ring::Ring;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::{TenantId, TenantKey};

#[test]
fn placements_are_as_they_were() {
    let mut ring = Ring::default();
    let (mut placements, mut sums) = (0, 0);
    for line in include_str!("ring_golden.txt").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["#", ..] => {}
            ["ring", members @ ..] => ring = parse_ring(members),
            [kind @ ("bigint" | "uuid"), id, shard] => {
                let key: TenantKey = kind.parse().unwrap();
                let id = TenantId::parse(key, id).unwrap();
                let expected = ShardId::new(shard.parse().unwrap()).unwrap();
                assert_eq!(ring.shard_of(id), Some(expected), "{line} on {ring:?}");
                placements += 1;
            }
            ["crc32", count, expected] => {
                let found = sum_of_placements(&ring, count.parse().unwrap());
                assert_eq!(format!("{found:08x}"), *expected, "{ring:?}");
                sums += 1;
            }
            _ => panic!("unreadable line: {line}"),
        }
    }
    assert_eq!((placements, sums), (200, 4));
}

fn parse_ring(members: &[&str]) -> Ring {
    Ring::new(members.iter().map(|member| {
        let (shard, weight) = member.split_once('*').unwrap();
        (
            ShardId::new(shard.parse().unwrap()).unwrap(),
            weight.parse().unwrap(),
        )
    }))
}

fn sum_of_placements(ring: &Ring, count: i64) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for id in 1..=count {
        let shard = ring.shard_of(TenantId::from_bigint(id).unwrap()).unwrap();
        crc.update(&shard.number().to_le_bytes());
    }
    crc.finalize()
}
