//! Finding a tenant whose fence a session has met: one task asks for all sessions of the tenant, which wait.
//!
//! A fence is lifted, by whoever, or becomes a forwarding address. If nobody does either in its time, because the
//! rebalancer died, this router lifts it; and if the destination has not been told that the tenant is its own, this router
//! tells it, with the proof from the forwarding address. The shards decide both. Nothing here changes an owner otherwise.

use std::sync::Arc;
use std::time::Duration;

use tenantry_schema::causes::one_line;
use tenantry_schema::guard;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::{Epoch, TenantId};
use tenantry_wire::backend::ErrorFields;
use tenantry_wire::frontend::{self, Format};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{OwnerState, TenantMove, TenantRefusal};
use crate::error::Refusal;
use crate::pool::{Applicant, Lease, LeftBehind, Sample, clean};
use crate::router::Router;
use crate::server::{BIND_STATEMENT, Bound, Source};

/// What asks the guard who the tenant is, and takes its lock for the transaction.
pub(crate) const PROBE: &str = "SELECT tenantry.tenant()";
const UNFENCE_EXPIRED: &str = "SELECT tenantry.unfence_expired($1::text::uuid)";
const ACTIVATE: &str =
    "SELECT tenantry.activate_by_proof($1, $2::text::uuid, $3::text::uuid, $4::text::bigint)";

/// Between two looks: doubled from the first to the last.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// Between two attempts to lift a fence whose time may be over.
const UNFENCE_PERIOD: Duration = Duration::from_millis(200);

/// Why a shard could not be asked.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the fleet does not know shard {0}")]
    UnknownShard(u16),
    #[error("no connection: {0}")]
    Connection(#[from] Refusal),
    #[error("the connection broke")]
    Lost,
}

/// A forwarding address.
#[derive(Debug, Clone, Copy)]
struct Address {
    shard: ShardId,
    epoch: Epoch,
    move_id: Option<Uuid>,
    proof: Option<Uuid>,
}

impl Address {
    fn of(met: &TenantRefusal) -> Option<Self> {
        if met.state != OwnerState::Moved {
            return None;
        }
        Some(Self {
            shard: met.shard?,
            epoch: met.epoch?,
            move_id: met.move_id,
            proof: met.proof,
        })
    }
}

/// Looks where the tenant is until it is served somewhere, or until `limit` is over. `shard` has refused it.
pub(crate) async fn follow(
    router: Arc<Router>,
    tenant: TenantId,
    shard: ShardId,
    met: TenantRefusal,
    limit: Duration,
) {
    let Some(entry) = router.holds.of(tenant) else {
        return;
    };
    // However this ends, nobody waits for it any longer.
    let ends = Ends {
        entry: &entry,
        placed: None,
    };
    let mut pursuit = Pursuit {
        router: &router,
        tenant,
        at: shard,
        address: None,
        unfenced_at: Instant::now(),
    };
    pursuit.run(met, Instant::now() + limit, ends).await;
}

struct Ends<'m> {
    entry: &'m TenantMove,
    placed: Option<ShardId>,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.entry.followed(self.placed);
    }
}

/// What is to be done after a look.
enum Then {
    /// Look again at once, perhaps elsewhere.
    Look,
    Pause,
}

struct Pursuit<'r> {
    router: &'r Router,
    tenant: TenantId,
    /// The shard to ask next.
    at: ShardId,
    /// The newest forwarding address so far.
    address: Option<Address>,
    unfenced_at: Instant,
}

