//! The attack suite, directly at a shard with the application role.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::Fixture;
use tenantry_schema::guard;
use tenantry_schema::tenant::TenantKey;
use tenantry_testkit::attacks::{self, Arena, Attack, MARKER, Reach, SEED, Side};
use tenantry_testkit::{Login, RawClient, RawError, rows_of};

use tenantry_wire::frontend::{self, Format};
use tokio_postgres::Client;

/// A shard with two tenants, attacked over the application role's own connections.
struct Direct {
    fixture: Fixture,
    admin: Client,
    attacker: String,
    victim: String,
}

impl Direct {
    async fn start(key: TenantKey) -> Self {
        let fixture = Fixture::start(key).await;
        let (attacker, victim) = match key {
            TenantKey::Bigint => ("41", "42"),
            TenantKey::Uuid => (
                "0192f0c1-7b6a-7c3e-8a51-2f6b8f3a9d10",
                "0192f0c1-7b6a-7c3e-8a51-2f6b8f3a9d11",
            ),
        };
        fixture.admit(&[attacker, victim]).await;
        for (tenant, name) in [(attacker, "plain-sparrow"), (victim, MARKER)] {
            let client = fixture.tenant(tenant).await;
            client
                .batch_execute(&SEED.replace("{name}", name))
                .await
                .unwrap();
        }
        let admin = fixture.admin().await;
        admin.batch_execute("ANALYZE").await.unwrap();
        Self {
            admin,
            fixture,
            attacker: attacker.to_owned(),
            victim: victim.to_owned(),
        }
    }

    /// Makes the guard whole again after a sabotage: bootstrap finds what was done.
    async fn repair(&self) {
        let report = self.fixture.bootstrap().await.unwrap();
        assert!(!report.is_unchanged());
    }
}

impl Arena for Direct {
    fn tenants(&self) -> (&str, &str) {
        (&self.attacker, &self.victim)
    }

    fn has_router(&self) -> bool {
        false
    }

    async fn open(&self, side: Side, parameters: &[(&str, &str)]) -> Result<RawClient, RawError> {
        let password = self.fixture.secrets.passwords.app.expose();
        let mut login = Login::new("tenantry_app", password, "shard");
        for (name, value) in parameters {
            login = login.parameter(*name, *value);
        }
        let mut session = RawClient::login(self.fixture.server.address(), &login).await?;
        if parameters.is_empty() {
            let tenant = match side {
                Side::Attacker => &self.attacker,
                Side::Victim => &self.victim,
            };
            let answer = session.query("SELECT tenantry.backend_identity()").await?;
            let identity = rows_of(&answer)[0][0].clone().unwrap();
            let value = guard::sign(&self.fixture.secrets.guard.current, &identity, tenant);
            session
                .send(|out| {
                    let sql = "SELECT set_config('tenantry.tenant', $1, false)";
                    frontend::put_parse(out, "", sql, &[]);
                    frontend::put_bind(out, "", "", &[Some(value.as_bytes())], Format::Text);
                    frontend::put_execute(out, "", 0);
                    frontend::put_sync(out);
                })
                .await?;
            session.until_ready().await?;
        }
        Ok(session)
    }

    async fn victims_rows(&self) -> anyhow::Result<String> {
        let mut parts = Vec::new();
        for table in [
            "stores",
            "customers",
            "products",
            "orders",
            "events",
            "tenantry.owner",
        ] {
            parts.push(format!(
                "SELECT '{table} ' || t::text FROM {table} t WHERE tenant_id = '{}'",
                self.victim
            ));
        }
        let sql = format!(
            "SELECT md5(string_agg(x, '|' ORDER BY x)) FROM ({}) AS rows (x)",
            parts.join(" UNION ALL ")
        );
        Ok(self.admin.query_one(&sql, &[]).await?.get(0))
    }
}

async fn every_attack_fails(key: TenantKey) {
    let arena = Direct::start(key).await;
    let mut succeeded = Vec::new();
    for attack in attacks::table()
        .iter()
        .filter(|a| a.reach == Reach::Everywhere)
    {
        if let Err(error) = attacks::run(&arena, attack).await {
            succeeded.push(error.to_string());
        }
    }
    assert!(succeeded.is_empty(), "{}", succeeded.join("\n"));
}

#[tokio::test]
async fn every_attack_fails_in_a_bigint_fleet() {
    every_attack_fails(TenantKey::Bigint).await;
}

