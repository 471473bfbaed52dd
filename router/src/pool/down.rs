//! What a pool does while no connection can be opened.
//!
//! A server may refuse new connections and serve those that it has: it is at its limit, its address has changed, a
//! password was rotated. So as long as connections come back, who needs one waits for those, and only one is tried anew at
//! a time. Where there is none, or none comes back, the shard is down: who asks is told so at once, until the next try.

use std::sync::Arc;
use std::time::Duration;

use super::connections::Inner;
use super::{Gate, Pool};
use crate::error::Refusal;

/// A server that could not be reached.
#[derive(Debug)]
pub(super) struct Down {
    /// Until when it is left alone, microseconds.
    until_us: u64,
    reason: String,
    /// None of its connections is known to work.
    is_dead: bool,
    /// One session tries again.
    tries: bool,
}

impl Inner {
    /// Why who asks now gets no connection.
    pub(super) fn refusal(&mut self, now_us: u64) -> Option<&str> {
        self.try_again(now_us);
        let down = self.down.as_ref()?;
        let is_dead = down.is_dead || self.open == 0;
        // Who waits for a paused pool waits whatever has become of its server.
        (self.gate == Gate::Open && is_dead && !down.tries).then_some(down.reason.as_str())
    }

    /// Why those who waited were sent away, if it was for this.
    pub(super) fn last_reason(&self) -> Option<String> {
        let down = self.down.as_ref().filter(|_| self.gate == Gate::Open)?;
        Some(down.reason.clone())
    }

    /// Whether a connection may be opened.
    pub(super) fn may_open(&self) -> bool {
        self.down.as_ref().is_none_or(|down| down.tries)
    }

    /// What the scheduler goes by: while none can be opened, there are the connections that there are.
    pub(super) fn bound(&mut self) {
        let mut bounds = self.limits.bounds(self.gate);
        if let Some(down) = &self.down {
            bounds.size = bounds.size.min(self.open + usize::from(down.tries));
        }
        self.scheduler.set_bounds(bounds);
    }

    /// One may try again when the time is over.
    fn try_again(&mut self, now_us: u64) {
        if let Some(down) = &mut self.down
            && !down.tries
            && now_us >= down.until_us
        {
            down.tries = true;
            self.bound();
        }
    }
}

impl Pool {
    /// A connection could not be opened by one that still counts among those that are open. `None`: it is to wait for those
    /// that there are.
    pub(super) fn failed(self: &Arc<Self>, reason: String) -> Option<Refusal> {
        let limits = self.limits.load();
        let (now, retry) = (self.now_us(), limits.retry);
        let mut inner = self.inner.lock();
        let silent = inner.alive_us.map(|alive| now.saturating_sub(alive));
        let works = silent.is_some_and(|us| Duration::from_micros(us) <= limits.connect);
        let is_dead = !works || inner.open <= 1;
        inner.down = Some(Down {
            until_us: now.saturating_add(u64::try_from(retry.as_micros()).unwrap_or(u64::MAX)),
            reason: reason.clone(),
            is_dead,
            tries: false,
        });
        // Its own place ends when its slot does.
        inner.bound();
        drop(inner);
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(retry).await;
            if let Some(pool) = pool.upgrade() {
                pool.look_again();
            }
        });
        if !is_dead {
            return None;
        }
        // There is nothing to wait for.
        self.send_away();
        Some(self.down(reason))
    }

    /// A connection was opened.
    pub(super) fn opened(self: &Arc<Self>) {
        let now = self.now_us();
        let mut inner = self.inner.lock();
        inner.alive_us = Some(now);
        let was_down = inner.down.take().is_some();
        if was_down {
            inner.bound();
            drop(inner);
            self.serve();
        }
    }

    /// Somebody who waits may be the one that tries.
    pub(super) fn look_again(self: &Arc<Self>) {
        let now = self.now_us();
        self.inner.lock().try_again(now);
        self.serve();
    }

    /// A connection was closed: if it was the last of a server that cannot be reached, nobody waits in vain.
    pub(super) fn lost(&self) {
        let now = self.now_us();
        let waits_in_vain = {
            let mut inner = self.inner.lock();
            if inner.down.is_some() {
                inner.bound();
            }
            inner.refusal(now).is_some()
        };
        if waits_in_vain {
            self.send_away();
        }
    }
}