impl Pursuit<'_> {
    async fn run(&mut self, met: TenantRefusal, deadline: Instant, mut ends: Ends<'_>) {
        let mut met = Some(met);
        let mut pause = PAUSE_MIN;
        while Instant::now() < deadline {
            let then = match met.take() {
                Some(met) => self.answer(&met).await,
                None => match self.ask(self.at, PROBE, &[]).await {
                    Ok(None) => {
                        ends.placed = self.place();
                        return;
                    }
                    Ok(Some(error)) => match TenantRefusal::read(&error) {
                        Some(again) => {
                            met = Some(again);
                            Then::Look
                        }
                        None => {
                            tracing::warn!(code = %error.code, message = %error.message, "a shard does not say whether it serves a tenant that moves");
                            Then::Pause
                        }
                    },
                    Err(error) => {
                        tracing::debug!(
                            error = one_line(&error),
                            "cannot ask for a tenant that moves"
                        );
                        Then::Pause
                    }
                },
            };
            if matches!(then, Then::Pause) {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                self.heed_fleet();
            }
        }
    }

    /// The tenant is served here: so it is from now on, if a forwarding address led here.
    fn place(&self) -> Option<ShardId> {
        let address = self.address.filter(|address| address.shard == self.at)?;
        let fleet = &self.router.fleet;
        if fleet.place(self.tenant, address.shard, address.epoch) {
            self.router.metrics.followed();
        }
        Some(address.shard)
    }

    /// What a refusal asks for.
    async fn answer(&mut self, met: &TenantRefusal) -> Then {
        match met.state {
            OwnerState::Moved => {
                let newer = |address: &Address| {
                    self.address.is_none_or(|known| address.epoch > known.epoch)
                };
                let Some(address) = Address::of(met).filter(newer) else {
                    return Then::Pause;
                };
                self.at = address.shard;
                self.address = Some(address);
                Then::Look
            }
            OwnerState::Importing => self.activate().await,
            OwnerState::Fenced => {
                self.lift(met.move_id).await;
                Then::Pause
            }
            OwnerState::Changed => Then::Look,
            OwnerState::Absent | OwnerState::Other => Then::Pause,
        }
    }

    /// Tells the destination that the tenant is its own, where it has not been told: whoever would, may have died.
    async fn activate(&self) -> Then {
        let Some(Address {
            shard,
            epoch,
            move_id: Some(move_id),
            proof: Some(proof),
        }) = self.address
        else {
            return Then::Pause;
        };
        let tenant = self.tenant_text();
        let (move_id, proof, epoch) = (move_id.to_string(), proof.to_string(), epoch.to_string());
        let arguments = [tenant.as_str(), &move_id, &proof, &epoch];
        match self.ask(shard, ACTIVATE, &arguments).await {
            Ok(None) => {
                tracing::info!(%tenant, %move_id, "told the destination of a move that it is committed")
            }
            Ok(Some(error)) => {
                tracing::warn!(%tenant, %move_id, code = %error.code, message = %error.message, "cannot activate a tenant by proof")
            }
            Err(error) => {
                tracing::debug!(
                    error = one_line(&error),
                    "cannot activate a tenant by proof"
                )
            }
        }
        // What has become of it says the next look.
        Then::Pause
    }

    /// Lifts a fence whose time is over; the shard knows whether it is.
    async fn lift(&mut self, move_id: Option<Uuid>) {
        let Some(move_id) = move_id else { return };
        if self.unfenced_at.elapsed() < UNFENCE_PERIOD {
            return;
        }
        self.unfenced_at = Instant::now();
        let lifted = self
            .ask(self.at, UNFENCE_EXPIRED, &[&move_id.to_string()])
            .await;
        if let Ok(Some(error)) = lifted {
            tracing::warn!(%move_id, code = %error.code, message = %error.message, "cannot lift an expired fence");
        }
    }

    /// The catalog may say by now where the tenant is.
    fn heed_fleet(&mut self) {
        let fleet = self.router.fleet.current();
        let Some(record) = fleet.directory.by_id(self.tenant) else {
            return;
        };
        let known = self.address.map(|address| address.epoch);
        if let Some(placement) = fleet.place(&record)
            && known.is_none_or(|known| placement.epoch > known)
        {
            self.at = placement.shard;
        }
    }

    fn tenant_text(&self) -> String {
        let key = self.router.fleet.current().settings.tenant_key;
        self.tenant.display(key).to_string()
    }

    /// Runs a statement for the tenant; its error, if it has one.
    async fn ask(
        &self,
        shard: ShardId,
        text: &str,
        arguments: &[&str],
    ) -> Result<Option<ErrorFields>, AskError> {
        let fleet = self.router.fleet.current();
        let shard = fleet
            .shard(shard)
            .ok_or(AskError::UnknownShard(shard.number()))?;
        let pool = self.router.pools.pool(shard)?;
        let applicant = Applicant {
            tenant: Some(self.tenant),
            ..Applicant::default()
        };
        let lease = pool.acquire(applicant).await?;
        run_for(lease, self.tenant, &self.tenant_text(), text, arguments).await
    }
}

