//! What a rebalancer does at a cutover, step by step and by hand: SQL on the shards as the agent's role, and messages to
//! routers.

use std::net::SocketAddr;

use tenantry_schema::control::{ControlCall, Forget, Hold, MoveNotice, Prepare, Release};
use tenantry_schema::secrets::SecretsFile;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::{Epoch, TenantId};
use tenantry_testkit::{Fleet, FleetShard};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::Client;
use uuid::Uuid;

use super::common::Setup;

/// One move of one tenant, and what it may say to whom.
pub struct Mover {
    pub tenant: TenantId,
    pub id: String,
    pub move_id: Uuid,
    pub source: ShardId,
    pub destination: ShardId,
    /// Of the owner row on the source.
    pub epoch: u64,
    proof: Uuid,
    source_agent: Client,
    destination_agent: Client,
    source_admin: Client,
    destination_admin: Client,
    token: String,
}

async fn agent(shard: &FleetShard) -> Client {
    let (client, connection) = shard
        .agent_config()
        .connect(tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

/// The control token; empty if the fleet has none.
pub fn token(fleet: &Fleet) -> String {
    let secrets = SecretsFile::load(fleet.secrets_path()).unwrap();
    let token = secrets.control_token;
    token.map_or_else(String::new, |token| token.expose().to_owned())
}

impl Mover {
    /// The tenant is about to go to the other of two shards, which expects it.
    pub async fn of(setup: &Setup, index: usize) -> Self {
        let tenant = setup.tenant(index);
        let source = setup.fleet.shard_of(tenant).await.unwrap();
        let mut shards = setup.fleet.shards().iter();
        let destination = shards.find(|shard| shard.id() != source.id()).unwrap();
        let mover = Self {
            tenant: tenant.id,
            id: setup.id(index),
            move_id: Uuid::now_v7(),
            source: source.id(),
            destination: destination.id(),
            epoch: 1,
            proof: Uuid::nil(),
            source_agent: agent(source).await,
            destination_agent: agent(destination).await,
            source_admin: source.admin().await.unwrap(),
            destination_admin: destination.admin().await.unwrap(),
            token: token(&setup.fleet),
        };
        let begin = format!(
            "SELECT tenantry.begin_import({}, '{}', 1)",
            mover.id, mover.move_id
        );
        mover.destination_agent.batch_execute(&begin).await.unwrap();
        mover
    }

    /// The destination learns what proves the hand-over, then the source refuses the tenant.
    pub async fn fence(&mut self, lasts: &str) {
        self.proof = Uuid::new_v4();
        let (id, move_id, proof, epoch) = (&self.id, self.move_id, self.proof, self.epoch);
        let expect = format!(
            "SELECT tenantry.expect_proof({id}, '{move_id}', tenantry.proof_hash('{proof}', {epoch} + 1))"
        );
        self.destination_agent.batch_execute(&expect).await.unwrap();
        let fence = format!(
            "SELECT tenantry.fence({id}, '{move_id}', gen_random_uuid(), '{proof}', {epoch}, '{lasts}')"
        );
        self.source_agent.batch_execute(&fence).await.unwrap();
        self.epoch += 1;
    }

    pub async fn unfence(&mut self) {
        let unfence = format!("SELECT tenantry.unfence({}, '{}')", self.id, self.move_id);
        self.source_agent.batch_execute(&unfence).await.unwrap();
        self.epoch += 1;
    }

    /// The tenant's events, which are all that these tests write.
    pub async fn copy_rows(&self) {
        let read = format!(
            "SELECT coalesce(jsonb_agg(e), '[]')::text FROM events e WHERE tenant_id = {}",
            self.id
        );
        let rows: String = self
            .source_admin
            .query_one(&read, &[])
            .await
            .unwrap()
            .get(0);
        let write = "INSERT INTO events SELECT * FROM jsonb_populate_recordset(null::events, $1::text::jsonb)";
        self.destination_admin
            .execute(write, &[&rows])
            .await
            .unwrap();
    }

    /// The commit point.
    pub async fn hand_over(&self) {
        let text = format!(
            "SELECT tenantry.hand_over({}, '{}', {}, {}::smallint)",
            self.id,
            self.move_id,
            self.epoch,
            self.destination.number()
        );
        let row = self.source_agent.query_one(&text, &[]).await.unwrap();
        assert!(row.get::<_, bool>(0));
    }

    pub async fn activate(&self) {
        let text = format!(
            "SELECT tenantry.activate({}, '{}', {})",
            self.id, self.move_id, self.epoch
        );
        let row = self.destination_agent.query_one(&text, &[]).await.unwrap();
        assert!(row.get::<_, bool>(0));
    }

    /// Subjects of the tenant's events on a shard, in order.
    pub async fn subjects(&self, shard: ShardId) -> Vec<String> {
        let admin = if shard == self.source {
            &self.source_admin
        } else {
            &self.destination_admin
        };
        let text = format!(
            "SELECT subject FROM events WHERE tenant_id = {} ORDER BY subject COLLATE \"C\"",
            self.id
        );
        let rows = admin.query(&text, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// State and epoch of the owner row.
    pub async fn owner(&self, shard: ShardId) -> (String, i64) {
        let admin = if shard == self.source {
            &self.source_admin
        } else {
            &self.destination_admin
        };
        let text = format!(
            "SELECT state, epoch FROM tenantry.owner WHERE tenant_id = {}",
            self.id
        );
        let row = admin.query_one(&text, &[]).await.unwrap();
        (row.get(0), row.get(1))
    }

    fn notice(&self) -> MoveNotice {
        MoveNotice {
            tenant: self.tenant,
            move_id: self.move_id,
            source: self.source,
            destination: self.destination,
        }
    }

    pub async fn prepare(&self, router: SocketAddr) -> tenantry_schema::control::Prepared {
        let message = Prepare {
            notice: self.notice(),
            lasts_ms: 60_000,
        };
        say(router, &self.token, &message).await
    }

    pub async fn hold(
        &self,
        router: SocketAddr,
        deadline_ms: u64,
    ) -> tenantry_schema::control::Held {
        let message = Hold {
            notice: self.notice(),
            deadline_ms,
            drain_ms: 10_000,
        };
        say(router, &self.token, &message).await
    }

    pub async fn release(
        &self,
        router: SocketAddr,
        shard: ShardId,
    ) -> tenantry_schema::control::Released {
        let message = Release {
            tenant: self.tenant,
            move_id: self.move_id,
            shard,
            epoch: Epoch(self.epoch),
        };
        say(router, &self.token, &message).await
    }

    pub async fn forget(&self, router: SocketAddr) -> bool {
        let message = Forget {
            tenant: self.tenant,
            move_id: self.move_id,
        };
        say(router, &self.token, &message).await.known
    }
}

/// Posts a message that is answered.
async fn say<C: ControlCall>(router: SocketAddr, token: &str, message: &C) -> C::Answer {
    let body = serde_json::to_string(message).unwrap();
    let (status, answer) = post(router, C::PATH, Some(token), &body).await;
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(&answer).unwrap()
}

/// Status and body.
pub async fn post(
    router: SocketAddr,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> (u16, String) {
    request(router, "POST", path, token, body).await
}

pub async fn request(
    router: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> (u16, String) {
    let mut socket = TcpStream::connect(router).await.unwrap();
    let token = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{token}Content-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
