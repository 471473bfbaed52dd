//! The fleet as this router knows it: an immutable snapshot that is exchanged as a whole.
//!
//! Between a cutover and the catalog's word of it this router may know better where a tenant lives. Such a placement is
//! put over every fleet that is published, until one comes that is as new.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tenantry_schema::directory::DirectoryChange;
use tenantry_schema::fleet::{Fleet, FleetSettings};
use tenantry_schema::limits::FleetLimits;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::{Epoch, TenantId, TenantKey};
use tokio::sync::watch;

/// The current fleet, and a way to wait for the next one.
#[derive(Debug)]
pub(crate) struct FleetWatch {
    current: ArcSwap<Fleet>,
    /// A fleet has been published; before that `current` is empty and means nothing.
    known: AtomicBool,
    sequence: watch::Sender<u64>,
    /// Grows with each fleet, so that whoever keeps what it found in one can tell that it is old.
    version: AtomicU64,
    /// Another number for each fleet whose limits may be others; 0 while nobody is limited.
    limits_version: AtomicU64,
    /// How often limits may have changed.
    limits_changed: AtomicU64,
    /// Whoever publishes holds this.
    sources: Mutex<Sources>,
}

/// What the current fleet is made of.
#[derive(Debug, Default)]
struct Sources {
    /// As the catalog or the snapshot has it.
    followed: Option<Arc<Fleet>>,
    /// What is known beyond that.
    overrides: HashMap<TenantId, Override>,
}

/// Where a tenant lives, whatever the catalog says.
#[derive(Debug, Clone, Copy)]
struct Override {
    shard: ShardId,
    epoch: Epoch,
}

impl FleetWatch {
    /// Before the catalog or the snapshot has been read.
    pub(crate) fn unknown() -> Self {
        let (sequence, _) = watch::channel(0);
        let empty = Fleet::empty(FleetSettings::new(TenantKey::Bigint));
        Self {
            current: ArcSwap::from_pointee(empty),
            known: AtomicBool::new(false),
            sequence,
            version: AtomicU64::new(0),
            limits_version: AtomicU64::new(0),
            limits_changed: AtomicU64::new(0),
            sources: Mutex::default(),
        }
    }

    /// The version of the current fleet, or of an earlier one: read it before the fleet.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// Resolves as soon as a fleet has been published.
    pub(crate) async fn known(&self) {
        let mut published = self.subscribe();
        while !self.is_known() {
            // The sender is ours: it does not go away.
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    pub(crate) fn current(&self) -> Arc<Fleet> {
        self.current.load_full()
    }

    /// The catalog's fleet, or the snapshot's.
    pub(crate) fn publish(&self, fleet: Arc<Fleet>) {
        let mut sources = self.sources.lock();
        sources.followed = Some(fleet);
        sources.drop_outdated();
        if let Some(fleet) = sources.fleet() {
            self.exchange(fleet);
        }
    }

    /// A tenant lives on this shard, as of this epoch: until the catalog is as new, or newer. False: that is no news.
    pub(crate) fn place(&self, tenant: TenantId, shard: ShardId, epoch: Epoch) -> bool {
        let mut sources = self.sources.lock();
        let is_news = |known: Epoch| epoch > known;
        let current = self.current();
        if !current
            .directory
            .by_id(tenant)
            .is_some_and(|record| is_news(record.epoch))
            || current.shard(shard).is_none()
        {
            return false;
        }
        sources.overrides.insert(tenant, Override { shard, epoch });
        if let Some(fleet) = sources.fleet() {
            self.exchange(fleet);
        }
        true
    }

    fn exchange(&self, fleet: Arc<Fleet>) {
        let sequence = fleet.sequence;
        let limits = LimitsSeen::of(&fleet);
        let before = self.current.swap(fleet);
        if LimitsSeen::of(&before) != limits {
            let changed = self.limits_changed.fetch_add(1, Ordering::Relaxed) + 1;
            let version = if limits.limit_nobody { 0 } else { changed };
            // After the fleet: who sees the number finds the limits.
            self.limits_version.store(version, Ordering::Release);
        }
        self.version.fetch_add(1, Ordering::Release);
        self.known.store(true, Ordering::Release);
        self.sequence.send_replace(sequence);
    }

    /// Stands for the limits of all tenants: as long as it is the same, what was found for a tenant holds. 0: nobody is
    /// limited.
    pub(crate) fn limits_version(&self) -> u64 {
        self.limits_version.load(Ordering::Acquire)
    }

    /// Changes each time a fleet is published.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.sequence.subscribe()
    }
}

impl Sources {
    /// What the catalog has caught up with is the catalog's again.
    fn drop_outdated(&mut self) {
        let Some(followed) = &self.followed else {
            return;
        };
        self.overrides.retain(|tenant, known| {
            let record = followed.directory.by_id(*tenant);
            record.is_some_and(|record| record.epoch < known.epoch)
        });
    }

