//! What reaches a session from outside its own conversation: an operator's KILL, a time limit.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::ClientRecord;
use crate::overtime::Overtime;

/// Why a session is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// It ends.
    Kill,
    /// It has passed a time limit, unless it has gone on since.
    Overtime(Overtime),
}

/// A session's wait for calls. For one task: its waker is registered once, so that looking again
/// costs two loads.
#[derive(Debug, Clone)]
pub(crate) struct Called {
    record: Arc<ClientRecord>,
    registered: bool,
}

impl Called {
    pub(crate) fn new(record: &Arc<ClientRecord>) -> Self {
        Self {
            record: Arc::clone(record),
            registered: false,
        }
    }

    /// Ready when there is a call, which is taken.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Call> {
        self.register(cx);
        let call = if self.record.is_killed() {
            Some(Call::Kill)
        } else {
            self.record.take_overtime().map(Call::Overtime)
        };
        match call {
            Some(call) => {
                // Whoever called has used the waker up.
                self.registered = false;
                Poll::Ready(call)
            }
            None => Poll::Pending,
        }
    }

    /// Ready when the session is killed; other calls stay where they are.
    pub(crate) fn poll_killed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Other calls, which this does not take, use the waker up as well.
        self.registered = false;
        self.register(cx);
        if self.record.is_killed() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn register(&mut self, cx: &Context<'_>) {
        if !self.registered {
            self.record.waker.register(cx.waker());
            self.registered = true;
        }
    }
}
