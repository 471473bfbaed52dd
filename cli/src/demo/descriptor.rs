//! `demo.json`: how tools find a running demo. Its keys are an interface and are only ever added to.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::place::{Place, write_atomically};
use crate::exit::{Explain, Failure};
use crate::output::record;

/// A running demo. The file exists while it is ready to serve.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Descriptor {
    /// Process that runs the router and the other roles.
    pub(super) pid: u32,
    pub(super) dir: PathBuf,
    /// Base URL of the router's HTTP side.
    pub(super) http: String,
    pub(super) urls: Urls,
    pub(super) shards: Vec<ShardEntry>,
    /// A sample of the stores, the largest first.
    pub(super) tenants: Vec<TenantEntry>,
}

record!(Descriptor { pid => "PROCESS", dir => "DIRECTORY", http => "HTTP", urls => "URLS", shards => "SHARDS", tenants => "TENANTS" });

/// Connection URIs for libpq.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Urls {
    /// Through the router as a service: any tenant, named per transaction.
    pub(super) service: String,
    /// Through the router as an operator.
    pub(super) operator: String,
    /// Through the router as the largest store's own role.
    pub(super) tenant: String,
    /// The catalog's database, directly.
    pub(super) catalog: String,
}

/// A shard as reached directly, past the router.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct ShardEntry {
    pub(super) name: String,
    /// `shared`, `dedicated` or `spare`.
    pub(super) kind: String,
    /// As superuser.
    pub(super) url: String,
    /// Process of the PostgreSQL server.
    pub(super) pid: u32,
}

/// One store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct TenantEntry {
    pub(super) id: String,
    pub(super) slug: String,
    /// A custom domain if it has one, else its platform hostname.
    pub(super) hostname: String,
    /// Name of the shard it lives on.
    pub(super) shard: String,
}

impl Descriptor {
    /// The descriptor of the demo in `place`; a failure with a hint when none is running.
    pub(super) fn read(place: &Place) -> Result<Self, Failure> {
        let path = place.descriptor();
        if !path.is_file() {
            return Err(Failure::precondition(format!(
                "no demo is running in {}",
                place.dir().display()
            ))
            .hint("start one with `tenantry demo up`, or name its directory with --dir"));
        }
        let text =
            fs::read_to_string(&path).explain(|| format!("{} cannot be read", path.display()))?;
        serde_json::from_str(&text).explain(|| format!("{} is damaged", path.display()))
    }

    /// Publishes the demo: from here on it counts as ready.
    pub(super) fn write(&self, place: &Place) -> Result<(), Failure> {
        write_atomically(&place.descriptor(), self)
    }
}
