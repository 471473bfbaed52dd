//! What clients were told is committed, kept outside both databases, and the comparison with what is there.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::bed::ACCOUNTS;

/// The bookings of one client. What a booking is follows from its number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    /// Acknowledged.
    pub(crate) booked: BTreeSet<i64>,
    /// Their answer was lost: either is right.
    pub(crate) unknown: BTreeSet<i64>,
}

/// On which account a booking is.
pub(crate) fn account_of(client: i32, seq: i64) -> i64 {
    (seq.wrapping_mul(7919) + i64::from(client) * 104_729).rem_euclid(ACCOUNTS) + 1
}

/// How much it is.
pub(crate) fn amount_of(seq: i64) -> i64 {
    seq % 97 + 1
}

/// What the comparison found wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    /// Acknowledged, and not there.
    pub(crate) lost: u64,
    /// There, and never asked for or refused.
    pub(crate) strange: u64,
    /// Accounts whose balance is not the sum of their entries.
    pub(crate) unbalanced: u64,
    /// Rows compared.
    pub(crate) rows: u64,
}

impl Differences {
    pub(crate) fn all(&self) -> u64 {
        self.lost + self.strange + self.unbalanced
    }
}

/// Compares all clients' ledgers with a tenant's rows on a shard, row by row.
pub(crate) async fn compare(
    shard: &Client,
    tenant: &str,
    ledgers: &BTreeMap<i32, Ledger>,
) -> anyhow::Result<Differences> {
    let mut found = Differences::default();
    let mut balances: BTreeMap<i64, i64> = BTreeMap::new();
    for (client, ledger) in ledgers {
        let select = format!(
            "SELECT seq, account, amount FROM entries WHERE tenant_id = {tenant} AND client = {client} ORDER BY seq"
        );
        let mut left = ledger.booked.clone();
        for row in shard.query(&select, &[]).await? {
            let (seq, account, amount): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
            found.rows += 1;
            *balances.entry(account).or_default() += amount;
            let is_known = left.remove(&seq) || ledger.unknown.contains(&seq);
            let is_right = account == account_of(*client, seq) && amount == amount_of(seq);
            found.strange += u64::from(!is_known || !is_right);
        }
        found.lost += left.len() as u64;
    }
    let select = format!("SELECT id, balance FROM accounts WHERE tenant_id = {tenant}");
    for row in shard.query(&select, &[]).await? {
        let (account, balance): (i64, i64) = (row.get(0), row.get(1));
        found.rows += 1;
        found.unbalanced += u64::from(balance != balances.remove(&account).unwrap_or(0));
    }
    // Entries without an account.
    found.unbalanced += balances.len() as u64;
    Ok(found)
}

/// Rows of a tenant on a shard, and a sum over all they contain: equal rows give equal sums, in any order.
pub(crate) async fn contents(shard: &Client, tenant: &str) -> anyhow::Result<(i64, String)> {
    let select = format!(
        "SELECT count(*), coalesce(sum(hashtextextended(line, 0)), 0)::text FROM (
             SELECT a::text AS line FROM accounts a WHERE tenant_id = {tenant}
             UNION ALL SELECT e::text FROM entries e WHERE tenant_id = {tenant}) lines"
    );
    let row = shard.query_one(&select, &[]).await?;
    Ok((row.get(0), row.get(1)))
}
