//! The change log: commit order is number order, without gaps, whatever writers do.

use tenantry_schema::catalog::{Catalog, Changes, NewRouter, RouterId, TrimPolicy};
use tenantry_schema::change::{ChangeBody, ChangeGroup};
use tenantry_schema::fleet::Fleet;
use tenantry_schema::tenant::TenantKey;

use crate::fixture::{Fixture, assert_same};

/// Follows by hand from `fleet` to the log's end; `None`: the log asks for a reload.
async fn catch_up(catalog: &Catalog, mut fleet: Fleet) -> Option<Fleet> {
    loop {
        match catalog.changes_after(fleet.sequence).await.unwrap() {
            Changes::Groups(groups) if groups.is_empty() => return Some(fleet),
            Changes::Groups(groups) => {
                for group in &groups {
                    fleet = fleet.apply(group).unwrap();
                }
            }
            Changes::Reload(_) => return None,
        }
    }
}

async fn groups(catalog: &Catalog, after: u64) -> Vec<ChangeGroup> {
    match catalog.changes_after(after).await.unwrap() {
        Changes::Groups(groups) => groups,
        Changes::Reload(why) => panic!("reload: {why}"),
    }
}

#[tokio::test]
async fn every_statement_by_hand_is_followed() {
    for key in [TenantKey::Bigint, TenantKey::Uuid] {
        let fixture = Fixture::new(key).await;
        let mut fleet = fixture.catalog.load_fleet().await.unwrap();
        fixture.add_shard("s1").await;
        fixture.add_shard("s2").await;
        let psql = fixture.psql().await;
        let verifier = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        for sql in [
            "INSERT INTO tenantry.tenant (slug) SELECT 't' || g FROM generate_series(1, 50) g",
            "INSERT INTO tenantry.hostname (name, tenant) SELECT slug || '.example.com', id FROM tenantry.tenant",
            "UPDATE tenantry.tenant SET state = 'active' WHERE slug < 't3'",
            "UPDATE tenantry.tenant SET state = 'suspended', suspended_reason = 'unpaid' WHERE slug = 't7'",
            "UPDATE tenantry.tenant SET slug = 'renamed', plan = 'large', epoch = 9 WHERE slug = 't8'",
            "INSERT INTO tenantry.plan (name, limits) VALUES ('large', '{\"connections\": 9}'), ('none', '{}')",
            "UPDATE tenantry.plan SET name = 'big', limits = '{\"weight\": 3}' WHERE name = 'large'",
            "DELETE FROM tenantry.plan WHERE name = 'none'",
            "INSERT INTO tenantry.tenant (slug, limits) VALUES ('t0', '{\"transactions\": null}')",
            "UPDATE tenantry.tenant SET limits = '{\"query_burst\": 4, \"weight\": 2}' WHERE slug IN ('t5', 't13')",
            "UPDATE tenantry.tenant SET limits = '{}' WHERE slug = 't5'",
            "INSERT INTO tenantry.kill_switch (mode, reason) VALUES ('read_only', 'upgrade')",
            "INSERT INTO tenantry.kill_switch (tenant, mode, reason, cool_down) \
             SELECT id, 'refuse', 'runaway', '0' FROM tenantry.tenant WHERE slug IN ('t14', 't6')",
            "UPDATE tenantry.kill_switch SET mode = 'off' WHERE tenant = (SELECT id FROM tenantry.tenant WHERE slug = 't6')",
            "BEGIN; UPDATE tenantry.tenant SET slug = 'swap' WHERE slug = 't11'; \
             UPDATE tenantry.tenant SET slug = 't11' WHERE slug = 't12'; \
             UPDATE tenantry.tenant SET slug = 't12' WHERE slug = 'swap'; COMMIT",
            "UPDATE tenantry.hostname SET verified_at = NULL WHERE name < 't2'",
            "UPDATE tenantry.hostname SET verified_at = now()",
            "UPDATE tenantry.hostname SET name = 'x-' || name WHERE name > 't3'",
            "UPDATE tenantry.hostname SET tenant = (SELECT id FROM tenantry.tenant WHERE slug = 't1') WHERE name LIKE 't2%'",
            "INSERT INTO tenantry.pin (tenant, shard) SELECT id, 1 FROM tenantry.tenant WHERE slug LIKE 't1%'",
            "INSERT INTO tenantry.pin (tenant, shard) SELECT id, 1 FROM tenantry.tenant WHERE slug = 't2'",
            "UPDATE tenantry.pin SET shard = 2",
            "DELETE FROM tenantry.pin WHERE tenant = (SELECT id FROM tenantry.tenant WHERE slug = 't1')",
            "DELETE FROM tenantry.tenant WHERE slug LIKE 't1%'",
            "UPDATE tenantry.shard SET host = '10.0.0.9', zone = 'b' WHERE id = 2",
            "INSERT INTO tenantry.shard (name, kind, host, port, database, replicas) VALUES \
             ('s9', 'spare', 'h', 5432, 'd', '[{\"host\": \"r\", \"port\": 5433, \"database\": \"d\"}]')",
            &format!(
                "INSERT INTO tenantry.role (name, verifier, kind, tenants, valid_until) \
             SELECT 'store', '{verifier}', 'tenant', array_agg(id), '2031-01-01 00:00:00.123456+02' FROM tenantry.tenant"
            ),
            "UPDATE tenantry.role SET limits = '{\"pool_mode\": \"session\"}'",
            "UPDATE tenantry.role SET name = 'shop', kind = 'service', tenants = '{}'",
            "DELETE FROM tenantry.hostname WHERE name LIKE 'x-%'",
            "BEGIN; SAVEPOINT a; INSERT INTO tenantry.tenant (slug) VALUES ('undone'); ROLLBACK TO a; \
             INSERT INTO tenantry.tenant (slug) VALUES ('kept'); SET CONSTRAINTS ALL IMMEDIATE; \
             INSERT INTO tenantry.tenant (slug) VALUES ('late'); COMMIT",
            "DELETE FROM tenantry.shard WHERE name = 's9'; DELETE FROM tenantry.role",
            "SET TIME ZONE 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'; \
             UPDATE tenantry.tenant SET state = 'suspended' WHERE slug = 'kept'; RESET ALL",
        ] {
            psql.batch_execute(sql)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            fleet = catch_up(&fixture.catalog, fleet)
                .await
                .unwrap_or_else(|| panic!("{sql}: a reload"));
            assert_same(&fleet, &fixture.catalog.load_fleet().await.unwrap());
        }
        let open: i64 = psql
            .query_one("SELECT count(*) FROM tenantry.change_open", &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(open, 0);
    }
}

#[tokio::test]
async fn what_no_router_reads_makes_no_change() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    fixture.create("a").await;
    let before = fixture.catalog.load_fleet().await.unwrap().sequence;
    let psql = fixture.psql().await;
    psql.batch_execute("UPDATE tenantry.tenant SET settings = '{\"theme\": 1}'; UPDATE tenantry.tenant SET plan = plan")
        .await
        .unwrap();
    assert_eq!(fixture.catalog.load_fleet().await.unwrap().sequence, before);
}

