//! PostgreSQL's lexical rules, as `scan.l` has them.
//!
//! Tokens are extents of the text; nothing is decoded or allocated here. Texts are bytes in an ASCII-safe encoding:
//! every byte from 0x80 up is part of an identifier or of a literal, as in PostgreSQL.

use memchr::memchr;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An identifier or keyword without quotes.
    Ident,
    /// `"..."`
    QuotedIdent,
    /// `U&"..."`, without its UESCAPE clause.
    UnicodeIdent,
    /// `'...'` in which a backslash is a backslash.
    String,
    /// `E'...'`, or `'...'` while `standard_conforming_strings` is off.
    EscapeString,
    /// `U&'...'`, without its UESCAPE clause.
    UnicodeString,
    /// `$$...$$` or `$tag$...$tag$`
    DollarString,
    /// `B'...'` or `X'...'`
    BitString,
    /// `$1`
    Param,
    /// A number without its sign.
    Number,
    /// An operator of one or more characters, `=` among them, and `..`.
    Operator,
    /// `::`
    TypeCast,
    /// `:=`
    ColonEquals,
    /// Any other single character: punctuation, or a byte that begins no token.
    Punct(u8),
    /// A literal, quoted identifier or comment that does not end: extends to the end of the text.
    Unterminated,
}

/// One token and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// First byte.
    pub start: usize,
    /// Byte after the last one.
    pub end: usize,
}

/// Iterates over the tokens of a text. White space and comments are skipped.
#[derive(Debug, Clone, Copy)]
pub struct Lexer<'a> {
    text: &'a [u8],
    pos: usize,
    standard_conforming_strings: bool,
}

impl<'a> Lexer<'a> {
    /// Lexes `text` from its beginning.
    #[must_use]
    pub fn new(text: &'a [u8], standard_conforming_strings: bool) -> Self {
        Self {
            text,
            pos: 0,
            standard_conforming_strings,
        }
    }

    /// The text being lexed.
    #[must_use]
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// The same rules on the same text from `start` on, which is the start of a token.
    pub(super) fn restarted_at(self, start: usize) -> Self {
        Self { pos: start, ..self }
    }

    pub(super) fn standard_conforming_strings(&self) -> bool {
        self.standard_conforming_strings
    }

