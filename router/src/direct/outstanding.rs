//! How many ReadyForQuery a server owes, told from the types of the messages that pass by.
//!
//! Pure. It decides one thing only: whether an operator's session may be ended without cutting an
//! answer short. Nothing that passes is held back for it.

use std::collections::VecDeque;

use tenantry_wire::backend::TxStatus;
use tenantry_wire::tag::{backend, frontend};

/// A client's message that has a part in when ReadyForQuery comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// Query or FunctionCall: answered with one ReadyForQuery.
    Simple,
    /// Sync, which also ends the skipping after an error.
    Sync,
    /// Messages of the extended protocol, any number in a row; one that fails makes the server
    /// skip everything up to the next Sync.
    Extended,
    /// CopyDone or CopyFail: the end of a COPY stream, within which Sync means nothing.
    CopyEnd,
}

/// What a session has been sent and not answered.
#[derive(Debug)]
pub(super) struct Outstanding {
    sent: VecDeque<Sent>,
    /// The server reads a COPY stream whose end has not been sent.
    copy_in: bool,
    /// The server skips messages, and the Sync that ends it has not been sent.
    skipping: bool,
    status: TxStatus,
    /// The client has not been given all that the server said.
    undelivered: bool,
}

impl Outstanding {
    /// A session that has just become ready.
    pub(super) fn new() -> Self {
        Self {
            sent: VecDeque::new(),
            copy_in: false,
            skipping: false,
            status: TxStatus::Idle,
            undelivered: false,
        }
    }

    /// Whether everything is answered, the client has the answers, and no transaction is open.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.sent.is_empty() && !self.copy_in && self.status == TxStatus::Idle && !self.undelivered
    }

    /// What the server said is on its way to the client. Its meaning is known from now on, for the client may answer
    /// the first of it while the rest is written.
    pub(super) fn delivering(&mut self) {
        self.undelivered = true;
    }

    pub(super) fn delivered(&mut self) {
        self.undelivered = false;
    }

    /// A message of this type goes to the server.
    pub(super) fn client_sent(&mut self, tag: u8) {
        let sent = match tag {
            frontend::QUERY | frontend::FUNCTION_CALL => Sent::Simple,
            frontend::SYNC => Sent::Sync,
            frontend::COPY_DONE | frontend::COPY_FAIL => Sent::CopyEnd,
            frontend::COPY_DATA | frontend::TERMINATE => return,
            _ => Sent::Extended,
        };
        if self.copy_in {
            self.copy_in = sent != Sent::CopyEnd;
            return;
        }
        if self.skipping && sent != Sent::Sync {
            return;
        }
        self.skipping = false;
        if sent != Sent::Extended || self.sent.back() != Some(&Sent::Extended) {
            self.sent.push_back(sent);
        }
    }

    /// A message of this type came from the server.
    pub(super) fn server_sent(&mut self, tag: u8) {
        match tag {
            backend::ERROR => self.failed(),
            backend::COPY_IN | backend::COPY_BOTH => self.copy_started(),
            _ => {}
        }
    }

    /// ReadyForQuery came.
    pub(super) fn ready(&mut self, status: TxStatus) {
        self.status = status;
        self.copy_in = false;
        self.skipping = false;
        while let Some(answered) = self.sent.pop_front() {
            if matches!(answered, Sent::Simple | Sent::Sync) {
                break;
            }
        }
    }

    /// The server drops what it was sent up to the next Sync, unless it was a simple statement
    /// that failed.
    fn failed(&mut self) {
        self.copy_in = false;
        if self.sent.front() != Some(&Sent::Extended) {
            return;
        }
        while self.sent.front().is_some_and(|sent| *sent != Sent::Sync) {
            self.sent.pop_front();
        }
        self.skipping = self.sent.is_empty();
    }

    /// Until its end the stream hides every Sync, also one that was sent before the server could
    /// say that a stream begins.
    fn copy_started(&mut self) {
        let simple = self.sent.pop_front() == Some(Sent::Simple);
        self.copy_in = true;
        while let Some(hidden) = self.sent.pop_front() {
            if hidden == Sent::CopyEnd {
                self.copy_in = false;
                break;
            }
        }
        self.sent
            .push_front(if simple { Sent::Simple } else { Sent::Extended });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a conversation: lower-case words for what the client sends, the rest for the server.
    fn after(steps: &[&str]) -> Outstanding {
        let mut session = Outstanding::new();
        for step in steps {
            match *step {
                "query" => session.client_sent(frontend::QUERY),
                "parse" => session.client_sent(frontend::PARSE),
                "execute" => session.client_sent(frontend::EXECUTE),
                "sync" => session.client_sent(frontend::SYNC),
                "data" => session.client_sent(frontend::COPY_DATA),
                "done" => session.client_sent(frontend::COPY_DONE),
                "READY" => session.ready(TxStatus::Idle),
                "READY T" => session.ready(TxStatus::InTransaction),
                "ERROR" => session.server_sent(backend::ERROR),
                "COPY" => session.server_sent(backend::COPY_IN),
                "ROW" => session.server_sent(backend::DATA_ROW),
                other => unreachable!("{other}"),
            }
        }
        session
    }

    #[test]
    fn boundaries() {
        for steps in [
            &[] as &[&str],
            &["query", "ROW", "READY"],
            &["parse", "execute", "sync", "ROW", "READY"],
            &["parse", "sync", "parse", "sync", "READY", "READY"],
            &["query", "query", "READY", "READY"],
            &["query", "ERROR", "READY"],
            // What was skipped is not answered.
            &["parse", "execute", "query", "sync", "ERROR", "READY"],
            &["parse", "ERROR", "execute", "query", "sync", "READY"],
            // The Sync sent behind the statement is lost in the stream.
            &[
                "parse", "execute", "sync", "COPY", "data", "done", "sync", "READY",
            ],
            &[
                "parse", "execute", "sync", "data", "done", "sync", "COPY", "READY",
            ],
            &["query", "COPY", "data", "sync", "done", "READY"],
            &["query", "COPY", "data", "ERROR", "READY", "done"],
        ] {
            let session = after(steps);
            let late_end = steps.last() == Some(&"done");
            assert!(
                session.is_at_boundary() || late_end,
                "{steps:?} {session:?}"
            );
        }
        // An end of a stream that had failed is ignored, here as by the server.
        let late = after(&["query", "COPY", "ERROR", "READY", "done", "query", "READY"]);
        assert!(late.is_at_boundary());
    }

    #[test]
    fn not_yet() {
        for steps in [
            &["query"] as &[&str],
            &["query", "READY T"],
            &["parse"],
            &["parse", "sync", "parse", "sync", "READY"],
            &["query", "query", "READY"],
            &["query", "COPY", "data"],
            &["query", "COPY", "data", "done"],
            &["parse", "execute", "sync", "COPY", "done", "sync"],
            &[
                "parse", "sync", "parse", "execute", "sync", "ERROR", "READY",
            ],
        ] {
            let session = after(steps);
            assert!(!session.is_at_boundary(), "{steps:?} {session:?}");
        }
    }
}
