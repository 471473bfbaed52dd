//! Statements: where one ends, and whether it is one of the few that the router answers or rewrites.
//!
//! There is no syntax tree here and no edit inside a statement. Texts are tokenized exactly as PostgreSQL does it, and
//! only a closed list of statements is read further. Whatever is not on the list, or does not follow the grammar, is
//! [`Kind::Plain`] and goes to PostgreSQL, whose error message is then the right one. Isolation never depends on this
//! module: the guard inside PostgreSQL enforces it.
//!
//! Texts are bytes in an ASCII-safe encoding. What is decoded from them must be UTF-8, else the statement is
//! [`Kind::NotUtf8`].

mod calls;
mod classify;
mod comment;
mod cursor;
mod decode;
mod hints;
mod keywords;
mod kind;
mod lexer;
mod normalise;
mod quote;
mod session;
mod setting;
mod split;
mod transaction;

pub use calls::{Arg, ParamType, SettingCall, setting_calls};
pub use classify::classify;
pub use comment::{sql_comment_trace, tenant_comment, trace_id};
pub use hints::{
    is_ordinary, is_read_only_hint, is_select, may_end_transactions, may_set_unseen,
    mentions_setting_function, takes_session_lock,
};
pub use kind::{DiscardTarget, Kind, SetValue};
pub use lexer::{Lexer, Token, TokenKind};
pub use normalise::{fingerprint, normalise};
pub use quote::{quote_identifier, quote_literal};
pub use split::{Statements, is_single, split};
pub use transaction::{Isolation, TransactionModes};

#[cfg(test)]
mod tests;
