//! What the operator's commands share: opening the catalog, and saying how its failures end the process.

use serde_json::Value;
use tenantry_schema::catalog::{AuditEntry, Catalog, CatalogError};
use tokio_postgres::error::SqlState;

use crate::config::Sources;
use crate::exit::{Exit, Failure};

/// Connects to the configured catalog.
pub(crate) async fn open(sources: &Sources) -> Result<Catalog, Failure> {
    let settings = sources.settings()?;
    Ok(Catalog::connect(settings.catalog_url()?).await?)
}

/// Records what was done. The act itself has been committed, so a failure here is reported as such.
pub(crate) async fn audit(
    catalog: &Catalog,
    action: &str,
    target: (&str, &str),
    before: Option<Value>,
    after: Option<Value>,
) -> Result<(), Failure> {
    let entry = AuditEntry {
        actor: &actor(),
        action,
        target_kind: target.0,
        target: target.1,
        before,
        after,
        request_id: None,
    };
    catalog.audit(&entry).await.map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("{action} was done, but could not be entered in the audit trail"),
        )
        .because(error)
    })
}

/// Who acts: the account this runs under, as it calls itself.
pub(crate) fn actor() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    format!(
        "cli:{}",
        user.unwrap_or_else(|_| rustix::process::getuid().as_raw().to_string())
    )
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        let hint = error.hint().map(str::to_owned);
        let failure = match std::error::Error::source(&error) {
            None => Self::new(exit_of(&error), error.to_string()),
            Some(source) => {
                let message = error.to_string();
                let exit = exit_of(&error);
                Self::new(exit, message).because(chain(source))
            }
        };
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// The causes below an error as an error of their own.
fn chain(source: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    match source.source() {
        None => anyhow::Error::msg(source.to_string()),
        Some(inner) => chain(inner).context(source.to_string()),
    }
}

fn exit_of(error: &CatalogError) -> Exit {
    let refused_login = [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    let is_refusal = |source: &tokio_postgres::Error| {
        source
            .code()
            .is_some_and(|code| refused_login.contains(code))
    };
    match error {
        CatalogError::NotFound { .. } => Exit::NotFound,
        CatalogError::Url(_) | CatalogError::TenantId(_) => Exit::Usage,
        CatalogError::AlreadyExists(_)
        | CatalogError::Refused { .. }
        | CatalogError::NotInitialised
        | CatalogError::SettingsDiffer { .. }
        | CatalogError::EditedMigration { .. }
        | CatalogError::Newer { .. } => Exit::Precondition,
        CatalogError::Connect { source, .. } if source.downcast_ref().is_some_and(is_refusal) => {
            Exit::NotAllowed
        }
        CatalogError::Statement(source) if is_refusal(source) => Exit::NotAllowed,
        transient if transient.is_transient() => Exit::Transient,
        _ => Exit::Failed,
    }
}
