//! What a client is told when the router itself must refuse: the error table of the design, in one place.
//!
//! Every refusal has a SQLSTATE, a stable name in the routine field and a hint that says what to do.

use std::time::Duration;

use humantime_serde::re::humantime;
use tenantry_schema::limits::LimitKind;
use tenantry_wire::backend::{ErrorFields, Severity};
use tenantry_wire::sqlstate;

use crate::limits::{Killed, Over};
use crate::overtime::{Limit, Overtime};

/// Why the router does not run what a client asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Unknown tenant, unknown role or wrong password at startup; deliberately one answer.
    #[error("password authentication failed for user \"{user}\"")]
    Authentication { user: String },
    #[error("tenant \"{name}\" does not exist")]
    UnknownTenant { name: String },
    #[error("tenant {tenant} is suspended")]
    Suspended {
        tenant: String,
        reason: Option<String>,
        since: Option<String>,
        at_startup: bool,
    },
    #[error("tenant {tenant} is closed")]
    Closed { tenant: String, at_startup: bool },
    #[error("role \"{role}\" may not act for tenant {tenant}")]
    NotAllowed {
        role: String,
        tenant: String,
        at_startup: bool,
    },
    #[error(
        "the connection names two tenants, {first} by {first_source} and {second} by {second_source}"
    )]
    SourcesDisagree {
        first: String,
        first_source: &'static str,
        second: String,
        second_source: &'static str,
    },
    #[error("shard \"{name}\" does not exist")]
    UnknownShard { name: String },
    #[error("too many operators' sessions on shard {shard}")]
    TooManyOperators { shard: String, limit: usize },
    #[error("a session on one shard has no tenant")]
    TenantUnwanted,
    #[error("role \"{role}\" is no operator role")]
    OperatorsOnly { role: String },
    #[error("this role acts for several tenants and the connection names none")]
    TenantRequired,
    #[error("this session is bound to tenant {bound} and cannot switch")]
    Immutable { bound: String },
    #[error("cannot switch the tenant inside a transaction")]
    SwitchInTransaction,
    #[error("{what} cannot run inside a transaction block")]
    InTransactionBlock { what: &'static str },
    #[error("{what} cannot be executed within a pipeline")]
    InPipeline { what: &'static str },
    #[error("tenant {tenant} is still being provisioned")]
    Provisioning { tenant: String, waited: Duration },
    #[error("no shard can hold tenant {tenant}: the ring is empty")]
    EmptyRing { tenant: String },
    #[error("no shard is available")]
    NoShard,
    #[error("shard {shard} is not available")]
    ShardDown { shard: String, reason: String },
    #[error("no server connection of shard {shard} became free in {} ms", waited.as_millis())]
    QueueTimeout {
        shard: String,
        waited: Duration,
        waiting: usize,
        /// Of the same tenant.
        tenant_waiting: usize,
        tenant_held: usize,
        pool_size: usize,
    },
    #[error("too many sessions wait for shard {shard}")]
    QueueFull {
        shard: String,
        limit: usize,
        waiting: usize,
    },
    #[error("too many sessions of this tenant wait for shard {shard}")]
    TenantQueueFull {
        shard: String,
        limit: usize,
        waiting: usize,
    },
    #[error("sorry, too many clients already")]
    TooManyClients { limit: usize },
    #[error("too many connections for role \"{role}\"")]
    TooManyRoleConnections {
        role: String,
        limit: u32,
        observed: usize,
    },
    #[error("tenant {tenant} is at its limit of {} {}", over.limit, counted(over.kind))]
    OverLimit { tenant: String, over: Box<Over> },
    #[error("{} not served: the kill switch is thrown", killed_whom(.0))]
    Killed(Box<Killed>),
    /// The server's own words, when the tenant's transactions only read.
    #[error("{message}")]
    ReadOnly {
        message: String,
        killed: Box<Killed>,
    },
    #[error("too many connections are logging in at once")]
    TooManyLogins { limit: usize },
    #[error("too many connections from this address")]
    ConnectionRate { limit: usize, retry: Duration },
    #[error("too many failed logins from this address")]
    LoginFailureRate { limit: usize, retry: Duration },
    #[error("this router takes encrypted sessions only, and this one is not encrypted")]
    TlsRequired,
    #[error("connection requires a valid client certificate")]
    CertificateRequired,
    #[error("the client certificate is not that of role \"{role}\"")]
    CertificateMismatch {
        role: String,
        common_name: Option<String>,
    },
    #[error("SCRAM channel binding check failed")]
    ChannelBinding,
    #[error("the server connection was lost, the transaction was rolled back")]
    LostRolledBack { shard: String },
    #[error("the server connection was lost before the outcome was known")]
    LostUnknown { shard: String },
    #[error("the server connection that this session listened on was lost")]
    SessionLost { shard: String },
    #[error("tenant {tenant} has moved to another shard than this session's")]
    Moved { tenant: String, shard: String },
    #[error("tenant {tenant} is moving to another shard, and was not served in {} ms", waited.as_millis())]
    Held { tenant: String, waited: Duration },
    #[error("canceling statement due to user request")]
    Canceled,
    #[error("{what}")]
    Overtime { what: Overtime, limit: Limit },
    #[error("terminating connection due to administrator command")]
    Shutdown,
    #[error("the router is shutting down")]
    ShuttingDown,
    #[error("the router is starting: it knows no fleet yet")]
    Starting,
    #[error("{message}")]
    Protocol { message: String },
    /// A message whose body does not hold what it must; its end is known, so the session goes on.
    #[error("{message}")]
    Malformed { message: String },
    /// A first message that cannot be served, with the code that PostgreSQL has for it.
    #[error("{message}")]
    Startup { code: &'static str, message: String },
    #[error("{what} is not supported through the router")]
    Unsupported { what: String, hint: &'static str },
    #[error("{what} is not permitted")]
    NotPermitted {
        what: &'static str,
        hint: &'static str,
    },
    #[error("current transaction is aborted, commands ignored until end of transaction block")]
    TransactionAborted,
    #[error("prepared statement \"{name}\" already exists")]
    DuplicateStatement { name: String },
    #[error("{} does not exist", statement_name(name))]
    UnknownStatement { name: String },
    #[error(
        "bind message supplies {given} parameters, but prepared statement \"{name}\" requires {wanted}"
    )]
    ParameterCount {
        name: String,
        given: usize,
        wanted: usize,
    },
    #[error("cannot insert multiple commands into a prepared statement")]
    SeveralStatements,
    #[error("savepoint \"{name}\" does not exist")]
    UnknownSavepoint { name: String },
    #[error("stack depth limit exceeded")]
    StackDepth,
    #[error("cached plan must not change result type")]
    ResultChanged,
    #[error("cursor \"{name}\" already exists")]
    DuplicatePortal { name: String },
    #[error("portal \"{name}\" cannot be run")]
    PortalDone { name: String },
    #[error("portal \"{name}\" does not exist")]
    UnknownPortal { name: String },
    #[error("unrecognized configuration parameter \"{name}\"")]
    UnknownSetting { name: String },
    #[error("parameter \"{name}\" cannot be changed")]
    ReadOnlySetting { name: String },
    #[error("invalid value for parameter \"{name}\": \"{value}\"")]
    InvalidSetting { name: String, value: String },
    #[error("database \"{name}\" is not served here")]
    UnknownDatabase { name: String, served: String },
}

impl Refusal {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Authentication { .. } => sqlstate::INVALID_PASSWORD,
            Self::UnknownTenant { .. } | Self::InvalidSetting { .. } => {
                sqlstate::INVALID_PARAMETER_VALUE
            }
            Self::Suspended { at_startup, .. }
            | Self::Closed { at_startup, .. }
            | Self::NotAllowed { at_startup, .. } => {
                if *at_startup {
                    sqlstate::INVALID_AUTHORIZATION_SPECIFICATION
                } else {
                    sqlstate::INSUFFICIENT_PRIVILEGE
                }
            }
            Self::SourcesDisagree { .. }
            | Self::UnknownDatabase { .. }
            | Self::UnknownShard { .. }
            | Self::TenantUnwanted
            | Self::OperatorsOnly { .. }
            | Self::TlsRequired
            | Self::CertificateRequired
            | Self::CertificateMismatch { .. }
            | Self::ChannelBinding
            | Self::TenantRequired => sqlstate::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::Immutable { .. } | Self::NotPermitted { .. } => sqlstate::INSUFFICIENT_PRIVILEGE,
            Self::SwitchInTransaction
            | Self::InTransactionBlock { .. }
            | Self::InPipeline { .. } => sqlstate::ACTIVE_SQL_TRANSACTION,
            Self::Provisioning { .. }
            | Self::EmptyRing { .. }
            | Self::NoShard
            | Self::ShuttingDown
            | Self::Starting
            | Self::ShardDown { .. } => sqlstate::CANNOT_CONNECT_NOW,
            Self::QueueTimeout { .. }
            | Self::QueueFull { .. }
            | Self::TenantQueueFull { .. }
            | Self::TooManyOperators { .. }
            | Self::TooManyRoleConnections { .. }
            | Self::TooManyLogins { .. }
            | Self::TooManyClients { .. } => sqlstate::TOO_MANY_CONNECTIONS,
            Self::ConnectionRate { .. }
            | Self::LoginFailureRate { .. }
            | Self::OverLimit { .. }
            | Self::Killed(_) => sqlstate::CONFIGURATION_LIMIT_EXCEEDED,
            Self::ReadOnly { .. } => sqlstate::READ_ONLY_SQL_TRANSACTION,
            Self::LostRolledBack { .. } | Self::Held { .. } => sqlstate::SERIALIZATION_FAILURE,
            Self::LostUnknown { .. } => sqlstate::TRANSACTION_RESOLUTION_UNKNOWN,
            Self::Canceled => sqlstate::QUERY_CANCELED,
            Self::Overtime { what, .. } => match what {
                Overtime::Statement => sqlstate::QUERY_CANCELED,
                Overtime::Transaction => sqlstate::TRANSACTION_TIMEOUT,
                Overtime::IdleInTransaction => sqlstate::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                Overtime::IdleClient => sqlstate::IDLE_SESSION_TIMEOUT,
                Overtime::Killed => sqlstate::CONFIGURATION_LIMIT_EXCEEDED,
            },
            Self::Shutdown | Self::SessionLost { .. } | Self::Moved { .. } => {
                sqlstate::ADMIN_SHUTDOWN
            }
            Self::Protocol { .. } | Self::Malformed { .. } | Self::ParameterCount { .. } => {
                sqlstate::PROTOCOL_VIOLATION
            }
            Self::SeveralStatements => sqlstate::SYNTAX_ERROR,
            Self::UnknownSavepoint { .. } => sqlstate::INVALID_SAVEPOINT_SPECIFICATION,
            Self::StackDepth => sqlstate::STATEMENT_TOO_COMPLEX,
            Self::DuplicatePortal { .. } => sqlstate::DUPLICATE_CURSOR,
            Self::PortalDone { .. } => sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Startup { code, .. } => code,
            Self::Unsupported { .. } | Self::ResultChanged => sqlstate::FEATURE_NOT_SUPPORTED,
            Self::TransactionAborted => sqlstate::IN_FAILED_SQL_TRANSACTION,
            Self::DuplicateStatement { .. } => sqlstate::DUPLICATE_PREPARED_STATEMENT,
            Self::UnknownStatement { .. } => sqlstate::INVALID_SQL_STATEMENT_NAME,
            Self::UnknownPortal { .. } => sqlstate::INVALID_CURSOR_NAME,
            Self::UnknownSetting { .. } => sqlstate::UNDEFINED_OBJECT,
            Self::ReadOnlySetting { .. } => sqlstate::INSUFFICIENT_PRIVILEGE,
        }
    }

    /// The stable name, in the routine field and in metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Authentication { .. } => "AUTHENTICATION_FAILED",
            Self::UnknownTenant { .. } => "TENANT_UNKNOWN",
            Self::Suspended { .. } => "TENANT_SUSPENDED",
            Self::Closed { .. } => "TENANT_CLOSED",
            Self::NotAllowed { .. } => "TENANT_NOT_ALLOWED",
            Self::SourcesDisagree { .. } => "TENANT_SOURCES_DISAGREE",
            Self::UnknownShard { .. } => "SHARD_UNKNOWN",
            Self::TooManyOperators { .. } => "TOO_MANY_OPERATORS",
            Self::TenantUnwanted => "TENANT_UNWANTED",
            Self::OperatorsOnly { .. } => "OPERATORS_ONLY",
            Self::TenantRequired => "TENANT_REQUIRED",
            Self::Immutable { .. } => "TENANT_IMMUTABLE",
            Self::SwitchInTransaction => "TENANT_SWITCH_IN_TRANSACTION",
            Self::InTransactionBlock { .. } => "IN_TRANSACTION_BLOCK",
            Self::InPipeline { .. } => "IN_PIPELINE",
            Self::Provisioning { .. } => "TENANT_PROVISIONING",
            Self::EmptyRing { .. } => "RING_EMPTY",
            Self::NoShard => "NO_SHARD",
            Self::ShardDown { .. } => "SHARD_DOWN",
            Self::QueueTimeout { .. } => "QUEUE_TIMEOUT",
            Self::QueueFull { .. } => "QUEUE_FULL",
            Self::TenantQueueFull { .. } => "TENANT_QUEUE_FULL",
            Self::TooManyClients { .. } => "TOO_MANY_CLIENTS",
            Self::TooManyRoleConnections { .. } => "TOO_MANY_ROLE_CONNECTIONS",
            Self::OverLimit { over, .. } => match over.kind {
                LimitKind::QueriesPerSecond => "TENANT_QUERY_RATE",
                LimitKind::Transactions => "TENANT_TRANSACTIONS",
                LimitKind::Connections => "TENANT_CONNECTIONS",
                _ => "TENANT_LIMIT",
            },
            Self::Killed(_) => "KILL_SWITCH",
            Self::ReadOnly { .. } => "TENANT_READ_ONLY",
            Self::TooManyLogins { .. } => "TOO_MANY_LOGINS",
            Self::ConnectionRate { .. } => "CONNECTION_RATE",
            Self::LoginFailureRate { .. } => "LOGIN_FAILURE_RATE",
            Self::TlsRequired => "TLS_REQUIRED",
            Self::CertificateRequired => "CERTIFICATE_REQUIRED",
            Self::CertificateMismatch { .. } => "CERTIFICATE_MISMATCH",
            Self::ChannelBinding => "CHANNEL_BINDING",
            Self::LostRolledBack { .. } => "BACKEND_LOST",
            Self::LostUnknown { .. } => "OUTCOME_UNKNOWN",
            Self::SessionLost { .. } => "SESSION_LOST",
            Self::Moved { .. } => "TENANT_MOVED",
            Self::Held { .. } => "TENANT_HELD",
            Self::Canceled => "CANCELED",
            Self::Overtime { what, .. } => match what {
                Overtime::Statement => "STATEMENT_TIMEOUT",
                Overtime::Transaction => "TRANSACTION_TIMEOUT",
                Overtime::IdleInTransaction => "IDLE_IN_TRANSACTION_TIMEOUT",
                Overtime::IdleClient => "IDLE_CLIENT_TIMEOUT",
                Overtime::Killed => "KILL_SWITCH",
            },
            Self::Shutdown => "SHUTDOWN",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Starting => "STARTING",
            Self::Protocol { .. } | Self::Malformed { .. } => "PROTOCOL_VIOLATION",
            Self::Startup { .. } => "STARTUP_INVALID",
            Self::Unsupported { .. } => "UNSUPPORTED",
            Self::NotPermitted { .. } => "NOT_PERMITTED",
            Self::TransactionAborted => "TRANSACTION_ABORTED",
            Self::DuplicateStatement { .. } => "STATEMENT_EXISTS",
            Self::UnknownStatement { .. } => "STATEMENT_UNKNOWN",
            Self::ParameterCount { .. } => "PARAMETER_COUNT",
            Self::SeveralStatements => "SEVERAL_STATEMENTS",
            Self::UnknownSavepoint { .. } => "SAVEPOINT_UNKNOWN",
            Self::StackDepth => "STACK_DEPTH",
            Self::ResultChanged => "RESULT_CHANGED",
            Self::DuplicatePortal { .. } => "PORTAL_EXISTS",
            Self::PortalDone { .. } => "PORTAL_DONE",
            Self::UnknownPortal { .. } => "PORTAL_UNKNOWN",
            Self::UnknownSetting { .. } => "SETTING_UNKNOWN",
            Self::ReadOnlySetting { .. } => "SETTING_READ_ONLY",
            Self::InvalidSetting { .. } => "SETTING_INVALID",
            Self::UnknownDatabase { .. } => "DATABASE_UNKNOWN",
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Self::Suspended { reason, since, .. } => {
                let since = since.as_deref().map(|at| format!("suspended since {at}"));
                match (reason, since) {
                    (Some(reason), Some(since)) => Some(format!("{since}: {reason}")),
                    (Some(reason), None) => Some(reason.clone()),
                    (None, since) => since,
                }
            }
            Self::ShardDown { reason, .. } => Some(reason.clone()),
            Self::Provisioning { waited, .. } => {
                Some(format!("waited {} ms for its shard", waited.as_millis()))
            }
            Self::QueueTimeout {
                waiting,
                tenant_waiting,
                tenant_held,
                pool_size,
                ..
            } => Some(format!(
                "query_wait_timeout; {waiting} sessions wait, {tenant_waiting} of them this tenant's, which holds {tenant_held} of {pool_size} connections"
            )),
            Self::QueueFull { limit, waiting, .. } => Some(format!(
                "pool_queue_max is {limit}; {waiting} sessions wait"
            )),
            Self::TenantQueueFull { limit, waiting, .. } => Some(format!(
                "pool_tenant_queue_max, and half of what others leave of the queue, allow {limit} now; {waiting} wait"
            )),
            Self::TooManyOperators { limit, .. } => {
                Some(format!("operator_connections_max is {limit}"))
            }
            Self::TooManyClients { limit } => Some(format!("clients_max is {limit}")),
            Self::TooManyRoleConnections {
                limit, observed, ..
            } => Some(format!(
                "max_connections of the role is {limit}; this router has {observed}"
            )),
            Self::OverLimit { over, .. } => Some(over_limit(over)),
            Self::Killed(killed) | Self::ReadOnly { killed, .. } => Some(killed_why(killed)),
            Self::TooManyLogins { limit } => {
                Some(format!("clients_unauthenticated_max is {limit}"))
            }
            Self::ConnectionRate { limit, retry } => Some(format!(
                "connection_rate_max is {limit} per second; the next in {} ms",
                retry.as_millis() + 1
            )),
            Self::LoginFailureRate { limit, retry } => Some(format!(
                "login_failure_rate_max is {limit} per minute; the next attempt in {} ms",
                retry.as_millis() + 1
            )),
            Self::CertificateMismatch { common_name, .. } => Some(match common_name {
                Some(name) => format!("its common name is \"{name}\""),
                None => "it has no common name, or several".to_owned(),
            }),
            Self::LostUnknown { shard }
            | Self::LostRolledBack { shard }
            | Self::SessionLost { shard } => Some(format!("shard {shard}")),
            Self::Held { .. } => Some("query_wait_timeout".to_owned()),
            Self::Moved { shard, .. } => Some(format!("it lives on shard {shard} now")),
            Self::Overtime { limit, .. } => Some(format!(
                "{} is {}",
                limit.name,
                humantime::format_duration(limit.time)
            )),
            Self::UnknownDatabase { served, .. } => {
                Some(format!("this router serves database \"{served}\""))
            }
            _ => None,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Authentication { .. } => "check the user, the password and the tenant",
            Self::UnknownTenant { .. } => {
                "name a tenant by its id, its slug or one of its hostnames"
            }
            Self::Suspended { .. } => "resume it with `tenantry tenant resume`",
            Self::Closed { .. } => "a closed tenant does not come back; connect as another tenant",
            Self::NotAllowed { .. } => "connect with a role that is allowed for this tenant",
            Self::SourcesDisagree { .. } => "name the tenant in one place only",
            Self::UnknownShard { .. } => "see `tenantry shard list`",
            Self::TooManyOperators { .. } => {
                "close idle sessions on that shard or raise operator_connections_max"
            }
            Self::TenantUnwanted => "connect as the role alone, without a tenant",
            Self::OperatorsOnly { .. } => {
                "shard/NAME and tenantry are for roles of kind operator; connect to the fleet's database"
            }
            Self::TenantRequired => {
                "connect as role.TENANT or with options=-c tenantry.tenant=TENANT"
            }
            Self::Immutable { .. } => {
                "use a service role to act for several tenants over one connection"
            }
            Self::SwitchInTransaction => "end the transaction, then set tenantry.tenant",
            Self::InPipeline { .. } => "send a Sync before it",
            Self::InTransactionBlock { .. } => "end the transaction first, or send it alone",
            Self::Provisioning { .. } => "retry in a moment",
            Self::EmptyRing { .. } => "add a shared shard with `tenantry shard add`",
            Self::NoShard => "see `tenantry shard list`; retry in a moment",
            Self::ShardDown { .. } => "nothing was sent to it: retrying is safe",
            Self::TenantQueueFull { .. } => {
                "retry later, let fewer requests of this tenant wait at once, or raise pool_tenant_queue_max"
            }
            Self::QueueTimeout {
                tenant_held,
                pool_size,
                ..
            } if tenant_held * 2 >= *pool_size => {
                "end this tenant's transactions sooner, or run fewer of them at once: they hold most of the pool"
            }
            Self::QueueTimeout { .. } => {
                "retry later, or raise pool_size; among tenants that wait, weight decides"
            }
            Self::QueueFull { .. } => "retry later, or raise pool_size or pool_queue_max",
            Self::TooManyClients { .. } => "close idle connections or raise clients_max",
            Self::TooManyRoleConnections { .. } => {
                "close idle connections of this role, or raise its max_connections"
            }
            Self::OverLimit { .. } => {
                "nothing was run: retry after that time; `tenantry tenant limit` shows and raises the limit"
            }
            Self::Killed(_) => {
                "nothing was run: retry once it is released; `tenantry kill-switch list` shows it"
            }
            Self::ReadOnly { .. } => {
                "reading works; retry what writes once it is released, see `tenantry kill-switch list`"
            }
            Self::TooManyLogins { .. } => "retry in a moment",
            Self::ConnectionRate { .. } => "keep connections open, in a pool of the client's",
            Self::LoginFailureRate { .. } => "check the password, and wait before the next attempt",
            Self::TlsRequired => {
                "connect with sslmode=require, or verify-full to be sure of the router"
            }
            Self::CertificateRequired => {
                "connect with sslcert and sslkey, and a certificate of an authority in client_tls_ca_file"
            }
            Self::CertificateMismatch { .. } => {
                "use the certificate whose common name is the role's name"
            }
            Self::ChannelBinding => {
                "something between client and router ends TLS or takes offers away: connect to the router itself"
            }
            Self::LostRolledBack { .. } => "nothing was committed: retry the transaction",
            Self::LostUnknown { .. } => {
                "the statement may or may not have taken effect: check before retrying"
            }
            Self::Overtime { what, .. } => match what {
                Overtime::Statement => "make the statement cheaper, or raise the limit",
                Overtime::Transaction => "use shorter transactions, or raise the limit",
                Overtime::IdleInTransaction => {
                    "nothing was committed: ROLLBACK, and keep transactions open only while they work"
                }
                Overtime::IdleClient => "connect again, with a pool that closes idle connections",
                Overtime::Killed => {
                    "retry once it is released; `tenantry kill-switch list` shows it"
                }
            },
            Self::SessionLost { .. } | Self::Moved { .. } => {
                "connect and LISTEN again, and look for what came meanwhile"
            }
            Self::Held { .. } => {
                "nothing was run: retrying is safe; `tenantry move show` says what the move waits for"
            }
            Self::Canceled => "retry it if the cancel was not meant",
            Self::Shutdown | Self::ShuttingDown => "connect again",
            Self::Starting => "it needs the catalog or a snapshot; retry in a moment",
            Self::Startup { .. } => {
                "connect as a PostgreSQL client of protocol 3.0 or 3.2 does, with a user, in UTF-8"
            }
            Self::Protocol { .. } | Self::Malformed { .. } => {
                "the client sent what the protocol does not allow"
            }
            Self::Unsupported { hint, .. } | Self::NotPermitted { hint, .. } => hint,
            Self::TransactionAborted => "ROLLBACK ends the transaction",
            Self::DuplicateStatement { .. } => "close or DEALLOCATE it first, or use another name",
            Self::UnknownStatement { .. } => "prepare it first",
            Self::ParameterCount { .. } => "bind as many values as the statement has parameters",
            Self::UnknownSavepoint { .. } => "ROLLBACK ends the transaction",
            Self::StackDepth => "let it execute another statement than itself",
            Self::ResultChanged => "prepare the statement again",
            Self::SeveralStatements => "prepare each of them, or send a simple query",
            Self::DuplicatePortal { .. } => "close it first, or use another name",
            Self::PortalDone { .. } => "bind the statement again to run it again",
            Self::UnknownPortal { .. } => "bind it first; portals end with their transaction",
            Self::UnknownSetting { .. } => {
                "settings of the router are tenantry.tenant, tenantry.shard and tenantry.epoch"
            }
            Self::ReadOnlySetting { .. } => "set tenantry.tenant instead",
            Self::InvalidSetting { .. } => "give one value: an id, a slug or a hostname",
            Self::UnknownDatabase { .. } => "connect to that database, or to NAME/TENANT",
        }
    }

    /// The error as it travels; fatal where the connection ends.
    pub(crate) fn fields(&self, severity: Severity) -> ErrorFields {
        let mut fields = ErrorFields::new(severity, self.code(), self.to_string());
        if let Some(detail) = self.detail() {
            fields = fields.with_detail(detail);
        }
        fields.with_hint(self.hint()).with_routine(self.name())
    }
}

