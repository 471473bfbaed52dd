//! Logging of the long-running commands: to stderr, as text or as JSON lines.

use std::io::IsTerminal;

use std::sync::Arc;

use parking_lot::Mutex;
use tenantry_router::{Change, Changeable};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use crate::config::LogFormat;
use crate::exit::Failure;

/// The filter of an installed subscriber, for a reload to exchange.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    handle: reload::Handle<EnvFilter, Registry>,
    text: Arc<Mutex<String>>,
    format: LogFormat,
}

impl Filter {
    /// What `filter` and `format` would change, and the work that puts the filter into force.
    pub(crate) fn prepare(
        &self,
        filter: String,
        format: LogFormat,
    ) -> Result<impl FnOnce() -> Vec<Change> + Send + use<>, Failure> {
        let parsed = parse(&filter)?;
        let this = self.clone();
        Ok(move || this.adopt(filter, parsed, format))
    }

    fn adopt(&self, filter: String, parsed: EnvFilter, format: LogFormat) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut text = self.text.lock();
        if *text != filter && self.handle.reload(parsed).is_ok() {
            changes.push(Change {
                key: "log.filter".to_owned(),
                old: std::mem::replace(&mut *text, filter.clone()),
                new: filter,
                changeable: Changeable::Live,
            });
        }
        if self.format != format {
            changes.push(Change {
                key: "log.format".to_owned(),
                old: self.format.to_string(),
                new: format.to_string(),
                changeable: Changeable::Restart,
            });
        }
        changes
    }
}

fn parse(filter: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!("`log.filter` is no filter: `{filter}`")).because(error)
    })
}

/// Installs the process's log subscriber. Called once, by the command that runs.
pub(crate) fn install(filter: &str, format: LogFormat) -> Result<Filter, Failure> {
    let (parsed, handle) = reload::Layer::new(parse(filter)?);
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(!no_colour && std::io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(parsed).with(lines);
    subscriber
        .try_init()
        .map_err(|error| Failure::from(anyhow::anyhow!("logging is already set up: {error}")))?;
    Ok(Filter {
        handle,
        text: Arc::new(Mutex::new(filter.to_owned())),
        format,
    })
}