    /// The bytes of a token.
    #[must_use]
    pub fn slice(&self, token: Token) -> &'a [u8] {
        self.text.get(token.start..token.end).unwrap_or_default()
    }

    /// The byte at `index`; 0, which no text from the wire contains, behind the end.
    fn at(&self, index: usize) -> u8 {
        self.text.get(index).copied().unwrap_or(0)
    }

    fn find(&self, byte: u8, from: usize) -> Option<usize> {
        let rest = self.text.get(from..)?;
        memchr(byte, rest).map(|offset| from + offset)
    }

    /// Skips white space and comments. False: a comment does not end.
    fn skip_blank(&mut self) -> bool {
        loop {
            match self.at(self.pos) {
                c if is_space(c) => self.pos += 1,
                b'-' if self.at(self.pos + 1) == b'-' => self.pos = self.line_end(self.pos),
                b'/' if self.at(self.pos + 1) == b'*' => match self.comment_end(self.pos) {
                    Some(end) => self.pos = end,
                    None => return false,
                },
                _ => return true,
            }
        }
    }

    /// Where the line that contains `from` ends: at its newline or at the end of the text.
    fn line_end(&self, from: usize) -> usize {
        let rest = self.text.get(from..).unwrap_or_default();
        memchr::memchr2(b'\n', b'\r', rest).map_or(self.text.len(), |offset| from + offset)
    }

    /// Block comments nest.
    fn comment_end(&self, start: usize) -> Option<usize> {
        let mut depth = 0_usize;
        let mut pos = start;
        loop {
            let rest = self.text.get(pos..)?;
            pos += memchr::memchr2(b'*', b'/', rest)?;
            match (self.at(pos), self.at(pos + 1)) {
                (b'/', b'*') => depth += 1,
                (b'*', b'/') => depth -= 1,
                _ => {
                    pos += 1;
                    continue;
                }
            }
            pos += 2;
            if depth == 0 {
                return Some(pos);
            }
        }
    }

    /// Kind and end of the token that starts at `start`, which holds neither white space nor a comment.
    fn token_at(&self, start: usize) -> (TokenKind, usize) {
        let first = self.at(start);
        match first {
            b'\'' if self.standard_conforming_strings => self.quoted(TokenKind::String, start),
            b'\'' => self.quoted(TokenKind::EscapeString, start),
            b'"' => self.quoted_ident(TokenKind::QuotedIdent, start),
            b'$' => self.dollar(start),
            b'.' if self.at(start + 1) == b'.' => (TokenKind::Operator, start + 2),
            b'.' if self.at(start + 1).is_ascii_digit() => {
                (TokenKind::Number, self.number_end(start))
            }
            b'0'..=b'9' => (TokenKind::Number, self.number_end(start)),
            b':' => match self.at(start + 1) {
                b':' => (TokenKind::TypeCast, start + 2),
                b'=' => (TokenKind::ColonEquals, start + 2),
                _ => (TokenKind::Punct(b':'), start + 1),
            },
            c if is_operator_char(c) => (TokenKind::Operator, self.operator_end(start)),
            c if is_ident_start(c) => self.ident_or_prefixed(start),
            c => (TokenKind::Punct(c), start + 1),
        }
    }

    /// An identifier, or a literal whose first letter says how to read it.
    fn ident_or_prefixed(&self, start: usize) -> (TokenKind, usize) {
        match (
            self.at(start) | 0x20,
            self.at(start + 1),
            self.at(start + 2),
        ) {
            (b'e', b'\'', _) => self.quoted(TokenKind::EscapeString, start + 1),
            (b'b' | b'x', b'\'', _) => self.quoted(TokenKind::BitString, start + 1),
            // PostgreSQL refuses the statement if a backslash could end the literal.
            (b'u', b'&', b'\'') if self.standard_conforming_strings => {
                self.quoted(TokenKind::UnicodeString, start + 2)
            }
            (b'u', b'&', b'\'') => (TokenKind::Unterminated, self.text.len()),
            (b'u', b'&', b'"') => self.quoted_ident(TokenKind::UnicodeIdent, start + 2),
            _ => {
                let rest = self.text.get(start..).unwrap_or_default();
                let len = rest.iter().position(|c| !is_ident_char(*c));
                (
                    TokenKind::Ident,
                    len.map_or(self.text.len(), |len| start + len),
                )
            }
        }
    }

    /// A literal in single quotes, with its continuations on following lines.
    fn quoted(&self, kind: TokenKind, quote: usize) -> (TokenKind, usize) {
        let mut pos = quote + 1;
        let escapes = kind == TokenKind::EscapeString;
        loop {
            let rest = self.text.get(pos..).unwrap_or_default();
            let found = if escapes {
                memchr::memchr2(b'\'', b'\\', rest)
            } else {
                memchr(b'\'', rest)
            };
            let Some(offset) = found else {
                return (TokenKind::Unterminated, self.text.len());
            };
            pos += offset;
            if self.at(pos) == b'\\' || self.at(pos + 1) == b'\'' {
                pos += 2;
            } else if let Some(reopened) = continuation(self.text, pos + 1) {
                pos = reopened;
            } else {
                return (kind, pos + 1);
            }
        }
    }

    fn quoted_ident(&self, kind: TokenKind, quote: usize) -> (TokenKind, usize) {
        let mut pos = quote + 1;
        while let Some(end) = self.find(b'"', pos) {
            if self.at(end + 1) != b'"' {
                return (kind, end + 1);
            }
            pos = end + 2;
        }
        (TokenKind::Unterminated, self.text.len())
    }

    /// A parameter, a dollar-quoted literal, or a lone dollar sign.
    fn dollar(&self, start: usize) -> (TokenKind, usize) {
        let mut tag_end = start + 1;
        if self.at(tag_end).is_ascii_digit() {
            while self.at(tag_end).is_ascii_digit() {
                tag_end += 1;
            }
            return (TokenKind::Param, tag_end);
        }
        if is_ident_start(self.at(tag_end)) {
            while is_ident_char(self.at(tag_end)) && self.at(tag_end) != b'$' {
                tag_end += 1;
            }
        }
        let delimiter = self.text.get(start..=tag_end).unwrap_or_default();
        if self.at(tag_end) != b'$' {
            return (TokenKind::Punct(b'$'), start + 1);
        }
        let body = self.text.get(tag_end + 1..).unwrap_or_default();
        match memchr::memmem::find(body, delimiter) {
            Some(offset) => (
                TokenKind::DollarString,
                tag_end + 1 + offset + delimiter.len(),
            ),
            None => (TokenKind::Unterminated, self.text.len()),
        }
    }

    /// Decimal and exponent notation, and since PostgreSQL 16 other bases and underscores.
    fn number_end(&self, start: usize) -> usize {
        let base = match (self.at(start), self.at(start + 1) | 0x20) {
            (b'0', b'x') => 16,
            (b'0', b'o') => 8,
            (b'0', b'b') => 2,
            _ => 10,
        };
        if base != 10 {
            let end = self.digits_end(start + 2, base);
            return if end > start + 2 { end } else { start + 1 };
        }
        let mut end = self.digits_end(start, 10);
        // `1..2` is 1, two dots and 2.
        if self.at(end) == b'.' && self.at(end + 1) != b'.' {
            end = self.digits_end(end + 1, 10);
        }
        if self.at(end) | 0x20 == b'e' {
            let sign = usize::from(matches!(self.at(end + 1), b'+' | b'-'));
            if self.at(end + 1 + sign).is_ascii_digit() {
                end = self.digits_end(end + 1 + sign, 10);
            }
        }
        end
    }

    fn digits_end(&self, start: usize, base: u32) -> usize {
        let is_digit = |index| char::from(self.at(index)).is_digit(base);
        let mut end = start;
        while is_digit(end) || (self.at(end) == b'_' && is_digit(end + 1)) {
            end += 1;
        }
        end
    }

    /// An operator ends where a comment starts, and does not end in a sign unless it contains a character that no
    /// standard operator has: `=-1` is `=`, `-`, `1`.
    fn operator_end(&self, start: usize) -> usize {
        let rest = self.text.get(start..).unwrap_or_default();
        let len = rest.iter().position(|c| !is_operator_char(*c));
        let mut operator = rest.get(..len.unwrap_or(rest.len())).unwrap_or_default();
        let comment = |pair: &[u8]| pair == b"--" || pair == b"/*";
        if let Some(at) = operator.windows(2).position(comment) {
            operator = operator.get(..at).unwrap_or_default();
        }
        let may_end_in_sign = operator.iter().any(|c| {
            matches!(
                c,
                b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%'
            )
        });
        let mut len = operator.len();
        while !may_end_in_sign && len > 1 && matches!(operator.get(len - 1), Some(b'+' | b'-')) {
            len -= 1;
        }
        start + len.max(1)
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let terminated = self.skip_blank();
        let start = self.pos;
        if start >= self.text.len() {
            return None;
        }
        let (kind, end) = if terminated {
            self.token_at(start)
        } else {
            (TokenKind::Unterminated, self.text.len())
        };
        self.pos = end;
        Some(Token { kind, start, end })
    }
}

