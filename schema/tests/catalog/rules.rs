//! What the schema accepts and refuses, whoever writes; and the typed client's answers.

use tenantry_schema::catalog::{
    AuditEntry, Catalog, CatalogError, NewRouter, NewTenant, TenantPage, latest_version,
};
use tenantry_schema::fleet::{FleetSettings, Role, RoleKind, RoleLimits};
use tenantry_schema::names::{Hostname, Slug};
use tenantry_schema::shard::ShardState;
use tenantry_schema::tenant::{TenantId, TenantKey, TenantState};

use crate::fixture::{Fixture, assert_same, new_shard, refusal};

const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

#[tokio::test]
async fn migrating_is_idempotent_and_safe_from_two_sides() {
    let fixture = Fixture::uninitialised().await;
    assert_eq!(fixture.catalog.version().await.unwrap(), 0);
    assert!(matches!(
        fixture.catalog.settings().await,
        Err(CatalogError::NotInitialised)
    ));
    assert!(matches!(
        fixture.catalog.load_fleet().await,
        Err(CatalogError::NotInitialised)
    ));
    let other = Catalog::connect(&fixture.url()).await.unwrap();
    let settings = FleetSettings::new(TenantKey::Bigint);
    let (a, b) = tokio::join!(
        fixture.catalog.init(settings.clone()),
        other.init(settings.clone())
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.from.min(b.from), 0);
    assert_eq!((a.to, b.to), (latest_version(), latest_version()));
    let again = fixture.catalog.migrate().await.unwrap();
    assert_eq!((again.from, again.to), (latest_version(), latest_version()));
    assert!(matches!(
        fixture
            .catalog
            .init(FleetSettings::new(TenantKey::Uuid))
            .await,
        Err(CatalogError::SettingsDiffer {
            key: TenantKey::Bigint,
            ..
        })
    ));
    let psql = fixture.psql().await;
    psql.batch_execute("UPDATE tenantry.migration SET checksum = 1 WHERE version = 2")
        .await
        .unwrap();
    assert!(matches!(
        fixture.catalog.migrate().await,
        Err(CatalogError::EditedMigration { version: 2 })
    ));
    psql.batch_execute("INSERT INTO tenantry.migration VALUES (99, 'later', 0)")
        .await
        .unwrap();
    assert!(fixture.catalog.migrate().await.is_err());
}

#[tokio::test]
async fn a_tenant_lives_through_its_states() {
    for key in [TenantKey::Bigint, TenantKey::Uuid] {
        let fixture = Fixture::new(key).await;
        let catalog = &fixture.catalog;
        let shard = fixture.add_shard("s1").await;
        let hostnames: Vec<Hostname> = ["b.example.com", "a.example.com"]
            .map(|name| name.parse().unwrap())
            .into();
        let new = NewTenant {
            hostnames,
            ..NewTenant::new("blue-hat".parse().unwrap())
        };
        let tenant = catalog.create_tenant(new).await.unwrap();
        assert_eq!(tenant.state, TenantState::Provisioning);
        assert_eq!(tenant.hostnames, ["a.example.com", "b.example.com"]);
        for name in [
            "blue-hat",
            "A.example.com",
            &tenant.id.display(key).to_string(),
        ] {
            assert_eq!(catalog.tenant(name).await.unwrap(), tenant);
        }
        assert_eq!(catalog.locate(&tenant).await.unwrap().unwrap().shard, shard);
        assert_eq!(
            catalog.provisioning_on(shard).await.unwrap(),
            std::slice::from_ref(&tenant)
        );
        assert!(catalog.activate_tenant(tenant.id).await.unwrap());
        assert!(!catalog.activate_tenant(tenant.id).await.unwrap());
        assert!(catalog.provisioning_on(shard).await.unwrap().is_empty());
        let suspended = catalog
            .suspend_tenant("blue-hat", Some("unpaid"))
            .await
            .unwrap();
        assert_eq!(suspended.state, TenantState::Suspended);
        assert_eq!(suspended.suspended_reason.as_deref(), Some("unpaid"));
        assert!(suspended.suspended_at.is_some());
        let resumed = catalog.resume_tenant("blue-hat").await.unwrap();
        assert_eq!(
            (resumed.state, resumed.suspended_at),
            (TenantState::Active, None)
        );
        let refused = catalog.resume_tenant("blue-hat").await.unwrap_err();
        assert_eq!(refused.to_string(), "tenant blue-hat is active");
        assert!(matches!(
            catalog.tenant("nobody").await,
            Err(CatalogError::NotFound { .. })
        ));
        let taken = catalog
            .create_tenant(NewTenant::new("blue-hat".parse().unwrap()))
            .await
            .unwrap_err();
        assert!(matches!(taken, CatalogError::AlreadyExists(_)), "{taken}");
        let name = "a.example.com".parse().unwrap();
        assert!(matches!(
            catalog.add_hostname(tenant.id, &name).await,
            Err(CatalogError::AlreadyExists(_))
        ));
        catalog.remove_hostname(&name).await.unwrap();
        assert!(matches!(
            catalog.remove_hostname(&name).await,
            Err(CatalogError::NotFound { .. })
        ));
    }
}

