//! Moves as they are shown.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tenantry_rebalancer::plan::bytes_in_words;
use tenantry_schema::catalog::moves::{
    HoldReport, Move, MoveEvent, MoveFilter, MoveId, MovePolicy, MoveState, Side, TableProgress,
};
use tenantry_schema::catalog::{Catalog, CatalogError};
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::{TenantId, TenantKey};

use super::waits;
use crate::exit::Failure;
use crate::output::record;

/// What is needed to name what a move's row has numbers for.
pub(crate) struct Names {
    key: TenantKey,
    shards: BTreeMap<ShardId, String>,
    slugs: BTreeMap<TenantId, Option<String>>,
}

impl Names {
    /// Reads the shards.
    pub(crate) async fn read(catalog: &Catalog) -> Result<Self, Failure> {
        let shards = catalog.list_shards().await?;
        let named = shards
            .into_iter()
            .map(|shard| (shard.id, shard.name.to_string()));
        Ok(Self {
            key: catalog.settings().await?.tenant_key,
            shards: named.collect(),
            slugs: BTreeMap::new(),
        })
    }

    /// The name of a shard; one that was removed has its number.
    pub(crate) fn shard(&self, id: ShardId) -> String {
        self.shards
            .get(&id)
            .cloned()
            .unwrap_or_else(|| id.to_string())
    }

    /// A tenant's id as text.
    pub(crate) fn id(&self, tenant: TenantId) -> String {
        tenant.display(self.key).to_string()
    }

