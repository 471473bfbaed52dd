//! `tenantry role`: the roles that clients log in as, through the catalog. No password is an argument or is kept: the
//! catalog has verifiers only.

mod args;

use std::io::BufRead as _;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tenantry_schema::catalog::Catalog;
use tenantry_schema::fleet::{PoolMode, Role, RoleKind, RoleLimits};
use tenantry_schema::secrets::Password;
use tenantry_schema::tenant::{TenantId, TenantKey};
use tenantry_wire::scram::Verifier;

pub(crate) use args::RoleCommand;
use args::{AlterArgs, CreateArgs, Limits, PasswordArgs, PasswordSource, Setting};

use crate::catalog::{audit, open};
use crate::config::Sources;
use crate::exit::{Exit, Failure};
use crate::output::{Printer, record};

/// Longest name: what PostgreSQL allows a role.
const NAME_BYTES_MAX: usize = 63;

/// Runs `tenantry role …`.
pub(crate) async fn run(
    command: RoleCommand,
    sources: &Sources,
    printer: Printer,
) -> Result<Exit, Failure> {
    let catalog = open(sources).await?;
    let key = catalog.settings().await?.tenant_key;
    match command {
        RoleCommand::List => {
            let roles = catalog.list_roles().await?;
            let views = roles.iter().map(|role| RoleView::of(role, key));
            printer.list(&views.collect::<Vec<_>>())?;
        }
        RoleCommand::Show { role } => {
            printer.one(&RoleView::of(&find(&catalog, &role).await?, key))?
        }
        RoleCommand::Create(args) => create(&catalog, key, args, printer).await?,
        RoleCommand::Alter(args) => alter(&catalog, key, args, printer).await?,
        RoleCommand::Password(args) => password(&catalog, key, args, printer).await?,
        RoleCommand::Drop { role } => drop_role(&catalog, key, &role).await?,
    }
    Ok(Exit::Ok)
}

async fn create(
    catalog: &Catalog,
    key: TenantKey,
    args: CreateArgs,
    printer: Printer,
) -> Result<(), Failure> {
    let name = args.role;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(Failure::usage(format!(
            "`{name}` is no name for a role: 1 to {NAME_BYTES_MAX} bytes"
        )));
    }
    if catalog
        .list_roles()
        .await?
        .iter()
        .any(|role| role.name == name)
    {
        return Err(Failure::precondition(format!("role {name} exists"))
            .hint("change it with `tenantry role alter` or `tenantry role password`"));
    }
    let secret = Secret::obtain(&args.password)?;
    let mut role = Role {
        name,
        verifier: secret.verifier(),
        kind: args.kind.into(),
        tenants: Vec::new(),
        limits: RoleLimits::default(),
        valid_until: None,
    };
    apply(catalog, args.limits, &mut role).await?;
    store(catalog, key, "role.create", None, &role).await?;
    printer.one(&RoleView::of(&role, key).with_password(secret))
}

async fn alter(
    catalog: &Catalog,
    key: TenantKey,
    args: AlterArgs,
    printer: Printer,
) -> Result<(), Failure> {
    let mut role = find(catalog, &args.role).await?;
    let before = state_of(&role, key);
    apply(catalog, args.limits, &mut role).await?;
    store(catalog, key, "role.alter", Some(before), &role).await?;
    printer.one(&RoleView::of(&role, key))
}

async fn password(
    catalog: &Catalog,
    key: TenantKey,
    args: PasswordArgs,
    printer: Printer,
) -> Result<(), Failure> {
    let mut role = find(catalog, &args.role).await?;
    let secret = Secret::obtain(&args.password)?;
    role.verifier = secret.verifier();
    store(catalog, key, "role.password", None, &role).await?;
    printer.one(&RoleView::of(&role, key).with_password(secret))
}

async fn drop_role(catalog: &Catalog, key: TenantKey, name: &str) -> Result<(), Failure> {
    let before = state_of(&find(catalog, name).await?, key);
    catalog.remove_role(name).await?;
    audit(catalog, "role.drop", ("role", name), Some(before), None).await
}

