//! `pgbench` as the client: the scripts it runs, how it is called, and what it reports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use clap::ValueEnum;
use tenantry_cluster::PgInstall;

use super::bed::{ACCOUNTS_OF_OTHERS, TENANTS};

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Script {
    /// `pgbench -S`: one SELECT by key.
    Select,
    /// The TPC-B-like script: BEGIN, three UPDATEs, SELECT, INSERT, COMMIT.
    Tpcb,
    /// BEGIN, SET LOCAL to one of 200 tenants, one SELECT by key, COMMIT.
    Mix,
}

/// pgbench's `--protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// One Query message.
    Simple,
    /// Parse, Bind, Describe, Execute and Sync each time.
    Extended,
    /// Parse once, then Bind, Describe, Execute and Sync.
    Prepared,
}

impl Script {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Tpcb => "TPC-B-like",
            Self::Mix => "200 tenants",
        }
    }
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// Whom pgbench connects to.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) database: String,
    /// A statement that each client runs once before its first transaction.
    pub(crate) first: Option<&'static str>,
    /// The setting that SET LOCAL names in [`Script::Mix`].
    pub(crate) tenant_setting: &'static str,
}

/// What pgbench reported.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) transactions: u64,
    /// Without the time to connect.
    pub(crate) per_second: f64,
}

/// The program, and a folder for its scripts.
#[derive(Debug)]
pub(crate) struct Pgbench {
    program: PathBuf,
    folder: PathBuf,
}

impl Pgbench {
    pub(crate) fn find(install: &PgInstall, folder: &Path) -> anyhow::Result<Self> {
        let beside = install.bin_dir().join("pgbench");
        let program = if beside.is_file() {
            beside
        } else {
            PathBuf::from("pgbench")
        };
        Command::new(&program)
            .arg("--version")
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        Ok(Self {
            program,
            folder: folder.to_owned(),
        })
    }

    /// Runs one script for some seconds; fails if any transaction does.
    pub(crate) fn run(
        &self,
        address: &Address,
        script: Script,
        protocol: Protocol,
        clients: u32,
        seconds: u32,
    ) -> anyhow::Result<Run> {
        let file = self.folder.join("script.sql");
        fs::write(&file, text(script, address)).context("cannot write a script")?;
        let output = Command::new(&self.program)
            .args(["--no-vacuum", "--define=bound=0", "--define=scale=10"])
            .args(["--protocol", protocol.name()])
            .args(["--client", &clients.to_string()])
            .args(["--jobs", &clients.min(2).to_string()])
            .args(["--time", &seconds.to_string()])
            .args(["--host", "127.0.0.1", "--port", &address.port.to_string()])
            .args(["--username", &address.user])
            .arg("--file")
            .arg(&file)
            .arg(&address.database)
            .env("PGPASSWORD", &address.password)
            .env("PGSSLMODE", "disable")
            .output()
            .context("cannot run pgbench")?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(
            output.status.success() && !complaints.contains("error"),
            "pgbench on port {} failed: {printed}{complaints}",
            address.port
        );
        parse(&printed).with_context(|| format!("pgbench printed no figures: {printed}"))
    }
}

/// pgbench's own scripts word for word, so that a client can be told to run something first.
fn text(script: Script, address: &Address) -> String {
    let first = address.first.map_or_else(String::new, |first| {
        format!("\\if :bound = 0\n{first};\n\\set bound 1\n\\endif\n")
    });
    let body = match script {
        Script::Select => "\\set aid random(1, 100000 * :scale)\n\
             SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
            .to_owned(),
        Script::Tpcb => "\\set aid random(1, 100000 * :scale)\n\
             \\set bid random(1, 1 * :scale)\n\
             \\set tid random(1, 10 * :scale)\n\
             \\set delta random(-5000, 5000)\n\
             BEGIN;\n\
             UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n\
             SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n\
             UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;\n\
             UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;\n\
             INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);\n\
             END;\n"
            .to_owned(),
        Script::Mix => format!(
            "\\set tenant random(1, {TENANTS})\n\
             \\set aid random(1, {ACCOUNTS_OF_OTHERS})\n\
             BEGIN;\n\
             SET LOCAL {} = :tenant;\n\
             SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n\
             END;\n",
            address.tenant_setting
        ),
    };
    first + &body
}

fn parse(printed: &str) -> Option<Run> {
    let after = |prefix: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(prefix))?;
        let end = line.find([' ', '/']).unwrap_or(line.len());
        line.get(..end)
    };
    Some(Run {
        transactions: after("number of transactions actually processed: ")?
            .parse()
            .ok()?,
        per_second: after("tps = ")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn figures_are_found_in_what_pgbench_prints() {
        let printed = "scaling factor: 1\nnumber of transactions actually processed: 51234\n\
                       number of failed transactions: 0 (0.000%)\nlatency average = 0.3 ms\n\
                       tps = 50981.123456 (without initial connection time)\n";
        let run = parse(printed).unwrap();
        assert_eq!((run.transactions, run.per_second), (51234, 50981.123456));
        assert!(parse("pgbench: error").is_none());
    }
}
