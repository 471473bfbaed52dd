//! Where statements end in the text of a simple query.
//!
//! A semicolon ends a statement unless it stands in a literal, in a comment, in parentheses (CREATE RULE), or in the
//! body of a function written `BEGIN ATOMIC ... END`.

use std::ops::Range;

use memchr::memchr;

use super::lexer::{Lexer, Token, TokenKind};

/// The statements of a text in order, without their semicolons and without empty ones. A range includes the comments
/// before its statement, because some of them mean something to extensions.
#[must_use]
pub fn split<T: AsRef<[u8]> + ?Sized>(
    text: &T,
    standard_conforming_strings: bool,
) -> Statements<'_> {
    Statements {
        lexer: Lexer::new(text.as_ref(), standard_conforming_strings),
        start: 0,
        is_done: false,
    }
}

/// Whether a text holds at most one statement, told without tokenizing in nearly all cases.
#[must_use]
pub fn is_single<T: AsRef<[u8]> + ?Sized>(text: &T, standard_conforming_strings: bool) -> bool {
    let text = text.as_ref();
    only_trailing_semicolons(text).is_some()
        || split(text, standard_conforming_strings).nth(1).is_none()
}

/// Where the statement ends if all semicolons stand at the end of the text, whatever comes before them: a literal or
/// comment that one of them is part of does not end, and to PostgreSQL the text is one erroneous statement either way.
fn only_trailing_semicolons(text: &[u8]) -> Option<usize> {
    let Some(first) = memchr(b';', text) else {
        return Some(text.len());
    };
    is_end(text.get(first..)?).then_some(first)
}

/// Whether these are semicolons and white space only.
pub(super) fn is_end(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| *byte == b';' || byte.is_ascii_whitespace())
}

/// Iterates over the statements of a text; see [`split`].
#[derive(Debug, Clone)]
pub struct Statements<'a> {
    lexer: Lexer<'a>,
    /// Where the next statement starts, with its comments.
    start: usize,
    is_done: bool,
}

impl Statements<'_> {
    /// The last statement, if no further one can follow: most texts are one statement and are never tokenized.
    fn last(&mut self) -> Option<Range<usize>> {
        let rest = self.lexer.text().get(self.start..).unwrap_or_default();
        let end = self.start + only_trailing_semicolons(rest)?;
        self.is_done = true;
        Some(self.start..end)
    }
}

impl Iterator for Statements<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        while !self.is_done {
            if let Some(last) = self.last() {
                let first = self.lexer.next();
                return first.filter(|token| token.start < last.end).map(|_| last);
            }
            let start = self.start;
            let mut nesting = Nesting::default();
            let mut is_empty = true;
            let end = loop {
                let Some(token) = self.lexer.next() else {
                    self.is_done = true;
                    break self.lexer.text().len();
                };
                if token.kind == TokenKind::Punct(b';') && nesting.is_outside() {
                    self.start = token.end;
                    break token.start;
                }
                nesting.follow(&self.lexer, token);
                is_empty = false;
            };
            if !is_empty {
                return Some(start..end);
            }
        }
        None
    }
}

/// What a semicolon stands in: parentheses, and bodies of SQL functions, which only `CREATE [OR REPLACE] FUNCTION` and
/// `PROCEDURE` have.
#[derive(Debug, Default)]
struct Nesting {
    parens: usize,
    prefix: Prefix,
    /// Depth of BEGIN ATOMIC and, inside it, of CASE: both end with END.
    blocks: usize,
    previous: Previous,
}

/// How much of `CREATE [OR REPLACE] {FUNCTION | PROCEDURE}` the statement has shown.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    #[default]
    Nothing,
    Create,
    CreateOr,
    CreateOrReplace,
    Routine,
    OtherStatement,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Previous {
    #[default]
    Other,
    Begin,
    /// A dot or AS: what follows is a name, even if it looks like a keyword.
    Naming,
}

impl Nesting {
    fn is_outside(&self) -> bool {
        self.parens == 0 && self.blocks == 0
    }

    fn follow(&mut self, lexer: &Lexer<'_>, token: Token) {
        match token.kind {
            TokenKind::Punct(b'(') => self.parens += 1,
            TokenKind::Punct(b')') => self.parens = self.parens.saturating_sub(1),
            _ => {}
        }
        let word = match token.kind {
            TokenKind::Ident => lexer.slice(token),
            _ => b"",
        };
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
        if self.prefix != Prefix::Routine {
            self.prefix = match self.prefix {
                Prefix::Nothing if is("create") => Prefix::Create,
                Prefix::Create if is("or") => Prefix::CreateOr,
                Prefix::CreateOr if is("replace") => Prefix::CreateOrReplace,
                Prefix::Create | Prefix::CreateOrReplace if is("function") || is("procedure") => {
                    Prefix::Routine
                }
                _ => Prefix::OtherStatement,
            };
            return;
        }
        let previous = std::mem::take(&mut self.previous);
        if token.kind == TokenKind::Punct(b'.') || is("as") {
            self.previous = Previous::Naming;
        } else if self.parens == 0 && previous != Previous::Naming {
            match self.blocks {
                0 if is("begin") => self.previous = Previous::Begin,
                0 if previous == Previous::Begin && is("atomic") => self.blocks = 1,
                1.. if is("case") => self.blocks += 1,
                1.. if is("end") => self.blocks -= 1,
                _ => {}
            }
        }
    }
}
