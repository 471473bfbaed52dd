//! The `options` startup parameter: command-line switches for the session.
//!
//! Split as `pg_split_opts` does (whitespace separates, a backslash takes the next character literally), then read
//! as PostgreSQL reads the switches of a session: `-c name=value`, `-cname=value`, `--name=value`.

use crate::sqlstate;

/// An `options` value that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A setting without `=value`.
    #[error("{switch}{name} requires a value")]
    MissingValue {
        /// The switch as written.
        switch: &'static str,
        /// The setting's name.
        name: String,
    },
    /// A switch other than those that set a parameter. PostgreSQL has some more, none of which a session behind a
    /// pool could keep.
    #[error("invalid command-line argument for server process: {0}")]
    UnsupportedSwitch(String),
}

impl OptionsError {
    /// The SQLSTATE that tells the peer.
    #[must_use]
    pub fn sqlstate(&self) -> &'static str {
        sqlstate::SYNTAX_ERROR
    }
}

/// The settings that an `options` value names, in order. Dashes in names become underscores, values stay as they are.
///
/// # Errors
/// A switch that sets nothing, or a setting without a value.
pub fn parse_options(options: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let mut settings = Vec::new();
    let mut words = split_words(options).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            let argument = words.next();
            let argument = argument.ok_or(OptionsError::UnsupportedSwitch(word))?;
            setting("-c ", &argument)?
        } else if word == "--" && words.len() == 0 {
            break;
        } else if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
            setting("--", long)?
        } else if let Some(attached) = word.strip_prefix("-c") {
            setting("-c ", attached)?
        } else {
            return Err(OptionsError::UnsupportedSwitch(word));
        };
        settings.push(setting);
    }
    Ok(settings)
}

fn setting(switch: &'static str, text: &str) -> Result<(String, String), OptionsError> {
    let split = text.split_once('=');
    let (name, value) = split.ok_or_else(|| missing(switch, text.to_owned()))?;
    Ok((name.replace('-', "_"), value.to_owned()))
}

fn missing(switch: &'static str, name: String) -> OptionsError {
    OptionsError::MissingValue { switch, name }
}

fn split_words(text: &str) -> Vec<String> {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if is_space(c) {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        if c == '\\' {
            word.extend(chars.next());
        } else {
            word.push(c);
        }
    }
    words.extend(word);
    words
}
