//! Statements: tokens, where one ends, what kind it is, and properties that hold for any text.

#![allow(clippy::unwrap_used, clippy::panic)]

mod classify;
mod lexer;
mod properties;
mod split;

use super::Kind;

/// Classifies under the default of `standard_conforming_strings`.
fn kind(text: &str) -> Kind<'_> {
    super::classify(text, true)
}
