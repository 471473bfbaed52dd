//! Runs a script twice, directly and through the router, and compares what came back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tenantry_schema::tenant::TenantId;
use tenantry_testkit::{FleetShard, Login, RawClient, RawError};
use tenantry_wire::backend::{ErrorFields, TxStatus};
use tenantry_wire::frame::Message;
use tenantry_wire::tag::backend as tag;

use super::common::PASSWORD;
use super::generate::{CLIENTS, Script};
use super::messages::{Sent, Step, is_answered};

/// Tenants of the clients, in turn.
pub(crate) const TENANTS: usize = 2;
/// Longest wait for the answers to one step.
const STEP_MAX: Duration = Duration::from_secs(3);

/// Where scripts run.
pub(crate) struct Stage {
    /// One per pool size, from 1.
    pub(crate) routers: Vec<SocketAddr>,
    pub(crate) server: SocketAddr,
    /// Sessions that put the tables of both sides in order, by tenant.
    pub(crate) routed: Vec<tokio_postgres::Client>,
    pub(crate) plain: Vec<tokio_postgres::Client>,
    pub(crate) tenants: Vec<String>,
}

pub(crate) const TWIN_ROLE: &str = "twin";

const TWIN: &str = "CREATE TABLE events (id bigint NOT NULL, kind text NOT NULL, subject text NOT NULL, \
     subject_id bigint, session uuid, data jsonb NOT NULL DEFAULT '{}', \
     occurred_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id)); \
     GRANT SELECT, INSERT, UPDATE, DELETE ON events TO twin";

/// Before every script: what both sides hold.
const ROWS: &str = "DELETE FROM events; INSERT INTO events (id, kind, subject) VALUES (1, 'one', 's'), \
     (2, 'two', 's'), (11, 'eleven', 's'), (21, 'twenty-one', 's')";

fn twin_name(tenant: usize) -> String {
    format!("twin{tenant}")
}

/// A database without any guard, with one tenant's rows in it.
pub(crate) async fn create_twin(
    server: &tenantry_cluster::Server,
    tenant: usize,
) -> tokio_postgres::Client {
    let name = twin_name(tenant);
    server.create_database(&name).await.unwrap();
    let admin = server.connect(&name).await.unwrap();
    if tenant == 0 {
        let role = format!("CREATE ROLE {TWIN_ROLE} LOGIN PASSWORD '{PASSWORD}'");
        admin.batch_execute(&role).await.unwrap();
    }
    admin.batch_execute(TWIN).await.unwrap();
    admin
}

/// A session that writes a tenant's rows on its shard.
pub(crate) async fn writer(shard: &FleetShard, tenant: TenantId) -> tokio_postgres::Client {
    shard.app_as(tenant).await.unwrap()
}

/// What came back for one step, comparable.
pub(crate) type Answer = Vec<String>;

/// Where the two sides differ.
#[derive(Debug)]
pub(crate) struct Difference {
    /// The script as far as it went, without what could not run.
    pub(crate) script: Script,
    pub(crate) step: usize,
    pub(crate) expected: Answer,
    pub(crate) found: Answer,
}

impl Stage {
    /// Runs the script on both sides; `None` if the answers are the same.
    pub(crate) async fn compare(&self, script: &Script) -> Option<Difference> {
        for session in self.routed.iter().chain(&self.plain) {
            session.batch_execute(ROWS).await.unwrap();
        }
        let (script, expected) = self.play_directly(script).await;
        let mut clients = BTreeMap::new();
        for (index, step) in script.steps.iter().enumerate() {
            let client = match clients.entry(step.client) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(self.through(&script, step.client).await)
                }
            };
            let ready = expected[index]
                .iter()
                .filter(|line| line.starts_with("Z "))
                .count();
            let found = play_until(client, step, ready).await;
            if found != expected[index] {
                let mut played = script.clone();
                played.steps.truncate(index + 1);
                return Some(Difference {
                    script: played,
                    step: index,
                    expected: expected[index].clone(),
                    found,
                });
            }
        }
        None
    }

    /// The script without the steps that would wait for another client, up to where PostgreSQL itself gives up, and the
    /// answers to the rest.
    async fn play_directly(&self, script: &Script) -> (Script, Vec<Answer>) {
        let mut clients: BTreeMap<usize, RawClient> = BTreeMap::new();
        let mut holders = [false; CLIENTS + 1];
        let mut played = Script {
            steps: Vec::new(),
            ..script.clone()
        };
        let mut answers = Vec::new();
        for step in &script.steps {
            let held = holders.iter().filter(|held| **held).count();
            if !holders[step.client] && held >= script.pool {
                continue;
            }
            let client = match clients.entry(step.client) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(self.direct(step.client).await)
                }
            };
            let Some((answer, status)) = play_answered(client, step).await else {
                break;
            };
            holders[step.client] = status != Some(TxStatus::Idle);
            played.steps.push(step.clone());
            answers.push(answer);
        }
        (played, answers)
    }

    async fn direct(&self, client: usize) -> RawClient {
        let login = with_settings(Login::new(TWIN_ROLE, PASSWORD, twin_name(client % TENANTS)));
        RawClient::login(self.server, &login).await.unwrap()
    }

    async fn through(&self, script: &Script, client: usize) -> RawClient {
        let user = format!("shop.{}", self.tenants[client % TENANTS]);
        let login = with_settings(Login::new(user, PASSWORD, super::common::DATABASE));
        let router = self.routers[script.pool - 1];
        RawClient::login(router, &login).await.unwrap()
    }
}

