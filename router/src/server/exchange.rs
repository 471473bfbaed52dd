//! The router's own conversation with a server, while no client is concerned: what is waiting is
//! sent, and everything up to ReadyForQuery is taken in.

use std::io;

use tenantry_wire::backend::{self, ErrorFields};
use tenantry_wire::frame::{FrameError, LARGE_MESSAGE_LIMIT, Message};
use tenantry_wire::{MessageError, tag::backend as tag};
use tokio::io::AsyncReadExt as _;

use super::Server;

/// Why the connection cannot be used any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("lost framing")]
    Frame(#[from] FrameError),
    #[error("malformed reply")]
    Message(#[from] MessageError),
}

impl Server {
    /// Sends what is waiting and reads up to ReadyForQuery. Answers the last error among the
    /// replies; reported settings and the transaction status are noted.
    pub(crate) async fn exchange(&mut self) -> Result<Option<ErrorFields>, ExchangeError> {
        let output = self.link.output.split();
        self.stream.send(&output).await?;
        let mut error = None;
        loop {
            while let Some(message) = Message::take(&mut self.link.input, LARGE_MESSAGE_LIMIT)? {
                match message.tag {
                    tag::ERROR => error = Some(ErrorFields::decode(message.body())?),
                    tag::PARAMETER_STATUS => {
                        let status = backend::parameter_status(message.body())?;
                        self.link.state.parameters.insert(
                            String::from_utf8_lossy(status.name).into_owned(),
                            String::from_utf8_lossy(status.value).into_owned(),
                        );
                    }
                    tag::READY_FOR_QUERY => {
                        self.link.state.status = backend::ready_for_query(message.body())?;
                        return Ok(error);
                    }
                    _ => {}
                }
            }
            if self.stream.read_buf(&mut self.link.input).await? == 0 {
                return Err(ExchangeError::Closed);
            }
        }
    }
}
