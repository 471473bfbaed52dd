//! SQLSTATE codes that Tenantry sends or acts upon.
//!
//! PostgreSQL documentation, appendix "PostgreSQL Error Codes". Only codes that PostgreSQL itself defines: drivers
//! decide by class what may be retried.

/// `successful_completion`
pub const SUCCESSFUL_COMPLETION: &str = "00000";
/// `warning`
pub const WARNING: &str = "01000";
/// `connection_exception`
pub const CONNECTION_EXCEPTION: &str = "08000";
/// `sqlserver_rejected_establishment_of_sqlconnection`
pub const CONNECTION_REJECTED: &str = "08004";
/// `connection_failure`
pub const CONNECTION_FAILURE: &str = "08006";
/// `transaction_resolution_unknown`: nobody can say whether the transaction committed.
pub const TRANSACTION_RESOLUTION_UNKNOWN: &str = "08007";
/// `protocol_violation`
pub const PROTOCOL_VIOLATION: &str = "08P01";
/// `feature_not_supported`
pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
/// `character_not_in_repertoire`
pub const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
/// `invalid_parameter_value`
pub const INVALID_PARAMETER_VALUE: &str = "22023";
/// `active_sql_transaction`
pub const ACTIVE_SQL_TRANSACTION: &str = "25001";
/// `read_only_sql_transaction`
pub const READ_ONLY_SQL_TRANSACTION: &str = "25006";
/// `no_active_sql_transaction`
pub const NO_ACTIVE_SQL_TRANSACTION: &str = "25P01";
/// `in_failed_sql_transaction`
pub const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
/// `idle_in_transaction_session_timeout`
pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: &str = "25P03";
/// `transaction_timeout`, from PostgreSQL 17 on
pub const TRANSACTION_TIMEOUT: &str = "25P04";
/// `invalid_sql_statement_name`
pub const INVALID_SQL_STATEMENT_NAME: &str = "26000";
/// `invalid_authorization_specification`
pub const INVALID_AUTHORIZATION_SPECIFICATION: &str = "28000";
/// `invalid_password`
pub const INVALID_PASSWORD: &str = "28P01";
/// `invalid_cursor_name`
pub const INVALID_CURSOR_NAME: &str = "34000";
/// `invalid_savepoint_specification`
pub const INVALID_SAVEPOINT_SPECIFICATION: &str = "3B001";
/// `serialization_failure`
pub const SERIALIZATION_FAILURE: &str = "40001";
/// `deadlock_detected`
pub const DEADLOCK_DETECTED: &str = "40P01";
/// `insufficient_privilege`
pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// `syntax_error`
pub const SYNTAX_ERROR: &str = "42601";
/// `invalid_name`
pub const INVALID_NAME: &str = "42602";
/// `undefined_object`
pub const UNDEFINED_OBJECT: &str = "42704";
/// `duplicate_cursor`
pub const DUPLICATE_CURSOR: &str = "42P03";
/// `duplicate_prepared_statement`
pub const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";
/// `insufficient_resources`
pub const INSUFFICIENT_RESOURCES: &str = "53000";
/// `too_many_connections`
pub const TOO_MANY_CONNECTIONS: &str = "53300";
/// `configuration_limit_exceeded`
pub const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
/// `program_limit_exceeded`
pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
/// Statement too complex
pub const STATEMENT_TOO_COMPLEX: &str = "54001";
/// `object_not_in_prerequisite_state`
pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
/// `query_canceled`
pub const QUERY_CANCELED: &str = "57014";
/// `admin_shutdown`
pub const ADMIN_SHUTDOWN: &str = "57P01";
/// `crash_shutdown`
pub const CRASH_SHUTDOWN: &str = "57P02";
/// `cannot_connect_now`
pub const CANNOT_CONNECT_NOW: &str = "57P03";
/// `idle_session_timeout`
pub const IDLE_SESSION_TIMEOUT: &str = "57P05";
/// `internal_error`
pub const INTERNAL_ERROR: &str = "XX000";
