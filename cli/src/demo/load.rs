//! `demo load`: shoppers who browse, search, fill carts and check out, through the router like any application.
//!
//! Tenants are drawn by Zipf's law over their numbers, as their sizes are. Every transaction names its tenant with `SET
//! LOCAL` over one pooled service role. The run counts as failed when a single transaction did.

mod market;
mod session;
mod stats;
mod traffic;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::market::Market;
use self::stats::{Report, Stats};
use self::traffic::Shopper;
use super::args::LoadArgs;
use super::descriptor::Descriptor;
use super::place::Place;
use crate::exit::{Exit, Explain, Failure};
use crate::output::{Format, Printer, note};
use crate::shutdown;

/// Between two lines of live figures.
const TICK: Duration = Duration::from_secs(1);

/// Runs the load and prints its figures; ends with code 1 when anything failed.
pub(super) async fn run(args: LoadArgs, printer: Printer) -> Result<Exit, Failure> {
    let place = Place::new(args.place.dir.clone())?;
    let descriptor = Descriptor::read(&place)?;
    let market = Arc::new(Market::open(&descriptor).await?);
    let seed = args.seed.unwrap_or_else(rand::random);
    note(format_args!(
        "{} shoppers in {} stores for {}, seed {seed}",
        args.clients,
        market.stores(),
        args.duration
    ));
    let stop = shutdown::on_signal()?;
    let mut total = Stats::new().explain(|| "the histograms cannot be made".to_owned())?;
    let mut shoppers = Shoppers::start(&args, &market, seed, &stop)?;
    let started = Instant::now();
    let mut ticks = tokio::time::interval_at((started + TICK).into(), TICK);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until((started + args.duration.0).into()) => break,
            _ = ticks.tick() => {
                let window = shoppers.collect(&mut total)?;
                live(&window.report(args.clients, market.stores(), TICK), started.elapsed());
            }
        }
    }
    let elapsed = started.elapsed();
    stop.cancel();
    shoppers.finish(&mut total).await?;
    finish(
        &total.report(args.clients, market.stores(), elapsed),
        printer,
    )
}

/// The running shoppers and what they measured since it was last collected.
struct Shoppers {
    tasks: JoinSet<()>,
    measured: Vec<Arc<Mutex<Stats>>>,
}

impl Shoppers {
    fn start(
        args: &LoadArgs,
        market: &Arc<Market>,
        seed: u64,
        stop: &CancellationToken,
    ) -> Result<Self, Failure> {
        let mut tasks = JoinSet::new();
        let mut measured = Vec::new();
        for number in 0..args.clients {
            let stats = Stats::new().explain(|| "the histograms cannot be made".to_owned())?;
            let stats = Arc::new(Mutex::new(stats));
            measured.push(Arc::clone(&stats));
            let shopper = Shopper::new(Arc::clone(market), stats, seed.wrapping_add(number as u64));
            tasks.spawn(shopper.shop(stop.clone()));
        }
        Ok(Self { tasks, measured })
    }

    /// Moves what was measured into `total`, and returns it by itself as well.
    fn collect(&mut self, total: &mut Stats) -> Result<Stats, Failure> {
        let mut window = Stats::new().explain(|| "the histograms cannot be made".to_owned())?;
        for stats in &self.measured {
            window.drain_from(&mut stats.lock());
        }
        total.drain_from(&mut window.clone());
        Ok(window)
    }

    /// Waits for the transactions under way, so that every one that was begun is counted.
    async fn finish(mut self, total: &mut Stats) -> Result<(), Failure> {
        while let Some(ended) = self.tasks.join_next().await {
            ended.explain(|| "a shopper crashed".to_owned())?;
        }
        self.collect(total).map(|_| ())
    }
}

/// One line of the last second's figures.
fn live(window: &Report, elapsed: Duration) {
    let line = &window.total;
    let ms =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    note(format_args!(
        "{:>4} s  {:>7.0} tx/s  p50 {:>6} ms  p95 {:>6} ms  p99 {:>6} ms  errors {}",
        elapsed.as_secs(),
        line.per_second,
        ms(line.p50_ms),
        ms(line.p95_ms),
        ms(line.p99_ms),
        line.errors,
    ));
}

fn finish(report: &Report, printer: Printer) -> Result<Exit, Failure> {
    match printer.format() {
        Format::Table | Format::Csv => {
            let mut lines = report.actions.clone();
            lines.push(report.total.clone());
            printer.list(&lines)?;
        }
        _ => printer.one(report)?,
    }
    if report.total.errors == 0 && report.total.transactions > 0 {
        return Ok(Exit::Ok);
    }
    let codes: Vec<String> = report
        .errors
        .iter()
        .map(|(code, count)| format!("{code}: {count}"))
        .collect();
    Err(Failure::new(
        Exit::Failed,
        match report.total.errors {
            0 => "no transaction was completed".to_owned(),
            errors => format!("{errors} transactions failed ({})", codes.join(", ")),
        },
    ))
}
