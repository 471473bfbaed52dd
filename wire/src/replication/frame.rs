//! What travels inside the CopyData messages of a replication stream.

use bytes::{BufMut, BytesMut};

use super::{Lsn, Timestamp};
use crate::{MessageError, put, reader::Reader, tag::frontend as tag};

/// A server's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalFrame<'a> {
    /// A message of the output plugin.
    XLogData(XLogData<'a>),
    /// Where the server is while it has nothing to send.
    Keepalive(Keepalive),
}

/// A message of the output plugin and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XLogData<'a> {
    /// Position of the message; invalid for some messages that stand for no record.
    pub start: Lsn,
    /// With logical decoding the same again.
    pub end: Lsn,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// The message.
    pub data: &'a [u8],
}

/// Everything before [`Keepalive::end`] has been decoded, and what concerned the stream was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How far the server has decoded.
    pub end: Lsn,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// The server wants a [`StandbyStatus`] at once; without one it ends the connection before long.
    pub reply: bool,
}

impl<'a> WalFrame<'a> {
    /// Reads the body of a CopyData.
    ///
    /// # Errors
    /// The body is malformed or of a kind that does not exist.
    pub fn decode(body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        match reader.u8()? {
            b'w' => Ok(Self::XLogData(XLogData {
                start: Lsn(reader.u64()?),
                end: Lsn(reader.u64()?),
                sent_at: Timestamp(reader.i64()?),
                data: reader.rest(),
            })),
            b'k' => {
                let keepalive = Keepalive {
                    end: Lsn(reader.u64()?),
                    sent_at: Timestamp(reader.i64()?),
                    reply: reader.u8()? != 0,
                };
                reader.finish()?;
                Ok(Self::Keepalive(keepalive))
            }
            kind => Err(MessageError::ReplicationKind(kind)),
        }
    }
}

/// How far the client is. The server may forget everything before [`StandbyStatus::flushed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Received.
    pub written: Lsn,
    /// Safe from a crash of the client's side.
    pub flushed: Lsn,
    /// Visible on the client's side.
    pub applied: Lsn,
    /// When this is sent.
    pub sent_at: Timestamp,
    /// Ask for a keepalive at once.
    pub reply: bool,
}

impl StandbyStatus {
    /// Appends the status as a CopyData message.
    pub fn put(&self, out: &mut BytesMut) {
        put::frame(out, tag::COPY_DATA, |out| {
            out.put_u8(b'r');
            out.put_u64(self.written.0);
            out.put_u64(self.flushed.0);
            out.put_u64(self.applied.0);
            out.put_i64(self.sent_at.0);
            out.put_u8(u8::from(self.reply));
        });
    }
}
