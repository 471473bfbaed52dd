//! `tenantry doctor`: is the fleet as it should be?
//!
//! Every check that can run does run, whatever the ones before it said; each says what it looked at, and what to do
//! when it is not content. Nothing is changed.

mod owners;

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use tenantry_schema::catalog::{Catalog, latest_version};
use tenantry_schema::fleet::Fleet;
use tenantry_schema::secrets::SecretsFile;
use tenantry_schema::shard::{Shard, ShardState};
use tenantry_shard_agent::Severity;
use tokio_postgres::{Client, NoTls};

use crate::config::{Settings, Sources};
use crate::exit::{Exit, Failure};
use crate::output::{Printer, record};

/// Role the checks log in to shards as.
const AGENT_ROLE: &str = "tenantry_agent";

/// How long a shard may take to answer.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A router that was silent for longer counts as gone.
const HEARTBEAT_SECONDS_MAX: i64 = 15;

/// What helps a shard that lacks the guard.
const NO_GUARD: &str = "the agent bootstraps a shard it has administrator access to";

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Worth knowing; nothing to do at once.
    Info,
    Warning,
    Failed,
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// What was looked at: `catalog`, `routers`, `shard`, `guard`, `owners`.
    check: &'static str,
    /// Which one, or which ones where several have the same to say.
    target: String,
    status: Status,
    detail: String,
    /// What to do; absent when there is nothing to do.
    hint: Option<String>,
}

record!(Check { check => "CHECK", target => "TARGET", status => "STATUS", detail => "DETAIL", hint => "HINT" });

impl Check {
    fn ok(check: &'static str, target: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            check,
            target: target.into(),
            status: Status::Ok,
            detail: detail.into(),
            hint: None,
        }
    }

    fn warning(
        check: &'static str,
        target: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Warning,
            hint: Some(hint.into()),
            ..Self::ok(check, target, detail)
        }
    }

    fn failed(
        check: &'static str,
        target: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Failed,
            ..Self::warning(check, target, detail, hint)
        }
    }
}

/// Runs every check; ends with code 1 when one failed, and with 7 when the catalog cannot be reached.
pub(crate) async fn run(sources: &Sources, printer: Printer) -> Result<Exit, Failure> {
    let settings = sources.settings()?;
    let catalog = Catalog::connect(settings.catalog_url()?).await?;
    let mut checks = vec![Check::ok("catalog", "connection", "answers")];
    checks.push(migrated(&catalog).await?);
    let fleet = catalog.load_fleet().await?;
    checks.extend(routers(&catalog, &fleet).await?);
    checks.extend(joined(shards(&settings, &fleet).await));
    printer.list(&checks)?;
    let failed = checks
        .iter()
        .filter(|check| check.status == Status::Failed)
        .count();
    match failed {
        0 => Ok(Exit::Ok),
        1 => Err(Failure::new(Exit::Failed, "1 check failed")),
        _ => Err(Failure::new(
            Exit::Failed,
            format!("{failed} checks failed"),
        )),
    }
}

async fn migrated(catalog: &Catalog) -> Result<Check, Failure> {
    let (found, known) = (catalog.version().await?, latest_version());
    Ok(match found {
        found if found == known => Check::ok("catalog", "version", format!("version {found}")),
        found => Check::failed(
            "catalog",
            "version",
            format!("version {found}, this program knows {known}"),
            "start the newest agent, which migrates the catalog, or upgrade this program",
        ),
    })
}

/// Which routers live, and how far each has followed the catalog.
async fn routers(catalog: &Catalog, fleet: &Fleet) -> Result<Vec<Check>, Failure> {
    let routers = catalog.list_routers().await?;
    if routers.is_empty() {
        let hint = "start one with `tenantry router`";
        return Ok(vec![Check::warning(
            "routers",
            "fleet",
            "no router is registered",
            hint,
        )]);
    }
    let now = Timestamp::now();
    let checks = routers.into_iter().map(|router| {
        let silent = now.duration_since(router.heartbeat_at).as_secs();
        let behind = fleet.sequence.saturating_sub(router.applied_seq);
        if silent > HEARTBEAT_SECONDS_MAX {
            let detail = format!("silent for {silent} s");
            Check::warning(
                "routers",
                router.name,
                detail,
                "it has ended or cannot reach the catalog",
            )
        } else {
            Check::ok(
                "routers",
                router.name,
                format!("heard {silent} s ago, {behind} changes behind"),
            )
        }
    });
    Ok(checks.collect())
}

