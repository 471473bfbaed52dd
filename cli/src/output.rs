//! Printing results: one description of a thing, five formats.
//!
//! A result is anything serializable that names its columns; each format is derived from its JSON form, so a field can
//! not be in one format and missing in another. Data goes to stdout through [`Printer`]; everything else, progress and
//! log lines included, goes to stderr.

mod text;

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::exit::{Exit, Failure};

/// How results are written to stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// One pretty-printed JSON document.
    Json,
    /// One JSON document a line.
    Ndjson,
    /// A YAML document.
    Yaml,
    /// Comma-separated values with a header line (RFC 4180).
    Csv,
}

/// A column of a result: its heading, and the field of the JSON form it shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// Heading in tables.
    pub(crate) title: &'static str,
    /// Name of the field, also the heading in CSV.
    pub(crate) field: &'static str,
}

/// A result that can be shown in every format.
pub(crate) trait Record: Serialize {
    /// The columns of tables and CSV, in order.
    const COLUMNS: &'static [Column];
}

/// Declares the columns of a [`Record`] as `field => "TITLE"` pairs.
macro_rules! record {
    ($type:ty { $($field:ident => $title:literal),+ $(,)? }) => {
        impl $crate::output::Record for $type {
            const COLUMNS: &'static [$crate::output::Column] = &[
                $($crate::output::Column { title: $title, field: stringify!($field) }),+
            ];
        }
    };
}
pub(crate) use record;

/// Writes results to stdout in the format the caller asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    format: Format,
    style: text::Style,
}

impl Printer {
    /// A printer for `format`. Tables fit the terminal and have colour on one only, and never when `NO_COLOR` is set
    /// and not empty.
    pub(crate) fn new(format: Format) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let terminal = io::stdout().is_terminal();
        Self {
            format,
            style: text::Style {
                colour: terminal && !refused,
                fitted: terminal,
            },
        }
    }

    /// The format results are printed in.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Prints a list: a table row, a JSON array element, a line of NDJSON or of CSV for each item.
    pub(crate) fn list<R: Record>(&self, items: &[R]) -> Result<(), Failure> {
        let values = items.iter().map(to_value).collect::<Result<Vec<_>, _>>()?;
        let text = match self.format {
            Format::Table => text::table(R::COLUMNS, &values, self.style),
            Format::Json => pretty(&Value::Array(values))?,
            Format::Ndjson => values.iter().map(|value| format!("{value}\n")).collect(),
            Format::Yaml => text::yaml(&Value::Array(values)),
            Format::Csv => text::csv(R::COLUMNS, &values),
        };
        emit(&text)
    }

    /// Prints one thing: field by field in a table, a document in the other formats.
    pub(crate) fn one<R: Record>(&self, item: &R) -> Result<(), Failure> {
        let value = to_value(item)?;
        let text = match self.format {
            Format::Table => text::fields(R::COLUMNS, &value, self.style),
            Format::Json => pretty(&value)?,
            Format::Ndjson => format!("{value}\n"),
            Format::Yaml => text::yaml(&value),
            Format::Csv => text::csv(R::COLUMNS, std::slice::from_ref(&value)),
        };
        emit(&text)
    }

    /// Prints text that is itself the result, such as a completion script.
    pub(crate) fn raw(&self, text: &str) -> Result<(), Failure> {
        emit(text)
    }
}

fn to_value<R: Record>(item: &R) -> Result<Value, Failure> {
    serde_json::to_value(item).map_err(|error| {
        Failure::new(Exit::Failed, "a result could not be written as JSON").because(error)
    })
}

fn pretty(value: &Value) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| {
            Failure::new(Exit::Failed, "a result could not be written as JSON").because(error)
        })
}

/// Writes to stdout; a reader that went away (`| head`) is no error.
fn emit(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Failure::from),
    }
}

/// Writes a line for people to stderr; a closed stderr is ignored, there is nobody left to tell.
pub(crate) fn note(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
