//! Amounts and reasons as people read them.

use tenantry_schema::shard::ShardId;

use super::{Burden, Draft, TenantEntry};

/// Bytes with a unit, three digits at most: `512 B`, `2.1 GiB`, `340 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would round to 1024 is one of the next unit.
    while amount >= 1023.5 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(amount < 9.95);
    format!("{amount:.digits$} {}", UNITS[unit])
}

/// So many of a thing: `1 tenant`, `2 tenants`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// What one tenant brings along.
pub(super) fn size(tenant: &TenantEntry) -> String {
    let bytes = tenant
        .bytes
        .map_or_else(|| "not measured yet".to_owned(), bytes);
    if tenant.busy < 0.005 {
        bytes
    } else {
        format!("{bytes}, {:.2} busy", tenant.busy)
    }
}

/// What a shard has of a burden and what its share is: `12 GiB of 7.7 GiB`.
pub(super) fn of_share(burden: Burden, amount: (f64, f64), share: (f64, f64)) -> String {
    match burden {
        Burden::Bytes => format!("{} of {}", bytes(amount.0 as u64), bytes(share.0 as u64)),
        Burden::Load => format!("{:.2} of {:.2} busy connections", amount.1, share.1),
    }
}

/// The burden as it is spoken of.
pub(super) fn name(burden: Burden) -> &'static str {
    match burden {
        Burden::Bytes => "bytes",
        Burden::Load => "load",
    }
}

/// Why a shard stays above its share.
pub(super) fn still_above(
    draft: &Draft<'_>,
    shard: ShardId,
    burden: Burden,
    limit: Option<String>,
) -> String {
    let (Some(account), Some(share), Some(fill)) = (
        draft.ledger.account(shard),
        draft.ledger.share(shard),
        draft.ledger.fill(shard),
    ) else {
        return String::new();
    };
    let state = format!(
        "{} stays at {:.2} of its share of {} ({})",
        draft.name(shard),
        fill.of(burden),
        name(burden),
        of_share(burden, (account.bytes, account.busy), share)
    );
    if let Some(limit) = limit {
        return format!("{state}: {limit}");
    }
    let moving = draft.moving();
    let weight = |tenant: &TenantEntry| match burden {
        Burden::Bytes => tenant.size() as f64 / share.0,
        Burden::Load => tenant.busy / share.1,
    };
    let arrived = draft
        .moves
        .iter()
        .filter(|planned| planned.destination == shard);
    let staying = draft.homes.get(&shard).into_iter().flatten();
    let largest = staying
        .filter(|tenant| !moving.contains(&tenant.tenant))
        .chain(arrived.map(|planned| &planned.tenant))
        .max_by(|a, b| {
            weight(a)
                .total_cmp(&weight(b))
                .then(b.tenant.cmp(&a.tenant))
        });
    match largest {
        Some(tenant) if weight(tenant) > 1.0 => format!(
            "{state}: {} alone is {:.2} of it, and would be anywhere; it could be isolated",
            tenant.slug,
            weight(tenant)
        ),
        _ => format!("{state}: no other tenant could leave it and make the fleet more even"),
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_have_units() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 * 1024, "10 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (2_254_857_830, "2.1 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (amount, text) in cases {
            assert_eq!(bytes(amount), text);
        }
    }
}
