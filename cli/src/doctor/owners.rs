//! Do the shards agree with the catalog about who lives where?
//!
//! A shard serves a tenant only if it has an active owner row for it. So each placed tenant must have exactly one, on
//! its shard and with its epoch; an active row anywhere else is a tenant that could be served from two places.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use tenantry_schema::fleet::Fleet;
use tenantry_schema::shard::{Shard, ShardId};
use tenantry_schema::tenant::{TenantId, TenantState};
use tokio_postgres::Client;

use super::Check;

/// Tenants named in one line of the report.
const NAMED_MAX: usize = 5;

/// A row of `tenantry.owner`.
pub(super) struct OwnerRow {
    tenant: TenantId,
    state: String,
    epoch: i64,
}

/// Reads the owner rows of the shard.
pub(super) async fn read(client: &Client) -> Result<Vec<OwnerRow>, tokio_postgres::Error> {
    let rows = client
        .query("SELECT tenant_id, state, epoch FROM tenantry.owner", &[])
        .await?;
    rows.iter()
        .map(|row| {
            Ok(OwnerRow {
                tenant: row.try_get(0)?,
                state: row.try_get(1)?,
                epoch: row.try_get(2)?,
            })
        })
        .collect()
}

/// The owner rows of the shards that answered.
pub(super) struct Owners<'a> {
    fleet: &'a Fleet,
    shards: HashMap<ShardId, (&'a Shard, HashMap<TenantId, OwnerRow>)>,
}

/// What is wrong with the tenants of one shard.
#[derive(Default)]
struct Verdict {
    agreed: usize,
    missing: Vec<String>,
    inactive: Vec<String>,
    other_epoch: Vec<String>,
    strangers: Vec<String>,
}

impl<'a> Owners<'a> {
    pub(super) fn new(fleet: &'a Fleet) -> Self {
        Self {
            fleet,
            shards: HashMap::new(),
        }
    }

    /// Adds what a shard said.
    pub(super) fn add(&mut self, shard: &'a Shard, rows: Vec<OwnerRow>) {
        let rows = rows.into_iter().map(|row| (row.tenant, row)).collect();
        self.shards.insert(shard.id, (shard, rows));
    }

    /// One line for each shard that answered. A tenant whose shard did not is left alone.
    pub(super) fn judge(&self) -> Vec<Check> {
        let mut verdicts: HashMap<ShardId, Verdict> = HashMap::new();
        let mut at_home: HashMap<ShardId, BTreeSet<TenantId>> = HashMap::new();
        for tenant in self.fleet.directory.tenants() {
            let settled = !matches!(
                tenant.state,
                TenantState::Provisioning | TenantState::Erased
            );
            let Some(placement) = self.fleet.place(&tenant).filter(|_| settled) else {
                continue;
            };
            let Some((_, rows)) = self.shards.get(&placement.shard) else {
                continue;
            };
            at_home
                .entry(placement.shard)
                .or_default()
                .insert(tenant.id);
            let verdict = verdicts.entry(placement.shard).or_default();
            let slug = tenant.slug.to_owned();
            match rows.get(&tenant.id) {
                None => verdict.missing.push(slug),
                Some(row) if row.state != "active" => verdict.inactive.push(slug),
                Some(row) if row.epoch.unsigned_abs() != placement.epoch.0 => {
                    verdict.other_epoch.push(slug)
                }
                Some(_) => verdict.agreed += 1,
            }
        }
        for (shard, (_, rows)) in &self.shards {
            let home = at_home.get(shard);
            let strangers = rows.values().filter(|row| {
                row.state == "active"
                    && !home.is_some_and(|home| home.contains(&row.tenant))
                    && !self.arriving(row, *shard)
            });
            let key = self.fleet.settings.tenant_key;
            let named = strangers.map(|row| row.tenant.display(key).to_string());
            verdicts.entry(*shard).or_default().strangers.extend(named);
        }
        let mut checks: Vec<Check> = self
            .shards
            .iter()
            .map(|(id, (shard, _))| {
                verdicts
                    .get(id)
                    .map_or_else(|| Verdict::default().check(shard), |v| v.check(shard))
            })
            .collect();
        checks.sort_by(|a, b| a.target.cmp(&b.target));
        checks
    }

    /// Whether the row belongs to a tenant that is being taken in: its row comes before its state changes.
    fn arriving(&self, row: &OwnerRow, shard: ShardId) -> bool {
        self.fleet
            .directory
            .by_id(row.tenant)
            .is_some_and(|tenant| {
                tenant.state == TenantState::Provisioning
                    && self
                        .fleet
                        .place(&tenant)
                        .is_some_and(|placement| placement.shard == shard)
            })
    }
}

impl Verdict {
    fn check(&self, shard: &Shard) -> Check {
        let mut detail = format!("{} tenants agree with the catalog", self.agreed);
        let mut wrong = false;
        for (problem, tenants) in [
            ("have no owner row", &self.missing),
            ("are not active", &self.inactive),
            ("have another epoch", &self.other_epoch),
            ("are active here and belong elsewhere", &self.strangers),
        ] {
            if tenants.is_empty() {
                continue;
            }
            wrong = true;
            let named = tenants
                .iter()
                .take(NAMED_MAX)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            let more = if tenants.len() > NAMED_MAX {
                ", …"
            } else {
                ""
            };
            let _ = write!(detail, "; {} {problem} ({named}{more})", tenants.len());
        }
        let name = shard.name.to_string();
        if wrong {
            let hint = "a running agent adds rows of provisioning tenants; anything else needs a look before traffic is sent there";
            Check::failed("owners", name, detail, hint)
        } else {
            Check::ok("owners", name, detail)
        }
    }
}
