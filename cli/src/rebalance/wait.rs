//! Waiting for a rebalancing, with a line on stderr, or a bar on a terminal.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tenantry_schema::catalog::{Catalog, Rebalance, RebalanceId, RebalanceState};

use super::made;
use super::view::Tally;
use crate::exit::{Exit, Failure};
use crate::output::note;

/// Between two looks.
const POLL: Duration = Duration::from_millis(500);

/// Waits until all its moves are made.
pub(crate) async fn finished(
    catalog: &Catalog,
    id: RebalanceId,
    limit: Duration,
) -> Result<Rebalance, Failure> {
    made(until(catalog, id, limit, RebalanceState::is_final).await?)
}

/// Waits for a state.
pub(super) async fn until(
    catalog: &Catalog,
    id: RebalanceId,
    limit: Duration,
    is_reached: impl Fn(RebalanceState) -> bool,
) -> Result<Rebalance, Failure> {
    let deadline = Instant::now() + limit;
    let bar = std::io::stderr().is_terminal().then(bar);
    let mut last = String::new();
    loop {
        let now = catalog.rebalance(id).await?;
        let tally = Tally::of(&catalog.rebalance_moves(id).await?);
        let line = match &now.waiting {
            Some(waiting) => format!("{}; waits {waiting}", tally.in_words()),
            None => tally.in_words(),
        };
        match &bar {
            Some(bar) => {
                bar.set_length(tally.planned as u64);
                bar.set_position(tally.over() as u64);
                bar.set_message(line);
            }
            None if line != last => {
                note(&line);
                last = line;
            }
            None => {}
        }
        let is_late = Instant::now() >= deadline;
        if let Some(bar) = bar.as_ref().filter(|_| is_late || is_reached(now.state)) {
            bar.finish_and_clear();
        }
        if is_reached(now.state) {
            return Ok(now);
        }
        if is_late {
            let waited = limit.as_secs();
            let state = now.state.as_str();
            return Err(Failure::new(
                Exit::TimedOut,
                format!("the rebalancing is {state} after {waited} s, and goes on"),
            )
            .hint(format!("see `tenantry rebalance status {id}`")));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
