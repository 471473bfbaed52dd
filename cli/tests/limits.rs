//! Plans, limits and the kill switch from the command line, against a real catalog.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use tenantry_schema::catalog::{
    HeatChange, LoadAsked, LoadTotals, NewRouter, RouterLoad, Tenant, TenantLoad,
};
use tenantry_testkit::Fleet;

use support::{Ended, tenantry};

fn run(fleet: &Fleet, line: &str) -> Ended {
    let mut command = tenantry(fleet.dir());
    command
        .env("TENANTRY_CATALOG__URL", fleet.catalog_url())
        .env("TENANTRY_SECRETS__FILE", fleet.secrets_path())
        .args(line.split_whitespace())
        .args(["--output", "json"]);
    Ended::of(&mut command)
}

/// The last acts in the audit trail, oldest first.
async fn acts(fleet: &Fleet, count: u32) -> Vec<String> {
    let trail = fleet.catalog().list_audit(None, count).await.unwrap();
    let acts = trail.iter().rev();
    acts.map(|act| format!("{} {}", act.action, act.target))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_and_limits_are_set_shown_and_cleared() {
    let fleet = Fleet::builder().shards(1).tenants(1).start().await.unwrap();
    let slug = fleet.tenants()[0].slug.clone();

    let plan = run(
        &fleet,
        "plan set small --queries-per-second 50 --connections 5 --statement-time 2s",
    )
    .json();
    insta::assert_json_snapshot!(plan, @r#"
    {
      "connections": 5,
      "name": "small",
      "queries_per_second": 50,
      "query_burst": null,
      "statement_time_ms": 2000,
      "transaction_time_ms": null,
      "transactions": null,
      "weight": 1
    }
    "#);
    run(&fleet, &format!("tenant set-plan {slug} nosuch")).fails(3);
    run(&fleet, &format!("tenant set-plan {slug} small")).ok();
    let limits = run(
        &fleet,
        &format!("tenant limit set {slug} --connections none --weight 4 --query-burst 9"),
    )
    .json();
    assert_eq!(
        (&limits["connections"], &limits["queries_per_second"]),
        (&Value::Null, &json!(50))
    );
    assert_eq!(
        limits["own"],
        json!(["query_burst", "connections", "weight"])
    );
    let unset = run(
        &fleet,
        &format!("tenant limit set {slug} --connections unset"),
    )
    .json();
    assert_eq!(unset["connections"], json!(5));
    let cleared = run(&fleet, &format!("tenant limit clear {slug}")).json();
    assert_eq!(
        (&cleared["own"], &cleared["weight"]),
        (&json!([]), &json!(1))
    );
    let shown = run(&fleet, &format!("tenant limit show {slug}")).json();
    assert_eq!(shown, cleared);

    assert!(
        run(&fleet, "plan remove small")
            .fails(4)
            .contains("has tenants")
    );
    run(&fleet, "plan set big --weight 0").fails(2);
    run(&fleet, &format!("tenant limit set {slug}")).fails(2);
    let names: Vec<_> = run(&fleet, "plan list")
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|plan| plan["name"].clone())
        .collect();
    assert_eq!(names, [json!("small"), json!("standard")]);
    assert_eq!(
        acts(&fleet, 5).await,
        [
            "plan.set small".to_owned(),
            format!("tenant.set_plan {slug}"),
            format!("tenant.limit_set {slug}"),
            format!("tenant.limit_set {slug}"),
            format!("tenant.limit_clear {slug}"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_is_thrown_with_care_and_released_when_cool() {
    let fleet = Fleet::builder().shards(1).tenants(1).start().await.unwrap();
    let slug = fleet.tenants()[0].slug.clone();

    run(&fleet, "kill-switch throw --mode refuse --reason x").fails(2);
    run(&fleet, "kill-switch throw --fleet --mode refuse --reason x").fails(2);
    run(&fleet, &format!("kill-switch release {slug}")).fails(3);
    let thrown = run(
        &fleet,
        &format!(
            "kill-switch throw {slug} --mode read-only --reason migration --for 5m --cool-down 1m"
        ),
    )
    .json();
    assert_eq!(
        (&thrown["target"], &thrown["tenant"], &thrown["mode"]),
        (&json!("tenant"), &json!(slug), &json!("read_only"))
    );
    assert!(thrown["until"].is_string() && thrown["cool_at"].is_string());
    let refused = run(&fleet, &format!("kill-switch release {slug}")).fails(4);
    assert!(refused.contains("cools down until"), "{refused}");

    let line =
        "kill-switch throw --fleet --mode refuse --reason drill --cool-down 0s --confirm fleet";
    run(&fleet, line).ok();
    let listed = run(&fleet, "kill-switch list").json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let released = run(&fleet, "kill-switch release --fleet").json();
    assert_eq!(released["mode"], json!("off"));
    let listed = run(&fleet, "kill-switch list").json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let id = fleet.id_text(fleet.tenants()[0].id);
    assert_eq!(
        acts(&fleet, 3).await,
        [
            format!("kill_switch.throw {id}"),
            "kill_switch.throw fleet".to_owned(),
            "kill_switch.release fleet".to_owned(),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_busiest_and_the_hot_are_shown_from_the_catalog() {
    let fleet = Fleet::builder().shards(1).tenants(2).start().await.unwrap();
    let (tenant, other) = (&fleet.tenants()[0], &fleet.tenants()[1]);
    let catalog = fleet.catalog();
    let shard = fleet.shard_of(tenant).await.unwrap().id();
    for (name, busy) in [("a", 2.0), ("b", 1.0)] {
        let router = NewRouter {
            name,
            ..NewRouter::default()
        };
        let router = catalog.register_router(router).await.unwrap();
        let load = |tenant: &Tenant, busy: f32| TenantLoad {
            tenant: tenant.id,
            shard: Some(shard),
            total: LoadTotals {
                transactions: 7,
                busy_us: 2_500_000,
                rows: 9,
                ..LoadTotals::default()
            },
            busy,
            transactions: 1.0,
            asked: LoadAsked::default(),
        };
        let told = RouterLoad {
            tenants: vec![load(tenant, busy), load(other, 0.1)],
            ..RouterLoad::default()
        };
        catalog.publish_load(router, &told, &[]).await.unwrap();
    }
    let hot = HeatChange {
        tenant: tenant.id,
        shard,
        is_hot: true,
        evidence: json!({"why": "growth", "share": 0.61239, "busy": 3.0, "baseline": 0.02}),
    };
    catalog.record_heat(&[hot]).await.unwrap();

    let top = run(&fleet, "tenant top --limit 1").json();
    let top = &top.as_array().unwrap()[0];
    assert_eq!(
        (
            &top["slug"],
            &top["transactions"],
            &top["rows"],
            &top["busy_seconds"]
        ),
        (&json!(tenant.slug), &json!(14.0), &json!(18.0), &json!(5.0))
    );
    assert!(top["hot_since"].is_string());
    for command in ["tenant hot", "tenant hot --events"] {
        let shown = run(&fleet, command).json();
        let shown = &shown.as_array().unwrap()[0];
        assert_eq!(
            (
                &shown["slug"],
                &shown["state"],
                &shown["why"],
                &shown["share"]
            ),
            (
                &json!(tenant.slug),
                &json!("hot"),
                &json!("growth"),
                &json!(0.612)
            )
        );
    }
}
