//! What a session waits for beside its sockets and that hardly ever comes: the router's end, a change of the fleet.
//!
//! These futures take locks that all sessions share, and a session is woken several times for each statement. So
//! they have a waker of their own, which notes that one of them has called: until then asking costs one load. Nothing here
//! knows what a signal means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;

/// Futures of which one is hardly ever ready. For one task, whose waker is registered again only after a call.
pub(super) struct Signals<T> {
    bell: Arc<Bell>,
    waker: Waker,
    waiting: Vec<BoxFuture<'static, T>>,
}

struct Bell {
    /// A future has called, or has not been asked yet.
    rung: AtomicBool,
    session: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.session.wake();
    }
}

impl<T> Signals<T> {
    pub(super) fn of(waiting: impl IntoIterator<Item = BoxFuture<'static, T>>) -> Self {
        let bell = Arc::new(Bell {
            rung: AtomicBool::new(true),
            session: AtomicWaker::new(),
        });
        Self {
            waker: Waker::from(Arc::clone(&bell)),
            bell,
            waiting: waiting.into_iter().collect(),
        }
    }

    /// Waits for one more, from the next poll on.
    pub(super) fn push(&mut self, signal: BoxFuture<'static, T>) {
        self.waiting.push(signal);
        self.bell.rung.store(true, Ordering::Release);
    }

    /// Ready with the outcome of a future, which is then waited for no longer.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<T> {
        if !self.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.bell.rung.store(false, Ordering::Relaxed);
        // Before the futures are asked: one that calls in between is asked below, one that calls later wakes the task.
        self.bell.session.register(cx.waker());
        let mut own = Context::from_waker(&self.waker);
        for at in 0..self.waiting.len() {
            let Some(signal) = self.waiting.get_mut(at) else {
                break;
            };
            if let Poll::Ready(outcome) = signal.as_mut().poll(&mut own) {
                drop(self.waiting.swap_remove(at));
                // Another may have called at the same time.
                self.bell.rung.store(true, Ordering::Release);
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    fn signal(receiver: oneshot::Receiver<u8>) -> BoxFuture<'static, u8> {
        receiver.map(|received| received.unwrap()).boxed()
    }

    #[tokio::test]
    async fn every_signal_comes_once_however_they_fall_together() {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..4).map(|_| oneshot::channel()).unzip();
        let mut signals = Signals::of(receivers.into_iter().map(signal));
        assert!(poll_fn(|cx| Poll::Ready(signals.poll(cx).is_pending())).await);
        let (late, added) = oneshot::channel();
        signals.push(signal(added));
        let send = tokio::spawn(async move {
            for (number, sender) in (0..).zip(senders) {
                sender.send(number).unwrap();
                if number % 2 == 1 {
                    tokio::task::yield_now().await;
                }
            }
            late.send(9).unwrap();
        });
        let mut came = Vec::new();
        for _ in 0..5 {
            came.push(poll_fn(|cx| signals.poll(cx)).await);
        }
        send.await.unwrap();
        came.sort_unstable();
        assert_eq!(came, [0, 1, 2, 3, 9]);
        assert!(poll_fn(|cx| Poll::Ready(signals.poll(cx).is_pending())).await);
    }

    #[test]
    fn who_is_not_called_asks_nobody() {
        let asked = Arc::new(AtomicBool::new(false));
        let notes = Arc::clone(&asked);
        let waits = poll_fn(move |_| {
            notes.store(true, Ordering::Relaxed);
            Poll::<u8>::Pending
        });
        let mut signals = Signals::of([waits.boxed()]);
        let cx = Context::from_waker(Waker::noop());
        assert!(signals.poll(&cx).is_pending());
        assert!(asked.swap(false, Ordering::Relaxed));
        assert!(signals.poll(&cx).is_pending());
        assert!(!asked.load(Ordering::Relaxed));
        signals.bell.wake_by_ref();
        assert!(signals.poll(&cx).is_pending());
        assert!(asked.load(Ordering::Relaxed));
    }
}