    fn fleet(&self) -> Option<Arc<Fleet>> {
        let followed = self.followed.as_ref()?;
        if self.overrides.is_empty() {
            return Some(Arc::clone(followed));
        }
        let mut changes = Vec::new();
        for (tenant, known) in &self.overrides {
            let Some(record) = followed.directory.by_id(*tenant) else {
                continue;
            };
            let mut row = record.to_row();
            row.epoch = known.epoch;
            changes.push(DirectoryChange::UpsertTenant(row));
            changes.push(DirectoryChange::Pin {
                tenant: *tenant,
                shard: known.shard,
            });
        }
        match followed.directory.apply(&changes) {
            Ok(directory) => {
                let mut fleet = Fleet::clone(followed);
                fleet.directory = directory;
                Some(Arc::new(fleet))
            }
            Err(error) => {
                // The shards refuse and forward what is sent to the wrong one.
                tracing::error!(%error, "a placement cannot be put over the catalog's");
                Some(Arc::clone(followed))
            }
        }
    }
}

/// What tells one fleet's limits from another's.
#[derive(PartialEq, Eq)]
struct LimitsSeen {
    sequence: u64,
    limits: *const FleetLimits,
    limit_nobody: bool,
}

impl LimitsSeen {
    fn of(fleet: &Fleet) -> Self {
        let limits = &fleet.limits;
        let limit_nobody =
            limits.plans.is_empty() && limits.tenants.is_empty() && limits.switches.is_empty();
        Self {
            sequence: if limit_nobody {
                0
            } else {
                fleet.limits_sequence
            },
            limits: if limit_nobody {
                std::ptr::null()
            } else {
                Arc::as_ptr(limits)
            },
            limit_nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tenantry_schema::change::{ChangeBody, ChangeGroup};
    use tenantry_schema::directory::TenantRow;

    use super::*;

    fn shard(number: u16) -> ShardId {
        ShardId::new(number).unwrap()
    }

    fn tenant() -> TenantId {
        TenantId::from_bigint(1).unwrap()
    }

    /// A fleet of two shards with one tenant, pinned.
    fn fleet(at: u16, epoch: u64) -> Arc<Fleet> {
        let row: TenantRow = serde_json::from_str(&format!(
            r#"{{"id":1,"slug":"a","state":"active","epoch":{epoch}}}"#
        ))
        .unwrap();
        let mut changes = vec![ChangeBody::Tenant(row)];
        for number in [1, 2] {
            let text = format!(
                r#"{{"id":{number},"name":"s{number}","address":{{"host":"h","port":1,"database":"d"}},"kind":"shared","state":"active","weight":1}}"#
            );
            changes.push(ChangeBody::Shard(serde_json::from_str(&text).unwrap()));
        }
        changes.push(ChangeBody::Pin {
            tenant: tenant(),
            shard: shard(at),
        });
        let group = ChangeGroup {
            first_seq: 1,
            last_seq: changes.len() as u64,
            changes,
        };
        let empty = Fleet::empty(FleetSettings::new(TenantKey::Bigint));
        Arc::new(empty.apply(&group).unwrap())
    }

    fn seen(watch: &FleetWatch) -> (ShardId, Epoch) {
        let fleet = watch.current();
        let placement = fleet
            .place(&fleet.directory.by_id(tenant()).unwrap())
            .unwrap();
        (placement.shard, placement.epoch)
    }

    #[test]
    fn a_placement_holds_until_the_catalog_is_as_new() {
        let watch = FleetWatch::unknown();
        assert!(!watch.place(tenant(), shard(2), Epoch(2)));
        watch.publish(fleet(1, 1));
        let version = watch.version();
        assert!(watch.place(tenant(), shard(2), Epoch(2)));
        assert_eq!(seen(&watch), (shard(2), Epoch(2)));
        assert!(watch.version() > version);

        // The epoch never goes back, whoever says so.
        assert!(!watch.place(tenant(), shard(1), Epoch(2)));
        assert!(!watch.place(tenant(), shard(1), Epoch(1)));
        // Nor does it lead to a shard that is not there.
        assert!(!watch.place(tenant(), shard(3), Epoch(9)));
        watch.publish(fleet(1, 1));
        assert_eq!(seen(&watch), (shard(2), Epoch(2)));

        watch.publish(fleet(2, 2));
        assert_eq!(seen(&watch), (shard(2), Epoch(2)));
        assert!(watch.sources.lock().overrides.is_empty());
        watch.publish(fleet(1, 3));
        assert_eq!(seen(&watch), (shard(1), Epoch(3)));
    }
}
