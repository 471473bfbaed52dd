//! What is remembered of a request while a server works for it, for the log of slow statements.
//!
//! Off unless a threshold is set; then each statement is read once more. Values never get here:
//! only the statement without them, its fingerprint, and the trace it belongs to.

use tenantry_wire::frontend::{Bind, Parse, query_text};
use tenantry_wire::sql;
use tenantry_wire::tag::frontend as tag;

use super::Session;
use super::client::ClientMessage;
use super::statements::ClientStatement;
use crate::server::Source;

/// Longest statement kept for the log, bytes.
const STATEMENT_MAX: usize = 2048;

/// The statement that the server works on, as logs may show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Without values.
    pub(crate) statement: String,
    pub(crate) fingerprint: u64,
    /// The W3C trace id that the statement names.
    pub(crate) trace: Option<String>,
}

impl Session {
    /// Whether statements are to be remembered.
    pub(crate) fn observe(&mut self, on: bool) {
        self.observing = on;
    }

    /// The last statement, which is then forgotten.
    pub(crate) fn take_observed(&mut self) -> Option<Observed> {
        self.observed.take().map(|observed| *observed)
    }

    pub(super) fn observe_statement(&mut self, message: &ClientMessage<'_>) {
        let observed = match message.tag {
            tag::QUERY => query_text(message.body)
                .ok()
                .map(|text| self.observed(text)),
            tag::PARSE => Parse::decode(message.body)
                .ok()
                .map(|parse| self.observed(parse.text)),
            tag::BIND => Bind::decode(message.body).ok().and_then(|bind| {
                match self.statements.find(bind.statement)? {
                    ClientStatement::Server { prepared, .. } => match &prepared.source {
                        Source::Protocol { text, .. } => Some(self.observed(text)),
                        Source::Sql { text, .. } => Some(self.observed(text)),
                    },
                    ClientStatement::Unnamed { text, .. } => Some(self.observed(text)),
                    ClientStatement::Router { .. } => None,
                }
            }),
            _ => return,
        };
        if let Some(observed) = observed {
            self.observed = Some(Box::new(observed));
        }
    }

    fn observed(&self, text: &[u8]) -> Observed {
        let scs = self.scs();
        let mut statement = sql::normalise(text, scs);
        let fingerprint = sql::fingerprint(&statement);
        if statement.len() > STATEMENT_MAX {
            let end = statement.floor_char_boundary(STATEMENT_MAX);
            statement.truncate(end);
        }
        Observed {
            statement,
            fingerprint,
            trace: sql::sql_comment_trace(text, scs),
        }
    }
}
