//! Bootstrap: an empty database becomes a shard, once; what is wrong is said.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Fixture, code, connect, set, stock, text};
use tenantry_schema::fleet::FleetSettings;
use tenantry_schema::guard;
use tenantry_schema::secrets::SecretsFile;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantKey;
use tenantry_shard_agent::{
    AgentRoleError, BootstrapError, RotateError, Severity, bootstrap, install_keys,
    require_agent_role, rotate_key, verify,
};

#[tokio::test]
async fn a_second_run_changes_nothing() {
    let fixture = Fixture::empty(TenantKey::Bigint).await;
    let first = fixture.bootstrap().await.unwrap();
    assert_eq!(first.findings, []);
    assert!(
        first
            .done
            .contains(&"schema storefront 1 (storefront)".to_owned()),
        "{:?}",
        first.done
    );
    assert!(
        first.done.contains(&"database shard".to_owned()),
        "{:?}",
        first.done
    );

    let admin = fixture.admin().await;
    let state = "SELECT string_agg(x, E'\\n' ORDER BY x) FROM (
        SELECT format('%s %s', oid, xmin) x FROM pg_class UNION ALL SELECT format('p%s %s', oid, xmin) FROM pg_proc
        UNION ALL SELECT format('r%s %s', oid, xmin) FROM pg_authid) s";
    let before = text(&admin, state).await;
    assert_eq!(
        fixture.bootstrap().await.unwrap().done,
        Vec::<String>::new()
    );
    assert_eq!(
        text(&admin, state).await,
        before,
        "catalog rows were rewritten"
    );
}

#[tokio::test]
async fn both_kinds_of_keys_work() {
    for (key, tenant, other) in [
        (TenantKey::Bigint, "42", "43"),
        (
            TenantKey::Uuid,
            "0192f0c1-7b6a-7c3e-8a51-2f6b8f3a9d10",
            "0192f0c1-7b6a-7c3e-8a51-2f6b8f3a9d11",
        ),
    ] {
        let fixture = Fixture::start(key).await;
        fixture.admit(&[tenant, other]).await;
        let app = fixture.tenant(tenant).await;
        stock(&app, "acme").await;
        assert_eq!(text(&app, "SELECT count(*) FROM products").await, "1");
        assert_eq!(text(&app, "SELECT tenant_id FROM products").await, tenant);
        fixture.bind(&app, other).await;
        assert_eq!(text(&app, "SELECT count(*) FROM products").await, "0");
        set(&app, "").await;
        assert_eq!(code(&app, "SELECT FROM products").await, "42704");
    }
}

