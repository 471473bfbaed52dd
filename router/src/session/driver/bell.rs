//! Whether a source of events has called since it was last found to have nothing.
//!
//! One task waits for several sources, and each wakes it. Asking a source that has not called costs what a socket's readiness or a
//! lock costs, several times per statement; asking its bell costs one load. Nothing here knows what the sources are.
//!
//! Whoever asks a source without its bell takes its waker away: then it must be rung by hand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

/// The bell of one source, heard by one task.
#[derive(Debug)]
pub(super) struct Bell {
    inner: Arc<Inner>,
    waker: Waker,
}

#[derive(Debug)]
struct Inner {
    /// The source has called, was not asked yet, or had something when it was.
    rung: AtomicBool,
    /// The task's, which stays the same.
    task: OnceLock<Waker>,
}

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

impl Bell {
    /// Of a source that was not asked yet.
    pub(super) fn new() -> Self {
        let inner = Arc::new(Inner {
            rung: AtomicBool::new(true),
            task: OnceLock::new(),
        });
        Self {
            waker: Waker::from(Arc::clone(&inner)),
            inner,
        }
    }

    /// The source is another, or was asked past its bell: it is asked next time.
    pub(super) fn ring(&self) {
        self.inner.rung.store(true, Ordering::Release);
    }

    /// Asks the source, unless it had nothing before and has not called since. It is to remember the waker that it is given
    /// when it answers `Pending`.
    pub(super) fn ask<T>(
        &self,
        cx: &Context<'_>,
        source: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let inner = &self.inner;
        if !inner.rung.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        // Before the source is asked: what calls from here on is heard. In order with the call, so that the source
        // shows what it called for.
        inner.rung.swap(false, Ordering::AcqRel);
        inner.task.get_or_init(|| cx.waker().clone());
        let answer = source(&mut Context::from_waker(&self.waker));
        if answer.is_ready() {
            self.ring();
        }
        answer
    }
}

/// Those of a session's sockets.
#[derive(Debug)]
pub(crate) struct Bells {
    pub(super) client: Bell,
    pub(super) server: Bell,
}

impl Bells {
    /// Boxed: thousands of sessions are idle.
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            client: Bell::new(),
            server: Bell::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_source_that_has_nothing_is_asked_once_until_it_calls() {
        let bell = Bell::new();
        let cx = Context::from_waker(Waker::noop());
        let asked = Cell::new(0);
        let ask = |answer: Poll<()>| {
            bell.ask(&cx, |_| {
                asked.set(asked.get() + 1);
                answer
            })
        };
        assert!(ask(Poll::Ready(())).is_ready());
        assert!(ask(Poll::Pending).is_pending());
        assert!(ask(Poll::Ready(())).is_pending());
        assert_eq!(asked.get(), 2);
        bell.waker.wake_by_ref();
        assert!(ask(Poll::Pending).is_pending());
        bell.ring();
        assert!(ask(Poll::Ready(())).is_ready());
        assert_eq!(asked.get(), 4);
    }

    /// Two sources on other threads, and no call of either is lost.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_call_is_missed() {
        const COUNT: usize = 20_000;
        let (one, mut ones) = mpsc::channel(1);
        let (two, mut twos) = mpsc::channel(1);
        for sender in [one, two] {
            tokio::spawn(async move {
                for number in 0..COUNT {
                    sender.send(number).await.unwrap();
                }
            });
        }
        let heard = tokio::spawn(async move {
            let bells = [Bell::new(), Bell::new()];
            let mut came = [0, 0];
            while came != [COUNT, COUNT] {
                poll_fn(|cx| {
                    let mut any = false;
                    for (at, source) in [&mut ones, &mut twos].into_iter().enumerate() {
                        while let Poll::Ready(Some(_)) =
                            bells[at].ask(cx, |own| source.poll_recv(own))
                        {
                            came[at] += 1;
                            any = true;
                        }
                        any |= came[at] == COUNT;
                    }
                    if any { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                if came.contains(&COUNT) {
                    tokio::task::yield_now().await;
                }
            }
        });
        timeout(Duration::from_secs(60), heard)
            .await
            .unwrap()
            .unwrap();
    }
}
