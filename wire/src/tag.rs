//! Type bytes of the protocol's messages.
//!
//! The same byte means different things in the two directions, hence two modules. PostgreSQL documentation,
//! "Message Formats".

/// Messages a client sends.
pub mod frontend {
    /// Bind a prepared statement to a portal.
    pub const BIND: u8 = b'B';
    /// Close a statement or a portal.
    pub const CLOSE: u8 = b'C';
    /// A piece of a COPY stream.
    pub const COPY_DATA: u8 = b'd';
    /// The COPY stream is complete.
    pub const COPY_DONE: u8 = b'c';
    /// The client gives up a COPY.
    pub const COPY_FAIL: u8 = b'f';
    /// Describe a statement or a portal.
    pub const DESCRIBE: u8 = b'D';
    /// Execute a portal.
    pub const EXECUTE: u8 = b'E';
    /// Ask for everything that is pending.
    pub const FLUSH: u8 = b'H';
    /// Call a function by its oid.
    pub const FUNCTION_CALL: u8 = b'F';
    /// Prepare a statement.
    pub const PARSE: u8 = b'P';
    /// Password, SASLInitialResponse, SASLResponse or GSSResponse; the phase tells which.
    pub const PASSWORD: u8 = b'p';
    /// Simple query.
    pub const QUERY: u8 = b'Q';
    /// End of an extended-protocol batch.
    pub const SYNC: u8 = b'S';
    /// Orderly end of the session.
    pub const TERMINATE: u8 = b'X';
}

/// Messages a server sends.
pub mod backend {
    /// Any of the authentication messages.
    pub const AUTHENTICATION: u8 = b'R';
    /// Process id and secret for cancel requests.
    pub const BACKEND_KEY_DATA: u8 = b'K';
    /// Bind succeeded.
    pub const BIND_COMPLETE: u8 = b'2';
    /// Close succeeded.
    pub const CLOSE_COMPLETE: u8 = b'3';
    /// A statement completed.
    pub const COMMAND_COMPLETE: u8 = b'C';
    /// COPY in both directions starts (replication).
    pub const COPY_BOTH: u8 = b'W';
    /// A piece of a COPY stream.
    pub const COPY_DATA: u8 = b'd';
    /// The COPY stream is complete.
    pub const COPY_DONE: u8 = b'c';
    /// The server waits for COPY data.
    pub const COPY_IN: u8 = b'G';
    /// The server is about to send COPY data.
    pub const COPY_OUT: u8 = b'H';
    /// One row.
    pub const DATA_ROW: u8 = b'D';
    /// The query string was empty.
    pub const EMPTY_QUERY: u8 = b'I';
    /// An error.
    pub const ERROR: u8 = b'E';
    /// Result of a function call.
    pub const FUNCTION_RESULT: u8 = b'V';
    /// The server speaks an older minor version, or does not know an option.
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    /// The statement returns no rows.
    pub const NO_DATA: u8 = b'n';
    /// A notice.
    pub const NOTICE: u8 = b'N';
    /// An asynchronous notification.
    pub const NOTIFICATION: u8 = b'A';
    /// Types of a statement's parameters.
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    /// A setting's value as the client must know it.
    pub const PARAMETER_STATUS: u8 = b'S';
    /// Parse succeeded.
    pub const PARSE_COMPLETE: u8 = b'1';
    /// The row limit of Execute was reached.
    pub const PORTAL_SUSPENDED: u8 = b's';
    /// The server waits for the next command.
    pub const READY_FOR_QUERY: u8 = b'Z';
    /// Columns of the rows to come.
    pub const ROW_DESCRIPTION: u8 = b'T';
}