/// Looks at all shards at a time, then compares their owner rows with the placement.
async fn shards(settings: &Settings, fleet: &Fleet) -> Vec<Check> {
    let secrets = settings
        .secrets_file()
        .map_err(|failure| failure.to_string())
        .and_then(|path| SecretsFile::load(path).map_err(|error| error.to_string()));
    let secrets = match secrets {
        Ok(secrets) => secrets,
        Err(error) => {
            let hint = "without the shards' passwords nothing can be said about them";
            return vec![Check::failed("secrets", "file", error, hint)];
        }
    };
    let looks = fleet.shards.values().map(|shard| look(shard, &secrets));
    let mut checks = Vec::new();
    let mut owners = owners::Owners::new(fleet);
    for look in join_all(looks).await {
        checks.extend(look.checks);
        if let Some(rows) = look.owners {
            owners.add(look.shard, rows);
        }
    }
    checks.extend(owners.judge());
    checks
}

/// What one shard said.
struct Look<'a> {
    shard: &'a Shard,
    checks: Vec<Check>,
    /// Its owner rows; `None` when they could not be read.
    owners: Option<Vec<owners::OwnerRow>>,
}

async fn look<'a>(shard: &'a Shard, secrets: &SecretsFile) -> Look<'a> {
    let name = shard.name.to_string();
    let mut look = Look {
        shard,
        checks: Vec::new(),
        owners: None,
    };
    let client = match connect(shard, secrets).await {
        Ok(client) => client,
        Err(error) => {
            let hint = format!(
                "is PostgreSQL running at {}:{}?",
                shard.address.host, shard.address.port
            );
            let check = match shard.state {
                ShardState::Down => {
                    Check::warning("shard", name, format!("marked down; {error}"), hint)
                }
                _ => Check::failed("shard", name, error, hint),
            };
            look.checks.push(check);
            return look;
        }
    };
    look.checks
        .push(Check::ok("shard", name.clone(), "answers"));
    look.checks.extend(guard(&client, &name).await);
    match owners::read(&client).await {
        Ok(rows) => look.owners = Some(rows),
        Err(error) => look
            .checks
            .push(Check::failed("owners", name, describe(&error), NO_GUARD)),
    }
    look
}

/// What the shard's own verification finds; isolation holds unless something of it failed.
async fn guard(client: &Client, name: &str) -> Vec<Check> {
    let findings = match tenantry_shard_agent::verify(client).await {
        Ok(findings) => findings,
        Err(error) => return vec![Check::failed("guard", name, describe(&error), NO_GUARD)],
    };
    let mut checks = Vec::new();
    if findings
        .iter()
        .all(|finding| finding.severity < Severity::Error)
    {
        checks.push(Check::ok(
            "guard",
            name,
            "installed, every table is covered",
        ));
    }
    checks.extend(findings.into_iter().map(|finding| Check {
        status: match finding.severity {
            Severity::Info => Status::Info,
            Severity::Warning => Status::Warning,
            Severity::Error => Status::Failed,
        },
        ..Check::warning("guard", name, finding.what, finding.hint)
    }));
    checks
}

/// One line for what several shards have in common, where the first of them stood.
fn joined(checks: Vec<Check>) -> Vec<Check> {
    let mut joined: Vec<Check> = Vec::new();
    for check in checks {
        let same = joined.iter_mut().find(|other| {
            (other.check, other.status, &other.detail, &other.hint)
                == (check.check, check.status, &check.detail, &check.hint)
        });
        match same {
            Some(other) => {
                other.target.push_str(", ");
                other.target.push_str(&check.target);
            }
            None => joined.push(check),
        }
    }
    joined
}

async fn connect(shard: &Shard, secrets: &SecretsFile) -> Result<Client, String> {
    let secret = secrets
        .shard(shard.name.as_str())
        .ok_or("the secrets file has no entry for it")?;
    let mut config = tokio_postgres::Config::new();
    config
        .host(&shard.address.host)
        .port(shard.address.port)
        .dbname(&shard.address.database)
        .user(AGENT_ROLE)
        .password(secret.passwords.agent.expose())
        .application_name("tenantry doctor")
        .connect_timeout(CONNECT_MAX);
    let connecting = tokio::time::timeout(CONNECT_MAX, config.connect(NoTls));
    let (client, connection) = connecting
        .await
        .map_err(|_| format!("no answer within {} s", CONNECT_MAX.as_secs()))?
        .map_err(|error| describe(&error))?;
    tokio::spawn(connection);
    Ok(client)
}

/// A PostgreSQL error in one line: the server's message, or what the network said.
fn describe(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(db), _) => db.message().to_owned(),
        (None, Some(source)) => source.to_string(),
        (None, None) => error.to_string(),
    }
}
