//! What the server still owes: one entry per reply that a forwarded message will cause, in order.
//!
//! The queue is how a reply finds out whether the client may see it and what it changes. It never
//! looks at bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tenantry_schema::tenant::TenantId;

use super::state::Assigned;
use super::statements::Undo;
use crate::server::Prepared;

/// What a statement changes in the session once the server has completed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Begin,
    /// COMMIT or ROLLBACK; the tag tells which it became.
    End,
    Savepoint(String),
    RollbackTo(String),
    Release(String),
    Set {
        name: String,
        value: Assigned,
    },
    Reset(String),
    /// The SQL command PREPARE succeeded.
    PrepareSql {
        name: String,
        prepared: Arc<Prepared>,
    },
    /// LISTEN succeeded.
    Listen {
        /// The client's name of the channel.
        name: String,
        /// The server's.
        channel: String,
    },
    /// UNLISTEN of these channels succeeded; the server's names.
    Unlisten(Vec<String>),
    /// The session depends on this server connection from now on.
    Pin,
    /// It does until this cursor is closed, which outlives its transaction.
    Hold(String),
    /// CLOSE of a cursor, or of all.
    CloseCursor(Option<String>),
}

impl Effect {
    fn changes_transaction(&self) -> bool {
        matches!(
            self,
            Self::Begin
                | Self::End
                | Self::Savepoint(_)
                | Self::RollbackTo(_)
                | Self::Release(_)
                | Self::PrepareSql { .. }
        )
    }
}

/// When the client sees a RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// It asked for it.
    AtOnce,
    /// A simple Query run by extended protocol: there is no NoData.
    BeforeRows,
    /// The same, for a statement that PostgreSQL runs to its end before it sends anything.
    WithResult,
}

/// One outstanding reply.
#[derive(Debug)]
pub(crate) enum Expect {
    /// Ours: ParseComplete of a statement prepared on demand (`None`: the unnamed one).
    HiddenParse(Option<Arc<Prepared>>),
    /// Ours: BindComplete.
    HiddenBind,
    /// Ours: rows and CommandComplete; of a PREPARE, the statement it makes.
    HiddenExecute(Option<Arc<Prepared>>),
    /// Ours: the row that says what a channel is called on the server.
    Channel {
        name: String,
        channel: Option<String>,
    },
    /// Ours: a row; its CommandComplete becomes the one of the client's NOTIFY.
    Notify {
        withhold: bool,
    },
    /// Ours: a row; the tenant is served here.
    Probe,
    /// Ours: all replies to a Sync or a ROLLBACK that clears away what the client knows nothing of.
    Aside,
    /// Ours: CloseComplete of an evicted statement, or of a portal (`None`).
    HiddenClose(Option<Arc<Prepared>>),
    /// Ours: a portal that does not exist is executed, to make the server roll back.
    HiddenAbort,
    /// Ours: ReadyForQuery of a Sync behind a simple Query that had a prologue.
    HiddenSync,
    /// Ours: all replies to a Parse of a whole Query that is run statement by statement: whatever it fails with but the
    /// number of its statements is the client's to know.
    Check {
        outcome: CheckOutcome,
    },
    /// Ours: all replies to a simple Query. If it fails, the client has the error, and its Query is over.
    HiddenQuery {
        failed: bool,
    },
    /// Ours: all replies to a bind in a transaction of its own. Its failure concerns nobody: the
    /// client's transaction binds again.
    Fallback {
        tenant: Option<TenantId>,
        failed: bool,
    },
    /// ParseComplete; a named statement is forgotten when its Parse fails.
    Parse {
        client_name: Bytes,
        prepared: Option<Arc<Prepared>>,
        /// The connection holds the statement already: the Parse is only sent to fail.
        held: bool,
    },
    Bind,
    /// RowDescription or NoData.
    Describe(Shown),
    /// ParameterDescription, and RowDescription or NoData, of a named statement by the client's name.
    DescribeStatement(Bytes),
    /// Ours: the same replies.
    HiddenDescribe,
    Execute {
        effects: Vec<Effect>,
        /// The CommandComplete waits for ReadyForQuery: an error at commit replaces it.
        withhold: bool,
    },
    Close,
    Sync,
    /// All results of a simple Query or function call up to ReadyForQuery.
    Query {
        /// Statements by position, and what they change.
        effects: Vec<(usize, Effect)>,
        completed: usize,
        /// A prologue without Sync is before it, a [`Expect::HiddenSync`] behind it.
        guarded: bool,
    },
    /// An answer of the router that must keep its place.
    Local(Bytes),
    /// No reply: how to take back what the message before it did, should the server skip it.
    Undo(Box<Undo>),
}

impl Expect {
    /// Whether the client sees nothing of the replies to this entry but errors.
    pub(crate) fn is_hidden(&self) -> bool {
        matches!(
            self,
            Self::HiddenParse(_)
                | Self::HiddenBind
                | Self::HiddenExecute(_)
                | Self::Channel { .. }
                | Self::Notify { .. }
                | Self::HiddenClose(_)
                | Self::Probe
                | Self::Aside
                | Self::HiddenAbort
                | Self::HiddenDescribe
                | Self::HiddenSync
                | Self::Fallback { .. }
                | Self::Check { .. }
                | Self::HiddenQuery { .. }
        )
    }

