//! Plans, limits and the kill switch: what the catalog accepts, and what it refuses.

use std::time::Duration;

use tenantry_schema::catalog::{CatalogError, Plan, SwitchThrow};
use tenantry_schema::limits::{KillMode, Limit, LimitKind, Limits};
use tenantry_schema::tenant::TenantKey;

use crate::fixture::{Fixture, refusal};

fn limits(json: &str) -> Limits {
    serde_json::from_str(json).unwrap()
}

fn throw(mode: KillMode) -> SwitchThrow<'static> {
    SwitchThrow {
        tenant: None,
        mode,
        reason: Some("a test"),
        lasts: None,
        cool_down: None,
        actor: "cli:tester",
    }
}

#[tokio::test]
async fn limits_that_are_none_are_refused() {
    let fixture = Fixture::new(TenantKey::Uuid).await;
    let tenant = fixture.create("shop").await;
    let psql = fixture.psql().await;
    for bad in [
        r#"{"queries": 5}"#,
        r#"{"connections": 0}"#,
        r#"{"connections": -1}"#,
        r#"{"connections": 1.5}"#,
        r#"{"connections": "5"}"#,
        r#"{"connections": 1000000001}"#,
        r#"{"weight": 1001}"#,
        "[]",
        "3",
        "null",
    ] {
        let text = refusal(
            &psql,
            &format!("UPDATE tenantry.tenant SET limits = '{bad}'"),
        )
        .await;
        assert!(text.starts_with("23514"), "{bad}: {text}");
    }
    let all = limits(
        r#"{"queries_per_second": 1000000000, "query_burst": 1, "transactions": null, "connections": 7,
            "statement_time_ms": 50, "transaction_time_ms": 60, "weight": 1000}"#,
    );
    fixture
        .catalog
        .set_tenant_limits(tenant.id, &all)
        .await
        .unwrap();
    let fleet = fixture.catalog.load_fleet().await.unwrap();
    let record = fleet.directory.by_id(tenant.id).unwrap();
    assert_eq!(fleet.limits_of(&record), all);
    assert_eq!(all.of(LimitKind::Transactions), Limit::Unlimited);
}

#[tokio::test]
async fn a_plan_with_tenants_stays() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let tenant = fixture.create("shop").await;
    let catalog = &fixture.catalog;
    let plan = Plan {
        name: "small".to_owned(),
        limits: limits(r#"{"connections": 3}"#),
    };
    catalog.upsert_plan(&plan).await.unwrap();
    catalog.set_tenant_plan(tenant.id, "small").await.unwrap();
    let fleet = catalog.load_fleet().await.unwrap();
    let record = fleet.directory.by_id(tenant.id).unwrap();
    assert_eq!(fleet.limits_of(&record), plan.limits);
    let refused = catalog.remove_plan("small").await.unwrap_err();
    assert!(matches!(refused, CatalogError::Refused { .. }), "{refused}");
    catalog
        .set_tenant_plan(tenant.id, "standard")
        .await
        .unwrap();
    catalog.remove_plan("small").await.unwrap();
    let missing = catalog.remove_plan("small").await.unwrap_err();
    assert!(matches!(missing, CatalogError::NotFound { .. }));
}

