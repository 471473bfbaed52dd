//! Before a tenant arrives at a shard: connections there that know it, so that its first transactions wait neither for a
//! login nor for caches.
//!
//! As many as the tenant holds at its old home now, each bound to it and holding the statements that connections there
//! hold for it. The guard is asked on each, and refuses, which compiles it there. Nothing of the tenant's is read.

use std::sync::Arc;
use std::time::Duration;

use tenantry_schema::causes::one_line;
use tenantry_schema::control::{MoveNotice, Prepared};
use tokio::time::timeout;

use crate::holds::warm_up;
use crate::pool::{Applicant, Lease};
use crate::router::Router;

/// Most connections that are warmed for one tenant, and their part of the pool.
const WARMED_MAX: usize = 8;
const POOL_PART: usize = 2;
/// Longest wait for one of them.
const WARM_TIME: Duration = Duration::from_secs(2);

pub(super) async fn warm(router: &Arc<Router>, notice: &MoveNotice) -> Prepared {
    let fleet = router.fleet.current();
    let shards = (
        fleet.shard(notice.source).cloned(),
        fleet.shard(notice.destination).cloned(),
    );
    let (Some(source), Some(destination)) = shards else {
        return Prepared {
            warmed: 0,
            problem: Some("this router does not know both shards".to_owned()),
        };
    };
    let pools = (router.pools.pool(&source), router.pools.pool(&destination));
    let (source, destination) = match pools {
        (Ok(source), Ok(destination)) => (source, destination),
        (Err(refusal), _) | (_, Err(refusal)) => {
            return Prepared {
                warmed: 0,
                problem: Some(one_line(&refusal)),
            };
        }
    };
    let tenants = source.tenants();
    let load = tenants
        .iter()
        .find(|load| load.asker == Some(notice.tenant));
    let wanted = load.map_or(1, |load| load.held + load.waiting);
    let room = router.config().pool_size / POOL_PART;
    let wanted = wanted.clamp(1, WARMED_MAX.min(room.max(1)));
    let sample = source.sample_of(notice.tenant);
    let applicant = Applicant {
        tenant: Some(notice.tenant),
        ..Applicant::default()
    };
    // All at once, so that each is another one.
    let mut leases: Vec<Lease> = Vec::new();
    let mut answer = Prepared::default();
    while leases.len() < wanted && answer.problem.is_none() {
        match timeout(WARM_TIME, destination.acquire(applicant)).await {
            Ok(Ok(lease)) => leases.push(lease),
            Ok(Err(refusal)) => answer.problem = Some(one_line(&refusal)),
            Err(_elapsed) => answer.problem = Some("no connection became free in time".to_owned()),
        }
    }
    let tenant = notice.tenant.display(fleet.settings.tenant_key).to_string();
    for lease in leases {
        match timeout(WARM_TIME, warm_up(lease, notice.tenant, &tenant, &sample)).await {
            Ok(Ok(())) => answer.warmed += 1,
            Ok(Err(error)) => answer.problem = Some(one_line(&error)),
            Err(_elapsed) => answer.problem = Some("a connection did not answer".to_owned()),
        }
    }
    answer
}
