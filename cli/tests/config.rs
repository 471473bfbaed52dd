//! The binary's configuration layers and its behaviour on mistakes, from the outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use assert_cmd::Command;
use serde_json::Value;

use support::{Ended, tenantry};

fn stdout(command: &mut Command) -> String {
    Ended::of(command).ok()
}

fn stderr(command: &mut Command, exit: i32) -> String {
    Ended::of(command).fails(exit)
}

#[test]
fn config_check_names_the_source_of_each_value() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("tenantry.toml"),
        "[catalog]\nurl = \"postgresql://c:s3cret@db/tenantry\"\n[router]\nhttp_listen = \"127.0.0.1:81\"\n",
    )
    .unwrap();
    let mut command = tenantry(dir.path());
    command
        .env("TENANTRY_ROUTER__LISTEN", "127.0.0.1:82")
        .env("TENANTRY_ROUTER__DRAIN_TIMEOUT", "80ms")
        .args(["config", "check", "--output", "json", "--log", "debug"]);
    let text = stdout(&mut command);
    assert!(!text.contains("s3cret"));
    let settings: Vec<Value> = serde_json::from_str(&text).unwrap();
    let of = |key: &str| {
        let found = settings
            .iter()
            .find(|setting| setting["key"] == key)
            .unwrap();
        (
            found["value"].as_str().unwrap().to_owned(),
            found["source"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(
        of("router.listen"),
        (
            "127.0.0.1:82".into(),
            "environment TENANTRY_ROUTER__LISTEN".into()
        )
    );
    assert_eq!(
        of("router.drain_timeout"),
        (
            "80ms".into(),
            "environment TENANTRY_ROUTER__DRAIN_TIMEOUT".into()
        )
    );
    assert_eq!(of("log.filter"), ("debug".into(), "flag --log".into()));
    assert_eq!(of("log.format"), ("text".into(), "default".into()));
    let (url, source) = of("catalog.url");
    assert_eq!(url, "postgresql://c:***@db:5432/tenantry");
    assert!(
        source.starts_with("file ") && source.ends_with("tenantry.toml"),
        "{source}"
    );
    let (_, source) = of("router.http_listen");
    assert!(source.ends_with("tenantry.toml"), "{source}");
}

#[test]
fn a_policy_is_read_and_one_that_contradicts_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| std::fs::write(dir.path().join("tenantry.toml"), text).unwrap();
    let check = || {
        let mut command = tenantry(dir.path());
        command.args(["config", "check", "--output", "json"]);
        command
    };
    write(
        "[rebalancer.policy]\nmode = \"act\"\nhot_for = \"1m\"\nshare_min = 0.25\nsize_max = \"2GiB\"\n",
    );
    let settings: Vec<Value> = serde_json::from_str(&stdout(&mut check())).unwrap();
    let of = |key: &str| {
        let found = settings.iter().find(|setting| setting["key"] == key);
        found.unwrap()["value"].as_str().unwrap().to_owned()
    };
    for (key, value) in [
        ("rebalancer.policy.mode", "act"),
        ("rebalancer.policy.hot_for", "1m"),
        ("rebalancer.policy.share_min", "0.25"),
        ("rebalancer.policy.size_max", "2GiB"),
        ("rebalancer.policy.without_spare", "least_loaded"),
        ("rebalancer.pause_budget", "80ms"),
    ] {
        assert_eq!(of(key), value, "{key}");
    }
    write("[rebalancer.policy]\nmode = \"always\"\nbusy_back_max = 5\n");
    let text = stderr(&mut check(), 2);
    assert!(
        text.contains("`always` is none of off, recommend, act"),
        "{text}"
    );
    assert!(
        text.contains("rebalancer.policy.busy_back_max") && text.contains("back and forth"),
        "{text}"
    );
}

#[test]
fn unknown_keys_and_bad_values_are_all_reported() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("tenantry.toml"),
        "[router]\nlissen = \"a\"\npool_size = 0.5\n",
    )
    .unwrap();
    let mut command = tenantry(dir.path());
    command
        .env("TENANTRY_CATALOG_URL", "postgresql://db/tenantry")
        .args(["config", "check"]);
    let text = stderr(&mut command, 2);
    for part in [
        "3 problems",
        "router.lissen",
        "did you mean `router.listen`",
        "router.pool_size",
        "catalog_url (environment TENANTRY_CATALOG_URL): unknown key, did you mean `catalog.url`?",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
}

#[test]
fn a_role_refuses_to_start_on_a_bad_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = tenantry(dir.path());
    command.args(["--set", "console.listen=nowhere", "console"]);
    assert!(stderr(&mut command, 2).contains("console.listen (flag --set)"));
    let mut command = tenantry(dir.path());
    command.arg("rebalancer");
    assert!(stderr(&mut command, 2).contains("no catalog is configured"));
}

#[test]
fn a_named_file_must_exist_and_be_toml() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = tenantry(dir.path());
    command.args(["--config", "absent.toml", "config", "check"]);
    assert!(stderr(&mut command, 2).contains("absent.toml"));
    std::fs::write(dir.path().join("torn.toml"), "[router\n").unwrap();
    let mut command = tenantry(dir.path());
    command
        .env("TENANTRY_CONFIG", "torn.toml")
        .args(["config", "check"]);
    assert!(stderr(&mut command, 2).contains("cannot be read"));
}

#[test]
fn results_come_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let check = |format: &str| stdout(tenantry(dir.path()).args(["config", "check", "-o", format]));
    assert!(check("table").starts_with("KEY "));
    assert!(check("csv").starts_with("key,value,source\r\n"));
    assert!(check("yaml").starts_with("- key: catalog.url\n  source: default\n  value: null\n"));
    for line in check("ndjson").lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap()["key"].is_string());
    }
}

#[test]
fn completion_scripts_cover_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(tenantry(dir.path()).args(["completion", shell]));
        assert!(script.contains("rebalancer"), "{shell}");
    }
}
