//! What a statement is to the router.

use super::{calls::SettingCall, quote::quote_identifier, transaction::TransactionModes};

/// What a statement is to the router. Names are folded and without quotes; setting names are lower case throughout,
/// because PostgreSQL compares them so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Nothing but white space, comments and semicolons.
    Empty,
    /// A statement that is forwarded as it is.
    Plain,
    /// A statement of the list whose names or values are not UTF-8: the router cannot follow it.
    NotUtf8,
    /// BEGIN, START TRANSACTION
    Begin(TransactionModes),
    /// COMMIT, END
    Commit {
        /// AND CHAIN
        chain: bool,
    },
    /// ROLLBACK, ABORT
    Rollback {
        /// AND CHAIN
        chain: bool,
    },
    /// SAVEPOINT name
    Savepoint(String),
    /// ROLLBACK TO name
    RollbackTo(String),
    /// RELEASE name
    Release(String),
    /// PREPARE TRANSACTION
    PrepareTransaction,
    /// SET TRANSACTION modes
    SetTransaction(TransactionModes),
    /// SET SESSION CHARACTERISTICS AS TRANSACTION modes; [`TransactionModes::default_settings`] are what it sets.
    SetSessionCharacteristics(TransactionModes),
    /// SET of a setting, in its general form or in one of the special ones (TIME ZONE, NAMES, SCHEMA, XML OPTION).
    Set {
        /// SET LOCAL
        local: bool,
        /// The setting, for example `tenantry.tenant` or `timezone`.
        name: String,
        /// What it becomes.
        value: SetValue,
        /// Everything behind SET, LOCAL and SESSION, as it was written.
        tail: &'a [u8],
    },
    /// SET ROLE, or SET role
    SetRole {
        /// SET LOCAL
        local: bool,
        /// The role; NONE is `none`.
        value: SetValue,
    },
    /// SET SESSION AUTHORIZATION, or SET session_authorization
    SetSessionAuthorization {
        /// SET LOCAL
        local: bool,
        /// The role.
        value: SetValue,
    },
    /// RESET of a setting, the special forms included.
    Reset(String),
    /// RESET ALL
    ResetAll,
    /// SHOW of a setting, the special forms included.
    Show(String),
    /// SHOW ALL
    ShowAll,
    /// A statement that calls `set_config` or `current_setting`, in the order of its text.
    SetConfig {
        /// The calls.
        calls: Vec<SettingCall>,
        /// The statement is `SELECT call [[AS] alias], ...` and nothing else.
        whole: bool,
    },
    /// `SELECT pg_backend_pid()` and nothing else.
    BackendPid {
        /// The name of the result's column.
        column: String,
    },
    /// DISCARD
    Discard(DiscardTarget),
    /// DEALLOCATE ALL
    DeallocateAll,
    /// DEALLOCATE name
    Deallocate(String),
    /// PREPARE name (types) AS statement
    PrepareStatement {
        /// The statement's name.
        name: String,
        /// Type names as they were written.
        types: Vec<&'a [u8]>,
        /// The statement.
        text: &'a [u8],
    },
    /// EXECUTE name (arguments)
    ExecuteStatement {
        /// The statement's name.
        name: String,
        /// The text between the parentheses, empty without arguments.
        args: &'a [u8],
    },
    /// LISTEN channel
    Listen(String),
    /// UNLISTEN channel; `None` is `*`.
    Unlisten(Option<String>),
    /// NOTIFY channel, payload
    Notify {
        /// The channel.
        channel: String,
        /// The payload.
        payload: Option<String>,
    },
    /// COPY table FROM STDIN
    CopyFromStdin {
        /// The table as it was written.
        table: &'a [u8],
    },
    /// COPY ... TO STDOUT
    CopyToStdout,
    /// LOCK TABLE
    LockTable,
    /// ALTER ROLE, ALTER USER, ALTER GROUP
    AlterRole,
    /// DECLARE ... CURSOR
    DeclareCursor {
        /// The cursor's name.
        name: String,
        /// WITH HOLD: it outlives its transaction.
        hold: bool,
        /// The query of a cursor that is declared without any option.
        query: Option<&'a [u8]>,
    },
    /// CLOSE of a cursor; `None` is ALL.
    CloseCursor(Option<String>),
    /// A statement that makes something temporary: CREATE TEMP, SELECT INTO TEMP, CREATE in `pg_temp`.
    CreateTemp,
    /// A statement that cannot run in a transaction block, for example VACUUM.
    NoTransaction,
    /// TRUNCATE
    Truncate,
}

/// What DISCARD discards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiscardTarget {
    /// Everything of the session.
    All,
    /// Cached plans.
    Plans,
    /// State of sequences (currval, lastval).
    Sequences,
    /// Temporary tables.
    Temp,
}

/// What SET sets a setting to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetValue {
    /// DEFAULT, and LOCAL for the time zone.
    Default,
    /// FROM CURRENT: the value it has.
    FromCurrent,
    /// One value or more, each without quotes; numbers and words as PostgreSQL writes them.
    Values(Vec<String>),
    /// A time zone given as INTERVAL.
    Interval,
}

impl SetValue {
    /// The text that `set_config` would take for the setting `name` to become this, or `None` unless values are given.
    /// Elements of settings that list identifiers are quoted where they need it.
    #[must_use]
    pub fn to_text(&self, name: &str) -> Option<String> {
        /// Settings with `GUC_LIST_QUOTE`.
        const IDENTIFIER_LISTS: &[&str] = &[
            "local_preload_libraries",
            "search_path",
            "session_preload_libraries",
            "shared_preload_libraries",
            "temp_tablespaces",
            "unix_socket_directories",
        ];
        let Self::Values(values) = self else {
            return None;
        };
        if IDENTIFIER_LISTS.contains(&name) {
            let quoted: Vec<_> = values.iter().map(|value| quote_identifier(value)).collect();
            Some(quoted.join(", "))
        } else {
            Some(values.join(", "))
        }
    }
}
