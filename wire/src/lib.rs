//! Sans-IO PostgreSQL wire protocol: frames, startup, SCRAM, statement tokenizer; no socket and no clock.
//!
//! Bytes go in, typed views come out; builders append to a caller-owned buffer. Nothing here waits, so every
//! part is tested from captured bytes, by property and by fuzzing.
//!
//! Two properties hold throughout. What a peer sent is never trusted: lengths are checked before anything is
//! allocated, and a malformed message is a typed error that names its SQLSTATE. And what only passes through
//! is never copied: parsers borrow from the message, texts stay bytes because the client's encoding need not
//! be UTF-8.

pub mod backend;
pub mod encoding;
pub mod error;
pub mod frame;
pub mod frontend;
mod put;
mod reader;
pub mod replication;
pub mod scram;
pub mod sql;
pub mod sqlstate;
pub mod startup;
pub mod tag;

pub use error::MessageError;
pub use frame::{Frame, FrameError, FrameHead};
