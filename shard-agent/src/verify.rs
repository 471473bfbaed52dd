//! What is wrong with a shard: the checks behind `doctor` and behind bootstrap's last step.

use std::fmt;

use serde::Serialize;
use tenantry_schema::guard;
use tokio_postgres::Client;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is unsafe.
    Info,
    /// Should be looked at.
    Warning,
    /// A tenant may see or disturb another, or the guard does not work.
    Error,
}

/// One thing that is wrong with a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The object and what is wrong with it.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.hint)
    }
}

/// Why a session cannot do the agent's work.
#[derive(Debug, thiserror::Error)]
pub enum AgentRoleError {
    /// Row-level security applies to the role.
    #[error(
        "role {role} does not bypass row-level security: its updates would silently change nothing, and foreign keys \
         would be accepted that do not hold; grant it BYPASSRLS, or use tenantry_agent"
    )]
    NoBypassRls {
        /// The role.
        role: String,
    },
    /// The question could not be asked.
    #[error("cannot read the role's attributes")]
    Sql(#[from] tokio_postgres::Error),
}

/// Refuses a session to which row-level security applies.
///
/// # Errors
/// [`AgentRoleError`].
pub async fn require_agent_role(client: &Client) -> Result<(), AgentRoleError> {
    let row = client
        .query_one(
            "SELECT rolname::text, rolbypassrls OR rolsuper FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .await?;
    if row.get(1) {
        Ok(())
    } else {
        Err(AgentRoleError::NoBypassRls { role: row.get(0) })
    }
}

/// Everything that is wrong with the shard this session is connected to, worst first. The session is a superuser's,
/// the agent's or an operator's.
///
/// # Errors
/// A statement failed; that the guard is missing is a finding.
pub async fn verify(client: &Client) -> Result<Vec<Finding>, tokio_postgres::Error> {
    let installed: bool = client
        .query_one(
            "SELECT to_regprocedure('tenantry.findings()') IS NOT NULL",
            &[],
        )
        .await?
        .get(0);
    if !installed {
        return Ok(vec![Finding {
            severity: Severity::Error,
            what: "the guard is not installed".to_owned(),
            hint: "run bootstrap".to_owned(),
        }]);
    }
    let mut findings = Vec::new();
    let version: Option<i32> = client
        .query_one(
            "SELECT max(version) FROM tenantry.schema_version WHERE component = 'guard'",
            &[],
        )
        .await?
        .get(0);
    if version.and_then(|version| u32::try_from(version).ok()) != Some(guard::VERSION) {
        findings.push(Finding {
            severity: Severity::Error,
            what: format!(
                "version {} of the guard is installed, this program has {}",
                version.unwrap_or_default(),
                guard::VERSION
            ),
            hint: "run bootstrap, or upgrade this program".to_owned(),
        });
    }
    for row in client
        .query(
            "SELECT severity, object, problem, hint FROM tenantry.findings()",
            &[],
        )
        .await?
    {
        let severity = match row.get(0) {
            "error" => Severity::Error,
            _ => Severity::Warning,
        };
        let (object, problem): (&str, &str) = (row.get(1), row.get(2));
        findings.push(Finding {
            severity,
            what: format!("{object}: {problem}"),
            hint: row.get(3),
        });
    }
    findings.extend(slow_operators(client).await?);
    findings.sort_by(|a, b| {
        b.severity
            .cmp(&a.severity)
            .then_with(|| a.what.cmp(&b.what))
    });
    Ok(findings)
}

/// Index operators that cannot use their index below a policy.
async fn slow_operators(client: &Client) -> Result<Vec<Finding>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT index::text, string_agg(DISTINCT operator, ', ' ORDER BY operator)
             FROM tenantry.slow_operator GROUP BY 1 ORDER BY 1",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Finding {
            severity: Severity::Info,
            what: format!(
                "index {}: not used below the policy for {}",
                row.get::<_, &str>(0),
                row.get::<_, &str>(1)
            ),
            hint: "the operators' functions are not leakproof: see the guard's reviewed list"
                .to_owned(),
        })
        .collect())
}