    /// Whether what it stands for ties the session to its connection.
    pub(crate) fn pins(&self) -> bool {
        match self {
            Self::Execute { effects, .. } => effects.contains(&Effect::Pin),
            Self::Query { effects, .. } => effects.iter().any(|(_, effect)| *effect == Effect::Pin),
            _ => false,
        }
    }

    fn has_transaction_effect(&self) -> bool {
        match self {
            Self::Query { effects, .. } => {
                let mut effects = effects.iter();
                effects.any(|(_, effect)| effect.changes_transaction())
            }
            Self::Execute { effects, .. } => effects.iter().any(Effect::changes_transaction),
            _ => false,
        }
    }

    /// Whether ReadyForQuery ends this entry.
    fn ends_with_ready(&self) -> bool {
        matches!(
            self,
            Self::HiddenSync
                | Self::Aside
                | Self::Sync
                | Self::Query { .. }
                | Self::Check { .. }
                | Self::HiddenQuery { .. }
        )
    }
}

/// What a check of a Query has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckOutcome {
    /// Nothing wrong so far.
    WellFormed,
    /// The client has been sent an error.
    Failed,
    /// What came before it has failed, and the client knows: its own error is nobody's.
    Pointless,
}

/// A Parse that did not happen.
#[derive(Debug)]
pub(crate) struct SkippedParse {
    /// The client's name; `None` for a Parse of the router's own.
    pub(crate) client_name: Option<Bytes>,
    pub(crate) prepared: Option<Arc<Prepared>>,
    /// The server holds the statement all the same.
    pub(crate) held: bool,
}

/// A change of the statements that the server holds which did not happen.
#[derive(Debug)]
pub(crate) enum SkippedStep {
    Parse(SkippedParse),
    Close(Arc<Prepared>),
}

/// What an error made the server skip.
#[derive(Debug, Default)]
pub(crate) struct Skipped {
    /// Parses and Closes that did not happen, in order.
    pub(crate) steps: Vec<SkippedStep>,
    /// Changes of the client's statements that did not happen, in order.
    pub(crate) undos: Vec<Undo>,
    /// A Sync is on order, so the server will resume.
    pub(crate) resynchronises: bool,
}

/// What is outstanding of the batch at the front of the queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RestOfBatch {
    /// Messages of the client that execute or describe something.
    pub(crate) runs: usize,
    /// The client waits for nothing else, neither in the batch nor behind it.
    pub(crate) is_all: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Expects {
    queue: VecDeque<Expect>,
    /// Entries that end with ReadyForQuery, and those with a transaction effect: each message asks for both.
    readies: usize,
    changes: usize,
}

