//! A cursor over tokens with the grammar's small recurring parts: keywords, names, string constants.

use super::{
    decode::{self, Parsed, Refusal},
    keywords::{is_reserved, may_be_name},
    lexer::{Lexer, Token, TokenKind},
};

/// Invariant: `next` is the token behind everything consumed, `lexer` stands behind `next`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    lexer: Lexer<'a>,
    next: Option<Token>,
    /// End of the last consumed token.
    consumed: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8], standard_conforming_strings: bool) -> Self {
        Self::at(Lexer::new(text, standard_conforming_strings), 0)
    }

    /// A cursor behind `token`, which `lexer` returned last.
    pub(super) fn behind(mut lexer: Lexer<'a>, token: Token) -> Self {
        let next = lexer.next();
        Self {
            lexer,
            next,
            consumed: token.end,
        }
    }

    /// A cursor at the token that starts at `start`.
    pub(super) fn at(lexer: Lexer<'a>, start: usize) -> Self {
        let mut lexer = lexer.restarted_at(start);
        let next = lexer.next();
        Self {
            lexer,
            next,
            consumed: start,
        }
    }

    /// A cursor over another text, or a part of this one, under the same rules.
    pub(super) fn over(&self, text: &'a [u8]) -> Self {
        Self::new(text, self.lexer.standard_conforming_strings())
    }

    pub(super) fn peek(&self) -> Option<Token> {
        self.next
    }

    /// The token behind the next one.
    pub(super) fn peek_second(&self) -> Option<Token> {
        let mut ahead = self.lexer;
        ahead.next()
    }

    pub(super) fn bump(&mut self) -> Option<Token> {
        let token = self.next?;
        self.consumed = token.end;
        self.next = self.lexer.next();
        Some(token)
    }

    pub(super) fn slice(&self, token: Token) -> &'a [u8] {
        self.lexer.slice(token)
    }

    /// The text from `start` to the end of the last consumed token.
    pub(super) fn consumed_since(&self, start: usize) -> &'a [u8] {
        let text = self.lexer.text();
        text.get(start..self.consumed).unwrap_or_default()
    }

    /// Where the next token starts, or the end of the text.
    pub(super) fn position(&self) -> usize {
        self.next
            .map_or(self.lexer.text().len(), |token| token.start)
    }

    pub(super) fn is_keyword(&self, token: Option<Token>, keyword: &str) -> bool {
        token.is_some_and(|token| {
            token.kind == TokenKind::Ident
                && self.slice(token).eq_ignore_ascii_case(keyword.as_bytes())
        })
    }

    pub(super) fn at_keyword(&self, keyword: &str) -> bool {
        self.is_keyword(self.next, keyword)
    }

    /// Consumes the keyword if it is next.
    pub(super) fn keyword(&mut self, keyword: &str) -> bool {
        let found = self.at_keyword(keyword);
        if found {
            self.bump();
        }
        found
    }

    /// Consumes the keywords if all of them are next.
    pub(super) fn keywords(&mut self, keywords: &[&str]) -> bool {
        let mut ahead = *self;
        let found = keywords.iter().all(|keyword| ahead.keyword(keyword));
        if found {
            *self = ahead;
        }
        found
    }

    pub(super) fn expect_keyword(&mut self, keyword: &str) -> Parsed<()> {
        self.keyword(keyword)
            .then_some(())
            .ok_or(Refusal::Malformed)
    }

    pub(super) fn at_punct(&self, c: u8) -> bool {
        self.next
            .is_some_and(|token| token.kind == TokenKind::Punct(c))
    }

    pub(super) fn punct(&mut self, c: u8) -> bool {
        let found = self.at_punct(c);
        if found {
            self.bump();
        }
        found
    }

    /// Consumes `::` if it is next.
    pub(super) fn type_cast(&mut self) -> bool {
        let found = self
            .next
            .is_some_and(|token| token.kind == TokenKind::TypeCast);
        if found {
            self.bump();
        }
        found
    }

    pub(super) fn at_operator(&self, operator: &[u8]) -> bool {
        self.next
            .is_some_and(|token| token.kind == TokenKind::Operator && self.slice(token) == operator)
    }

    pub(super) fn operator(&mut self, operator: &[u8]) -> bool {
        let found = self.at_operator(operator);
        if found {
            self.bump();
        }
        found
    }

    /// Whether the statement ends here: nothing follows but semicolons.
    pub(super) fn at_end(&self) -> bool {
        let mut ahead = *self;
        while ahead.punct(b';') {}
        ahead.next.is_none()
    }

    pub(super) fn expect_end<T>(&self, value: T) -> Parsed<T> {
        if self.at_end() {
            Ok(value)
        } else {
            Err(Refusal::Malformed)
        }
    }

    /// A name: `ColId` of the grammar.
    pub(super) fn name(&mut self) -> Parsed<String> {
        let (name, is_bare) = self.any_name()?;
        if is_bare && !may_be_name(&name) {
            return Err(Refusal::Malformed);
        }
        Ok(name)
    }

    /// A name that may also be a keyword for types and functions: `NonReservedWord` of the grammar.
    pub(super) fn word(&mut self) -> Parsed<String> {
        let (name, is_bare) = self.any_name()?;
        if is_bare && is_reserved(&name) {
            return Err(Refusal::Malformed);
        }
        Ok(name)
    }

    /// Any identifier, and whether it stands without quotes and could be a keyword. Keywords are told by the folded
    /// text; none is as long as the limit of identifiers.
    pub(super) fn any_name(&mut self) -> Parsed<(String, bool)> {
        let token = self.next.ok_or(Refusal::Malformed)?;
        let raw = self.slice(token);
        self.bump();
        match token.kind {
            TokenKind::Ident => Ok((decode::ident(raw)?, true)),
            TokenKind::QuotedIdent => Ok((decode::quoted_ident(raw)?, false)),
            TokenKind::UnicodeIdent => {
                let escape = self.unicode_escape()?;
                Ok((decode::unicode_ident(raw, escape)?, false))
            }
            _ => Err(Refusal::Malformed),
        }
    }

    pub(super) fn at_string(&self) -> bool {
        self.next.is_some_and(|token| is_string(token.kind))
    }

    /// A string constant (`Sconst` of the grammar).
    pub(super) fn string(&mut self) -> Parsed<String> {
        let token = self.next.ok_or(Refusal::Malformed)?;
        let raw = self.slice(token);
        if !is_string(token.kind) {
            return Err(Refusal::Malformed);
        }
        self.bump();
        match token.kind {
            TokenKind::EscapeString => decode::escape_string(raw),
            TokenKind::UnicodeString => {
                let escape = self.unicode_escape()?;
                decode::unicode_string(raw, escape)
            }
            TokenKind::DollarString => decode::dollar_string(raw),
            _ => decode::string(raw),
        }
    }

    /// The UESCAPE clause, if one follows, and the escape character it names.
    fn unicode_escape(&mut self) -> Parsed<u8> {
        if !self.keyword("uescape") {
            return Ok(b'\\');
        }
        let named = self.string()?;
        match named.as_bytes() {
            [c] if !c.is_ascii_hexdigit()
                && !matches!(c, b'+' | b'\'' | b'"')
                && !super::lexer::is_space(*c) =>
            {
                Ok(*c)
            }
            _ => Err(Refusal::Malformed),
        }
    }

    /// Consumes the rest of the statement and returns its text, without the semicolon. The rest must not be empty.
    pub(super) fn rest(&mut self) -> Parsed<&'a [u8]> {
        let start = self.position();
        let mut depth = 0_usize;
        while let Some(token) = self.next {
            match token.kind {
                TokenKind::Unterminated => return Err(Refusal::Malformed),
                TokenKind::Punct(b'(') => depth += 1,
                TokenKind::Punct(b')') => {
                    depth = depth.checked_sub(1).ok_or(Refusal::Malformed)?;
                }
                TokenKind::Punct(b';') => break,
                _ => {}
            }
            self.bump();
        }
        let rest = self.consumed_since(start);
        if depth > 0 || rest.is_empty() {
            return Err(Refusal::Malformed);
        }
        self.expect_end(rest)
    }

    /// Consumes a parenthesised part if one is next and returns the text between the parentheses.
    pub(super) fn parenthesised(&mut self) -> Parsed<Option<&'a [u8]>> {
        if !self.punct(b'(') {
            return Ok(None);
        }
        let start = self.position();
        let mut depth = 1_usize;
        loop {
            let before = self.consumed.max(start);
            let token = self.bump().ok_or(Refusal::Malformed)?;
            match token.kind {
                TokenKind::Unterminated => return Err(Refusal::Malformed),
                TokenKind::Punct(b'(') => depth += 1,
                TokenKind::Punct(b')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                let text = self.lexer.text();
                return Ok(Some(text.get(start..before).unwrap_or_default()));
            }
        }
    }
}

fn is_string(kind: TokenKind) -> bool {
    matches!(
        kind,
        TokenKind::String
            | TokenKind::EscapeString
            | TokenKind::UnicodeString
            | TokenKind::DollarString
    )
}
