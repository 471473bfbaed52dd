//! The scenarios at a size that cannot pass: they start everything, measure, report, and say that it was too little.

#![allow(clippy::unwrap_used)]

use std::process::Command;

fn run(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry-bench"));
    let output = command.args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), text + &errors)
}

#[test]
fn few_idle_clients_are_no_pass() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let (success, text) = run(&["idle", "--clients", "20", "--check", "--out", out]);
    assert!(!success, "{text}");
    let page = std::fs::read_to_string(folder.path().join("idle.md")).unwrap();
    let verdict = page.trim_end().lines().last().unwrap();
    assert!(verdict.starts_with("verdict: FAIL: idle clients"), "{page}");
    assert!(page.contains("per idle server connection"), "{page}");
}