async fn find(catalog: &Catalog, name: &str) -> Result<Role, Failure> {
    let roles = catalog.list_roles().await?;
    let found = roles.into_iter().find(|role| role.name == name);
    found.ok_or_else(|| {
        Failure::not_found(format!("there is no role {name}")).hint("see `tenantry role list`")
    })
}

/// Takes over what the command line names.
async fn apply(catalog: &Catalog, limits: Limits, role: &mut Role) -> Result<(), Failure> {
    if !limits.tenants.is_empty() {
        if role.kind != RoleKind::Tenant {
            return Err(Failure::usage(format!(
                "a role of kind {} acts for every tenant; --tenant is for kind tenant",
                role.kind
            )));
        }
        let mut tenants: Vec<TenantId> = Vec::new();
        for name in &limits.tenants {
            tenants.push(catalog.tenant(name).await?.id);
        }
        role.tenants = tenants;
    }
    if role.kind == RoleKind::Tenant && role.tenants.is_empty() {
        return Err(Failure::usage("a role of kind tenant needs a --tenant"));
    }
    if let Some(mode) = limits.pool_mode {
        role.limits.pool_mode = mode.into();
    }
    if let Some(Setting(connections)) = limits.max_connections {
        role.limits.max_connections = connections;
    }
    if let Some(heeded) = limits.tenant_comment {
        role.limits.tenant_comment = heeded;
    }
    if let Some(Setting(until)) = limits.valid_until {
        role.valid_until = until;
    }
    Ok(())
}

async fn store(
    catalog: &Catalog,
    key: TenantKey,
    action: &str,
    before: Option<Value>,
    role: &Role,
) -> Result<(), Failure> {
    catalog.upsert_role(role).await?;
    let after = Some(state_of(role, key));
    audit(catalog, action, ("role", &role.name), before, after).await
}

/// For the audit trail; without the verifier.
fn state_of(role: &Role, key: TenantKey) -> Value {
    json!(RoleView::of(role, key))
}

/// A password on its way into a verifier.
struct Secret {
    text: String,
    /// Made here, so nobody knows it yet.
    made: bool,
}

impl Secret {
    fn obtain(source: &PasswordSource) -> Result<Self, Failure> {
        if !source.password_stdin {
            let text = Password::generate().expose().to_owned();
            return Ok(Self { text, made: true });
        }
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        let text = line.trim_end_matches(['\r', '\n']).to_owned();
        if text.is_empty() {
            return Err(Failure::usage("standard input holds no password"));
        }
        Ok(Self { text, made: false })
    }

    fn verifier(&self) -> String {
        Verifier::from_password(&self.text).to_string()
    }
}

/// A role as it is shown.
#[derive(Debug, Serialize)]
struct RoleView {
    name: String,
    kind: &'static str,
    tenants: Vec<String>,
    pool_mode: &'static str,
    max_connections: Option<u32>,
    valid_until: Option<Timestamp>,
    /// Only when it was made by this command.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

record!(RoleView {
    name => "NAME", kind => "KIND", tenants => "TENANTS", pool_mode => "POOL MODE", max_connections => "CONNECTIONS",
    valid_until => "VALID UNTIL", password => "PASSWORD",
});

impl RoleView {
    fn of(role: &Role, key: TenantKey) -> Self {
        let tenants = role.tenants.iter().map(|id| id.display(key).to_string());
        Self {
            name: role.name.clone(),
            kind: role.kind.as_str(),
            tenants: tenants.collect(),
            pool_mode: match role.limits.pool_mode {
                PoolMode::Transaction => "transaction",
                PoolMode::Session => "session",
            },
            max_connections: role.limits.max_connections,
            valid_until: role.valid_until,
            password: None,
        }
    }

    fn with_password(mut self, secret: Secret) -> Self {
        self.password = secret.made.then_some(secret.text);
        self
    }
}
