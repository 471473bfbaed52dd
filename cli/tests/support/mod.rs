//! Runs the binary in a clean environment.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

/// The binary in `dir`, with nothing of the caller's environment that could configure it.
pub fn tenantry(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("tenantry").unwrap();
    command.current_dir(dir);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_setting = text.starts_with("TENANTRY_") && !text.starts_with("TENANTRY_PG_");
        if is_setting && text != "TENANTRY_CACHE" {
            command.env_remove(name);
        }
    }
    command
}

/// What ended a command.
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Runs `command` to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Standard output of a command that succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    /// Standard output of a command that succeeded, as JSON.
    pub fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Standard error of a command that ended with `code`.
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        self.stderr
    }
}
