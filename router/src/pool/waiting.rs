//! A session that waits for its turn.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::lease::Grant;
use super::{Applicant, Gate, Pool};
use crate::admission::WaiterId;
use crate::error::Refusal;

/// A place in the queue of a pool, given up when it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    pool: Arc<Pool>,
    id: WaiterId,
    receiver: oneshot::Receiver<Grant>,
}

impl Waiting {
    pub(super) fn new(pool: &Arc<Pool>, id: WaiterId, receiver: oneshot::Receiver<Grant>) -> Self {
        Self {
            pool: Arc::clone(pool),
            id,
            receiver,
        }
    }

    /// Waits for the turn for as long as is left of `query_wait`.
    pub(super) async fn turn(
        mut self,
        applicant: Applicant,
        started: Instant,
    ) -> Result<Grant, Refusal> {
        let query_wait = || self.pool.limits.load().query_wait;
        let mut left = query_wait().saturating_sub(started.elapsed());
        loop {
            match timeout(left, &mut self.receiver).await {
                Ok(Ok(grant)) => return Ok(grant),
                Ok(Err(_)) => return Err(self.pool.disabled()),
                // A pause is no fault of who waits: the time begins anew.
                Err(_elapsed) if self.pool.stats().gate == Gate::Paused => left = query_wait(),
                Err(_elapsed) => return Err(self.pool.queue_timeout(applicant, started)),
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let now = self.pool.now_us();
        let sender = self.pool.inner.lock().scheduler.withdraw(self.id, now);
        if sender.is_none() {
            // Its turn came while it left.
            self.receiver.close();
            if let Ok(grant) = self.receiver.try_recv() {
                self.pool.take_back(grant);
                self.pool.serve();
            }
        }
    }
}
