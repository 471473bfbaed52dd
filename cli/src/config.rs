//! Layered configuration: flag, then environment, then file, then default.
//!
//! [`Settings::read`] is the only list of settings there is: reading a setting declares its key, default and secrecy,
//! so nothing can be read that `config check` does not show, and whatever no line reads is an unknown key. Reading
//! goes on past a bad value, because an operator wants every mistake of a file at once.

mod layers;
mod reader;
mod rebalancer;
mod settings;
mod value;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::exit::Failure;
use crate::output::record;

pub(crate) use layers::Flag;
pub(crate) use settings::Settings;
pub(crate) use value::{ByteSize, LogFormat, Period};

/// Where configuration comes from in this run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// The file named by `--config` or `TENANTRY_CONFIG`; without it the default places are tried.
    pub(crate) file: Option<PathBuf>,
    /// Settings given as flags.
    pub(crate) flags: Vec<Flag>,
}

impl Sources {
    /// Reads and checks everything.
    pub(crate) fn load(&self) -> Result<Loaded, Failure> {
        let figment = layers::merge(self)?;
        let mut reader = reader::Reader::new(&figment)?;
        let settings = Settings::read(&mut reader);
        let (resolved, problems) = reader.finish();
        Ok(Loaded {
            settings,
            resolved,
            problems,
        })
    }

    /// The settings, or every problem in one failure.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let loaded = self.load()?;
        match loaded.failure() {
            Some(failure) => Err(failure),
            None => Ok(loaded.settings),
        }
    }
}

/// The configuration as read, with what is wrong about it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Values usable only when there are no problems.
    pub(crate) settings: Settings,
    /// Each setting with its value and source, in declaration order.
    pub(crate) resolved: Vec<Resolved>,
    /// Bad values and unknown keys.
    pub(crate) problems: Vec<Problem>,
}

impl Loaded {
    /// One failure that lists every problem.
    pub(crate) fn failure(&self) -> Option<Failure> {
        if self.problems.is_empty() {
            return None;
        }
        let lines: Vec<String> = self
            .problems
            .iter()
            .map(|problem| format!("\n  {problem}"))
            .collect();
        let count = match lines.len() {
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        Some(
            Failure::usage(format!("the configuration has {count}:{}", lines.concat()))
                .hint("`tenantry config check` shows every setting with its source"),
        )
    }
}

/// A setting, its value in effect and where that came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Resolved {
    /// Dotted key, as in the file: `router.listen`.
    pub(crate) key: String,
    /// Value in canonical form, secrets masked; null when unset.
    pub(crate) value: Option<String>,
    /// Flag, environment variable, file or `default`.
    pub(crate) source: String,
}

record!(Resolved { key => "KEY", value => "VALUE", source => "SOURCE" });

/// Something wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The key as the reader of the file knows it.
    pub(crate) key: String,
    /// Where it was found.
    pub(crate) source: String,
    /// What is wrong.
    pub(crate) what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.key, self.source, self.what)
    }
}

#[cfg(test)]
mod tests;
