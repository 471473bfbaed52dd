//! The command line of `tenantry role`.

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use tenantry_schema::fleet::{PoolMode, RoleKind};

/// `tenantry role …`
#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// List the roles that clients log in as
    List,
    /// Show one role
    Show {
        /// Name of the role
        role: String,
    },
    /// Create a role; its password is made and shown once, or read from standard input
    Create(CreateArgs),
    /// Change a role; what is not named stays as it is
    Alter(AlterArgs),
    /// Remove a role; routers refuse it from then on
    Drop {
        /// Name of the role
        role: String,
    },
    /// Give a role another password, made and shown once, or read from standard input
    Password(PasswordArgs),
}

/// `tenantry role create`
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Name: what clients give as user, alone or before a dot and a tenant
    pub(crate) role: String,
    /// What it may do
    #[arg(long, value_enum)]
    pub(crate) kind: Kind,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) password: PasswordSource,
}

/// `tenantry role alter`
#[derive(Args, Debug)]
pub(crate) struct AlterArgs {
    /// Name of the role
    pub(crate) role: String,
    #[command(flatten)]
    pub(crate) limits: Limits,
}

/// `tenantry role password`
#[derive(Args, Debug)]
pub(crate) struct PasswordArgs {
    /// Name of the role
    pub(crate) role: String,
    #[command(flatten)]
    pub(crate) password: PasswordSource,
}

/// Where a password comes from. Never an argument: those can be read by everyone on the machine.
#[derive(Args, Debug)]
pub(crate) struct PasswordSource {
    /// Read the password from the first line of standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

/// What can be changed later.
#[derive(Args, Debug)]
pub(crate) struct Limits {
    /// Tenants that a role of kind tenant acts for: ids, slugs or hostnames
    #[arg(long = "tenant", value_name = "TENANT")]
    pub(crate) tenants: Vec<String>,
    /// How long a client keeps a server connection
    #[arg(long, value_enum)]
    pub(crate) pool_mode: Option<Mode>,
    /// Client connections per router, or `none` for no limit
    #[arg(long, value_name = "N", value_parser = connections)]
    pub(crate) max_connections: Option<Setting<u32>>,
    /// Whether a comment `/*tenantry_tenant='ID'*/` at the end of a statement names its tenant
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub(crate) tenant_comment: Option<bool>,
    /// When the role stops working, such as `2027-01-31T00:00:00Z`, or `none`
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    pub(crate) valid_until: Option<Setting<Timestamp>>,
}

/// A limit that may be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting<T>(pub(crate) Option<T>);

fn connections(text: &str) -> Result<Setting<u32>, String> {
    setting(text, "a number or `none`")
}

fn timestamp(text: &str) -> Result<Setting<Timestamp>, String> {
    setting(text, "a time such as `2027-01-31T00:00:00Z`, or `none`")
}

fn setting<T: std::str::FromStr>(text: &str, expected: &str) -> Result<Setting<T>, String> {
    if text == "none" {
        return Ok(Setting(None));
    }
    let value = text.parse().map_err(|_| format!("expected {expected}"))?;
    Ok(Setting(Some(value)))
}

/// What a role may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Bound to its tenants, never switches
    Tenant,
    /// Acts for any tenant that it names
    Service,
    /// The fleet's people: shards by name, the console
    Operator,
}

impl From<Kind> for RoleKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Tenant => Self::Tenant,
            Kind::Service => Self::Service,
            Kind::Operator => Self::Operator,
        }
    }
}

/// How long a client keeps a server connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// For a transaction
    Transaction,
    /// For the session
    Session,
}

impl From<Mode> for PoolMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Transaction => Self::Transaction,
            Mode::Session => Self::Session,
        }
    }
}