impl Expects {
    pub(crate) fn push(&mut self, expect: Expect) {
        self.readies += usize::from(expect.ends_with_ready());
        self.changes += usize::from(expect.has_transaction_effect());
        self.queue.push_back(expect);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn front(&self) -> Option<&Expect> {
        self.queue.front()
    }

    pub(crate) fn front_mut(&mut self) -> Option<&mut Expect> {
        self.queue.front_mut()
    }

    pub(crate) fn pop(&mut self) -> Option<Expect> {
        let expect = self.queue.pop_front()?;
        self.readies -= usize::from(expect.ends_with_ready());
        self.changes -= usize::from(expect.has_transaction_effect());
        Some(expect)
    }

    /// Whether the server will send ReadyForQuery without being asked again.
    pub(crate) fn has_ready(&self) -> bool {
        self.readies > 0
    }

    /// Whether a statement is outstanding that begins, ends or rolls back a transaction, or makes a prepared
    /// statement: until it has been answered nobody knows for whom the next statement is, or which names there are.
    pub(crate) fn has_transaction_effect(&self) -> bool {
        self.changes > 0
    }

    /// Whether a COMMIT or ROLLBACK is outstanding.
    pub(crate) fn ends_transaction(&self) -> bool {
        self.queue.iter().any(|expect| match expect {
            Expect::Query { effects, .. } => {
                effects.iter().any(|(_, effect)| *effect == Effect::End)
            }
            Expect::Execute { effects, .. } => effects.contains(&Effect::End),
            _ => false,
        })
    }

    fn push_front(&mut self, expect: Expect) {
        self.push(expect);
        self.queue.rotate_right(1);
    }

    /// What the client waits for.
    pub(crate) fn rest_of_batch(&self) -> RestOfBatch {
        let mut rest = RestOfBatch {
            runs: 0,
            is_all: true,
        };
        for (index, expect) in self.queue.iter().enumerate() {
            match expect {
                Expect::Sync => {
                    rest.is_all &= index + 1 == self.queue.len();
                    break;
                }
                Expect::Bind
                | Expect::Describe(_)
                | Expect::DescribeStatement(_)
                | Expect::Execute { .. } => rest.runs += 1,
                Expect::HiddenParse(_)
                | Expect::HiddenBind
                | Expect::HiddenExecute(_)
                | Expect::HiddenClose(_) => {}
                _ => rest.is_all = false,
            }
        }
        rest
    }

    /// Whether only a Sync of the router's own is outstanding.
    pub(crate) fn is_hidden_sync(&self) -> bool {
        self.queue.len() == 1 && matches!(self.queue.front(), Some(Expect::HiddenSync))
    }

    /// Whether nothing is outstanding beyond the batch at the front.
    pub(crate) fn is_one_batch(&self) -> bool {
        let mut rest = self
            .queue
            .iter()
            .skip_while(|expect| !expect.ends_with_ready());
        matches!(
            (rest.next(), rest.next(), rest.next()),
            (None | Some(_), None, None)
                | (
                    Some(Expect::Query { guarded: true, .. }),
                    Some(Expect::HiddenSync),
                    None
                )
        )
    }

    /// The Sync at the front becomes the router's own.
    pub(crate) fn hide_sync(&mut self) {
        if let Some(front @ Expect::Sync) = self.queue.front_mut() {
            *front = Expect::HiddenSync;
        }
    }

    /// Drops what the server skips after an error in the extended protocol: everything up to the
    /// next Sync, simple queries included. A Query dropped with its prologue turns the Sync that
    /// the router added into the client's.
    pub(crate) fn skip_to_sync(&mut self) -> Skipped {
        let mut skipped = Skipped::default();
        let mut show_ready = false;
        // A Parse that fails itself has ended the unnamed statement before it.
        let mut failed = matches!(self.front(), Some(Expect::Parse { client_name, .. }) if client_name.is_empty());
        while let Some(expect) = self.pop() {
            match expect {
                Expect::Sync => {
                    self.push_front(Expect::Sync);
                    skipped.resynchronises = true;
                    break;
                }
                Expect::HiddenSync => {
                    self.push_front(if show_ready {
                        Expect::Sync
                    } else {
                        Expect::HiddenSync
                    });
                    skipped.resynchronises = true;
                    break;
                }
                Expect::Query { guarded, .. } => show_ready |= guarded,
                Expect::Parse {
                    client_name,
                    prepared,
                    held,
                } => skipped.steps.push(SkippedStep::Parse(SkippedParse {
                    client_name: Some(client_name),
                    prepared,
                    held,
                })),
                Expect::HiddenParse(prepared) => {
                    skipped.steps.push(SkippedStep::Parse(SkippedParse {
                        client_name: None,
                        prepared,
                        held: false,
                    }));
                }
                Expect::HiddenExecute(Some(prepared)) => {
                    skipped.steps.push(SkippedStep::Parse(SkippedParse {
                        client_name: None,
                        prepared: Some(prepared),
                        held: false,
                    }));
                }
                Expect::HiddenClose(Some(prepared)) => {
                    skipped.steps.push(SkippedStep::Close(prepared));
                }
                Expect::Undo(mut undo) => {
                    if std::mem::take(&mut failed) {
                        undo.previous = None;
                    }
                    skipped.undos.push(*undo);
                }
                _ => {}
            }
        }
        skipped
    }

    /// Empties the queue; answers how many ReadyForQuery the client is owed and whether a batch
    /// without Sync is open at its end.
    pub(crate) fn abandon(&mut self) -> (usize, bool) {
        let mut owed = 0;
        let mut open = false;
        while let Some(expect) = self.pop() {
            match expect {
                Expect::Sync | Expect::Query { .. } => {
                    owed += 1;
                    open = false;
                }
                Expect::HiddenSync | Expect::Aside => open = false,
                Expect::Undo(_) | Expect::Check { .. } | Expect::HiddenQuery { .. } => {}
                _ => open = true,
            }
        }
        (owed, open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(guarded: bool) -> Expect {
        Expect::Query {
            effects: Vec::new(),
            completed: 0,
            guarded,
        }
    }

    #[test]
    fn a_failed_prologue_shows_the_ready_of_its_own_sync() {
        let mut expects = Expects::default();
        for expect in [
            Expect::HiddenBind,
            Expect::HiddenExecute(None),
            query(true),
            Expect::HiddenSync,
        ] {
            expects.push(expect);
        }
        assert!(expects.skip_to_sync().resynchronises);
        assert!(matches!(expects.front(), Some(Expect::Sync)));
    }

    #[test]
    fn a_query_inside_a_failed_batch_is_skipped() {
        let mut expects = Expects::default();
        for expect in [Expect::Bind, query(false), Expect::Bind, Expect::Sync] {
            expects.push(expect);
        }
        assert!(expects.skip_to_sync().resynchronises);
        assert!(matches!(expects.pop(), Some(Expect::Sync)));
        assert!(expects.is_empty());
    }

    #[test]
    fn every_sync_on_order_is_owed_a_ready() {
        let mut expects = Expects::default();
        for expect in [
            Expect::Bind,
            Expect::Sync,
            query(true),
            Expect::HiddenSync,
            Expect::Bind,
        ] {
            expects.push(expect);
        }
        assert_eq!(expects.abandon(), (2, true));
    }
}
