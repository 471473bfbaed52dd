//! What a scenario hands to people: a table of figures, its bars, a verdict last; as text and as Markdown.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

/// A figure that must not be exceeded, or reached.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    /// What is measured, with its unit.
    pub(crate) what: String,
    /// The bound, as people read it.
    pub(crate) bound: String,
    /// What was measured.
    pub(crate) found: String,
    /// Whether the bound holds.
    pub(crate) holds: bool,
}

impl Bar {
    /// `found` must be `most` or less.
    pub(crate) fn at_most(what: &str, unit: &str, found: f64, most: f64) -> Self {
        Self {
            what: what.to_owned(),
            bound: format!("≤ {most} {unit}"),
            found: format!("{found:.3} {unit}"),
            holds: found <= most,
        }
    }

    /// `found` must be `least` or more.
    pub(crate) fn no_less(what: &str, unit: &str, found: f64, least: f64) -> Self {
        Self {
            what: what.to_owned(),
            bound: format!("≥ {least} {unit}"),
            found: format!("{found:.3} {unit}"),
            holds: found >= least,
        }
    }

    /// A count that must be `least` or more.
    pub(crate) fn at_least(what: &str, found: u64, least: u64) -> Self {
        Self {
            what: what.to_owned(),
            bound: format!("≥ {least}"),
            found: found.to_string(),
            holds: found >= least,
        }
    }
}

/// What becomes of a report: arguments of every scenario.
#[derive(Debug, clap::Args)]
pub(crate) struct Finish {
    /// Fail when a bar is missed.
    #[arg(long)]
    check: bool,
    /// Also write the report as Markdown, and its charts as SVG, to this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Figures that belong side by side.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) title: String,
    /// The columns' names.
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("\n## {}\n\n{}", self.title, line(&self.head));
        text.push_str(&format!("|{}\n", " --- |".repeat(self.head.len())));
        text.extend(self.rows.iter().map(|row| line(row)));
        text
    }

    /// The first column is flush left, the others are figures.
    fn text(&self) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| {
            let cells = lines().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut text = format!("{}\n", self.title);
        for line in lines() {
            for (column, cell) in line.iter().enumerate() {
                let width = width(column);
                let _ = match column {
                    0 => write!(text, "{cell:width$}"),
                    _ => write!(text, "  {cell:>width$}"),
                };
            }
            text.push('\n');
        }
        text
    }
}

/// A scenario's outcome.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The scenario's name; also the stem of the files.
    pub(crate) name: &'static str,
    /// How it was measured, one sentence each.
    pub(crate) method: Vec<String>,
    /// Figures: what, value.
    pub(crate) figures: Vec<(String, String)>,
    /// Figures of one kind for several cases.
    pub(crate) tables: Vec<Table>,
    /// The bars.
    pub(crate) bars: Vec<Bar>,
    /// Charts: file name without folder, title, SVG.
    pub(crate) charts: Vec<(String, String, String)>,
}

impl Report {
    /// Adds a figure.
    pub(crate) fn figure(&mut self, what: impl Into<String>, value: impl Into<String>) {
        self.figures.push((what.into(), value.into()));
    }

    /// Whether every bar holds.
    pub(crate) fn holds(&self) -> bool {
        self.bars.iter().all(|bar| bar.holds)
    }

    fn verdict(&self) -> String {
        let missed: Vec<&str> = self
            .bars
            .iter()
            .filter(|bar| !bar.holds)
            .map(|bar| bar.what.as_str())
            .collect();
        if missed.is_empty() {
            format!("verdict: PASS, {} bars hold", self.bars.len())
        } else {
            format!("verdict: FAIL: {}", missed.join("; "))
        }
    }

    fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.name);
        for line in &self.method {
            let _ = writeln!(text, "- {line}");
        }
        if !self.figures.is_empty() {
            text.push_str("\n| figure | value |\n| --- | --- |\n");
        }
        for (what, value) in &self.figures {
            let _ = writeln!(text, "| {what} | {value} |");
        }
        text.extend(self.tables.iter().map(Table::markdown));
        text.push_str("\n| bar | bound | found | holds |\n| --- | --- | --- | --- |\n");
        for bar in &self.bars {
            let holds = if bar.holds { "yes" } else { "**no**" };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {holds} |",
                bar.what, bar.bound, bar.found
            );
        }
        text.push('\n');
        for (file, title, _) in &self.charts {
            let _ = writeln!(text, "![{title}]({file})\n");
        }
        let _ = writeln!(text, "{}", self.verdict());
        text
    }

    /// Prints the report, the verdict last.
    pub(crate) fn finish(&self, finish: &Finish) -> anyhow::Result<ExitCode> {
        if let Some(out) = &finish.out {
            std::fs::create_dir_all(out)
                .with_context(|| format!("cannot create {}", out.display()))?;
            let page = out.join(format!("{}.md", self.name));
            std::fs::write(&page, self.markdown())
                .with_context(|| format!("cannot write {}", page.display()))?;
            for (file, _, svg) in &self.charts {
                let chart = out.join(file);
                std::fs::write(&chart, svg)
                    .with_context(|| format!("cannot write {}", chart.display()))?;
            }
        }
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", self.text())?;
        Ok(if finish.check && !self.holds() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.method {
            let _ = writeln!(text, "{line}");
        }
        text.push('\n');
        let width = |cells: &mut dyn Iterator<Item = usize>| cells.max().unwrap_or(0);
        let first = width(&mut self.figures.iter().map(|(what, _)| what.chars().count()));
        for (what, value) in &self.figures {
            let _ = writeln!(text, "{what:first$}  {value}");
        }
        for table in &self.tables {
            let _ = writeln!(text, "{}", table.text());
        }
        text.push('\n');
        let first = width(&mut self.bars.iter().map(|bar| bar.what.chars().count()));
        let second = width(&mut self.bars.iter().map(|bar| bar.found.chars().count()));
        for Bar {
            what,
            bound,
            found,
            holds,
        } in &self.bars
        {
            let holds = if *holds { "ok" } else { "MISSED" };
            let _ = writeln!(text, "{what:first$}  {found:>second$}  {bound}  {holds}");
        }
        let _ = write!(text, "\n{}", self.verdict());
        text
    }
}