#[tokio::test]
async fn bulk_and_truncate_ask_for_a_reload() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    fixture.add_shard("s1").await;
    let psql = fixture.psql().await;
    for sql in [
        "INSERT INTO tenantry.tenant (slug) SELECT 't' || g FROM generate_series(1, 10001) g",
        "UPDATE tenantry.tenant SET state = 'active'",
        "TRUNCATE tenantry.hostname",
        "DELETE FROM tenantry.tenant",
    ] {
        let before = fixture.catalog.load_fleet().await.unwrap();
        psql.batch_execute(sql).await.unwrap();
        assert!(
            catch_up(&fixture.catalog, before.clone()).await.is_none(),
            "{sql}"
        );
        assert_eq!(
            fixture.catalog.load_fleet().await.unwrap().sequence,
            before.sequence + 1,
            "{sql}"
        );
    }
    // Many pins are one change instead.
    psql.batch_execute(
        "INSERT INTO tenantry.tenant (slug) SELECT 't' || g FROM generate_series(1, 20000) g",
    )
    .await
    .unwrap();
    let before = fixture.catalog.load_fleet().await.unwrap();
    psql.batch_execute(
        "INSERT INTO tenantry.pin (tenant, shard) SELECT id, 1 FROM tenantry.tenant",
    )
    .await
    .unwrap();
    let groups = groups(&fixture.catalog, before.sequence).await;
    assert!(matches!(
        groups[0].changes[..],
        [ChangeBody::BulkPins { .. }]
    ));
    assert_same(
        &before.apply(&groups[0]).unwrap(),
        &fixture.catalog.load_fleet().await.unwrap(),
    );
}

