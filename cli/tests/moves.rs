//! Moves, rebalancings and draining as operators command them. No rebalancer runs: what it would do to the catalog is done
//! here, so that each answer is given at a known state.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use assert_cmd::Command;
use serde_json::{Value, json};
use tenantry_rebalancer::fleet::Rebalancing;
use tenantry_schema::catalog::Catalog;
use tenantry_schema::catalog::moves::{
    LeaseEpoch, Move, MoveFilter, MoveState, REBALANCER, Side, Transition,
};
use tenantry_schema::tenant::Epoch;
use tenantry_testkit::Fleet;
use uuid::Uuid;

use support::{Ended, tenantry};

fn command(fleet: &Fleet, arguments: &[&str]) -> Command {
    let mut command = tenantry(fleet.dir());
    command
        .env("TENANTRY_CATALOG__URL", fleet.catalog_url())
        .env("TENANTRY_SECRETS__FILE", fleet.secrets_path())
        .args(arguments);
    command
}

fn run(fleet: &Fleet, arguments: &[&str]) -> Ended {
    Ended::of(&mut command(fleet, arguments))
}

fn json_of(fleet: &Fleet, arguments: &[&str]) -> Value {
    run(fleet, &[arguments, &["--output", "json"]].concat()).json()
}

async fn lead(catalog: &Catalog) -> LeaseEpoch {
    let lead = catalog.take_lead(REBALANCER, Uuid::now_v7(), Duration::from_secs(600));
    lead.await.unwrap().unwrap()
}

async fn live(catalog: &Catalog) -> Vec<Move> {
    catalog.moves(&MoveFilter::live()).await.unwrap()
}

/// Brings a move to a state, as a rebalancer would write it down.
async fn bring(catalog: &Catalog, lease: LeaseEpoch, from: &Move, state: MoveState) {
    let mut next = from.status.clone();
    next.state = state;
    match state {
        MoveState::Probation | MoveState::Done => {
            next.lives_at = Side::Destination;
            next.placement_epoch = Some(Epoch(from.source_epoch.0 + 1));
        }
        MoveState::Aborted => next.error = Some("the disk is full".to_owned()),
        _ => {}
    }
    let change = Transition {
        from,
        next: &next,
        progress: &from.progress,
        lease,
        detail: &json!({"by": "a test"}),
        command: None,
    };
    catalog.transition(&change).await.unwrap();
}

