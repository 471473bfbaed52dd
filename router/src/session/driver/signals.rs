//! What a session waits for beside its sockets and that hardly ever comes: the router's end, a change of the fleet.
//!
//! These futures take locks that all sessions share, and a session is woken several times for each statement. So
//! they have a bell of their own. Nothing here knows what a signal means.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use super::bell::Bell;

/// Futures of which one is hardly ever ready. For one task.
pub(super) struct Signals<T> {
    bell: Bell,
    waiting: Vec<BoxFuture<'static, T>>,
}

impl<T> Signals<T> {
    pub(super) fn of(waiting: impl IntoIterator<Item = BoxFuture<'static, T>>) -> Self {
        Self {
            bell: Bell::new(),
            waiting: waiting.into_iter().collect(),
        }
    }

    /// Waits for one more, from the next poll on.
    pub(super) fn push(&mut self, signal: BoxFuture<'static, T>) {
        self.waiting.push(signal);
        self.bell.ring();
    }

    /// Ready with the outcome of a future, which is then waited for no longer.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<T> {
        let waiting = &mut self.waiting;
        self.bell.ask(cx, |own| {
            let ready = waiting.iter_mut().enumerate().find_map(|(at, signal)| {
                match signal.as_mut().poll(own) {
                    Poll::Ready(outcome) => Some((at, outcome)),
                    Poll::Pending => None,
                }
            });
            match ready {
                Some((at, outcome)) => {
                    drop(waiting.swap_remove(at));
                    Poll::Ready(outcome)
                }
                None => Poll::Pending,
            }
        })
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
}
