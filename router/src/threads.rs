//! The threads that serve sessions. Each runs a single-threaded runtime of its own.
//!
//! A session stays on its thread together with its sockets. Nobody steals it, so being woken is never another thread's
//! work, and a thread that is busy finds many sockets ready each time it asks: per query that costs less than handing
//! tasks around (docs/adr/0019). Everything else of a router runs where the router was started.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

thread_local! {
    // The standard library's own answer counts a reference up and down; it is asked for several times per statement.
    static HERE: ThreadId = thread::current().id();
}

/// The thread that asks.
pub(crate) fn here() -> ThreadId {
    HERE.with(|here| *here)
}

/// The threads of one router. They end with it.
#[derive(Debug)]
pub(crate) struct Threads {
    places: Vec<Place>,
    _ends: DropGuard,
}

#[derive(Debug)]
struct Place {
    runtime: Handle,
    sessions: Arc<AtomicUsize>,
}

/// Counts a session for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Threads {
    /// Starts `count` threads.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let end = CancellationToken::new();
        let ends = end.clone().drop_guard();
        let places = (0..count)
            .map(|_| start_one(end.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            places,
            _ends: ends,
        })
    }

    /// Runs a session on the thread that has the fewest.
    pub(crate) fn spawn(
        &self,
        tracker: &TaskTracker,
        session: impl Future<Output = ()> + Send + 'static,
    ) {
        let fewest = self
            .places
            .iter()
            .min_by_key(|place| place.sessions.load(Ordering::Relaxed));
        let Some(place) = fewest else {
            tracker.spawn(session);
            return;
        };
        place.sessions.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(&place.sessions));
        let session = async move {
            let _counted = counted;
            session.await;
        };
        tracker.spawn_on(session, &place.runtime);
    }
}

fn start_one(end: CancellationToken) -> io::Result<Place> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("sessions".to_owned())
        .spawn(move || runtime.block_on(end.cancelled()))?;
    Ok(Place {
        runtime: handle,
        sessions: Arc::default(),
    })
}
