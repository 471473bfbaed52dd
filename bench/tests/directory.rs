//! The scenario at a size that cannot pass: it measures, reports, and says that the operations are too few.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

fn run(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry-bench"));
    command.args([
        "directory",
        "--tenants",
        "2000",
        "--lookups",
        "1000",
        "--loads",
        "1",
    ]);
    let output = command.args(arguments).output().unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

#[test]
fn too_few_operations_are_no_pass() {
    let folder = tempfile::tempdir().unwrap();
    for key in ["bigint", "uuid"] {
        let out = folder.path().join(key);
        let (success, text) = run(&["--key", key, "--check", "--out", out.to_str().unwrap()]);
        assert!(!success, "{text}");
        let verdict = text.trim_end().lines().last().unwrap();
        assert!(
            verdict.starts_with("verdict: FAIL: tenants; loads"),
            "{text}"
        );
        let page = fs::read_to_string(out.join("directory.md")).unwrap();
        assert_eq!(page.trim_end().lines().last(), Some(verdict));
        for chart in ["directory-lookups.svg", "directory-memory.svg"] {
            assert!(page.contains(chart));
            assert!(
                fs::read_to_string(out.join(chart))
                    .unwrap()
                    .ends_with("</svg>\n")
            );
        }
    }
}

#[test]
fn without_check_a_missed_bar_is_only_told() {
    let (success, text) = run(&[]);
    assert!(success && text.contains("MISSED"), "{text}");
}

#[test]
fn every_ablation_runs() {
    for without in ["arena", "overlay"] {
        let (success, text) = run(&["--without", without, "--check"]);
        assert!(
            !success && text.contains(&format!("WITHOUT {without}")),
            "{text}"
        );
    }
}