/// Binds the tenant and runs one statement, in one transaction and one round trip. The connection is given back.
async fn run_for(
    mut lease: Lease,
    tenant: TenantId,
    tenant_text: &str,
    text: &str,
    arguments: &[&str],
) -> Result<Option<ErrorFields>, AskError> {
    let server = lease.server().ok_or(AskError::Lost)?;
    let link = &mut server.link;
    let signed = guard::sign(&link.state.guard, &link.state.identity, tenant_text);
    let out = &mut link.output;
    frontend::put_bind(
        out,
        "",
        BIND_STATEMENT,
        &[Some(signed.as_bytes())],
        Format::Text,
    );
    frontend::put_execute(out, "", 0);
    frontend::put_parse(out, "", text, &[]);
    let arguments: Vec<Option<&[u8]>> = arguments
        .iter()
        .map(|argument| Some(argument.as_bytes()))
        .collect();
    frontend::put_bind(out, "", "", &arguments, Format::Text);
    frontend::put_execute(out, "", 0);
    frontend::put_sync(out);
    link.state.unnamed = None;
    // Until it is known to be committed.
    link.state.bound = Bound::Unknown;
    let answer = server.exchange().await.map_err(|_| AskError::Lost)?;
    if answer.is_none() {
        server.link.state.bound = Bound::Known(Some(tenant));
        server.link.state.fallback = Bound::Known(Some(tenant));
    }
    clean(
        lease,
        LeftBehind {
            unfinished: false,
            cancelled: false,
        },
    )
    .await;
    Ok(answer)
}

/// Uses a connection for a tenant that will live there: brings settings into force, prepares statements, binds it, and has
/// the guard refuse. One that does not take the settings is closed.
pub(crate) async fn warm_up(
    mut lease: Lease,
    tenant: TenantId,
    tenant_text: &str,
    sample: &Sample,
) -> Result<(), WarmError> {
    let server = lease.server().ok_or(WarmError::Lost)?;
    if !server.link.state.has_applied(&sample.settings) {
        let applied = server.link.state.applied.take();
        for text in sample.settings.statements_after(applied.as_ref()) {
            frontend::put_query(&mut server.link.output, text);
            let refused = server.exchange().await.map_err(|_| WarmError::Lost)?;
            if let Some(error) = refused {
                return Err(WarmError::Setting(error.message));
            }
        }
        if applied.is_none() {
            // RESET ALL unbinds as well.
            server.link.state.bound = Bound::Unknown;
        }
        server.link.state.unnamed = None;
        server.link.state.applied = Some(sample.settings.clone());
    }
    for prepared in &sample.statements {
        let Source::Protocol { text, types } = &prepared.source else {
            continue;
        };
        let link = &mut server.link;
        if link.state.prepared.touch(prepared) || link.state.prepared.is_full() {
            continue;
        }
        frontend::put_parse_raw(&mut link.output, &prepared.name, text, types);
        frontend::put_sync(&mut link.output);
        // A statement that this shard does not take is its client's to hear of.
        let refused = server.exchange().await.map_err(|_| WarmError::Lost)?;
        if refused.is_none() {
            server.link.state.prepared.insert_without_eviction(prepared);
        }
    }
    run_for(lease, tenant, tenant_text, PROBE, &[])
        .await
        .map_err(|_| WarmError::Lost)?;
    Ok(())
}

/// Why a connection could not be warmed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WarmError {
    #[error("a connection was lost")]
    Lost,
    #[error("a setting does not hold at the destination: {0}")]
    Setting(String),
}
