//! Connections that are not sessions yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many clients are logging in.
#[derive(Debug, Default)]
pub(crate) struct Logins(Arc<AtomicUsize>);

/// One of them, until dropped.
#[derive(Debug)]
pub(crate) struct LoginGuard(Arc<AtomicUsize>);

impl Logins {
    pub(crate) fn begin(&self) -> LoginGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        LoginGuard(Arc::clone(&self.0))
    }

    pub(crate) fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for LoginGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
