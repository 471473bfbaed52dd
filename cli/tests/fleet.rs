//! The operator's nouns against a real fleet: what they do, print and exit with.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use tenantry_testkit::Fleet;

use support::{Ended, tenantry};

/// Runs the binary against `fleet`.
fn run(fleet: &Fleet, arguments: &[&str]) -> Ended {
    let mut command = tenantry(fleet.dir());
    command
        .env("TENANTRY_CATALOG__URL", fleet.catalog_url())
        .env("TENANTRY_SECRETS__FILE", fleet.secrets_path())
        .args(arguments);
    Ended::of(&mut command)
}

fn json_of(fleet: &Fleet, arguments: &[&str]) -> Value {
    run(fleet, &[arguments, &["--output", "json"]].concat()).json()
}

/// The object with the fields that differ from run to run replaced; a field that is missing still shows.
fn masked(mut object: Value, fields: &[&str]) -> Value {
    for field in fields {
        let value = object.get_mut(field).unwrap();
        *value = json!(format!("[{field}]"));
    }
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_created_found_suspended_and_resumed() {
    let fleet = Fleet::builder().shards(2).tenants(3).start().await.unwrap();

    let created = json_of(
        &fleet,
        &[
            "tenant",
            "create",
            "acorn",
            "--plan",
            "pro",
            "--hostname",
            "Acorn.Example",
            "--wait",
        ],
    );
    let id = created["id"].as_str().unwrap().to_owned();
    let shard = created["shard"].as_str().unwrap().to_owned();
    insta::assert_json_snapshot!(masked(created, &["id", "shard", "created_at"]), @r#"
    {
      "created_at": "[created_at]",
      "epoch": 1,
      "hostnames": [
        "acorn.example"
      ],
      "id": "[id]",
      "isolation": "pooled",
      "pinned": false,
      "plan": "pro",
      "shard": "[shard]",
      "slug": "acorn",
      "state": "active",
      "suspended_at": null,
      "suspended_reason": null
    }
    "#);

    for name in [id.as_str(), "acorn", "acorn.example"] {
        assert_eq!(
            json_of(&fleet, &["tenant", "show", name])["id"],
            json!(id),
            "{name}"
        );
        let located = json_of(&fleet, &["tenant", "locate", name]);
        assert_eq!(
            (&located["shard"], &located["placed_by"]),
            (&json!(shard), &json!("ring"))
        );
    }

    let suspended = json_of(
        &fleet,
        &["tenant", "suspend", "acorn", "--reason", "unpaid"],
    );
    assert_eq!(
        (&suspended["state"], &suspended["suspended_reason"]),
        (&json!("suspended"), &json!("unpaid"))
    );
    assert!(suspended["suspended_at"].is_string());
    let listed = json_of(&fleet, &["tenant", "list", "--state", "suspended"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let resumed = json_of(&fleet, &["tenant", "resume", "acorn"]);
    assert_eq!(resumed["suspended_reason"], Value::Null);
    assert!(
        run(&fleet, &["tenant", "resume", "acorn"])
            .fails(4)
            .contains("acorn")
    );

    let trail = fleet.catalog().list_audit(None, 10).await.unwrap();
    let actions: Vec<&str> = trail.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        ["tenant.resume", "tenant.suspend", "tenant.create"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_filter_by_shard_and_page_by_id() {
    let fleet = Fleet::builder()
        .shards(2)
        .tenants(12)
        .start()
        .await
        .unwrap();
    let all = json_of(&fleet, &["tenant", "list"]);
    assert_eq!(all.as_array().unwrap().len(), 12);
    let mut on_shards = 0;
    for shard in fleet.shards() {
        let name = shard.name().as_str();
        let listed = json_of(&fleet, &["tenant", "list", "--shard", name]);
        for tenant in listed.as_array().unwrap() {
            assert_eq!(tenant["shard"], json!(name));
            on_shards += 1;
        }
    }
    assert_eq!(on_shards, 12);
    let third = all[2]["id"].as_str().unwrap();
    let page = json_of(
        &fleet,
        &["tenant", "list", "--limit", "2", "--after", third],
    );
    assert_eq!(page.as_array().unwrap(), &all.as_array().unwrap()[3..5]);
    let table = run(&fleet, &["tenant", "list", "--limit", "1"]).ok();
    assert!(
        table.starts_with("ID ") && table.contains("store-1"),
        "{table}"
    );
    assert!(!table.contains('\u{1b}'), "no colour in a pipe");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_their_own_exit_codes() {
    let fleet = Fleet::builder().shards(1).tenants(1).start().await.unwrap();
    assert!(
        run(&fleet, &["tenant", "create", "No Slug"])
            .fails(2)
            .contains("slug")
    );
    run(&fleet, &["tenant", "list", "--output", "xml"]).fails(2);
    run(&fleet, &["tenant", "list", "--after", "0"]).fails(2);
    assert!(
        run(&fleet, &["tenant", "show", "nobody"])
            .fails(3)
            .contains("nobody")
    );
    run(&fleet, &["tenant", "list", "--shard", "nowhere"]).fails(3);
    run(&fleet, &["shard", "show", "nowhere"]).fails(3);
    run(&fleet, &["tenant", "create", "store-1"]).fails(4);
    let mut wrong = fleet
        .catalog_url()
        .parse::<tokio_postgres::Config>()
        .unwrap();
    wrong.password("wrong");
    let url = format!(
        "postgresql://postgres:wrong@127.0.0.1:{}/tenantry",
        wrong.get_ports()[0]
    );
    run(&fleet, &["tenant", "list", "--catalog", &url]).fails(5);
    let nobody = "postgresql://postgres@127.0.0.1:1/tenantry";
    let text = run(&fleet, &["tenant", "list", "--catalog", nobody]).fails(7);
    assert!(
        text.contains("127.0.0.1:1") && text.contains("because"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_with_its_own_code_and_keeps_what_was_created() {
    let fleet = Fleet::builder()
        .shards(1)
        .agent(false)
        .start()
        .await
        .unwrap();
    let text = run(
        &fleet,
        &["tenant", "create", "acorn", "--wait", "--timeout", "50ms"],
    )
    .fails(6);
    assert!(text.contains("provisioning"), "{text}");
    assert_eq!(
        json_of(&fleet, &["tenant", "show", "acorn"])["state"],
        json!("provisioning")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_a_shard_moves_nobody() {
    let fleet = Fleet::builder()
        .shards(2)
        .tenants(20)
        .start()
        .await
        .unwrap();
    let before = json_of(&fleet, &["tenant", "list"]);
    let add = [
        "shard",
        "add",
        "s9",
        "--host",
        "127.0.0.1",
        "--port",
        "5999",
        "--database",
        "s9",
        "--zone",
        "b",
    ];
    insta::assert_json_snapshot!(masked(json_of(&fleet, &add), &["id"]), @r#"
    {
      "database": "s9",
      "host": "127.0.0.1",
      "id": "[id]",
      "kind": "shared",
      "name": "s9",
      "port": 5999,
      "replicas": [],
      "state": "active",
      "weight": 1,
      "zone": "b"
    }
    "#);
    let after = json_of(&fleet, &["tenant", "list"]);
    let homes = |list: &Value| -> Vec<(Value, Value)> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|t| (t["shard"].clone(), t["epoch"].clone()))
            .collect()
    };
    assert_eq!(homes(&before), homes(&after));
    let pinned = after
        .as_array()
        .unwrap()
        .iter()
        .filter(|t| t["pinned"] == json!(true))
        .count();
    assert!(pinned > 0, "a third of the ring changed hands");
    let listed = json_of(&fleet, &["shard", "list"]);
    let names: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["s1", "s2", "s9"]);
    assert_eq!(
        json_of(&fleet, &["shard", "show", "s9"])["port"],
        json!(5999)
    );
    run(&fleet, &add).fails(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_makes_a_catalog_once() {
    let fleet = Fleet::builder().shards(1).start().await.unwrap();
    let server = fleet.catalog_server();
    server.create_database("second").await.unwrap();
    let url = server.url("second");
    let run = |arguments: &[&str]| {
        let mut command = tenantry(fleet.dir());
        command.env("TENANTRY_CATALOG__URL", &url).args(arguments);
        Ended::of(&mut command)
    };
    assert!(run(&["tenant", "list"]).fails(4).contains("tenantry init"));
    run(&["init"]).fails(2);
    for _ in 0..2 {
        let made = run(&["init", "--tenant-key", "uuid", "--output", "json"]).json();
        assert_eq!(
            (&made["tenant_key"], &made["tenant_column"]),
            (&json!("uuid"), &json!("tenant_id"))
        );
    }
    assert!(
        run(&["init", "--tenant-key", "bigint"])
            .fails(4)
            .contains("uuid")
    );
    let made = run(&["tenant", "create", "acorn", "--output", "json"]).json();
    assert_eq!(
        (made["id"].as_str().unwrap().len(), &made["shard"]),
        (36, &Value::Null)
    );
    assert!(
        run(&["tenant", "locate", "acorn"])
            .fails(4)
            .contains("ring is empty")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_is_content_with_a_healthy_fleet_and_names_what_is_wrong() {
    let fleet = Fleet::builder().shards(2).tenants(4).start().await.unwrap();
    let checks = json_of(&fleet, &["doctor"]);
    let failed: Vec<&Value> = checks
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["status"] == json!("failed"))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");

    let shard = fleet.shard(0);
    let admin = shard.admin().await.unwrap();
    admin
        .batch_execute("CREATE TABLE leaky (tenant_id bigint NOT NULL, id bigint); UPDATE tenantry.owner SET epoch = epoch + 1")
        .await
        .unwrap();
    let (host, port) = ("127.0.0.1".to_owned(), 1);
    let other = fleet.shard(1).shard();
    let database = other.address.database.clone();
    let moved = tenantry_schema::shard::ShardAddress {
        host,
        port,
        database,
    };
    fleet
        .catalog()
        .set_shard_address(other.id, &moved)
        .await
        .unwrap();
    let ended = run(&fleet, &["doctor", "--output", "json"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let checks: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap();
    let wrong = |check: &str, target: &str| {
        let found = checks.iter().find(|c| {
            c["check"] == json!(check)
                && c["target"] == json!(target)
                && c["status"] == json!("failed")
        });
        found.unwrap_or_else(|| panic!("no failed {check} of {target} in {checks:#?}"))["detail"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(wrong("guard", shard.name().as_str()).contains("leaky"));
    assert!(wrong("owners", shard.name().as_str()).contains("epoch"));
    wrong("shard", other.name.as_str());
    assert!(ended.stderr.contains("checks failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_created_changed_and_dropped() {
    let fleet = Fleet::builder().shards(1).tenants(2).start().await.unwrap();
    let tenant = fleet.id_text(fleet.tenants()[0].id);
    let created = json_of(
        &fleet,
        &[
            "role",
            "create",
            "batch",
            "--kind",
            "service",
            "--pool-mode",
            "session",
            "--max-connections",
            "5",
            "--valid-until",
            "2030-01-01T00:00:00Z",
        ],
    );
    assert!(created["password"].as_str().unwrap().len() >= 20);
    insta::assert_json_snapshot!(masked(created, &["password"]), @r#"
    {
      "kind": "service",
      "max_connections": 5,
      "name": "batch",
      "password": "[password]",
      "pool_mode": "session",
      "tenants": [],
      "valid_until": "2030-01-01T00:00:00Z"
    }
    "#);
    run(&fleet, &["role", "create", "batch", "--kind", "service"]).fails(4);
    run(&fleet, &["role", "create", "store", "--kind", "tenant"]).fails(2);
    run(&fleet, &["role", "alter", "batch", "--tenant", &tenant]).fails(2);
    run(&fleet, &["role", "show", "nobody"]).fails(3);
    let arguments = [
        "role", "create", "store", "--kind", "tenant", "--tenant", &tenant,
    ];
    assert_eq!(json_of(&fleet, &arguments)["tenants"], json!([tenant]));

    let verifier = async |name: &str| {
        let roles = fleet.catalog().list_roles().await.unwrap();
        let found = roles.into_iter().find(|role| role.name == name);
        found.unwrap().verifier
    };
    let before = verifier("batch").await;
    let altered = json_of(
        &fleet,
        &[
            "role",
            "alter",
            "batch",
            "--pool-mode",
            "transaction",
            "--max-connections",
            "none",
        ],
    );
    assert_eq!(
        (
            &altered["pool_mode"],
            &altered["max_connections"],
            &altered["valid_until"]
        ),
        (
            &json!("transaction"),
            &json!(null),
            &json!("2030-01-01T00:00:00Z")
        )
    );
    assert_eq!(altered.get("password"), None);
    assert_eq!(verifier("batch").await, before);
    assert!(json_of(&fleet, &["role", "password", "batch"])["password"].is_string());
    assert_ne!(verifier("batch").await, before);

    let listed = json_of(&fleet, &["role", "list"]);
    let names: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|role| &role["name"])
        .collect();
    assert_eq!(names, [&json!("batch"), &json!("store")]);
    run(&fleet, &["role", "drop", "batch"]).ok();
    run(&fleet, &["role", "drop", "batch"]).fails(3);
}