fn with_settings(login: Login) -> Login {
    login
        .parameter("client_encoding", "UTF8")
        .parameter("application_name", "random")
        .parameter("search_path", "\"$user\", public")
}

async fn send(client: &mut RawClient, messages: &[Sent]) {
    let mut bytes = BytesMut::new();
    for message in messages {
        message.put(&mut bytes);
    }
    // A server that has closed already shows it when it is read from.
    let _ = client.send_bytes(&bytes).await;
}

/// Sends a step and waits until the server has said all that belongs to it. `None`: it met with an internal error
/// (FETCH from the portal of a SET), over some of which PostgreSQL ends the session (EXECUTE of a ROLLBACK TO outside a
/// transaction): there is nothing to compare with.
async fn play_answered(client: &mut RawClient, step: &Step) -> Option<(Answer, Option<TxStatus>)> {
    send(client, &step.messages).await;
    let mut replies = Vec::new();
    while !is_answered(&step.messages, &replies) {
        match tokio::time::timeout(STEP_MAX, client.receive()).await {
            Ok(Ok(message)) => replies.push(message),
            Ok(Err(RawError::Closed)) if replies.iter().any(is_internal_error) => return None,
            ended => panic!("PostgreSQL itself: {ended:?} after {step:?}, {replies:?}"),
        }
    }
    if replies.iter().any(is_internal_error) {
        return None;
    }
    let status = tenantry_testkit::status_of(&replies);
    Some((reports_sorted(replies.iter().map(line).collect()), status))
}

fn is_internal_error(message: &Message) -> bool {
    message.tag == tag::ERROR
        && ErrorFields::decode(message.body()).is_ok_and(|fields| fields.code == "XX000")
}

/// Sends a step and waits for this many ReadyForQuery.
async fn play_until(client: &mut RawClient, step: &Step, ready: usize) -> Answer {
    send(client, &step.messages).await;
    let mut answer = Vec::new();
    let mut seen = 0;
    while seen < ready {
        match tokio::time::timeout(STEP_MAX, client.receive()).await {
            Ok(Ok(message)) => {
                seen += usize::from(message.tag == tag::READY_FOR_QUERY);
                answer.push(line(&message));
            }
            Ok(Err(RawError::Closed)) => {
                answer.push("(closed)".to_owned());
                break;
            }
            Ok(Err(error)) => panic!("{error}"),
            Err(_elapsed) => {
                answer.push("(silent)".to_owned());
                break;
            }
        }
    }
    reports_sorted(answer)
}

/// Several settings that change at once are reported in no particular order.
fn reports_sorted(mut answer: Answer) -> Answer {
    for run in answer.chunk_by_mut(|a, b| a.starts_with("S ") && b.starts_with("S ")) {
        run.sort();
    }
    answer
}

/// A message as text, without what differs between two tables of the same shape and between two who refuse the
/// same thing: oids and numbers of columns, and of an error everything but severity, code and message.
fn line(message: &Message) -> String {
    let body = match message.tag {
        tag::ERROR | tag::NOTICE => {
            let fields = ErrorFields::decode(message.body()).unwrap();
            format!("{:?} {} {}", fields.severity, fields.code, fields.message)
        }
        tag::ROW_DESCRIPTION => {
            let mut columns = message.body().to_vec();
            let mut at = 2;
            while let Some(end) = columns[at..].iter().position(|byte| *byte == 0) {
                // Behind the name: oid of the table, number of the column, and twelve bytes that must be equal.
                columns[at + end + 1..][..6].fill(b'.');
                at += end + 1 + 18;
            }
            String::from_utf8_lossy(&columns).escape_debug().to_string()
        }
        _ => String::from_utf8_lossy(message.body())
            .escape_debug()
            .to_string(),
    };
    format!("{} {body}", char::from(message.tag))
}
