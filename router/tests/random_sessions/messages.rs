//! What a random session sends, and how many answers belong to it.

use bytes::BytesMut;
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format, TargetKind};
use tenantry_wire::tag::backend as tag;

/// One message of a client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sent {
    Query(String),
    Parse {
        name: String,
        text: String,
    },
    Bind {
        portal: String,
        statement: String,
        parameters: Vec<Option<String>>,
    },
    DescribeStatement(String),
    DescribePortal(String),
    Execute {
        portal: String,
        rows_max: i32,
    },
    CloseStatement(String),
    ClosePortal(String),
    Flush,
    Sync,
    CopyData(String),
    CopyDone,
    CopyFail,
}

impl Sent {
    pub(crate) fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Query(text) => frontend::put_query(out, text),
            Self::Parse { name, text } => frontend::put_parse(out, name, text, &[]),
            Self::Bind {
                portal,
                statement,
                parameters,
            } => {
                let values: Vec<Option<&[u8]>> = parameters
                    .iter()
                    .map(|value| value.as_deref().map(str::as_bytes))
                    .collect();
                frontend::put_bind(out, portal, statement, &values, Format::Text);
            }
            Self::DescribeStatement(name) => {
                frontend::put_describe(out, TargetKind::Statement, name);
            }
            Self::DescribePortal(name) => frontend::put_describe(out, TargetKind::Portal, name),
            Self::Execute { portal, rows_max } => frontend::put_execute(out, portal, *rows_max),
            Self::CloseStatement(name) => frontend::put_close(out, TargetKind::Statement, name),
            Self::ClosePortal(name) => frontend::put_close(out, TargetKind::Portal, name),
            Self::Flush => frontend::put_flush(out),
            Self::Sync => frontend::put_sync(out),
            Self::CopyData(line) => frontend::put_copy_data(out, line.as_bytes()),
            Self::CopyDone => frontend::put_copy_done(out),
            Self::CopyFail => frontend::put_copy_fail(out, "changed my mind"),
        }
    }

    /// Neither asks for an answer nor ends a batch.
    fn is_silent(&self) -> bool {
        matches!(
            self,
            Self::Flush | Self::CopyData(_) | Self::CopyDone | Self::CopyFail
        )
    }
}

/// Messages that one client sends in one write, before it waits for all their answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) client: usize,
    pub(crate) messages: Vec<Sent>,
}

/// Whether `replies` are all that a server has to say to `sent`: each message is followed through the rules of
/// the protocol chapter, because the number of ReadyForQuery depends on what failed.
pub(crate) fn is_answered(sent: &[Sent], replies: &[Message]) -> bool {
    let mut replies = replies
        .iter()
        .map(|message| message.tag)
        .filter(|letter| !matches!(*letter, tag::NOTICE | tag::PARAMETER_STATUS));
    let mut at = 0;
    while let Some(message) = sent.get(at) {
        at += 1;
        if message.is_silent() {
            continue;
        }
        let until_ready = matches!(message, Sent::Query(_) | Sent::Sync);
        loop {
            let Some(letter) = replies.next() else {
                return false;
            };
            match letter {
                tag::READY_FOR_QUERY if until_ready => break,
                _ if until_ready => {}
                tag::ERROR => {
                    // Everything up to the next Sync is skipped.
                    while sent.get(at).is_some_and(|skipped| *skipped != Sent::Sync) {
                        at += 1;
                    }
                    break;
                }
                tag::COPY_IN => {
                    // Part of the stream, where PostgreSQL ignores them.
                    while matches!(sent.get(at), Some(Sent::Sync | Sent::Flush)) {
                        at += 1;
                    }
                }
                tag::PARSE_COMPLETE
                | tag::BIND_COMPLETE
                | tag::CLOSE_COMPLETE
                | tag::ROW_DESCRIPTION
                | tag::NO_DATA
                | tag::COMMAND_COMPLETE
                | tag::EMPTY_QUERY
                | tag::PORTAL_SUSPENDED => break,
                _ => {}
            }
        }
    }
    true
}
