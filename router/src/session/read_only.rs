//! Transactions of a tenant whose kill switch lets it read only.
//!
//! Each transaction is made read-only by a statement that takes a snapshot. From then on PostgreSQL itself refuses to make
//! it read-write again, whoever asks and in whatever words (SET TRANSACTION, set_config(), a function): "transaction
//! read-write mode must be set before any query". What could leave the transaction and write in the next is a procedure
//! that commits; those, and DO, are refused while it lasts. Both end with the transaction, so nothing of it reaches
//! another client.
//!
//! This protects a tenant's rows from its own clients, well-meaning or not. It is no boundary between tenants, and rests
//! on the tokenizer for CALL and DO: that boundary is the guard's.

use tenantry_wire::backend::ErrorFields;
use tenantry_wire::sql::{self, Lexer, TokenKind};
use tenantry_wire::sqlstate;

use super::statements::ClientStatement;
use super::{Session, Tx};
use crate::error::Refusal;
use crate::limits::Killed;
use crate::server::{Link, Source};

/// A SELECT, because that takes the snapshot; local, so that it ends with the transaction.
const READ_ONLY: &str = "SELECT pg_catalog.set_config('transaction_read_only', 'on', true)";

impl Session {
    /// Whether the tenant's transactions only read from now on, and why.
    pub(crate) fn set_read_only(&mut self, killed: Option<Box<Killed>>) {
        self.read_only = killed;
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only.is_some()
    }

    /// Makes the transaction on the server read-only, once and for good.
    pub(super) fn keep_from_writing(&mut self, server: &mut Link) {
        if self.is_read_only() && !server.state.read_only {
            let prepared = self.internal(READ_ONLY);
            self.run_hidden_prepared(server, &prepared);
            server.state.read_only = true;
        }
    }

    /// Whether what is known of the kill switch may be old: it is looked at when a connection is asked for.
    pub(super) fn looks_again(&self) -> bool {
        matches!(self.tx, Tx::Idle | Tx::Deferred { .. })
    }

    /// Why a text may not run while the tenant only reads, if so: it could begin a transaction of its own.
    pub(super) fn refused_as_writing(&self, text: &[u8]) -> Option<Refusal> {
        let killed = self.read_only.as_ref()?;
        let scs = self.scs();
        let command = sql::split(text, scs).find_map(|range| procedure(text.get(range)?, scs))?;
        Some(Refusal::ReadOnly {
            message: format!("cannot execute {command} in a read-only transaction"),
            killed: killed.clone(),
        })
    }

    /// The same of a statement that was prepared, perhaps before.
    pub(super) fn check_writing(&self, statement: &ClientStatement) -> Result<(), Refusal> {
        if !self.is_read_only() {
            return Ok(());
        }
        let text = match statement {
            ClientStatement::Server { prepared, .. } => match &prepared.source {
                Source::Protocol { text, .. } => text,
                // PREPARE takes no CALL and no DO.
                Source::Sql { .. } => return Ok(()),
            },
            ClientStatement::Unnamed { text, .. } | ClientStatement::Router { text, .. } => text,
        };
        self.refused_as_writing(text).map_or(Ok(()), Err)
    }

    /// The server's refusal to write, with the reason that only the router knows.
    pub(super) fn refused_by_switch(&self, fields: &ErrorFields) -> Option<Refusal> {
        let killed = self.read_only.as_ref()?;
        (fields.code == sqlstate::READ_ONLY_SQL_TRANSACTION).then(|| Refusal::ReadOnly {
            message: fields.message.clone(),
            killed: killed.clone(),
        })
    }
}

/// The command of a statement that may commit by itself.
fn procedure(statement: &[u8], scs: bool) -> Option<&'static str> {
    let mut lexer = Lexer::new(statement, scs);
    let first = lexer
        .next()
        .filter(|token| token.kind == TokenKind::Ident)?;
    let word = lexer.slice(first);
    ["CALL", "DO"]
        .into_iter()
        .find(|command| word.eq_ignore_ascii_case(command.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::procedure;

    #[test]
    fn procedures_are_known_by_their_first_word() {
        for (text, expected) in [
            ("call p()", Some("CALL")),
            (" -- x\n/* y */ DO $$begin commit; end$$", Some("DO")),
            ("select 'do'", None),
            ("\"do\"", None),
            ("document", None),
            ("", None),
        ] {
            assert_eq!(procedure(text.as_bytes(), true), expected, "{text}");
        }
    }
}
