//! A walsender that streams.

use std::time::SystemTime;

use bytes::Bytes;
use tenantry_wire::frame::Message;
use tenantry_wire::replication::{Keepalive, Lsn, StandbyStatus, Timestamp, WalFrame};
use tenantry_wire::tag::backend as tag;

use super::link::unexpected;
use super::{Link, LinkError};

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A message of the output plugin.
    Data(Bytes),
    /// How far the server is; everything before was sent.
    Keepalive(Keepalive),
}

/// The stream of one slot. Dropping it ends the connection and leaves the slot as it is.
#[derive(Debug)]
pub struct ReplicationStream {
    link: Link,
    /// The furthest position heard of.
    received: Lsn,
}

impl ReplicationStream {
    pub(super) fn new(link: Link, from: Lsn) -> Self {
        Self {
            link,
            received: from,
        }
    }

    /// The next frame. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost, the server ends the stream with an error, or what it sends makes no sense.
    pub async fn next(&mut self) -> Result<Frame, LinkError> {
        let message = self.link.receive().await?;
        self.frame(&message)
    }

    /// The next frame if it is here already.
    ///
    /// # Errors
    /// As [`ReplicationStream::next`].
    pub fn try_next(&mut self) -> Result<Option<Frame>, LinkError> {
        let message = self.link.try_receive()?;
        message.map(|message| self.frame(&message)).transpose()
    }

    /// The furthest position that the server has spoken of.
    #[must_use]
    pub fn received(&self) -> Lsn {
        self.received
    }

    /// Tells the server that everything before `flushed` may be forgotten. With `reply` it answers with a keepalive at
    /// once, which says how far it has decoded.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn confirm(&mut self, flushed: Lsn, reply: bool) -> Result<(), LinkError> {
        let status = StandbyStatus {
            written: self.received.max(flushed),
            flushed,
            applied: flushed,
            sent_at: now(),
            reply,
        };
        status.put(self.link.output());
        self.link.flush().await
    }

    fn frame(&mut self, message: &Message) -> Result<Frame, LinkError> {
        match message.tag {
            tag::COPY_DATA => {}
            tag::COPY_DONE => return Err(LinkError::Closed),
            _ => return Err(unexpected(message)),
        }
        match WalFrame::decode(message.body())? {
            WalFrame::XLogData(data) => {
                self.received = self.received.max(data.start);
                Ok(Frame::Data(message.bytes.slice_ref(data.data)))
            }
            WalFrame::Keepalive(keepalive) => {
                self.received = self.received.max(keepalive.end);
                Ok(Frame::Keepalive(keepalive))
            }
        }
    }
}

/// Now, as PostgreSQL counts.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    });
    Timestamp::from_unix_micros(micros)
}
