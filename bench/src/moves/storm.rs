//! All clients of a case at work: the tenant's, some of quiet neighbours, some of neighbours that never wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use tenantry_schema::tenant::TenantId;
use tokio::task::JoinHandle;

use super::bed::Bed;
use super::clients::{Done, Work, Worker};

/// Clients of the tenant that moves.
const CLIENTS: i32 = 12;
/// Neighbours whose latency is looked at, and how often each works.
const QUIET: usize = 8;
const QUIET_PER_SECOND: f64 = 10.0;

/// How much there is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Transactions per second of the tenant.
    pub(crate) per_second: f64,
    /// Clients of neighbours that never wait.
    pub(crate) noisy: usize,
}

/// Clients at work.
pub(crate) struct Storm {
    stop: Arc<AtomicBool>,
    own: Vec<JoinHandle<anyhow::Result<Done>>>,
    others: Vec<JoinHandle<anyhow::Result<Done>>>,
    noisy: Vec<JoinHandle<anyhow::Result<Done>>>,
}

/// What they did.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) own: Vec<Done>,
    pub(crate) others: Vec<Done>,
    pub(crate) noisy: Vec<Done>,
}

impl Storm {
    /// Clients have the numbers from `first` on.
    pub(crate) fn start(bed: &Bed, load: Load, first: i32, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |number: i32, tenant: TenantId, per_second: Option<f64>| {
            let work = Work {
                number,
                tenant: bed.fleet.id_text(tenant),
                per_second,
                seed,
            };
            let worker = Worker::new(work, bed.door(), Arc::clone(&stop));
            tokio::spawn(Box::pin(worker.run()))
        };
        let each = load.per_second / f64::from(CLIENTS);
        let own = (first..first + CLIENTS).map(|number| start(number, bed.tenant, Some(each)));
        let (quiet, loud) = bed.neighbours.split_at(QUIET);
        let numbers = first + CLIENTS..;
        let others = quiet.iter().zip(numbers.clone());
        let others = others.map(|(tenant, number)| start(number, *tenant, Some(QUIET_PER_SECOND)));
        let noisy = loud.iter().take(load.noisy).zip(numbers);
        Self {
            own: own.collect(),
            others: others.collect(),
            noisy: noisy
                .map(|(tenant, number)| start(number, *tenant, None))
                .collect(),
            stop,
        }
    }

    /// Lets everybody finish.
    pub(crate) async fn stop(self) -> anyhow::Result<Finished> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(Finished {
            own: all(self.own).await.context("a client of the tenant")?,
            others: all(self.others).await.context("a neighbour's client")?,
            noisy: all(self.noisy).await.context("a noisy client")?,
        })
    }
}

async fn all(clients: Vec<JoinHandle<anyhow::Result<Done>>>) -> anyhow::Result<Vec<Done>> {
    let mut done = Vec::with_capacity(clients.len());
    for client in clients {
        done.push(client.await??);
    }
    Ok(done)
}
