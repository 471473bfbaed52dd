//! The connections of the fleet's processes to its servers, each pair behind a door of its own that can be shut.

use std::net::SocketAddr;

use anyhow::Context as _;
use tenantry_testkit::{FaultProxy, Fleet, Sorter, Way};

/// Whose connections a door lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Rebalancer,
    Agent,
    Router,
}

/// The ways to one server: whoever is neither rebalancer nor agent counts as a router.
pub(super) struct Doors {
    sorter: Sorter,
    rebalancer: FaultProxy,
    agent: FaultProxy,
    router: FaultProxy,
}

impl Doors {
    pub(super) async fn to(server: SocketAddr) -> anyhow::Result<Self> {
        let (rebalancer, agent, router) = (
            FaultProxy::start(server).await?,
            FaultProxy::start(server).await?,
            FaultProxy::start(server).await?,
        );
        // As their sessions name themselves.
        let way = |mark: &str, door: &FaultProxy| Way {
            mark: mark.to_owned(),
            target: door.address(),
        };
        let ways = vec![
            way("tenantry rebalancer", &rebalancer),
            way("tenantry agent", &agent),
        ];
        Ok(Self {
            sorter: Sorter::start(ways, router.address()).await?,
            rebalancer,
            agent,
            router,
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.sorter.address().port()
    }

    /// A door of one process, which needs no sorting where its address is its own.
    pub(super) fn of(&self, who: Who) -> &FaultProxy {
        match who {
            Who::Rebalancer => &self.rebalancer,
            Who::Agent => &self.agent,
            Who::Router => &self.router,
        }
    }
}

/// Puts the doors where the catalog says that the shards are.
pub(super) async fn in_front_of_shards(fleet: &Fleet) -> anyhow::Result<Vec<Doors>> {
    let catalog = fleet.catalog_session().await?;
    let mut all = Vec::new();
    for shard in fleet.shards() {
        let doors = Doors::to(fleet.server_of(shard).address()).await?;
        let port = i32::from(doors.port());
        let update = "UPDATE tenantry.shard SET port = $1 WHERE id = $2";
        catalog
            .execute(update, &[&port, &shard.id()])
            .await
            .context("cannot put a door in front of a shard")?;
        all.push(doors);
    }
    Ok(all)
}

/// The catalog's address as one process is told it.
pub(super) fn catalog_url(fleet: &Fleet, door: &FaultProxy) -> String {
    let real = format!(":{}/", fleet.catalog_server().port());
    fleet
        .catalog_url()
        .replace(&real, &format!(":{}/", door.port()))
}
