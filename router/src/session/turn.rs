//! Turns: places inside a batch, or inside one Query, where the session may go on with another
//! tenant and on another server connection.
//!
//! A client may send `COMMIT` and the next `BEGIN` without a Sync in between, or without waiting
//! for an answer. What comes after must not be sent before it is known which tenant and which
//! settings are in force then.

use tenantry_wire::frontend;

use super::expect::Expect;
use super::{Session, Tx};
use crate::server::Link;

impl Session {
    /// Makes the server finish what it was sent, by a Sync that the client does not see.
    pub(super) fn come_to_rest(&mut self, mut server: Option<&mut Link>) -> bool {
        if !self.settle(server.as_deref_mut()) {
            return false;
        }
        self.batch.flushed = false;
        if let Some(server) = server
            && (self.batch.forwarded || self.sync_owed)
        {
            frontend::put_sync(&mut server.output);
            self.expects.push(Expect::HiddenSync);
            self.batch.forwarded = false;
            self.sync_owed = false;
            return false;
        }
        self.batch.ended = false;
        true
    }

    /// Before the tenant is set: a transaction that will begin anew elsewhere must be at rest, or
    /// its connection cannot be given up.
    pub(super) fn ready_to_switch(&mut self, server: Option<&mut Link>) -> bool {
        let restartable = matches!(
            self.tx,
            Tx::Open {
                restartable: true,
                ..
            }
        );
        !restartable || self.come_to_rest(server)
    }
}
