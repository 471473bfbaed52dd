//! What can go wrong with the catalog, told apart by what the caller can do about it.

use tokio_postgres::error::{DbError, SqlState};

use crate::tenant::ParseTenantIdError;

/// Why an operation on the catalog failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The URL is not understood; the text of the URL, which may hold a password, is not repeated.
    #[error("the catalog's URL is not valid")]
    Url(#[source] tokio_postgres::Error),
    /// The catalog does not answer.
    #[error("cannot connect to the catalog at {address}")]
    Connect {
        /// Host and port, without credentials.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection was lost while an operation ran; whether a commit took place is unknown.
    #[error("the connection to the catalog was lost")]
    Lost(#[source] tokio_postgres::Error),
    /// The catalog accepts connections but does not answer.
    #[error("the catalog did not answer within {} ms", within.as_millis())]
    Silent {
        /// How long was waited.
        within: std::time::Duration,
    },
    /// Work of ours was cut short, by a shutdown or a defect.
    #[error("{0} was interrupted")]
    Interrupted(&'static str),
    /// The database has no catalog, or `init` has not chosen the tenant key yet.
    #[error("the database holds no initialised catalog")]
    NotInitialised,
    /// `init` with other settings than the catalog has.
    #[error("the catalog is initialised with tenant key {key} and tenant column {column:?}")]
    SettingsDiffer {
        /// The catalog's key.
        key: crate::tenant::TenantKey,
        /// The catalog's column.
        column: String,
    },
    /// A newer release has migrated this catalog.
    #[error("the catalog is at version {found}, this program knows {known}")]
    Newer {
        /// The catalog's version.
        found: i32,
        /// The latest version this program has.
        known: i32,
    },
    /// An applied migration differs from the one this program has.
    #[error("migration {version} was applied with another text than this program has")]
    EditedMigration {
        /// Which.
        version: i32,
    },
    /// Nothing of that name.
    #[error("no {what} {key:?}")]
    NotFound {
        /// tenant, shard, role or router.
        what: &'static str,
        /// As the caller named it.
        key: String,
    },
    /// A name or id is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// The catalog's own rules refuse the write.
    #[error("{message}")]
    Refused {
        /// The rule.
        message: String,
        /// What to do instead, if the rule says.
        hint: Option<String>,
    },
    /// Another transaction holds a lock for too long, or this one lost a serialisation race. A retry is safe.
    #[error("the catalog is busy: {0}")]
    Busy(String),
    /// An id of the other key kind.
    #[error(transparent)]
    TenantId(#[from] ParseTenantIdError),
    /// A row holds what this program does not understand.
    #[error("{table} {key:?} is not understood: {cause}")]
    Row {
        /// Which table.
        table: &'static str,
        /// Which row.
        key: String,
        /// Why.
        cause: String,
    },
    /// A copy stream ended early or is not in the binary format.
    #[error("a copy from the catalog is malformed: {0}")]
    Copy(&'static str),
    /// Any other failure of a statement.
    #[error("a statement on the catalog failed")]
    Statement(#[source] tokio_postgres::Error),
}

impl CatalogError {
    pub(crate) fn not_found(what: &'static str, key: impl Into<String>) -> Self {
        Self::NotFound {
            what,
            key: key.into(),
        }
    }

    pub(crate) fn row(
        table: &'static str,
        key: impl Into<String>,
        cause: impl std::fmt::Display,
    ) -> Self {
        Self::Row {
            table,
            key: key.into(),
            cause: cause.to_string(),
        }
    }

    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Lost(_) | Self::Silent { .. } | Self::Busy(_)
        )
    }

    /// What to do about it, where the catalog says.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { hint, .. } => hint.as_deref(),
            Self::NotInitialised => {
                Some("`tenantry init` makes an empty database the catalog of a new fleet")
            }
            _ => None,
        }
    }
}

impl From<tokio_postgres::Error> for CatalogError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => match refusal(db) {
                Some(refusal) => refusal,
                None => Self::Statement(error),
            },
            None if error.is_closed() || is_io(&error) => Self::Lost(error),
            None => Self::Statement(error),
        }
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.is::<std::io::Error>() {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// The SQLSTATEs by which the schema states its rules.
fn refusal(db: &DbError) -> Option<CatalogError> {
    let code = db.code();
    let message = || match db.detail() {
        Some(detail)
            if *code == SqlState::UNIQUE_VIOLATION || *code == SqlState::FOREIGN_KEY_VIOLATION =>
        {
            detail.to_owned()
        }
        _ => db.message().to_owned(),
    };
    let rules = [
        SqlState::CHECK_VIOLATION,
        SqlState::FOREIGN_KEY_VIOLATION,
        SqlState::NOT_NULL_VIOLATION,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
    ];
    if *code == SqlState::UNIQUE_VIOLATION {
        Some(CatalogError::AlreadyExists(message()))
    } else if rules.contains(code) {
        Some(CatalogError::Refused {
            message: message(),
            hint: db.hint().map(str::to_owned),
        })
    } else if [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
    ]
    .contains(code)
    {
        Some(CatalogError::Busy(message()))
    } else if [
        SqlState::UNDEFINED_TABLE,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::UNDEFINED_OBJECT,
    ]
    .contains(code)
    {
        Some(CatalogError::NotInitialised)
    } else {
        None
    }
}
