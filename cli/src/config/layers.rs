//! The layers and their order. Each value keeps the name of the flag, variable or file it came from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::Sources;
use crate::exit::Failure;

const PREFIX: &str = "TENANTRY_";

/// Variables with the prefix that are no settings: they say where things are before configuration is read.
const RESERVED_VARIABLES: &[&str] = &[
    "TENANTRY_CONFIG",
    "TENANTRY_PG_BIN",
    "TENANTRY_PG_USER",
    "TENANTRY_CACHE",
];

/// Places a configuration file is looked for when none is named.
const DEFAULT_FILES: &[&str] = &["tenantry.toml", "/etc/tenantry/tenantry.toml"];

/// A setting given on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Flag {
    /// The flag as typed, for `config check`: `--listen`.
    pub(crate) name: &'static str,
    /// Dotted key it sets.
    pub(crate) key: String,
    /// Value, parsed as a variable's would be.
    pub(crate) value: String,
}

/// Flag over environment over file; defaults live where settings are read.
pub(super) fn merge(sources: &Sources) -> Result<Figment, Failure> {
    let mut figment = Figment::new();
    if let Some(path) = file(sources)? {
        figment = figment.merge(Toml::file_exact(path));
    }
    let flags = sources.flags.iter().map(|flag| Entry {
        key: flag.key.clone(),
        value: flag.value.clone(),
        label: format!("flag {}", flag.name),
    });
    Ok(figment
        .merge(Layer::new("environment", environment(std::env::vars_os())))
        .merge(Layer::new("flag", flags)))
}

/// The file to read: the one named, which must exist, else the first default that does.
fn file(sources: &Sources) -> Result<Option<PathBuf>, Failure> {
    if let Some(path) = &sources.file {
        if !path.is_file() {
            return Err(Failure::usage(format!(
                "there is no configuration file {}",
                path.display()
            )));
        }
        return Ok(Some(path.clone()));
    }
    Ok(DEFAULT_FILES
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file()))
}

/// `TENANTRY_ROUTER__LISTEN` is `router.listen`. A name without `__` keeps its underscores and so ends up an unknown
/// key rather than a setting silently not made.
fn environment(
    variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> impl Iterator<Item = Entry> {
    variables.filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let key = name.strip_prefix(PREFIX)?;
        if RESERVED_VARIABLES.contains(&name.as_str()) {
            return None;
        }
        Some(Entry {
            key: key.to_ascii_lowercase().replace("__", "."),
            value: value.to_string_lossy().into_owned(),
            label: format!("environment {name}"),
        })
    })
}

struct Entry {
    key: String,
    value: String,
    label: String,
}

/// A figment provider over entries that each know their own name.
struct Layer {
    name: &'static str,
    labels: BTreeMap<String, String>,
    values: Dict,
}

impl Layer {
    fn new(name: &'static str, entries: impl Iterator<Item = Entry>) -> Self {
        let mut labels = BTreeMap::new();
        let mut values = Dict::new();
        for entry in entries {
            insert(&mut values, &entry.key, entry.value);
            labels.insert(entry.key, entry.label);
        }
        Self {
            name,
            labels,
            values,
        }
    }
}

/// Puts `value` at the dotted `key`. Where an earlier entry put a plain value in the way, the later one wins.
fn insert(values: &mut Dict, key: &str, value: String) {
    match key.split_once('.') {
        None => {
            values.insert(key.to_owned(), Value::from(value));
        }
        Some((section, rest)) => {
            let slot = values
                .entry(section.to_owned())
                .or_insert_with(|| Value::from(Dict::new()));
            let mut inner = match slot {
                Value::Dict(_, dict) => std::mem::take(dict),
                _ => Dict::new(),
            };
            insert(&mut inner, rest, value);
            *slot = Value::from(inner);
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let labels = self.labels.clone();
        let name = self.name;
        Metadata::named(name).interpolater(move |_: &Profile, keys: &[&str]| {
            labels
                .get(&keys.join("."))
                .cloned()
                .unwrap_or_else(|| name.to_owned())
        })
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}
