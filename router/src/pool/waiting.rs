//! A session that waits for its turn.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lease::Grant;
use super::patience::Patience;
use super::{Applicant, Gate, Pool};
use crate::admission::WaiterId;
use crate::error::Refusal;

/// How often one whose patience is over looks whether its pool is still paused.
const PAUSED_LOOK: Duration = Duration::from_millis(20);

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

    /// Waits for the turn for as long as its patience lasts. A pause is no fault of who waits and does not count.
    pub(super) async fn turn(
        mut self,
        applicant: Applicant,
        patience: Patience,
    ) -> Result<Grant, Refusal> {
        loop {
            let left = patience.left(&self.pool);
            let look = if self.is_paused() { PAUSED_LOOK } else { left };
            match timeout(left.max(look), &mut self.receiver).await {
                Ok(Ok(grant)) => return Ok(grant),
                Ok(Err(_)) => return Err(self.pool.sent_away()),
                Err(_elapsed) if self.is_paused() || !patience.left(&self.pool).is_zero() => {}
                Err(_elapsed) => {
                    let waited = patience.waited(&self.pool);
                    return Err(self.pool.queue_timeout(applicant, waited));
                }
            }
        }
    }

    fn is_paused(&self) -> bool {
        self.pool.stats().gate == Gate::Paused
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