#[tokio::test]
async fn ids_given_by_hand_are_stepped_over_and_pages_are_in_order() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let psql = fixture.psql().await;
    psql.batch_execute(
        "INSERT INTO tenantry.tenant (id, slug) VALUES (1, 'one'), (2, 'two'), (4, 'four')",
    )
    .await
    .unwrap();
    assert_eq!(fixture.create("three").await.id.as_bigint(), Some(3));
    assert_eq!(fixture.create("five").await.id.as_bigint(), Some(5));
    let new = NewTenant {
        id: Some(TenantId::from_bigint(77).unwrap()),
        ..NewTenant::new("far".parse().unwrap())
    };
    assert_eq!(
        fixture
            .catalog
            .create_tenant(new)
            .await
            .unwrap()
            .id
            .as_bigint(),
        Some(77)
    );
    let mut page = TenantPage {
        limit: 4,
        ..TenantPage::default()
    };
    let first = fixture.catalog.list_tenants(&page).await.unwrap();
    page.after = first.last().map(|tenant| tenant.id);
    let second = fixture.catalog.list_tenants(&page).await.unwrap();
    let slugs: Vec<_> = first
        .iter()
        .chain(&second)
        .map(|tenant| tenant.slug.as_str())
        .collect();
    assert_eq!(slugs, ["one", "two", "three", "four", "five", "far"]);
    page = TenantPage {
        state: Some(TenantState::Suspended),
        ..TenantPage::default()
    };
    assert!(
        fixture
            .catalog
            .list_tenants(&page)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        fixture.catalog.count_tenants().await.unwrap(),
        [(TenantState::Provisioning, 6)]
    );
}

/// The SQL constraints and the Rust types are two statements of one rule.
#[tokio::test]
async fn names_are_judged_alike_in_sql_and_in_rust() {
    let fixture = Fixture::new(TenantKey::Uuid).await;
    let psql = fixture.psql().await;
    let long = "a".repeat(63);
    let slugs = [
        "a",
        "blue-hat",
        "a1-",
        &long,
        "abcdef0123456789abcdef0123456789",
        "abcdef01-2345-6789-abcd-ef0123456789",
        "abcdef01-23456789-abcd-ef01-23456789",
        "",
        "A",
        "1a",
        "-a",
        "a_b",
        "a.b",
        "ä",
        "a\n",
        &format!("{long}a"),
    ];
    for slug in slugs {
        let sql = psql
            .execute("INSERT INTO tenantry.tenant (slug) VALUES ($1)", &[&slug])
            .await;
        assert_eq!(sql.is_ok(), Slug::parse(slug).is_ok(), "{slug:?}");
    }
    let label = "b".repeat(63);
    let full = [label.as_str(), &label, &label, &label[..61]].join(".");
    let names = [
        "a.b",
        "shop.example.com",
        "xn--bcher-kva.example",
        "1.example",
        "a-b.c-d",
        &full,
        &format!("{full}b"),
        &format!("{label}b.c"),
        "a",
        "a.",
        ".a",
        "a..b",
        "-a.b",
        "a-.b",
        "a.1",
        "10.0.0.1",
        "a_b.c",
        "A.b",
        "a.b\n",
        "bücher.example",
        "a b.c",
        "",
    ];
    for name in names {
        let insert = "INSERT INTO tenantry.hostname (name, tenant) SELECT $1, id FROM tenantry.tenant WHERE slug = 'a'";
        let sql = psql.execute(insert, &[&name]).await;
        assert_eq!(sql.is_ok(), Hostname::check(name).is_ok(), "{name:?}");
    }
}

