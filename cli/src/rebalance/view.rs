//! Plans and rebalancings as they are shown.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tenantry_rebalancer::plan::{Fill, Plan, bytes_in_words};
use tenantry_schema::catalog::moves::{MoveId, MoveState};
use tenantry_schema::catalog::{Catalog, Rebalance, RebalanceId, RebalanceMove};

use crate::exit::Failure;
use crate::moves::Names;
use crate::output::{Format, Printer, note, record};

/// Prints a plan: all of it as a document, its moves as a list; on a table what it makes of the shards as well.
pub(crate) async fn print_plan(
    catalog: &Catalog,
    plan: &Plan,
    printer: Printer,
) -> Result<(), Failure> {
    let names = Names::read(catalog).await?;
    let moves: Vec<PlannedView> = plan
        .moves
        .iter()
        .zip(1..)
        .map(|(planned, ordinal)| PlannedView {
            ordinal,
            tenant: names.id(planned.tenant),
            slug: planned.slug.clone(),
            source: names.shard(planned.source),
            destination: names.shard(planned.destination),
            bytes: planned.bytes,
            busy: planned.busy,
            state: "planned".to_owned(),
            r#move: None,
            attempts: 0,
            why: planned.why.clone(),
            error: None,
        })
        .collect();
    let shards = plan.shards.iter().map(ForecastView::of).collect::<Vec<_>>();
    let left = plan.left.iter().map(|left| LeftView {
        tenant: left.tenant.map(|tenant| names.id(tenant)),
        shard: names.shard(left.shard),
        why: left.why.clone(),
    });
    let left: Vec<LeftView> = left.collect();
    match printer.format() {
        Format::Json | Format::Yaml => printer.one(&PlanView {
            unpins: plan.unpins.len(),
            bytes: plan.bytes(),
            moves,
            shards,
            left,
        }),
        Format::Ndjson | Format::Csv => printer.list(&moves),
        Format::Table => {
            printer.list(&moves)?;
            printer.raw("\n")?;
            printer.list(&shards)?;
            for left in &left {
                let who = left.tenant.as_deref().map(|id| format!("tenant {id} on "));
                note(format_args!(
                    "left: {}{}: {}",
                    who.unwrap_or_default(),
                    left.shard,
                    left.why
                ));
            }
            if !plan.unpins.is_empty() {
                note(format_args!(
                    "{} pins repeat what the ring says and are taken away; nobody moves for that",
                    plan.unpins.len()
                ));
            }
            note(format_args!(
                "{} moves, {}",
                plan.moves.len(),
                bytes_in_words(plan.bytes())
            ));
            Ok(())
        }
    }
}

/// A plan as a document.
#[derive(Debug, Serialize)]
struct PlanView {
    moves: Vec<PlannedView>,
    /// Pins that go without a move.
    unpins: usize,
    bytes: u64,
    shards: Vec<ForecastView>,
    left: Vec<LeftView>,
}

record!(PlanView { moves => "MOVES", unpins => "UNPINS", bytes => "BYTES", shards => "SHARDS", left => "LEFT" });

/// What stays undone.
#[derive(Debug, Serialize)]
struct LeftView {
    tenant: Option<String>,
    shard: String,
    why: String,
}

/// What a plan makes of a shard.
#[derive(Debug, Serialize)]
struct ForecastView {
    shard: String,
    tenants_before: usize,
    tenants_after: usize,
    bytes_before: u64,
    bytes_after: u64,
    busy_before: f64,
    busy_after: f64,
    /// Bytes against the shard's share; null where it has none.
    fill_before: Option<f64>,
    fill_after: Option<f64>,
    /// Load against the shard's share.
    load_before: Option<f64>,
    load_after: Option<f64>,
}

record!(ForecastView {
    shard => "SHARD", tenants_before => "TENANTS", tenants_after => "THEN", bytes_before => "BYTES",
    bytes_after => "THEN", fill_before => "OF SHARE", fill_after => "THEN", busy_before => "BUSY",
    busy_after => "THEN", load_before => "OF SHARE", load_after => "THEN",
});

impl ForecastView {
    fn of(forecast: &tenantry_rebalancer::plan::Forecast) -> Self {
        let round = |value: f64| (value * 100.0).round() / 100.0;
        let fill = |of: fn(&Fill) -> f64| {
            forecast
                .fill
                .as_ref()
                .map(|(a, b)| (round(of(a)), round(of(b))))
        };
        let (bytes, load) = (fill(|fill| fill.bytes), fill(|fill| fill.load));
        Self {
            shard: forecast.name.clone(),
            tenants_before: forecast.tenants.0,
            tenants_after: forecast.tenants.1,
            bytes_before: forecast.bytes.0,
            bytes_after: forecast.bytes.1,
            busy_before: round(forecast.busy.0),
            busy_after: round(forecast.busy.1),
            fill_before: bytes.map(|fill| fill.0),
            fill_after: bytes.map(|fill| fill.1),
            load_before: load.map(|fill| fill.0),
            load_after: load.map(|fill| fill.1),
        }
    }
}

