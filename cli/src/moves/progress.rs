//! Follows a move: bars on a terminal, a line per step elsewhere, all on stderr; the view line by line with `ndjson`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tenantry_rebalancer::plan::bytes_in_words;
use tenantry_schema::catalog::Catalog;
use tenantry_schema::catalog::moves::{Move, MoveFilter, MoveId, MoveState, Side, TableProgress};

use super::view::{Listed, Names, hold_in_words};
use crate::exit::{Exit, Failure};
use crate::output::{Format, Printer, note};

/// Between two looks.
const POLL: Duration = Duration::from_millis(250);
/// Tables with a bar of their own at a time: those that are being copied, and the next ones.
const BARS_MAX: usize = 8;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// The destination serves the tenant.
    Arrived,
    /// Done, or back, or undone: over.
    Over,
    /// Back at the source, and over.
    Back,
    /// Undone before the cutover.
    Undone,
    /// Held.
    Paused,
    /// Not held any more.
    Resumed,
}

impl Aim {
    /// Whether it is reached; an error: it cannot be any more.
    fn reached(self, of: &Move) -> Result<bool, Failure> {
        let status = &of.status;
        let reached = match self {
            Self::Arrived => status.lives_at == Side::Destination && arrived(status.state),
            Self::Over => status.state == MoveState::Done,
            Self::Back => status.state == MoveState::RolledBack,
            Self::Undone => status.state == MoveState::Aborted,
            Self::Paused => status.paused,
            Self::Resumed => !status.paused,
        };
        if !reached && status.state.is_final() {
            let error = status.error.as_deref().unwrap_or("no reason was recorded");
            return Err(Failure::new(
                Exit::Failed,
                format!("the move has ended {}: {error}", status.state),
            )
            .hint(format!("see `tenantry move show {} --events`", of.id)));
        }
        Ok(reached)
    }
}

/// Whether the tenant is served by the destination for good, as long as nobody reverses the move.
fn arrived(state: MoveState) -> bool {
    matches!(
        state,
        MoveState::Probation | MoveState::Cleaning | MoveState::Done
    )
}

/// Follows a move until its aim is reached; fails with [`Exit::TimedOut`] when the time is over first.
pub(crate) async fn follow(
    catalog: &Catalog,
    id: MoveId,
    aim: Aim,
    limit: Duration,
    printer: Printer,
) -> Result<Move, Failure> {
    let deadline = Instant::now() + limit;
    let mut names = Names::read(catalog).await?;
    let mut screen = Screen::new(printer);
    loop {
        let of = catalog.move_by_id(id).await?;
        let live = catalog.moves(&MoveFilter::live()).await?;
        screen.show(catalog, &mut names, &of, &live).await?;
        if aim.reached(&of)? {
            screen.close();
            return Ok(of);
        }
        if Instant::now() >= deadline {
            screen.close();
            let waited = limit.as_secs();
            return Err(Failure::new(
                Exit::TimedOut,
                format!(
                    "the move is {} after {waited} s, and goes on",
                    of.status.state
                ),
            )
            .hint(format!("`tenantry move show {id}` says what it waits for")));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Where progress is shown.
enum Screen {
    Bars(Bars),
    Lines {
        last: Option<String>,
        stream: Option<Printer>,
    },
}

impl Screen {
    fn new(printer: Printer) -> Self {
        let stream = (printer.format() == Format::Ndjson).then_some(printer);
        if std::io::stderr().is_terminal() && stream.is_none() {
            Self::Bars(Bars::new())
        } else {
            Self::Lines { last: None, stream }
        }
    }

    async fn show(
        &mut self,
        catalog: &Catalog,
        names: &mut Names,
        of: &Move,
        live: &[Move],
    ) -> Result<(), Failure> {
        let view = names.view(catalog, of, live).await?;
        match self {
            Self::Bars(bars) => bars.show(of, &view.headline()),
            Self::Lines { last, stream } => {
                let line = view.headline();
                // What only counts down or up is no news.
                let news: String = line.chars().filter(|c| !c.is_ascii_digit()).collect();
                if last.as_ref() == Some(&news) {
                    return Ok(());
                }
                if stream.is_none() {
                    note(&line);
                }
                *last = Some(news);
                if let Some(printer) = stream {
                    printer.one(&Listed(view))?;
                }
            }
        }
        Ok(())
    }

    fn close(&self) {
        if let Self::Bars(bars) = self {
            bars.close();
        }
    }
}

/// The bars: what is done and waited for, a bar per table, the stream.
struct Bars {
    all: MultiProgress,
    head: ProgressBar,
    stream: ProgressBar,
    tables: BTreeMap<String, ProgressBar>,
    holds: usize,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let head = all.add(ProgressBar::new_spinner());
        head.enable_steady_tick(Duration::from_millis(120));
        let stream = all.add(ProgressBar::new_spinner());
        stream.set_style(style("  {msg}"));
        Self {
            all,
            head,
            stream,
            tables: BTreeMap::new(),
            holds: 0,
        }
    }

    fn show(&mut self, of: &Move, headline: &str) {
        self.head.set_message(headline.to_owned());
        self.show_tables(of);
        self.stream.set_message(stream_in_words(of));
        for hold in of.progress.holds.iter().skip(self.holds) {
            // Above the bars, where it stays. A terminal that is gone takes no line.
            let _ = self.all.println(hold_in_words(hold));
        }
        self.holds = of.progress.holds.len();
    }

    fn show_tables(&mut self, of: &Move) {
        let is_copying = of.status.state == MoveState::Copying;
        let open = of
            .progress
            .tables
            .iter()
            .filter(|table| is_copying && !table.done);
        let shown: Vec<&TableProgress> = open.take(BARS_MAX).collect();
        self.tables.retain(|name, bar| {
            let stays = shown.iter().any(|table| table.table == *name);
            if !stays {
                bar.finish_and_clear();
            }
            stays
        });
        for table in shown {
            let bar = self.tables.entry(table.table.clone()).or_insert_with(|| {
                let bar = self.all.insert_before(&self.stream, ProgressBar::new(0));
                bar.set_style(style("  {prefix:24!} [{bar:30}] {percent:>3} % {msg}"));
                bar.set_prefix(table.table.clone());
                bar
            });
            bar.set_length(table.rows_estimate.max(table.rows).max(1));
            bar.set_position(table.rows);
            let bytes = bytes_in_words(table.bytes);
            bar.set_message(format!("{} rows, {bytes}", table.rows));
        }
    }

    fn close(&self) {
        for bar in self.tables.values() {
            bar.finish_and_clear();
        }
        self.stream.finish_and_clear();
        self.head.finish_and_clear();
    }
}

/// A template of ours; one that is wrong shows as the default.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn stream_in_words(of: &Move) -> String {
    let progress = &of.progress;
    let mut parts = Vec::new();
    if progress.copied_bytes > 0 {
        parts.push(format!("copied {}", bytes_in_words(progress.copied_bytes)));
    }
    if progress.applied_ops > 0 {
        parts.push(format!("applied {} changes", progress.applied_ops));
    }
    if let Some(lag) = progress.lag_bytes {
        parts.push(format!("{} behind", bytes_in_words(lag)));
    }
    if let Some(lag) = progress.lag_ms {
        parts.push(format!("round trip {lag:.0} ms"));
    }
    if let Some(eta) = progress.eta_s {
        parts.push(format!("{eta:.0} s left"));
    }
    if progress.cleaned_rows > 0 {
        parts.push(format!("cleaned {} rows", progress.cleaned_rows));
    }
    parts.join(", ")
}