#[tokio::test]
async fn drift_is_found_and_repaired() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    let admin = fixture.admin().await;
    for (damage, told) in [
        (
            "ALTER TABLE orders DISABLE ROW LEVEL SECURITY",
            "orders: row-level security",
        ),
        (
            "ALTER TABLE orders NO FORCE ROW LEVEL SECURITY",
            "orders: row-level security",
        ),
        (
            "DROP POLICY tenantry_guard ON orders",
            "orders: the guard's policy",
        ),
        (
            "ALTER POLICY tenantry_guard ON orders USING (true)",
            "orders: the guard's policy",
        ),
        (
            "ALTER TABLE orders DISABLE TRIGGER ALL",
            "orders: the triggers that watch COPY",
        ),
        (
            "DROP TRIGGER \"~tenantry_copy_row\" ON orders",
            "orders: the triggers that watch COPY",
        ),
        (
            "GRANT TRUNCATE ON orders TO tenantry_app",
            "orders: a tenant may TRUNCATE",
        ),
        (
            "ALTER ROLE tenantry_app BYPASSRLS",
            "role tenantry_app: has attributes",
        ),
        (
            "GRANT pg_monitor TO tenantry_app",
            "role tenantry_app: is a member of",
        ),
        (
            "ALTER ROLE tenantry_app SET work_mem = '1GB'",
            "role tenantry_app: has default settings",
        ),
        (
            "GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC",
            "pg_advisory_lock(bigint): is executable",
        ),
        (
            "GRANT SELECT ON pg_stat_activity TO PUBLIC",
            "pg_stat_activity: is readable",
        ),
        (
            "GRANT CREATE ON SCHEMA public TO PUBLIC",
            "schema public: application roles may create",
        ),
        (
            "DO $$ BEGIN EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database()); END $$",
            "database shard: application roles may create",
        ),
        (
            "CREATE TABLE extra (tenant_id bigint NOT NULL, id bigint, PRIMARY KEY (tenant_id, id))",
            "extra: row-level security",
        ),
        ("DELETE FROM tenantry.guard_key", "no guard key"),
        (
            "CREATE OR REPLACE FUNCTION tenantry.tenant() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
            "schema tenantry: a function or view of the guard was altered",
        ),
        (
            "GRANT SELECT ON tenantry.owner TO PUBLIC",
            "tenantry.owner: is the guard's",
        ),
        (
            "GRANT UPDATE ON SEQUENCE tenantry.copying_low TO tenantry_copy",
            "tenantry.copying_low: is the guard's",
        ),
        (
            "GRANT EXECUTE ON FUNCTION tenantry.fence TO tenantry_app",
            "is the agent's",
        ),
    ] {
        admin.batch_execute(damage).await.unwrap();
        let findings = verify(&admin).await.unwrap();
        assert!(
            findings
                .iter()
                .any(|f| f.severity == Severity::Error && f.what.contains(told)),
            "{damage}: {findings:#?}"
        );
        let report = fixture
            .bootstrap()
            .await
            .unwrap_or_else(|error| panic!("{damage}: {error}"));
        assert!(!report.is_unchanged(), "{damage}");
        let errors: Vec<_> = verify(&admin)
            .await
            .unwrap()
            .into_iter()
            .filter(|f| f.severity == Severity::Error)
            .collect();
        assert_eq!(errors, [], "{damage}");
    }
}

#[tokio::test]
async fn what_bootstrap_cannot_repair_stops_it() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    let admin = fixture.admin().await;
    for (damage, repair, told) in [
        (
            "CREATE POLICY open ON orders USING (true)",
            "DROP POLICY open ON orders",
            "joined with OR",
        ),
        (
            "CREATE MATERIALIZED VIEW m AS SELECT * FROM orders; GRANT SELECT ON m TO tenantry_app",
            "DROP MATERIALIZED VIEW m",
            "materialized view",
        ),
        (
            "CREATE VIEW v AS SELECT * FROM orders; GRANT SELECT ON v TO tenantry_app",
            "DROP VIEW v",
            "owner bypasses",
        ),
        (
            "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM orders'",
            "DROP FUNCTION f",
            "runs with the rights",
        ),
        (
            "CREATE TRIGGER \"~~late\" BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "DROP TRIGGER \"~~late\" ON orders",
            "fires after the check",
        ),
    ] {
        admin.batch_execute(damage).await.unwrap();
        let error = fixture.bootstrap().await.unwrap_err();
        assert!(
            matches!(error, BootstrapError::Unsound { .. }),
            "{damage}: {error:?}"
        );
        assert!(error.to_string().contains(told), "{damage}: {error}");
        admin.batch_execute(repair).await.unwrap();
    }
}