fn counted(kind: LimitKind) -> &'static str {
    match kind {
        LimitKind::QueriesPerSecond => "queries per second",
        LimitKind::Transactions => "transactions at once",
        LimitKind::Connections => "connections",
        other => other.as_str(),
    }
}

/// The limit, what was observed, and when to come again.
fn over_limit(over: &Over) -> String {
    let Over {
        kind,
        limit,
        share,
        observed,
        retry,
    } = over;
    let part = if share < limit {
        format!(", {share} of them on this router")
    } else {
        String::new()
    };
    let retry_ms = retry.as_millis() + 1;
    format!("{kind} is {limit}{part}; observed {observed}; retry in {retry_ms} ms")
}

fn killed_whom(killed: &Killed) -> String {
    match &killed.tenant {
        Some(tenant) => format!("tenant {tenant} is"),
        None => "tenants are".to_owned(),
    }
}

/// Why, since when and until when.
fn killed_why(killed: &Killed) -> String {
    let whose = killed
        .tenant
        .as_ref()
        .map_or("of the fleet", |_| "of the tenant");
    let reason = killed.reason.as_deref().unwrap_or("no reason given");
    let until = match killed.until {
        Some(until) => format!("until {until:.0}"),
        None => "until it is released".to_owned(),
    };
    format!(
        "kill switch {whose}, since {:.0}, {until}: {reason}",
        killed.since
    )
}

/// A statement as PostgreSQL's messages name it.
fn statement_name(name: &str) -> String {
    if name.is_empty() {
        "unnamed prepared statement".to_owned()
    } else {
        format!("prepared statement \"{name}\"")
    }
}