#[tokio::test]
async fn an_open_transaction_delays_nobody() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let slow = fixture.psql().await;
    slow.batch_execute("BEGIN; INSERT INTO tenantry.tenant (slug) VALUES ('slow')")
        .await
        .unwrap();
    let before = fixture.catalog.load_fleet().await.unwrap().sequence;
    let impatient = fixture.psql().await;
    impatient
        .batch_execute("SET lock_timeout = '1s'")
        .await
        .unwrap();
    for number in 0..10 {
        let insert = format!("INSERT INTO tenantry.tenant (slug) VALUES ('quick{number}')");
        impatient.batch_execute(&insert).await.unwrap();
    }
    assert_eq!(groups(&fixture.catalog, before).await.len(), 10);
    slow.batch_execute("COMMIT").await.unwrap();
    let last = groups(&fixture.catalog, before).await.pop().unwrap();
    let ChangeBody::Tenant(row) = &last.changes[0] else {
        panic!("{last:?}")
    };
    // Begun first, committed last, numbered last.
    assert_eq!((row.slug.as_str(), last.last_seq), ("slow", before + 11));
}

#[tokio::test]
async fn a_transaction_larger_than_a_read_is_read_whole() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let before = fixture.catalog.load_fleet().await.unwrap();
    let psql = fixture.psql().await;
    psql.batch_execute(
        "INSERT INTO tenantry.tenant (slug) SELECT 'a' || g FROM generate_series(1, 3000) g",
    )
    .await
    .unwrap();
    psql.batch_execute(
        "INSERT INTO tenantry.tenant (slug) SELECT 'b' || g FROM generate_series(1, 9000) g",
    )
    .await
    .unwrap();
    assert_eq!(groups(&fixture.catalog, before.sequence).await.len(), 1);
    assert_eq!(
        groups(&fixture.catalog, before.sequence + 3000).await[0]
            .changes
            .len(),
        9000
    );
    let fleet = catch_up(&fixture.catalog, before).await.unwrap();
    assert_same(&fleet, &fixture.catalog.load_fleet().await.unwrap());
}

async fn register(catalog: &Catalog, name: &str) -> RouterId {
    let router = NewRouter {
        name,
        ..NewRouter::default()
    };
    catalog.register_router(router).await.unwrap()
}

#[tokio::test]
async fn trimming_stays_behind_the_slowest_live_router() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let catalog = &fixture.catalog;
    for number in 0..10 {
        fixture.create(&format!("t{number}")).await;
    }
    let now = TrimPolicy {
        keep: std::time::Duration::ZERO,
        ..TrimPolicy::default()
    };
    let (fast, slow) = (
        register(catalog, "fast").await,
        register(catalog, "slow").await,
    );
    catalog.heartbeat_router(fast, 10).await.unwrap();
    catalog.heartbeat_router(slow, 4).await.unwrap();
    assert_eq!(
        catalog.trim_changes(TrimPolicy::default()).await.unwrap(),
        0
    );
    assert_eq!(catalog.trim_changes(now).await.unwrap(), 4);
    assert!(matches!(
        catalog.changes_after(3).await.unwrap(),
        Changes::Reload(_)
    ));
    assert_eq!(groups(catalog, 4).await.len(), 6);
    fixture.psql().await.batch_execute("UPDATE tenantry.router SET heartbeat_at = now() - interval '1 hour' WHERE name = 'slow'").await.unwrap();
    assert_eq!(catalog.trim_changes(now).await.unwrap(), 6);
    assert!(groups(catalog, 10).await.is_empty());
    assert!(matches!(
        catalog.changes_after(9).await.unwrap(),
        Changes::Reload(_)
    ));
    assert!(matches!(
        catalog.changes_after(11).await.unwrap(),
        Changes::Reload(_)
    ));
}