#[tokio::test]
async fn a_database_is_one_shard_of_one_fleet_only() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    let mut other = fixture.shard.clone();
    other.id = ShardId::new(8).unwrap();
    let error = bootstrap(
        &fixture.admin_config(),
        &other,
        &fixture.settings,
        &fixture.secrets,
    )
    .await
    .unwrap_err();
    assert!(
        matches!(error, BootstrapError::OtherShard { found_id: 7, .. }),
        "{error}"
    );

    let uuid = FleetSettings::new(TenantKey::Uuid);
    let error = bootstrap(
        &fixture.admin_config(),
        &fixture.shard,
        &uuid,
        &fixture.secrets,
    )
    .await
    .unwrap_err();
    assert!(
        matches!(error, BootstrapError::OtherTenantKey { .. }),
        "{error}"
    );

    let admin = fixture.admin().await;
    admin
        .batch_execute(
            "UPDATE tenantry.schema_version SET checksum = 'x' WHERE component = 'storefront'",
        )
        .await
        .unwrap();
    let error = fixture.bootstrap().await.unwrap_err();
    assert!(
        matches!(error, BootstrapError::AlteredMigration { version: 1, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn bootstrap_needs_a_superuser_and_the_agent_bypassrls() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    let password = fixture.secrets.passwords.agent.expose();
    let config = fixture
        .server
        .config_as("tenantry_agent", password, "shard");
    let error = bootstrap(&config, &fixture.shard, &fixture.settings, &fixture.secrets)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("role tenantry_agent is none"),
        "{error}"
    );

    require_agent_role(&fixture.agent().await).await.unwrap();
    let error = require_agent_role(&fixture.app().await).await.unwrap_err();
    assert!(
        matches!(error, AgentRoleError::NoBypassRls { .. }),
        "{error}"
    );

    let wrong = fixture.server.config_as("postgres", "wrong", "shard");
    let error = bootstrap(&wrong, &fixture.shard, &fixture.settings, &fixture.secrets)
        .await
        .unwrap_err();
    assert!(matches!(error, BootstrapError::Connect(_)), "{error}");
}

#[tokio::test]
async fn shards_of_one_server_are_installed_at_once() {
    let fixture = Fixture::empty(TenantKey::Bigint).await;
    let databases = ["a", "b", "c", "d"];
    let runs = databases.map(|database| {
        let mut shard = fixture.shard.clone();
        shard.address.database = database.to_owned();
        let config = fixture.server.config(database);
        let fixture = &fixture;
        async move { bootstrap(&config, &shard, &fixture.settings, &fixture.secrets).await }
    });
    let [a, b, c, d] = runs;
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    let roles = [a, b, c, d]
        .into_iter()
        .filter(|run| {
            run.as_ref()
                .unwrap()
                .done
                .contains(&"server roles".to_owned())
        })
        .count();
    assert_eq!(roles, 1);
}

#[tokio::test]
async fn keys_rotate_under_bound_sessions() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    fixture.admit(&["1"]).await;
    let bound_before = fixture.tenant("1").await;
    let mut admin = fixture.admin().await;

    let once = fixture.secrets.rotated();
    install_keys(&mut admin, &once.guard).await.unwrap();
    assert_eq!(text(&bound_before, "SELECT tenantry.tenant()").await, "1");
    let client = fixture.app().await;
    let identity = common::identity(&client).await;
    set(&client, &guard::sign(&once.guard.current, &identity, "1")).await;
    assert_eq!(text(&client, "SELECT tenantry.tenant()").await, "1");

    let twice = once.rotated();
    // The agent may install keys as well.
    install_keys(&mut fixture.agent().await, &twice.guard)
        .await
        .unwrap();
    assert_eq!(text(&client, "SELECT tenantry.tenant()").await, "1");
    assert_eq!(
        code(&bound_before, "SELECT tenantry.tenant()").await,
        "42501"
    );
}

#[tokio::test]
async fn the_secrets_file_follows_the_shard() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    fixture.admit(&["1"]).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secrets.json");
    let mut file = SecretsFile::default();
    let error = {
        file.save(&path).unwrap();
        rotate_key(&path, &fixture.shard).await.unwrap_err()
    };
    assert!(matches!(error, RotateError::UnknownShard(_)), "{error}");
    file.shards.insert("s7".to_owned(), fixture.secrets.clone());
    file.save(&path).unwrap();

    let before = fixture.tenant("1").await;
    assert_eq!(rotate_key(&path, &fixture.shard).await.unwrap(), 2);
    assert_eq!(text(&before, "SELECT tenantry.tenant()").await, "1");
    let file = SecretsFile::load(&path).unwrap();
    let client = fixture.app().await;
    let identity = common::identity(&client).await;
    let current = &file.shard("s7").unwrap().guard.current;
    set(&client, &guard::sign(current, &identity, "1")).await;
    assert_eq!(text(&client, "SELECT tenantry.tenant()").await, "1");
}

