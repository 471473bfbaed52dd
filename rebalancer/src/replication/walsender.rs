//! A replication connection while it takes commands.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tenantry_wire::frontend;
use tenantry_wire::replication::{self, Lsn, SlotKind, SnapshotAction};
use tenantry_wire::startup::CancelKey;
use tenantry_wire::tag::backend as tag;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::link::unexpected;
use super::{Link, LinkError, ReplicationStream};
use crate::shard::ShardEndpoint;

/// Memory that running transactions take in the walsender before the largest is sent as far as it goes. What is sent at
/// once is what a marker waits for, behind whatever other tenants write: milliseconds with this, a second with the
/// server's default.
const DECODING_MEMORY: &str = "256kB";
/// Longest time for a cancel request.
const CANCEL_MAX: Duration = Duration::from_secs(5);

/// A walsender of a shard's database that waits for a command.
///
/// A temporary slot and an exported snapshot live as long as it does; the snapshot also ends with its next command.
#[derive(Debug)]
pub struct Walsender {
    link: Link,
    endpoint: ShardEndpoint,
}

/// A slot that was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The slot's first position. Transactions whose commit record starts before it are in the snapshot, all others in
    /// the stream.
    pub consistent_point: Lsn,
    /// The snapshot's name for `SET TRANSACTION SNAPSHOT`, if it was to be exported.
    pub snapshot: Option<String>,
}

impl Walsender {
    /// Connects to the walsender of a shard's database.
    ///
    /// # Errors
    /// The shard does not answer in time or refuses.
    pub async fn connect(endpoint: &ShardEndpoint) -> Result<Self, LinkError> {
        let mode = [
            ("replication", "database"),
            ("logical_decoding_work_mem", DECODING_MEMORY),
        ];
        let link = Link::open(endpoint, &mode).await?;
        Ok(Self {
            link,
            endpoint: endpoint.clone(),
        })
    }

    /// Makes a slot. PostgreSQL first waits for every transaction of the whole server that runs and has written: the
    /// caller bounds that time, and on giving up uses [`CancelToken`] and drops the slot by name.
    ///
    /// # Errors
    /// The name is taken (42710), no slot is free, or the connection is lost.
    pub async fn create_slot(
        &mut self,
        name: &str,
        kind: SlotKind,
        snapshot: SnapshotAction,
    ) -> Result<CreatedSlot, LinkError> {
        let command = replication::create_slot(name, kind, snapshot);
        let rows = self.link.simple(&command).await?;
        let value = |column: usize| {
            rows.first()
                .and_then(|row| row.get(column))
                .cloned()
                .flatten()
        };
        let point = value(1).and_then(|text| text.parse().ok());
        let consistent_point = point.ok_or(LinkError::Unexpected(char::from(tag::DATA_ROW)))?;
        Ok(CreatedSlot {
            consistent_point,
            snapshot: value(2),
        })
    }

    /// Starts to stream from a position, or from where the slot stands if that is later. The walsender takes no other
    /// command after that.
    ///
    /// # Errors
    /// The slot does not exist (42704), is in use (55006) or can no longer be read from (55000), the publication does not
    /// exist, or the connection is lost.
    pub async fn start(
        mut self,
        slot: &str,
        from: Lsn,
        publication: &str,
    ) -> Result<ReplicationStream, LinkError> {
        let command = replication::start_replication(slot, from, publication);
        frontend::put_query(self.link.output(), command);
        self.link.flush().await?;
        let message = self.link.receive().await?;
        if message.tag != tag::COPY_BOTH {
            return Err(unexpected(&message));
        }
        Ok(ReplicationStream::new(self.link, from))
    }

    /// A way to end the running command from elsewhere.
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken {
            endpoint: self.endpoint.clone(),
            key: self.link.cancel_key().clone(),
        }
    }
}

/// Ends the running command of a [`Walsender`]. A connection that is merely closed goes on waiting on the server.
#[derive(Debug, Clone)]
pub struct CancelToken {
    endpoint: ShardEndpoint,
    key: CancelKey,
}

impl CancelToken {
    /// Sends the request and waits until the server has taken it.
    ///
    /// # Errors
    /// The server cannot be reached in time.
    pub async fn cancel(&self) -> Result<(), LinkError> {
        let delivered = timeout(CANCEL_MAX, self.deliver()).await;
        delivered
            .map_err(|_elapsed| LinkError::Timeout)?
            .map_err(LinkError::Broken)
    }

    async fn deliver(&self) -> io::Result<()> {
        let address = &self.endpoint.address;
        let mut socket = TcpStream::connect((address.host.as_str(), address.port)).await?;
        let mut request = BytesMut::new();
        frontend::put_cancel_request(&mut request, self.key.pid, &self.key.key);
        socket.write_all(&request).await?;
        // The server closes when the process has been told.
        let mut rest = [0_u8; 16];
        while socket.read(&mut rest).await? > 0 {}
        Ok(())
    }
}