/// A move of a plan, and what became of it.
#[derive(Debug, Serialize)]
pub(super) struct PlannedView {
    ordinal: u32,
    tenant: String,
    slug: String,
    source: String,
    destination: String,
    bytes: Option<u64>,
    busy: f64,
    /// `planned`, `skipped`, or the state of its move.
    state: String,
    r#move: Option<MoveId>,
    attempts: u32,
    why: String,
    error: Option<String>,
}

record!(PlannedView {
    ordinal => "NO", slug => "TENANT", source => "FROM", destination => "TO", bytes => "BYTES", busy => "BUSY",
    state => "STATE", attempts => "ATTEMPTS", why => "WHY", error => "ERROR",
});

impl PlannedView {
    /// The plan of a rebalancing, in order.
    pub(super) async fn read(
        catalog: &Catalog,
        rebalance: &Rebalance,
    ) -> Result<Vec<Self>, Failure> {
        let names = Names::read(catalog).await?;
        let moves = catalog.rebalance_moves(rebalance.id).await?;
        let views = moves.into_iter().map(|planned| Self {
            ordinal: planned.ordinal,
            tenant: names.id(planned.tenant),
            slug: planned.slug,
            source: names.shard(planned.source),
            destination: names.shard(planned.destination),
            bytes: planned.bytes,
            busy: planned.busy,
            state: match (&planned.skipped, &planned.last) {
                (Some(_), _) => "skipped".to_owned(),
                (None, Some(last)) => last.state.to_string(),
                (None, None) => "planned".to_owned(),
            },
            r#move: planned.last.as_ref().map(|last| last.id),
            attempts: planned.attempts,
            why: planned.why,
            error: planned
                .skipped
                .or_else(|| planned.last.and_then(|last| last.error)),
        });
        Ok(views.collect())
    }
}

/// How many moves of a plan are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    pub(super) planned: usize,
    done: usize,
    under_way: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    /// Counts.
    pub(super) fn of(moves: &[RebalanceMove]) -> Self {
        let mut tally = Self {
            planned: moves.len(),
            ..Self::default()
        };
        for planned in moves {
            match (
                &planned.skipped,
                planned.last.as_ref().map(|last| last.state),
            ) {
                (Some(_), _) => tally.skipped += 1,
                (None, Some(MoveState::Done)) => tally.done += 1,
                (None, Some(state)) if state.is_final() => tally.failed += 1,
                (None, Some(_)) => tally.under_way += 1,
                (None, None) => {}
            }
        }
        tally
    }

    /// Those that need nothing more.
    pub(super) fn over(self) -> usize {
        self.done + self.skipped
    }

    /// On a line.
    pub(super) fn in_words(self) -> String {
        let mut line = format!(
            "{} of {} moves done, {} under way",
            self.done, self.planned, self.under_way
        );
        if self.failed > 0 {
            line.push_str(&format!(", {} failed last time", self.failed));
        }
        if self.skipped > 0 {
            line.push_str(&format!(", {} not needed any more", self.skipped));
        }
        line
    }
}

/// Where a rebalancing is.
#[derive(Debug, Serialize)]
pub(super) struct StatusView {
    id: RebalanceId,
    goal: Value,
    /// The shard that is being emptied.
    shard: Option<String>,
    state: &'static str,
    #[serde(flatten)]
    tally: Tally,
    waiting: Option<String>,
    actor: String,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
}

record!(StatusView {
    id => "ID", goal => "GOAL", shard => "SHARD", state => "STATE", planned => "MOVES", done => "DONE",
    under_way => "UNDER WAY", failed => "FAILED", skipped => "SKIPPED", waiting => "WAITS", actor => "ACTOR",
    created_at => "CREATED AT", finished_at => "FINISHED AT",
});

impl StatusView {
    /// Counts its moves.
    pub(super) async fn read(catalog: &Catalog, rebalance: &Rebalance) -> Result<Self, Failure> {
        let names = Names::read(catalog).await?;
        let tally = Tally::of(&catalog.rebalance_moves(rebalance.id).await?);
        Ok(Self {
            id: rebalance.id,
            goal: rebalance.goal.clone(),
            shard: rebalance.shard.map(|shard| names.shard(shard)),
            state: rebalance.state.as_str(),
            tally,
            waiting: rebalance.waiting.clone(),
            actor: rebalance.actor.clone(),
            created_at: rebalance.created_at,
            finished_at: rebalance.finished_at,
        })
    }
}
