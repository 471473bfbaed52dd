//! The router in a process of its own: this program again, in a hidden subcommand, so that `/proc` shows what the
//! router uses and nothing else.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use clap::ValueEnum;
use tenantry_router::{Config, LeftOut};

/// A part of the router's design that can be left out, to see what it is for. The check must fail then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Without {
    /// A server connection forgets its tenant when it is given back, so that each transaction carries a bind.
    KeptBind,
    /// An idle session keeps its buffers.
    BufferRelease,
    /// A server connection is given back as its client left it (`soak`).
    Cleanup,
    /// Connections are given out in order of arrival (`neighbours`).
    Fairness,
    /// A tenant is handed over before everything it wrote has arrived (`move`).
    Marker,
    /// What a move made on its shards stays there (`move-faults`).
    Clearing,
    /// Hot tenants stay where they are (`flash-sale`).
    Isolation,
}

impl Without {
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

/// The child's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct PartArgs {
    /// The router's configuration as JSON.
    config: PathBuf,
    #[arg(long, value_enum)]
    without: Option<Without>,
}

/// Runs a router until standard input ends; prints its port once it knows the fleet.
pub(crate) fn run_part(args: &PartArgs) -> anyhow::Result<()> {
    let text = std::fs::read(&args.config).context("cannot read the router's configuration")?;
    let mut config: Config = serde_json::from_slice(&text)?;
    match args.without {
        Some(Without::KeptBind) => config.left_out.kept_bind = true,
        Some(Without::BufferRelease) => config.left_out.buffer_release = true,
        Some(Without::Cleanup) => config.left_out.cleanup = true,
        Some(Without::Fairness) => config.left_out.fairness = true,
        None | Some(Without::Marker | Without::Clearing | Without::Isolation) => {
            config.left_out = LeftOut::default();
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let running = tenantry_router::start(config).await?;
        let mut follow = running.follow.clone();
        follow.wait_for(|status| status.sequence.is_some()).await?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{}", running.pg_addr.port())?;
        stdout.flush()?;
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
        running.stop().await;
        Ok(())
    })
}

/// A running router; ends with its handle.
#[derive(Debug)]
pub(crate) struct RouterProcess {
    child: Child,
    pub(crate) port: u16,
}

impl RouterProcess {
    /// Starts it and waits until it serves.
    pub(crate) fn start(
        config: &Config,
        without: Option<Without>,
        folder: &std::path::Path,
    ) -> anyhow::Result<Self> {
        let file = folder.join("router.json");
        std::fs::write(&file, serde_json::to_vec(config)?)
            .context("cannot write the router's configuration")?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("router-part").arg(&file);
        if let Some(without) = without {
            command.args(["--without", &without.name()]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the router")?;
        let stdout = child.stdout.take().context("the router has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let port = line.trim().parse().context("the router did not start")?;
        Ok(Self { child, port })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for RouterProcess {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
