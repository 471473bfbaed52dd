//! The one way back into the pool: every connection that a session gives up passes here, and is
//! proven clean or closed.

use std::time::Duration;

use tenantry_wire::backend::{ErrorFields, TxStatus};
use tenantry_wire::frontend;
use tokio::time::timeout;

use super::Lease;
use crate::server::{Bound, Server};

/// Longest time that cleaning may take; a connection that needs longer is closed.
const CLEANING_TIME: Duration = Duration::from_secs(2);

/// How a session left its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftBehind {
    /// Replies are outstanding or messages half sent: nothing can be proven.
    pub(crate) unfinished: bool,
    /// A cancel request was sent to it.
    pub(crate) cancelled: bool,
}

/// Gives a connection back that nothing was sent to but what has been answered, if it needs no cleaning; otherwise
/// returns it.
pub(crate) fn give_back_if_clean(mut lease: Lease) -> Option<Lease> {
    let server = lease.server()?;
    let link = &server.link;
    if link.input.is_empty() && link.output.is_empty() && script(server, false).is_empty() {
        lease.give_back_now();
        return None;
    }
    Some(lease)
}

/// Gives the connection back if it is clean or can be cleaned, else closes it.
pub(crate) async fn clean(mut lease: Lease, left: LeftBehind) {
    if lease.pool().is_some_and(|pool| !pool.cleans()) {
        lease.give_back();
        return;
    }
    if left.unfinished {
        return;
    }
    let Some(server) = lease.server() else { return };
    if !server.link.input.is_empty() || !server.link.output.is_empty() {
        return;
    }
    let script = script(server, left.cancelled);
    if !script.is_empty() {
        match Box::pin(timeout(CLEANING_TIME, run(server, &script))).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => {
                tracing::debug!(reason, "server connection could not be cleaned");
                return;
            }
            Err(_elapsed) => return,
        }
    }
    lease.give_back();
}

/// The statements that make the connection clean; none for one that is.
fn script(server: &Server, cancelled: bool) -> Vec<&'static str> {
    let mut script = Vec::new();
    if cancelled {
        // A signal that was on its way hits this instead of the next client's statement.
        script.push("");
    }
    if server.link.state.status != TxStatus::Idle {
        script.push("ROLLBACK");
    }
    if server.link.state.dirty {
        script.push("DISCARD ALL");
    }
    script
}

async fn run(server: &mut Server, script: &[&'static str]) -> Result<(), &'static str> {
    for text in script {
        frontend::put_query(&mut server.link.output, text);
        let error = exchange(server).await?;
        if error.is_some() && !text.is_empty() {
            return Err("a cleaning statement failed");
        }
    }
    if server.link.state.status != TxStatus::Idle {
        return Err("still in a transaction");
    }
    server.link.state.transaction_ended(false);
    server.link.state.unnamed = None;
    if server.link.state.dirty {
        server.link.state.dirty = false;
        server.link.state.prepared.clear();
        server.link.state.applied = Some(crate::session::Settings::default());
        server.link.state.bound = Bound::Known(None);
        server.link.state.fallback = Bound::Known(None);
        // The statement that binds is gone as well.
        return rebind(server).await;
    }
    Ok(())
}

async fn rebind(server: &mut Server) -> Result<(), &'static str> {
    frontend::put_parse(
        &mut server.link.output,
        crate::server::BIND_STATEMENT,
        crate::server::BIND_TEXT,
        &[],
    );
    frontend::put_sync(&mut server.link.output);
    if exchange(server).await?.is_some() {
        return Err("the bind could not be prepared");
    }
    Ok(())
}

async fn exchange(server: &mut Server) -> Result<Option<ErrorFields>, &'static str> {
    server.exchange().await.map_err(|error| {
        tracing::debug!(%error, "server connection lost while it was cleaned");
        "connection lost"
    })
}
