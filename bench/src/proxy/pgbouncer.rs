//! PgBouncer beside the router: found, configured, started.
//!
//! It serves the same shard with the same role under the same guard: a `connect_query` binds each of its server
//! connections to one tenant, with a signature that only this fleet's bench schema can make.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tenantry_cluster::{Account, free_port};
use tokio::net::TcpStream;

/// The database that is pooled by transactions, and the one that is pooled by sessions.
pub(crate) const TRANSACTION: &str = "transaction";
pub(crate) const SESSION: &str = "session";
/// The client's role at PgBouncer, which asks it for no password: in its favour, as the router asks for one.
pub(crate) const USER: &str = "bench";

const START_TIME: Duration = Duration::from_secs(10);
/// First release that serves prepared statements in transaction mode.
const PREPARED_SINCE: (u32, u32) = (1, 21);

/// The installed program.
#[derive(Debug, Clone)]
pub(crate) struct Installed {
    program: PathBuf,
    pub(crate) version: String,
    /// Whether it keeps prepared statements in transaction mode.
    pub(crate) pools_prepared: bool,
}

impl Installed {
    /// `program`, or else the first that is found: `scripts/setup --bench` builds one that pools prepared statements,
    /// and Debian keeps its own out of an ordinary user's PATH.
    pub(crate) fn find(program: Option<&Path>) -> anyhow::Result<Self> {
        let usual = [Path::new("pgbouncer"), Path::new("/usr/sbin/pgbouncer")];
        let candidates = program.as_ref().map_or(&usual[..], std::slice::from_ref);
        for program in candidates {
            let Ok(output) = Command::new(program).arg("--version").output() else {
                continue;
            };
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let version = text
                .lines()
                .next()
                .and_then(|line| line.strip_prefix("PgBouncer "))
                .context("pgbouncer --version says something else")?;
            let mut numbers = version.split('.').filter_map(|part| part.parse().ok());
            let number = (
                numbers.next().unwrap_or_default(),
                numbers.next().unwrap_or_default(),
            );
            return Ok(Self {
                program: program.to_path_buf(),
                version: version.to_owned(),
                pools_prepared: number >= PREPARED_SINCE,
            });
        }
        bail!("PgBouncer is not installed: scripts/setup --bench")
    }
}

/// Which server it pools.
#[derive(Debug)]
pub(crate) struct Backend<'a> {
    pub(crate) port: u16,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    pub(crate) connect_query: &'a str,
    /// Server connections in transaction mode.
    pub(crate) pool_size: usize,
    /// Server connections in session mode: one per client.
    pub(crate) sessions: usize,
}

/// A running PgBouncer; ends with its handle.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    child: Child,
    pub(crate) port: u16,
}

impl PgBouncer {
    pub(crate) async fn start(
        installed: &Installed,
        backend: &Backend<'_>,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let port = free_port().context("no port is free")?;
        // It switches to an account that must be able to read its files.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        let (config, users, log) = (
            folder.join("pgbouncer.ini"),
            folder.join("users.txt"),
            folder.join("pgbouncer.log"),
        );
        fs::write(&users, format!("\"{USER}\" \"\"\n"))?;
        fs::write(&config, ini(installed, backend, port, &users))?;
        let errors = fs::File::create(&log)?;
        let mut command = Command::new(&installed.program);
        let account = Account::for_servers()?;
        if account.is_another() {
            command.args(["-u", account.name()]);
        }
        let child = command
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .context("cannot start PgBouncer")?;
        let mut started = Self { child, port };
        started.wait(&log).await?;
        Ok(started)
    }

    async fn wait(&mut self, log: &Path) -> anyhow::Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let deadline = Instant::now() + START_TIME;
        while TcpStream::connect(address).await.is_err() {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("PgBouncer did not start: {}", fs::read_to_string(log)?);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ini(installed: &Installed, backend: &Backend<'_>, port: u16, users: &Path) -> String {
    let Backend {
        port: server_port,
        database,
        user,
        password,
        connect_query,
        pool_size,
        sessions,
    } = backend;
    let line = |name: &str, mode: &str, size: usize| {
        format!(
            "{name} = host=127.0.0.1 port={server_port} dbname={database} user={user} password={password} \
             pool_mode={mode} pool_size={size} connect_query='{connect_query}'\n"
        )
    };
    let prepared = if installed.pools_prepared {
        "max_prepared_statements = 200\n"
    } else {
        ""
    };
    format!(
        "[databases]\n{}{}[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = trust\nauth_file = {}\nmax_client_conn = 1000\nserver_reset_query = DEALLOCATE ALL\n\
         log_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n{prepared}",
        line(TRANSACTION, "transaction", *pool_size),
        line(SESSION, "session", *sessions),
        users.display()
    )
}