#[tokio::test]
async fn a_role_of_trusted_sql_may_leave_the_signature_out() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    fixture.admit(&["1"]).await;
    let app = fixture.app().await;
    set(&app, "1").await;
    assert_eq!(code(&app, "SELECT tenantry.tenant()").await, "42501");
    let agent = fixture.agent().await;
    agent
        .batch_execute("INSERT INTO tenantry.unsigned_role VALUES ('tenantry_app', 'reports only')")
        .await
        .unwrap();
    assert_eq!(text(&app, "SELECT tenantry.tenant()").await, "1");
    set(&app, "1:1:00").await;
    assert_eq!(code(&app, "SELECT tenantry.tenant()").await, "42501");
    let findings = verify(&agent).await.unwrap();
    assert!(
        findings
            .iter()
            .any(|f| f.what.contains("without a signature")),
        "{findings:#?}"
    );
}

#[tokio::test]
async fn a_password_that_was_changed_is_restored() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    fixture
        .admin()
        .await
        .batch_execute("ALTER ROLE tenantry_app PASSWORD 'other'")
        .await
        .unwrap();
    let report = fixture.bootstrap().await.unwrap();
    assert_eq!(report.done, ["password of tenantry_app"]);
    let password = fixture.secrets.passwords.app.expose();
    connect(&fixture.server.config_as("tenantry_app", password, "shard")).await;
}

#[tokio::test]
async fn a_shard_with_the_first_version_of_the_guard_is_brought_up_to_date() {
    let fixture = Fixture::start(TenantKey::Bigint).await;
    let admin = fixture.admin().await;
    // What the first version had: no proofs, no moves, a fence of five arguments; and tenants.
    admin
        .batch_execute(
            "SET ROLE tenantry_owner;
             DROP TABLE tenantry.move_progress, tenantry.move_chunk;
             DROP FUNCTION tenantry.begin_import, tenantry.activate_by_proof, tenantry.activate, tenantry.expect_proof,
                           tenantry.fence;
             ALTER TABLE tenantry.owner DROP COLUMN proof, DROP COLUMN proof_hash;
             GRANT SELECT ON tenantry.owner TO tenantry_operator;
             CREATE FUNCTION tenantry.fence(tenant bigint, move uuid, nonce uuid, expected_epoch bigint, lasts interval)
                 RETURNS pg_lsn LANGUAGE sql AS 'SELECT null::pg_lsn';
             INSERT INTO tenantry.owner (tenant_id, state, epoch) VALUES (1, 'active', 4);
             UPDATE tenantry.schema_version SET version = 1, checksum = 'first' WHERE component = 'guard';
             RESET ROLE",
        )
        .await
        .unwrap();
    let report = fixture.bootstrap().await.unwrap();
    assert_eq!(
        report.done,
        [format!("guard version {}", tenantry_schema::guard::VERSION)]
    );
    assert!(fixture.bootstrap().await.unwrap().is_unchanged());
    let forms = "SELECT count(*) FROM pg_proc WHERE proname = 'fence' AND pronamespace = 'tenantry'::regnamespace";
    assert_eq!(text(&admin, forms).await, "1");
    assert_eq!(
        text(&admin, "SELECT state || epoch FROM tenantry.owner").await,
        "active4"
    );
    assert_eq!(
        code(
            &fixture.operator().await,
            "SELECT proof FROM tenantry.owner"
        )
        .await,
        "42501"
    );
}