#[tokio::test]
async fn rules_hold_for_statements_by_hand() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    fixture.add_shard("s1").await;
    let psql = fixture.psql().await;
    psql.batch_execute(
        "INSERT INTO tenantry.tenant (id, slug, epoch) VALUES (1, 'a', 5), (2, 'b', 1)",
    )
    .await
    .unwrap();
    psql.batch_execute("UPDATE tenantry.tenant SET state = 'erased' WHERE id = 2")
        .await
        .unwrap();
    let cases = [
        (
            "UPDATE tenantry.tenant SET id = 9 WHERE id = 1",
            "55000: a tenant's id is immutable",
        ),
        (
            "UPDATE tenantry.tenant SET epoch = 4 WHERE id = 1",
            "55000: a tenant's epoch only grows (5 to 4)",
        ),
        (
            "UPDATE tenantry.tenant SET state = 'active' WHERE id = 2",
            "55000: tenant 2 is erased: its rows are gone",
        ),
        (
            "UPDATE tenantry.fleet SET tenant_column = 'x'",
            "55000: the fleet's tenant key and tenant column are chosen once, at init",
        ),
        (
            "UPDATE tenantry.shard SET id = 2",
            "55000: a shard's number is immutable",
        ),
        (
            "DELETE FROM tenantry.shard",
            "55000: shard s1 is on the ring",
        ),
        (
            "DELETE FROM tenantry.ring_member",
            "55000: the ring is not changed by hand: tenants would be looked for where their rows are not",
        ),
        (
            "UPDATE tenantry.ring SET version = 7",
            "55000: the ring is not changed by hand: tenants would be looked for where their rows are not",
        ),
        (
            "INSERT INTO tenantry.shard (id, name, kind, host, port, database) VALUES (1, 'x', 'shared', 'h', 1, 'd')",
            "23505: shard number 1 was used before",
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(refusal(&psql, sql).await, expected);
    }
    for sql in [
        "INSERT INTO tenantry.tenant (id, slug) VALUES (0, 'zero')",
        "INSERT INTO tenantry.tenant (id, slug) VALUES (-1, 'minus')",
        "INSERT INTO tenantry.role (name, verifier, kind) VALUES ('r', 'secret', 'service')",
        "INSERT INTO tenantry.role (name, verifier, kind) VALUES ('r', 'md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'service')",
    ] {
        assert!(refusal(&psql, sql).await.starts_with("23514"), "{sql}");
    }
}

#[tokio::test]
async fn shard_numbers_are_never_used_twice() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let catalog = &fixture.catalog;
    let first = fixture.add_shard("s1").await;
    let second = fixture.add_shard("s2").await;
    catalog
        .set_shard_state(second, ShardState::Draining)
        .await
        .unwrap();
    fixture
        .psql()
        .await
        .batch_execute("DELETE FROM tenantry.shard WHERE name = 's2'")
        .await
        .unwrap();
    let third = fixture.add_shard("s3").await;
    assert_eq!([first, second, third].map(|id| id.number()), [1, 2, 3]);
    let mut again = new_shard("s4");
    again.id = Some(second);
    let refused = catalog.add_shard(again).await.unwrap_err();
    assert_eq!(refused.to_string(), "shard number 2 was used before");
    assert_eq!(
        catalog.shard("s3").await.unwrap(),
        catalog.shard("3").await.unwrap()
    );
}

#[tokio::test]
async fn roles_routers_and_the_trail() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let catalog = &fixture.catalog;
    let tenant = fixture.create("a").await;
    let mut role = Role {
        name: "store".to_owned(),
        verifier: VERIFIER.to_owned(),
        kind: RoleKind::Tenant,
        tenants: vec![tenant.id],
        limits: RoleLimits {
            max_connections: Some(7),
            ..RoleLimits::default()
        },
        valid_until: Some("2030-01-02T03:04:05.678Z".parse().unwrap()),
    };
    catalog.upsert_role(&role).await.unwrap();
    role.limits.max_connections = None;
    catalog.upsert_role(&role).await.unwrap();
    assert_eq!(catalog.list_roles().await.unwrap(), [role.clone()]);
    role.kind = RoleKind::Service;
    assert!(matches!(
        catalog.upsert_role(&role).await,
        Err(CatalogError::Refused { .. })
    ));
    catalog.remove_role("store").await.unwrap();
    assert!(matches!(
        catalog.remove_role("store").await,
        Err(CatalogError::NotFound { .. })
    ));

    routers_keep_their_numbers(catalog).await;

    let entry = AuditEntry {
        actor: "ann",
        action: "tenant.suspend",
        target_kind: "tenant",
        target: "1",
        before: None,
        after: Some(serde_json::json!({"state": "suspended"})),
        request_id: Some("r1"),
    };
    catalog.audit(&entry).await.unwrap();
    catalog
        .audit(&AuditEntry {
            action: "tenant.resume",
            ..entry
        })
        .await
        .unwrap();
    let trail = catalog.list_audit(None, 10).await.unwrap();
    assert_eq!(
        trail
            .iter()
            .map(|record| record.action.as_str())
            .collect::<Vec<_>>(),
        ["tenant.resume", "tenant.suspend"]
    );
    assert_eq!(
        catalog.list_audit(Some(trail[0].id), 10).await.unwrap(),
        trail[1..]
    );
}

