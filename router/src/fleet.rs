//! The fleet as this router knows it: an immutable snapshot that is exchanged as a whole.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tenantry_schema::fleet::Fleet;
use tokio::sync::watch;

/// The current fleet, and a way to wait for the next one.
#[derive(Debug)]
pub(crate) struct FleetWatch {
    current: ArcSwap<Fleet>,
    sequence: watch::Sender<u64>,
}

impl FleetWatch {
    pub(crate) fn new(fleet: Arc<Fleet>) -> Self {
        let (sequence, _) = watch::channel(fleet.sequence);
        Self {
            current: ArcSwap::new(fleet),
            sequence,
        }
    }

    pub(crate) fn current(&self) -> Arc<Fleet> {
        self.current.load_full()
    }

    pub(crate) fn publish(&self, fleet: Arc<Fleet>) {
        let sequence = fleet.sequence;
        self.current.store(fleet);
        self.sequence.send_replace(sequence);
    }

    /// Changes each time a fleet is published.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.sequence.subscribe()
    }
}