/// Thrown harder at any time, weakened only when it has cooled down, in whatever way, and each time on record.
#[tokio::test]
async fn a_kill_switch_cannot_be_flapped() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let tenant = fixture.create("shop").await;
    let catalog = &fixture.catalog;
    catalog
        .throw_switch(&throw(KillMode::ReadOnly))
        .await
        .unwrap();
    let thrown = catalog
        .throw_switch(&throw(KillMode::Refuse))
        .await
        .unwrap();
    assert!(thrown.cool_at > thrown.switch.since);
    let psql = fixture.psql().await;
    for weaker in [
        "UPDATE tenantry.kill_switch SET mode = 'off'",
        "UPDATE tenantry.kill_switch SET mode = 'read_only'",
        "UPDATE tenantry.kill_switch SET until = now() + interval '40 s'",
        "UPDATE tenantry.kill_switch SET cool_down = '0'",
        "UPDATE tenantry.kill_switch SET since = now() - interval '1 day'",
        "DELETE FROM tenantry.kill_switch",
    ] {
        let text = refusal(&psql, weaker).await;
        assert!(text.starts_with("55000"), "{weaker}: {text}");
    }
    for released in [KillMode::Off, KillMode::ReadOnly] {
        let error = catalog.throw_switch(&throw(released)).await.unwrap_err();
        assert!(error.hint().is_some(), "{error}");
    }

    // Another tenant's switch without a time to cool down.
    let own = SwitchThrow {
        tenant: Some(tenant.id),
        cool_down: Some(Duration::ZERO),
        lasts: Some(Duration::from_secs(60)),
        ..throw(KillMode::ReadOnly)
    };
    catalog.throw_switch(&own).await.unwrap();
    let off = SwitchThrow {
        mode: KillMode::Off,
        ..own
    };
    let released = catalog.throw_switch(&off).await.unwrap();
    assert_eq!(released.switch.mode, KillMode::Off);
    assert_eq!(released.switch.reason, None);

    let trail = catalog.list_audit(None, 10).await.unwrap();
    let acts: Vec<_> = trail
        .iter()
        .map(|act| (act.action.as_str(), act.target.as_str(), act.actor.as_str()))
        .collect();
    let id = tenant.id.display(TenantKey::Bigint).to_string();
    assert_eq!(
        acts,
        [
            ("kill_switch.release", id.as_str(), "cli:tester"),
            ("kill_switch.throw", id.as_str(), "cli:tester"),
            ("kill_switch.throw", "fleet", "cli:tester"),
            ("kill_switch.throw", "fleet", "cli:tester"),
        ]
    );

    // It goes with its tenant, hot or not.
    let hot = SwitchThrow {
        lasts: None,
        cool_down: None,
        mode: KillMode::Refuse,
        ..own
    };
    catalog.throw_switch(&hot).await.unwrap();
    psql.batch_execute("DELETE FROM tenantry.tenant")
        .await
        .unwrap();
    assert_eq!(catalog.list_switches().await.unwrap().len(), 1);
}

/// Neither its time to cool down nor what it would still have done.
#[tokio::test]
async fn a_kill_switch_thrown_harder_loses_nothing_of_the_weaker_one() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let catalog = &fixture.catalog;
    let hour = Duration::from_secs(3600);
    let slow = SwitchThrow {
        cool_down: Some(hour),
        ..throw(KillMode::ReadOnly)
    };
    let weaker = catalog.throw_switch(&slow).await.unwrap();
    let at_once = SwitchThrow {
        cool_down: Some(Duration::ZERO),
        ..throw(KillMode::Refuse)
    };
    let harder = catalog.throw_switch(&at_once).await.unwrap();
    assert_eq!(harder.switch.mode, KillMode::Refuse);
    let apart = harder.cool_at.duration_since(weaker.cool_at).as_secs_f64();
    assert!(apart.abs() < 1.0, "{apart}");
    let error = catalog
        .throw_switch(&throw(KillMode::Off))
        .await
        .unwrap_err();
    assert!(error.hint().is_some(), "{error}");

    // For a while only, when the weaker one has no end.
    let tenant = fixture.create("shop").await;
    let own = |mode, lasts: Option<u64>| SwitchThrow {
        tenant: Some(tenant.id),
        lasts: lasts.map(Duration::from_secs),
        cool_down: Some(Duration::ZERO),
        ..throw(mode)
    };
    catalog
        .throw_switch(&own(KillMode::ReadOnly, None))
        .await
        .unwrap();
    let error = catalog
        .throw_switch(&own(KillMode::Refuse, Some(60)))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("would be lost"), "{error}");
    assert!(error.hint().is_some());
    catalog
        .throw_switch(&own(KillMode::Refuse, None))
        .await
        .unwrap();
    // Back by hand, and then harder for longer than it would have lasted.
    catalog
        .throw_switch(&own(KillMode::ReadOnly, Some(60)))
        .await
        .unwrap();
    catalog
        .throw_switch(&own(KillMode::Refuse, Some(90)))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_kill_switch_says_why_and_lasts_as_long_as_it_cools() {
    let fixture = Fixture::new(TenantKey::Bigint).await;
    let psql = fixture.psql().await;
    let silent = "INSERT INTO tenantry.kill_switch (mode) VALUES ('refuse')";
    assert!(refusal(&psql, silent).await.starts_with("23514"));
    let brief = SwitchThrow {
        lasts: Some(Duration::from_secs(5)),
        cool_down: Some(Duration::from_secs(30)),
        ..throw(KillMode::Refuse)
    };
    let error = fixture.catalog.throw_switch(&brief).await.unwrap_err();
    assert!(error.hint().is_some(), "{error}");
}
