//! An operator's wish that the router stops, carried to whoever runs it.

use tokio::sync::watch;

use crate::console::Shutdown;

/// Whether and how the router was asked to stop. The first wish holds.
#[derive(Debug)]
pub(crate) struct Stop(watch::Sender<Option<Shutdown>>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Stop {
    pub(crate) fn ask(&self, how: Shutdown) {
        self.0.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert(how);
            first
        });
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) fn asked(&self) -> watch::Receiver<Option<Shutdown>> {
        self.0.subscribe()
    }
}
