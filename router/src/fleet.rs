//! The fleet as this router knows it: an immutable snapshot that is exchanged as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tenantry_schema::fleet::{Fleet, FleetSettings};
use tenantry_schema::limits::FleetLimits;
use tenantry_schema::tenant::TenantKey;
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

    pub(crate) fn publish(&self, fleet: Arc<Fleet>) {
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
