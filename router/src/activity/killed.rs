//! The wait of a session for its own end at an operator's word.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::ClientRecord;

/// Resolves when the session is killed. For one task: its waker is registered once, so that looking
/// again costs one load.
#[derive(Debug, Clone)]
pub(crate) struct Killed {
    record: Arc<ClientRecord>,
    registered: bool,
}

impl Killed {
    pub(crate) fn new(record: &Arc<ClientRecord>) -> Self {
        Self {
            record: Arc::clone(record),
            registered: false,
        }
    }
}

impl Future for Killed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.registered {
            self.record.waker.register(cx.waker());
            self.registered = true;
        }
        if self.record.is_killed() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
