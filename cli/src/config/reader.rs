//! Reads settings one by one from the merged layers and remembers everything about each.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::value::SettingValue;
use super::{Problem, Resolved};
use crate::exit::Failure;

/// Hands out settings; collects their sources and what is wrong with them.
pub(super) struct Reader<'a> {
    figment: &'a Figment,
    root: Dict,
    resolved: Vec<Resolved>,
    problems: Vec<Problem>,
}

/// A value as found, before parsing.
struct Found {
    text: String,
    source: String,
    /// Directory of the file it stands in; relative paths start there.
    base: Option<PathBuf>,
}

impl<'a> Reader<'a> {
    /// A reader over `figment`; fails when a layer itself cannot be read, as with a file that is no TOML.
    pub(super) fn new(figment: &'a Figment) -> Result<Self, Failure> {
        let root = figment.data().map_err(|error| {
            Failure::usage("the configuration cannot be read").because(anyhow::anyhow!("{error}"))
        })?;
        Ok(Self {
            figment,
            root: root.get(&Profile::Default).cloned().unwrap_or_default(),
            resolved: Vec::new(),
            problems: Vec::new(),
        })
    }

    /// A setting with a default.
    pub(super) fn value<T: SettingValue>(&mut self, key: &str, default: T) -> T {
        match self.parsed::<T>(key) {
            Some((value, source)) => {
                self.resolve(key, Some(value.shown()), source);
                value
            }
            None => {
                self.resolve(key, Some(default.shown()), "default".to_owned());
                default
            }
        }
    }

    /// A setting that may be absent.
    pub(super) fn optional<T: SettingValue>(&mut self, key: &str) -> Option<T> {
        let parsed = self.parsed::<T>(key);
        let source = parsed
            .as_ref()
            .map_or("default", |(_, source)| source)
            .to_owned();
        let value = parsed.map(|(value, _)| value);
        self.resolve(key, value.as_ref().map(SettingValue::shown), source);
        value
    }

    /// A path that may be absent; one written in a file is relative to that file.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        let Some(found) = self.find(key) else {
            self.resolve(key, None, "default".to_owned());
            return None;
        };
        let path = match &found.base {
            Some(base) => base.join(&found.text),
            None => PathBuf::from(&found.text),
        };
        self.resolve(key, Some(path.display().to_string()), found.source);
        Some(path)
    }

    /// Says what is wrong with a value that was read, beside others.
    pub(super) fn refuse(&mut self, key: &str, what: String) {
        let read = self.resolved.iter().find(|setting| setting.key == key);
        self.problems.push(Problem {
            key: key.to_owned(),
            source: read.map_or_else(String::new, |setting| setting.source.clone()),
            what,
        });
    }

    /// What was read and what is wrong, unknown keys included.
    pub(super) fn finish(mut self) -> (Vec<Resolved>, Vec<Problem>) {
        let known: BTreeSet<&str> = self
            .resolved
            .iter()
            .map(|setting| setting.key.as_str())
            .collect();
        let mut unknown = Vec::new();
        walk(&self.root, "", &mut |key, value| {
            if !known.contains(key) {
                unknown.push((key.to_owned(), self.source_of(key, value)));
            }
        });
        let mut unknown: Vec<Problem> = unknown
            .into_iter()
            .map(|(key, source)| {
                let what = match nearest(&key, &known) {
                    Some(near) => format!("unknown key, did you mean `{near}`?"),
                    None => "unknown key".to_owned(),
                };
                Problem { key, source, what }
            })
            .collect();
        self.problems.append(&mut unknown);
        (self.resolved, self.problems)
    }

    fn parsed<T: SettingValue>(&mut self, key: &str) -> Option<(T, String)> {
        let found = self.find(key)?;
        match T::parse(&found.text) {
            Ok(value) => Some((value, found.source)),
            Err(error) => {
                self.problems.push(Problem {
                    key: key.to_owned(),
                    source: found.source,
                    what: error,
                });
                None
            }
        }
    }

    fn find(&mut self, key: &str) -> Option<Found> {
        let value = lookup(&self.root, key)?.clone();
        let source = self.source_of(key, &value);
        let base = self
            .figment
            .get_metadata(value.tag())
            .and_then(file_of)
            .and_then(|path| path.parent().map(Path::to_path_buf));
        match plain_text(&value) {
            Some(text) => Some(Found { text, source, base }),
            None => {
                self.problems.push(Problem {
                    key: key.to_owned(),
                    source,
                    what: "expected a single value".to_owned(),
                });
                None
            }
        }
    }

    fn resolve(&mut self, key: &str, value: Option<String>, source: String) {
        self.resolved.push(Resolved {
            key: key.to_owned(),
            value,
            source,
        });
    }

    fn source_of(&self, key: &str, value: &Value) -> String {
        let Some(metadata) = self.figment.get_metadata(value.tag()) else {
            return "unknown".to_owned();
        };
        match file_of(metadata) {
            Some(path) => format!("file {}", path.display()),
            None => {
                let keys: Vec<&str> = key.split('.').collect();
                metadata.interpolate(&Profile::Default, &keys)
            }
        }
    }
}

fn file_of(metadata: &Metadata) -> Option<&Path> {
    metadata.source.as_ref().and_then(Source::file_path)
}

fn lookup<'v>(root: &'v Dict, key: &str) -> Option<&'v Value> {
    match key.split_once('.') {
        None => root.get(key),
        Some((section, rest)) => match root.get(section)? {
            Value::Dict(_, inner) => lookup(inner, rest),
            _ => None,
        },
    }
}

/// Calls `visit` for every value that is no section; an empty section counts as a value so that it is not overlooked.
fn walk(dict: &Dict, prefix: &str, visit: &mut dyn FnMut(&str, &Value)) {
    for (name, value) in dict {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            Value::Dict(_, inner) => walk(inner, &key, visit),
            leaf => visit(&key, leaf),
        }
    }
}

fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Char(_, c) => Some(c.to_string()),
        Value::Bool(_, flag) => Some(flag.to_string()),
        Value::Num(_, number) => number
            .to_i128()
            .map(|integer| integer.to_string())
            .or_else(|| number.to_u128().map(|integer| integer.to_string()))
            .or_else(|| number.to_f64().map(|float| float.to_string())),
        _ => None,
    }
}

/// The known key closest to `key`, if close enough to be what was meant.
fn nearest<'k>(key: &str, known: &BTreeSet<&'k str>) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (distance(key, candidate), *candidate))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