/// Whether a literal goes on behind its closing quote: after white space that contains a newline comes another quote.
/// Returns the position behind that quote. `--` comments count as white space, block comments do not.
pub(super) fn continuation(text: &[u8], after_quote: usize) -> Option<usize> {
    let at = |index: usize| text.get(index).copied().unwrap_or(0);
    let is_comment = |index: usize| at(index) == b'-' && at(index + 1) == b'-';
    let line_end = |from: usize| {
        let rest = text.get(from..).unwrap_or_default();
        memchr::memchr2(b'\n', b'\r', rest).map(|offset| from + offset)
    };
    let mut pos = after_quote;
    while is_space(at(pos)) && !is_newline(at(pos)) {
        pos += 1;
    }
    if is_comment(pos) {
        pos = line_end(pos)?;
    }
    if !is_newline(at(pos)) {
        return None;
    }
    loop {
        while is_space(at(pos)) {
            pos += 1;
        }
        if is_comment(pos) {
            pos = line_end(pos)?;
        } else {
            return (at(pos) == b'\'').then_some(pos + 1);
        }
    }
}

/// PostgreSQL 16 added the vertical tab; before, it makes a statement invalid wherever it stands.
pub(super) fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c')
}

fn is_newline(c: u8) -> bool {
    matches!(c, b'\n' | b'\r')
}

fn is_ident_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || c == b'_' || c >= 0x80
}

pub(super) fn is_ident_char(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$') || c >= 0x80
}

fn is_operator_char(c: u8) -> bool {
    matches!(
        c,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}
