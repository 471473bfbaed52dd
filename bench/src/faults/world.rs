//! The fleet of this scenario: every role a process of its own, every pair of them connected through a door.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tenantry_schema::shard::ShardId;
use tenantry_testkit::FaultProxy;
use tokio::time::{Instant, sleep};

use super::doors::{self, Doors, Who, catalog_url};
use super::matrix::{Fault, Point};
use crate::moves::bed::Bed;
use crate::moves::ledger::Ledger;
use crate::part::Part;
use crate::proxy::Without;
use crate::rebalancer::Wanted;

/// How long a connection stays cut.
const CUT: Duration = Duration::from_secs(2);
/// Longest way to a point.
const REACH_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);
const ROWS: i64 = 3_000;

/// Everything that runs.
pub(super) struct World {
    pub(super) bed: Bed,
    catalog: Doors,
    shards: Vec<Doors>,
    control: FaultProxy,
    rebalancer: Option<Part>,
    /// There while the rebalancer stands at its point.
    parked: PathBuf,
    without: Option<Without>,
    started: u32,
    agent: Part,
    /// Of all clients of all trials.
    pub(super) ledgers: BTreeMap<i32, Ledger>,
}

impl World {
    pub(super) async fn start(without: Option<Without>) -> anyhow::Result<Self> {
        let mut bed = Bed::prepare(ROWS).await?;
        let shards = doors::in_front_of_shards(&bed.fleet).await?;
        let catalog = Doors::to(bed.fleet.catalog_server().address()).await?;
        bed.fleet.stop_agent().await?;
        let agent = agent(&bed, &catalog)?;
        let url = catalog_url(&bed.fleet, catalog.of(Who::Router));
        bed.start_router(without, Some(url))?;
        let control = FaultProxy::start(bed.control_address()).await?;
        let world = Self {
            bed,
            catalog,
            shards,
            control,
            rebalancer: None,
            parked: PathBuf::new(),
            without,
            started: 0,
            agent,
            ledgers: BTreeMap::new(),
        };
        world.register_control_door().await?;
        Ok(world)
    }

    /// The rebalancer reaches the router through its door.
    async fn register_control_door(&self) -> anyhow::Result<()> {
        let session = self.bed.fleet.catalog_session().await?;
        let address = self.control.address().to_string();
        let update = "UPDATE tenantry.router SET control_address = $1 WHERE control_address IS DISTINCT FROM $1";
        // The router registers within a moment of its start.
        for _ in 0..500 {
            if session.execute(update, &[&address]).await? > 0 {
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("the router does not register")
    }

    /// Starts a rebalancer that stops at this point, or nowhere.
    pub(super) fn start_rebalancer(&mut self, stop_at: Option<Point>) -> anyhow::Result<()> {
        self.started += 1;
        self.parked = (self.bed.folder.path()).join(format!("parked-{}", self.started));
        let wanted = Wanted {
            catalog_url: catalog_url(&self.bed.fleet, self.catalog.of(Who::Rebalancer)),
            park: stop_at.map(|point| (point.name(), self.parked.clone())),
            ..Wanted::new(&self.bed.fleet).without(self.without)
        };
        self.rebalancer = Some(wanted.start(self.bed.folder.path())?);
        Ok(())
    }

    pub(super) async fn end_rebalancer(&mut self) -> anyhow::Result<()> {
        match self.rebalancer.take() {
            Some(mut running) => running.kill9().await,
            None => Ok(()),
        }
    }

    /// Returns when the rebalancer stands at its point.
    pub(super) async fn reached(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + REACH_MAX;
        while !self.parked.exists() {
            let running = self.rebalancer.as_mut().context("no rebalancer runs")?;
            ensure!(running.is_alive()?, "the rebalancer has ended");
            ensure!(Instant::now() < deadline, "the point was not reached");
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn go_on(&self) -> anyhow::Result<()> {
        std::fs::remove_file(&self.parked).context("the rebalancer does not stand at its point")
    }

    /// Breaks something while the rebalancer stands at its point, lets it go on, and repairs.
    pub(super) async fn strike(&mut self, fault: Fault, home: ShardId) -> anyhow::Result<()> {
        let (source, destination) = self.sides(home)?;
        match fault {
            Fault::KillRebalancer => {
                self.end_rebalancer().await?;
                return self.start_rebalancer(None);
            }
            Fault::KillRouter => {
                self.bed.kill_router();
                self.go_on()?;
                sleep(Duration::from_millis(300)).await;
                let url = catalog_url(&self.bed.fleet, self.catalog.of(Who::Router));
                self.bed.start_router(None, Some(url))?;
                return self.register_control_door().await;
            }
            Fault::KillAgent => {
                self.agent.kill9().await?;
                self.go_on()?;
                self.agent = agent(&self.bed, &self.catalog)?;
                return Ok(());
            }
            Fault::KillSource => return self.kill_server(Some(source)).await,
            Fault::KillDestination => return self.kill_server(Some(destination)).await,
            Fault::KillCatalog => return self.kill_server(None).await,
            _ => {}
        }
        for door in self.doors_of(fault, source, destination) {
            door.refuse().await;
            door.reset();
        }
        self.go_on()?;
        sleep(CUT).await;
        for door in self.doors_of(fault, source, destination) {
            door.resume().await;
        }
        Ok(())
    }

    /// Indices of the source's and the destination's shard.
    fn sides(&self, home: ShardId) -> anyhow::Result<(usize, usize)> {
        let mut shards = self.bed.fleet.shards().iter();
        let source = shards.position(|shard| shard.id() == home);
        let source = source.context("the source is not one of this fleet's")?;
        Ok((source, 1 - source))
    }

    fn doors_of(&self, fault: Fault, source: usize, destination: usize) -> Vec<&FaultProxy> {
        let (source, destination) = (&self.shards[source], &self.shards[destination]);
        match fault {
            Fault::CutRebalancerSource => vec![source.of(Who::Rebalancer)],
            Fault::CutRebalancerDestination => vec![destination.of(Who::Rebalancer)],
            Fault::CutRebalancerCatalog => vec![self.catalog.of(Who::Rebalancer)],
            Fault::CutRebalancerRouter => vec![&self.control],
            Fault::CutRouterSource => vec![source.of(Who::Router)],
            Fault::CutRouterDestination => vec![destination.of(Who::Router)],
            Fault::CutRouterCatalog => vec![self.catalog.of(Who::Router)],
            Fault::CutAgent => vec![
                source.of(Who::Agent),
                destination.of(Who::Agent),
                self.catalog.of(Who::Agent),
            ],
            Fault::KillRebalancer
            | Fault::KillRouter
            | Fault::KillAgent
            | Fault::KillSource
            | Fault::KillDestination
            | Fault::KillCatalog => Vec::new(),
        }
    }

    async fn kill_server(&mut self, shard: Option<usize>) -> anyhow::Result<()> {
        let fleet = &self.bed.fleet;
        let server = match shard {
            Some(index) => fleet.server_of(fleet.shard(index)),
            None => fleet.catalog_server(),
        };
        server.kill9().await?;
        // It meets a server that is away.
        self.go_on()?;
        server.restart().await?;
        Ok(())
    }
}

fn agent(bed: &Bed, catalog: &Doors) -> anyhow::Result<Part> {
    let wanted = Wanted {
        catalog_url: catalog_url(&bed.fleet, catalog.of(Who::Agent)),
        ..Wanted::new(&bed.fleet)
    };
    Part::start(
        crate::rebalancer::AGENT_PART,
        &wanted,
        &[],
        bed.folder.path(),
    )
}