/// A tenant that lives on the fleet's first shard, as the command line names it.
async fn on_the_first(fleet: &Fleet) -> Vec<String> {
    let tenants = fleet.tenants_of(fleet.shard(0)).await.unwrap();
    tenants.iter().map(|one| fleet.id_text(one.id)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_are_planned_shown_and_commanded() {
    let fleet = Fleet::builder()
        .shards(2)
        .spares(1)
        .tenants(8)
        .start()
        .await
        .unwrap();
    let tenants = on_the_first(&fleet).await;
    let (first, second) = (tenants[0].as_str(), tenants[1].as_str());
    let (s1, s2) = (
        fleet.shard(0).name().as_str(),
        fleet.shard(1).name().as_str(),
    );

    let tried = json_of(&fleet, &["tenant", "move", first, "--to", s2, "--dry-run"]);
    assert_eq!(
        (&tried["source"], &tried["destination"], &tried["dry_run"]),
        (&json!(s1), &json!(s2), &json!(true))
    );
    assert_eq!(live(fleet.catalog()).await, [], "nothing was planned");
    let same = ["tenant", "move", first, "--to", s1, "--dry-run"];
    assert!(run(&fleet, &same).fails(4).contains("lives on"));
    let nowhere = ["tenant", "move", first, "--to", "nowhere"];
    assert!(run(&fleet, &nowhere).fails(3).contains("nowhere"));

    let planned = json_of(
        &fleet,
        &[
            "tenant",
            "move",
            first,
            "--manual",
            "--pause-budget",
            "40ms",
            "--reason",
            "noisy",
        ],
    );
    assert_eq!(planned["destination"], json!(s2), "the other shared shard");
    assert_eq!(planned["state"], json!("PLANNED"));
    assert_eq!(planned["reason"], json!("noisy"));
    assert_eq!(
        (
            &planned["policy"]["switch"],
            &planned["policy"]["pause_budget_ms"]
        ),
        (&json!("manual"), &json!(40))
    );
    let id = planned["id"].as_str().unwrap();
    let again = ["tenant", "move", first, "--to", s2];
    run(&fleet, &again).fails(4);

    for name in [id, first] {
        let shown = json_of(&fleet, &["move", "show", name]);
        assert_eq!(shown["id"], json!(id));
        let waiting = shown["waiting"].as_str().unwrap();
        assert!(
            waiting.contains("for a rebalancer to take it up"),
            "{waiting}"
        );
    }
    assert!(
        run(&fleet, &["move", "show", "nobody"])
            .fails(3)
            .contains("nobody")
    );
    let reversed = run(&fleet, &["move", "reverse", id]).fails(4);
    assert!(reversed.contains("cancel the move instead"), "{reversed}");
    let late = ["move", "pause", id, "--wait", "--timeout", "600ms"];
    assert!(run(&fleet, &late).fails(6).contains("goes on"));
    let shown = run(&fleet, &["move", "show", id]).ok();
    assert!(shown.contains("asked for `pause`"), "{shown}");
    let events = json_of(&fleet, &["move", "show", id, "--events"]);
    assert_eq!(events[0]["to"], json!("PLANNED"));

    let isolated = json_of(&fleet, &["tenant", "isolate", second]);
    assert_eq!(
        (&isolated["kind"], &isolated["destination"]),
        (&json!("isolate"), &json!("spare1"))
    );
    let third = run(&fleet, &["tenant", "isolate", &tenants[2], "--dry-run"]);
    assert!(
        third.stderr.contains("no spare is left"),
        "{}",
        third.stderr
    );
    assert!(third.ok().contains(s2));
    let listed = json_of(&fleet, &["move", "list", "--live"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let listed = json_of(&fleet, &["move", "list", "--tenant", second]);
    assert_eq!(listed[0]["kind"], json!("isolate"));

    let trail = fleet.catalog().list_audit(None, 10).await.unwrap();
    let actions: Vec<&str> = trail.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["move.create", "move.pause", "move.create"]);
    assert!(trail.iter().all(|entry| entry.actor.starts_with("cli:")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_followed_until_the_tenant_has_arrived_or_never_will() {
    let fleet = Fleet::builder().shards(2).tenants(8).start().await.unwrap();
    let catalog = fleet.catalog();
    let lease = lead(catalog).await;
    let tenants = on_the_first(&fleet).await;
    for (tenant, end, code, told) in [
        (&tenants[0], MoveState::Probation, 0, "PROBATION"),
        (&tenants[1], MoveState::Aborted, 1, "the disk is full"),
    ] {
        let arguments = ["tenant", "move", tenant, "--wait", "--timeout", "60s"];
        let mut waiting = command(&fleet, &arguments);
        let ended = tokio::task::spawn_blocking(move || Ended::of(&mut waiting));
        let begun = until_begun(catalog, |one| fleet.id_text(one.tenant) == *tenant).await;
        bring(catalog, lease, &begun, MoveState::Copying).await;
        let copying = catalog.move_by_id(begun.id).await.unwrap();
        bring(catalog, lease, &copying, end).await;
        let ended = ended.await.unwrap();
        assert_eq!(ended.code, code, "{}", ended.stderr);
        let all = format!("{}{}", ended.stdout, ended.stderr);
        assert!(all.contains(told), "{all}");
    }
    let watched = run(
        &fleet,
        &[
            "move",
            "watch",
            &tenants[0],
            "--until",
            "arrived",
            "--output",
            "ndjson",
        ],
    )
    .ok();
    let lines: Vec<Value> = watched
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.iter().all(|line| line["state"] == json!("PROBATION")));
    assert_eq!(lines[0]["lives_at"], json!("destination"));
}

/// The first live move that is meant, once it is there.
async fn until_begun(catalog: &Catalog, is_meant: impl Fn(&Move) -> bool) -> Move {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = live(catalog).await.into_iter().find(&is_meant) {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "no move was planned"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_drained_and_removed() {
    let fleet = Fleet::builder()
        .shards(3)
        .tenants(12)
        .start()
        .await
        .unwrap();
    let catalog = fleet.catalog();
    let lease = lead(catalog).await;
    let name = fleet.shard(0).name().as_str();
    let count = on_the_first(&fleet).await.len();

    let tried = json_of(&fleet, &["shard", "drain", name, "--dry-run"]);
    assert_eq!(tried["moves"].as_array().unwrap().len(), count);
    assert!(
        tried["moves"][0]["why"]
            .as_str()
            .unwrap()
            .contains("is being emptied")
    );
    assert_eq!(
        json_of(&fleet, &["shard", "show", name])["state"],
        json!("active")
    );
    let remove = ["shard", "remove", name, "--confirm", name];
    assert!(run(&fleet, &remove).fails(4).contains("left"));
    run(&fleet, &["shard", "remove", name, "--confirm", "other"]).fails(2);

    let begun = json_of(&fleet, &["shard", "drain", name]);
    assert_eq!(
        (&begun["shard"], &begun["planned"], &begun["state"]),
        (&json!(name), &json!(count), &json!("running"))
    );
    assert_eq!(
        json_of(&fleet, &["shard", "show", name])["state"],
        json!("draining")
    );
    run(&fleet, &["shard", "drain", name]).fails(4);
    run(&fleet, &["shard", "set-readonly", name]).fails(4);
    assert!(run(&fleet, &remove).fails(4).contains("being emptied"));

    let resumed = json_of(&fleet, &["shard", "resume", name]);
    assert_eq!(resumed["state"], json!("active"));
    let mut rebalancing = Rebalancing::default();
    rebalancing.advance(catalog).await.unwrap();
    let stopped = json_of(&fleet, &["rebalance", "status"]);
    assert_eq!(stopped["state"], json!("stopped"));

    json_of(&fleet, &["shard", "drain", name]);
    let id = json_of(&fleet, &["rebalance", "status"])["id"].clone();
    for _ in 0..count {
        rebalancing.advance(catalog).await.unwrap();
        for one in live(catalog).await {
            bring(catalog, lease, &one, MoveState::Done).await;
        }
    }
    rebalancing.advance(catalog).await.unwrap();
    let done = json_of(&fleet, &["rebalance", "status", id.as_str().unwrap()]);
    assert_eq!(
        (&done["state"], &done["done"]),
        (&json!("done"), &json!(count)),
        "{done}"
    );
    let moves = json_of(
        &fleet,
        &["rebalance", "status", id.as_str().unwrap(), "--moves"],
    );
    assert!(
        moves
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["state"] == json!("DONE"))
    );
    // The moves were made in the catalog only: the shard itself still has its tenants, and says so.
    let left = run(&fleet, &remove).fails(4);
    assert!(left.contains("are left in the database"), "{left}");
    let admin = fleet.shard(0).admin().await.unwrap();
    admin
        .batch_execute("DELETE FROM tenantry.owner")
        .await
        .unwrap();
    assert_eq!(json_of(&fleet, &remove)["name"], json!(name));
    run(&fleet, &["shard", "show", name]).fails(3);

    let trail = catalog.list_audit(None, 100).await.unwrap();
    let of_shards = trail.iter().filter(|entry| entry.target_kind == "shard");
    let actions: Vec<&str> = of_shards.map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        ["shard.remove", "shard.drain", "shard.resume", "shard.drain"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalancing_is_planned_started_and_stopped() {
    let fleet = Fleet::builder().shards(2).tenants(8).start().await.unwrap();
    let catalog = fleet.catalog();
    let heavy = fleet.tenants_of(fleet.shard(0)).await.unwrap();
    let sizes: Vec<_> = heavy[..2].iter().map(|one| (one.id, 8 << 30)).collect();

    let nothing = json_of(&fleet, &["rebalance", "plan"]);
    assert_eq!(nothing["moves"], json!([]));
    run(&fleet, &["rebalance", "status"]).fails(3);
    run(&fleet, &["rebalance", "stop"]).fails(3);
    catalog.record_sizes(&sizes).await.unwrap();
    let planned = json_of(&fleet, &["rebalance", "plan", "--goal", "even"]);
    assert_eq!(planned["moves"].as_array().unwrap().len(), 1, "{planned}");
    assert!(
        planned["moves"][0]["why"]
            .as_str()
            .unwrap()
            .contains("of its share of bytes")
    );
    let bounded = json_of(&fleet, &["rebalance", "plan", "--bytes-max", "1GiB"]);
    assert_eq!(bounded["moves"], json!([]), "{bounded}");
    assert_ne!(bounded["left"], json!([]));
    let table = run(&fleet, &["rebalance", "start", "--dry-run"]);
    assert!(
        table.stderr.contains("1 moves, 8.0 GiB"),
        "{}",
        table.stderr
    );
    assert!(catalog.rebalances(false, 1).await.unwrap().is_empty());

    let begun = json_of(&fleet, &["rebalance", "start", "--goal", "even"]);
    assert_eq!(
        (&begun["state"], &begun["planned"]),
        (&json!("running"), &json!(1))
    );
    run(&fleet, &["rebalance", "start"]).fails(4);
    let late = ["rebalance", "stop", "--wait", "--timeout", "600ms"];
    assert!(run(&fleet, &late).fails(6).contains("goes on"));
    Rebalancing::default().advance(catalog).await.unwrap();
    let stopped = json_of(&fleet, &["rebalance", "status"]);
    assert_eq!(stopped["state"], json!("stopped"));
    let all = json_of(&fleet, &["rebalance", "status", "--all"]);
    assert_eq!(all.as_array().unwrap().len(), 1);
}
