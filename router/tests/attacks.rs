//! The attack suite through the router.
//!
//! Attacker and victim share one shard and a pool of three server connections, so that whatever one session leaves
//! behind on a connection is there for the other to find.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod common;

use common::{DATABASE, PASSWORD, Setup, setup_with};
use tenantry_schema::fleet::RoleKind;
use tenantry_schema::tenant::TenantKey;
use tenantry_testkit::attacks::{self, Arena, Attack, Expect, MARKER, SEED, Side};
use tenantry_testkit::{Fleet, Login, RawClient, RawError, error_of};
use tokio_postgres::Client;

/// A router before one shard with two tenants.
struct Routed {
    setup: Setup,
    admin: Client,
    ids: [String; 2],
    /// Users that may act for one tenant: attacker, victim.
    users: [String; 2],
}

impl Routed {
    /// Attacked by a role that may act for one tenant only.
    async fn start(key: TenantKey) -> Self {
        let builder = Fleet::builder().shards(1).tenants(2).key(key);
        let setup = setup_with(builder, |config| config.pool_size = 3).await;
        for (index, name) in ["attacker", "victim"].into_iter().enumerate() {
            let tenants = vec![setup.tenant(index).id];
            setup
                .fleet
                .add_role(name, PASSWORD, RoleKind::Tenant, tenants)
                .await
                .unwrap();
        }
        let sequence = setup.fleet.catalog().load_fleet().await.unwrap().sequence;
        let mut follow = setup.router.as_ref().unwrap().follow.clone();
        follow
            .wait_for(|status| status.sequence >= Some(sequence))
            .await
            .unwrap();
        let admin = setup.fleet.shard(0).admin().await.unwrap();
        let arena = Self {
            ids: [setup.id(0), setup.id(1)],
            users: ["attacker".to_owned(), "victim".to_owned()],
            setup,
            admin,
        };
        for (side, name) in [(Side::Attacker, "plain-sparrow"), (Side::Victim, MARKER)] {
            let mut session = arena.open(side, &[]).await.unwrap();
            let seeded = session.query(&SEED.replace("{name}", name)).await.unwrap();
            assert_eq!(error_of(&seeded), None);
        }
        arena.admin.batch_execute("ANALYZE").await.unwrap();
        arena
    }

    /// Attacked by the service role, bound to one tenant by its connection.
    fn attacked_by_service(mut self) -> Self {
        self.users = [0, 1].map(|index| format!("shop.{}", self.ids[index]));
        self
    }

    async fn all_fail(&self, excepted: impl Fn(&Attack) -> bool) {
        let mut succeeded = Vec::new();
        let mut tried = 0;
        for attack in attacks::table() {
            if excepted(&attack) {
                continue;
            }
            tried += 1;
            if let Err(error) = attacks::run(self, &attack).await {
                succeeded.push(error.to_string());
            }
        }
        println!("{tried} attacks tried");
        assert!(succeeded.is_empty(), "{}", succeeded.join("\n"));
        assert!(tried > 100, "only {tried} attacks were tried");
        self.setup.nothing_leaked(0).await;
    }
}

impl Arena for Routed {
    fn tenants(&self) -> (&str, &str) {
        (&self.ids[0], &self.ids[1])
    }

    fn has_router(&self) -> bool {
        true
    }

    async fn open(&self, side: Side, parameters: &[(&str, &str)]) -> Result<RawClient, RawError> {
        let user = &self.users[usize::from(side == Side::Victim)];
        let login = Login::new(user, PASSWORD, DATABASE);
        let login = parameters
            .iter()
            .fold(login, |login, (name, value)| login.parameter(*name, *value));
        RawClient::login(self.setup.address, &login).await
    }

    async fn victims_rows(&self) -> anyhow::Result<String> {
        let tables = [
            "stores",
            "customers",
            "products",
            "orders",
            "events",
            "tenantry.owner",
        ];
        let parts: Vec<String> = tables
            .iter()
            .map(|table| {
                format!(
                    "SELECT '{table} ' || t::text FROM {table} t WHERE tenant_id = '{}'",
                    self.ids[1]
                )
            })
            .collect();
        let sql = format!(
            "SELECT md5(string_agg(x, '|' ORDER BY x)) FROM ({}) AS rows (x)",
            parts.join(" UNION ALL ")
        );
        Ok(self.admin.query_one(&sql, &[]).await?.get(0))
    }
}

#[tokio::test]
async fn every_attack_of_a_tenant_role_fails() {
    let arena = Routed::start(TenantKey::Bigint).await;
    arena.all_fail(|_| false).await;
}

#[tokio::test]
async fn every_attack_of_a_tenant_role_fails_in_a_uuid_fleet() {
    let arena = Routed::start(TenantKey::Uuid).await;
    arena.all_fail(|_| false).await;
}

/// The service role may switch: what it says to the router about its tenant is no forgery.
#[tokio::test]
async fn every_attack_of_a_bound_service_role_fails() {
    let arena = Routed::start(TenantKey::Bigint).await.attacked_by_service();
    let switches = |attack: &Attack| {
        matches!(attack.expect, Expect::Forged(_))
            || attack.name == "forge: prepared statement across a rebind"
    };
    arena.all_fail(switches).await;
}