#[tokio::test]
async fn every_attack_fails_in_a_uuid_fleet() {
    every_attack_fails(TenantKey::Uuid).await;
}

fn find(name: &str) -> Attack {
    attacks::table()
        .into_iter()
        .find(|attack| attack.name == name)
        .unwrap_or_else(|| panic!("no attack is called {name:?}"))
}

#[test]
fn attacks_have_names_of_their_own() {
    let mut names: Vec<&str> = attacks::table().iter().map(|attack| attack.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// Without the part of the guard that stops it, each of these attacks succeeds: the suite can fail.
#[tokio::test]
async fn without_the_guard_attacks_succeed() {
    let arena = Direct::start(TenantKey::Bigint).await;
    for (sabotage, attack) in [
        (
            "ALTER TABLE customers DISABLE ROW LEVEL SECURITY",
            "read: no condition",
        ),
        (
            "ALTER TABLE customers DISABLE ROW LEVEL SECURITY",
            "oracle: unique violation",
        ),
        (
            "ALTER POLICY tenantry_guard ON customers USING (true)",
            "read: the victim's id",
        ),
        (
            "ALTER POLICY tenantry_guard ON stores WITH CHECK (true)",
            "write: insert for the victim",
        ),
        (
            "GRANT TRUNCATE ON events TO tenantry_app",
            "write: truncate",
        ),
        (
            "DROP TRIGGER \"~tenantry_copy_row\" ON customers",
            "copy: rows of the victim as the copying role",
        ),
        (
            "GRANT SELECT ON customers TO tenantry_copy",
            "read: as the copying role",
        ),
        (
            "GRANT tenantry_agent TO tenantry_app",
            "read: become the agent",
        ),
        (
            "GRANT TEMPORARY ON DATABASE shard TO PUBLIC",
            "write: a temporary table that shadows",
        ),
        (
            "GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC",
            "reach: advisory lock",
        ),
        (
            "GRANT SELECT ON pg_stat_activity TO PUBLIC; GRANT EXECUTE ON FUNCTION pg_stat_get_activity TO PUBLIC",
            "reach: activity",
        ),
        (
            "GRANT EXECUTE ON FUNCTION pg_terminate_backend TO PUBLIC",
            "reach: terminate",
        ),
        ("GRANT SELECT ON tenantry.owner TO PUBLIC", "read: owners"),
        (
            "GRANT EXECUTE ON FUNCTION pg_notify TO PUBLIC",
            "reach: notify",
        ),
        // What makes LIKE no candidate for the list of leakproof operators.
        (
            "ALTER FUNCTION textlike(text, text) LEAKPROOF",
            "oracle: like with a trailing escape",
        ),
        // A binding that does not name the connection.
        (
            "CREATE OR REPLACE FUNCTION tenantry.connection_bytes() RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$",
            "forge: replay from another connection",
        ),
        // A binding that is not verified.
        (
            "CREATE OR REPLACE FUNCTION tenantry.unsigned_binding(value text) RETURNS bigint LANGUAGE sql AS $$ SELECT split_part(value, ':', 1)::bigint $$",
            "forge: set",
        ),
        (
            "CREATE OR REPLACE FUNCTION tenantry.unsigned_binding(value text) RETURNS bigint LANGUAGE sql AS $$ SELECT split_part(value, ':', 1)::bigint $$",
            "forge: cursor across a rebind",
        ),
        // A row check that believes the setting.
        (
            "CREATE OR REPLACE FUNCTION tenantry.copy_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.tenant_id = tenantry.bound_tenant() THEN RETURN new; END IF; RAISE insufficient_privilege; END $$",
            "copy: binding rewritten within the statement",
        ),
        // Locks that are not told apart by tenant.
        (
            "CREATE OR REPLACE FUNCTION tenantry.advisory_key(name text) RETURNS bigint LANGUAGE sql AS $$ SELECT hashtext(name)::bigint $$",
            "reach: the victim's advisory lock",
        ),
    ] {
        attacks::run(&arena, &find(attack)).await.unwrap();
        arena.admin.batch_execute(sabotage).await.unwrap();
        let outcome = attacks::run(&arena, &find(attack)).await;
        assert!(
            outcome.is_err(),
            "{attack:?} did not succeed after: {sabotage}"
        );
        arena.repair().await;
        // What got through is taken back.
        arena
            .admin
            .batch_execute(
                "DELETE FROM customers WHERE id = 7; DELETE FROM stores WHERE name = 'x'",
            )
            .await
            .unwrap();
    }
}
