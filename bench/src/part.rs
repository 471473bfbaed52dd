//! One role of the system in a process of its own: this program again, in a hidden subcommand that ends with its
//! standard input.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use serde::Serialize;
use tokio::process::{Child, ChildStdin, Command};

/// A running process; killed with its handle.
#[derive(Debug)]
pub(crate) struct Part {
    child: Child,
    /// Its end is the process's.
    _stdin: ChildStdin,
}

impl Part {
    /// Starts `tenantry-bench NAME FILE MORE…`, where FILE has the configuration as JSON.
    pub(crate) fn start(
        name: &str,
        config: &impl Serialize,
        more: &[String],
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let file = folder.join(format!("{name}.json"));
        let text = serde_json::to_vec(config)?;
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            .arg(name)
            .arg(&file)
            .args(more)
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take().context("no standard input")?;
        Ok(Self {
            child,
            _stdin: stdin,
        })
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Ends it at once, with nothing said or saved.
    pub(crate) async fn kill9(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("cannot kill the process")
    }
}