    /// The slug of a tenant; `None` when it is gone.
    pub(crate) async fn slug(
        &mut self,
        catalog: &Catalog,
        tenant: TenantId,
    ) -> Result<Option<String>, Failure> {
        if let Some(known) = self.slugs.get(&tenant) {
            return Ok(known.clone());
        }
        let slug = match catalog.tenant_by_id(tenant).await {
            Ok(tenant) => Some(tenant.slug.to_string()),
            Err(CatalogError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        self.slugs.insert(tenant, slug.clone());
        Ok(slug)
    }

    /// A move in full.
    pub(crate) async fn view(
        &mut self,
        catalog: &Catalog,
        of: &Move,
        live: &[Move],
    ) -> Result<MoveView, Failure> {
        let slug = self.slug(catalog, of.tenant).await?;
        let commands = catalog.move_commands(of.id).await?;
        let now = Timestamp::now();
        let waiting = waits::reasons(of, &commands, ahead(of, live), now);
        let (status, progress) = (&of.status, &of.progress);
        Ok(MoveView {
            id: of.id,
            tenant: self.id(of.tenant),
            slug,
            source: self.shard(of.source),
            destination: self.shard(of.destination),
            kind: of.kind.as_str(),
            state: status.state,
            doing: progress.doing.clone(),
            lives_at: match status.lives_at {
                Side::Source => "source",
                Side::Destination => "destination",
            },
            paused: status.paused,
            waiting: (!waiting.is_empty()).then(|| waiting.join("; ")),
            refused: waits::refusal(&commands),
            progress: fraction(of).map(|part| format!("{:.0} %", part * 100.0)),
            copied: copied(of),
            copied_rows: progress.copied_rows,
            copied_bytes: progress.copied_bytes,
            bytes_estimate: progress.bytes_estimate,
            applied_ops: progress.applied_ops,
            lag_bytes: progress.lag_bytes,
            lag_ms: progress.lag_ms.map(|lag| (lag * 10.0).round() / 10.0),
            eta_s: progress.eta_s.map(f64::round),
            verified_rows: progress.verified_rows,
            cleaned_rows: progress.cleaned_rows,
            cutovers: progress.holds.iter().map(hold_in_words).collect(),
            holds: progress.holds.clone(),
            tables: progress.tables.clone(),
            attempts: status.attempts,
            error: status.error.clone(),
            way_back: status.way_back,
            probation_until: status.probation_until,
            reason: of.reason.clone(),
            actor: of.actor.clone(),
            rebalance: of.batch.map(|batch| batch.to_string()),
            policy: of.policy.clone(),
            created_at: of.created_at,
            updated_at: of.updated_at,
            finished_at: of.finished_at,
        })
    }
}

/// How many moves work on the shards of a move that has not begun.
fn ahead(of: &Move, live: &[Move]) -> usize {
    let is_ahead = |other: &&Move| {
        let works = !matches!(
            other.status.state,
            MoveState::Planned | MoveState::Probation | MoveState::Cleaning
        );
        let shares = [other.source, other.destination]
            .iter()
            .any(|shard| [of.source, of.destination].contains(shard));
        other.id != of.id && works && shares
    };
    live.iter().filter(is_ahead).count()
}

/// How much of the copy is done; `None` where nothing is known to measure.
pub(super) fn fraction(of: &Move) -> Option<f64> {
    let progress = &of.progress;
    match of.status.state {
        MoveState::Copying if progress.bytes_estimate > 0 => {
            // An estimate: it is not over before it is.
            Some((progress.copied_bytes as f64 / progress.bytes_estimate as f64).min(0.99))
        }
        MoveState::Done => Some(1.0),
        _ => None,
    }
}

fn copied(of: &Move) -> Option<String> {
    let progress = &of.progress;
    (progress.copied_bytes > 0 || progress.bytes_estimate > 0).then(|| {
        format!(
            "{} rows, {} of about {}",
            progress.copied_rows,
            bytes_in_words(progress.copied_bytes),
            bytes_in_words(progress.bytes_estimate.max(progress.copied_bytes))
        )
    })
}

/// One cutover on a line.
pub(super) fn hold_in_words(hold: &HoldReport) -> String {
    let how = match &hold.failure {
        _ if hold.committed => "committed".to_owned(),
        Some(failure) => format!("given up: {failure}"),
        None => "given up".to_owned(),
    };
    let longest = hold
        .longest_ms
        .map(|longest| format!(", the longest {longest:.1} ms"));
    format!(
        "to the {} at {:.0}: {how}; held {:.1} ms, fenced {:.1} ms, {} clients waited{}",
        hold.to,
        hold.at,
        hold.hold_ms,
        hold.fence_ms,
        hold.held,
        longest.unwrap_or_default()
    )
}

/// A move in full.
#[derive(Debug, Serialize)]
pub(crate) struct MoveView {
    id: MoveId,
    tenant: String,
    /// Null once the tenant is gone.
    slug: Option<String>,
    source: String,
    destination: String,
    kind: &'static str,
    pub(super) state: MoveState,
    pub(super) doing: Option<String>,
    /// `source` or `destination`: where the tenant is served.
    lives_at: &'static str,
    paused: bool,
    /// What it waits for, in words.
    waiting: Option<String>,
    /// Why the last command was not followed.
    refused: Option<String>,
    progress: Option<String>,
    copied: Option<String>,
    copied_rows: u64,
    copied_bytes: u64,
    bytes_estimate: u64,
    applied_ops: u64,
    lag_bytes: Option<u64>,
    lag_ms: Option<f64>,
    eta_s: Option<f64>,
    verified_rows: u64,
    cleaned_rows: u64,
    /// `holds` in words.
    cutovers: Vec<String>,
    holds: Vec<HoldReport>,
    tables: Vec<TableProgress>,
    attempts: u32,
    error: Option<String>,
    way_back: bool,
    probation_until: Option<Timestamp>,
    reason: Option<String>,
    actor: String,
    rebalance: Option<String>,
    policy: MovePolicy,
    created_at: Timestamp,
    updated_at: Timestamp,
    finished_at: Option<Timestamp>,
}

record!(MoveView {
    id => "ID", tenant => "TENANT", slug => "SLUG", source => "FROM", destination => "TO", kind => "KIND",
    state => "STATE", doing => "DOING", waiting => "WAITS", refused => "REFUSED", lives_at => "SERVED BY",
    copied => "COPIED", applied_ops => "APPLIED", lag_bytes => "LAG B", lag_ms => "LAG ms", eta_s => "ETA s",
    verified_rows => "VERIFIED ROWS", cleaned_rows => "CLEANED ROWS", cutovers => "CUTOVERS", attempts => "ATTEMPTS",
    error => "ERROR", way_back => "WAY BACK", probation_until => "PROBATION UNTIL", reason => "REASON",
    actor => "ACTOR", rebalance => "REBALANCE", policy => "POLICY", created_at => "CREATED AT",
    updated_at => "UPDATED AT", finished_at => "FINISHED AT",
});

impl MoveView {
    /// Where it is, on a line.
    pub(super) fn headline(&self) -> String {
        let who = self.slug.as_deref().unwrap_or(&self.tenant);
        let mut line = format!(
            "{who} {} -> {}: {}",
            self.source, self.destination, self.state
        );
        if let Some(doing) = &self.doing {
            line.push_str(&format!(", {}", doing.replace('_', " ")));
        }
        if let Some(waiting) = &self.waiting {
            line.push_str(&format!("; waits {waiting}"));
        }
        line
    }
}

/// A move as one line of a list; the same fields, fewer columns.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Listed(pub(crate) MoveView);

record!(Listed {
    id => "ID", slug => "TENANT", source => "FROM", destination => "TO", kind => "KIND", state => "STATE",
    doing => "DOING", progress => "COPIED", eta_s => "ETA s", waiting => "WAITS", error => "ERROR",
    created_at => "CREATED AT",
});

/// An entry of a move's history.
#[derive(Debug, Serialize)]
pub(super) struct EventView {
    at: Timestamp,
    from: Option<MoveState>,
    to: MoveState,
    detail: Value,
}

record!(EventView { at => "AT", from => "FROM", to => "TO", detail => "DETAIL" });

impl From<MoveEvent> for EventView {
    fn from(event: MoveEvent) -> Self {
        Self {
            at: event.at,
            from: event.from,
            to: event.to,
            detail: event.detail,
        }
    }
}

/// The move of this id, or the newest of the tenant of this name.
pub(super) async fn find(catalog: &Catalog, name: &str) -> Result<Move, Failure> {
    if let Ok(id) = name.parse::<MoveId>() {
        match catalog.move_by_id(id).await {
            // It may be a tenant's id, where these are UUIDs.
            Err(CatalogError::NotFound { .. }) => {}
            found => return Ok(found?),
        }
    }
    let tenant = match catalog.tenant(name).await {
        Err(CatalogError::NotFound { .. } | CatalogError::TenantId(_)) => {
            return Err(
                Failure::not_found(format!("no move and no tenant {name:?}"))
                    .hint("list moves with `tenantry move list`"),
            );
        }
        found => found?,
    };
    let filter = MoveFilter {
        tenant: Some(tenant.id),
        limit: 1,
        ..MoveFilter::default()
    };
    let newest = catalog.moves(&filter).await?.into_iter().next();
    newest.ok_or_else(|| Failure::not_found(format!("tenant {} was never moved", tenant.slug)))
}