/// Triggers write the change log for whoever may write the table, and for nobody else.
#[tokio::test]
async fn a_clerk_needs_no_rights_on_the_log() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    fixture.add_shard("s1").await;
    let admin = fixture.psql().await;
    admin
        .batch_execute(
            "CREATE ROLE clerk; GRANT USAGE ON SCHEMA tenantry TO clerk; \
             GRANT SELECT, INSERT, UPDATE ON tenantry.tenant, tenantry.hostname TO clerk",
        )
        .await
        .unwrap();
    let before = fixture.catalog.load_fleet().await.unwrap().sequence;
    let clerk = fixture.psql().await;
    clerk
        .batch_execute(
            "SET ROLE clerk; INSERT INTO tenantry.tenant (slug) VALUES ('a'); \
             INSERT INTO tenantry.hostname (name, tenant) VALUES ('a.example.com', 1)",
        )
        .await
        .unwrap();
    assert_eq!(
        fixture.catalog.load_fleet().await.unwrap().sequence,
        before + 2
    );
    for sql in [
        "INSERT INTO tenantry.change (kind, key, payload) VALUES ('reload', '', '{}')",
        "TABLE tenantry.role",
    ] {
        assert!(refusal(&clerk, sql).await.starts_with("42501"), "{sql}");
    }
}

/// A restored dump is a catalog like the one it was taken from.
#[tokio::test]
async fn dump_and_restore_keep_everything() {
    let fixture = Fixture::new(TenantKey::Uuid).await;
    fixture.add_shard("s1").await;
    let hostnames = vec!["a.example.com".parse().unwrap()];
    let new = NewTenant {
        hostnames,
        ..NewTenant::new("a".parse().unwrap())
    };
    fixture.catalog.create_tenant(new).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump.sql");
    fixture.server.create_database("restored").await.unwrap();
    let restored = fixture.server.url("restored");
    let programs: [(&str, [&str; 5]); 2] = [
        (
            "pg_dump",
            [
                "-f",
                file.to_str().unwrap(),
                "-d",
                &fixture.url(),
                "--no-sync",
            ],
        ),
        (
            "psql",
            [
                "-f",
                file.to_str().unwrap(),
                "-d",
                &restored,
                "-vON_ERROR_STOP=1",
            ],
        ),
    ];
    for (program, arguments) in programs {
        let path = fixture.server.install().program(program);
        // Some installations have the client programs elsewhere.
        let path = if path.exists() { path } else { program.into() };
        let output = tokio::process::Command::new(path)
            .args(arguments)
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let copy = Catalog::connect(&restored).await.unwrap();
    assert_eq!(copy.migrate().await.unwrap().from, latest_version());
    assert_same(
        &copy.load_fleet().await.unwrap(),
        &fixture.catalog.load_fleet().await.unwrap(),
    );
    copy.create_tenant(NewTenant::new("b".parse().unwrap()))
        .await
        .unwrap();
    let sequence = fixture.catalog.load_fleet().await.unwrap().sequence;
    assert_eq!(copy.load_fleet().await.unwrap().sequence, sequence + 1);
}

async fn routers_keep_their_numbers(catalog: &Catalog) {
    let register = async |name, number| {
        let router = NewRouter {
            name,
            number,
            peer_address: Some("127.0.0.1:9"),
            ..NewRouter::default()
        };
        catalog.register_router(router).await.unwrap()
    };
    let (a, b) = (register("a", None).await, register("b", None).await);
    assert_eq!((a, b), (1, 2));
    assert_eq!(register("b", Some(7)).await, b);
    assert!(catalog.heartbeat_router(a, 12).await.unwrap());
    catalog.unregister_router(b).await.unwrap();
    assert!(!catalog.heartbeat_router(b, 12).await.unwrap());
    let routers = catalog.list_routers().await.unwrap();
    assert_eq!((routers.len(), routers[0].applied_seq), (1, 12));
    assert_eq!(routers[0].peer_address.as_deref(), Some("127.0.0.1:9"));
    assert_eq!(register("c", None).await, 2);
    assert_eq!(register("d", Some(7)).await, 7);
    assert_eq!(register("e", Some(7)).await, 3);
}
