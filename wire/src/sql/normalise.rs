//! A statement without its values: what logs may show of it.
//!
//! Literals and parameters become `?`, comments go, white space becomes one space. Two texts that
//! differ in nothing else are the same statement.

use super::lexer::{Lexer, TokenKind};

/// The statement without its values. What cannot be read to its end ends in `…`.
#[must_use]
pub fn normalise<T: AsRef<[u8]> + ?Sized>(text: &T, standard_conforming_strings: bool) -> String {
    let text = text.as_ref();
    let mut out = String::with_capacity(text.len().min(1024));
    let mut end = None;
    let mut lexer = Lexer::new(text, standard_conforming_strings);
    while let Some(token) = lexer.next() {
        if end.is_some_and(|end| end < token.start) {
            out.push(' ');
        }
        end = Some(token.end);
        match token.kind {
            TokenKind::String
            | TokenKind::EscapeString
            | TokenKind::UnicodeString
            | TokenKind::DollarString
            | TokenKind::BitString
            | TokenKind::Number
            | TokenKind::Param => out.push('?'),
            TokenKind::Unterminated => {
                out.push('…');
                break;
            }
            TokenKind::Ident => {
                let word = String::from_utf8_lossy(lexer.slice(token));
                out.push_str(&word.to_ascii_lowercase());
            }
            _ => out.push_str(&String::from_utf8_lossy(lexer.slice(token))),
        }
    }
    out.truncate(out.trim_end_matches([';', ' ']).len());
    out
}

/// A number for the statement without its values, the same on every machine and in every version
/// that normalises alike (FNV-1a).
#[must_use]
pub fn fingerprint(normalised: &str) -> u64 {
    normalised
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_comments_go_and_the_rest_stays() {
        for (text, expected) in [
            (
                "SELECT  *\n FROM t WHERE a = 'secret' AND b=17 /* c */ -- d",
                "select * from t where a = ? and b=?",
            ),
            ("SELECT $1, $2::int;", "select ?, ?::int"),
            (
                "INSERT INTO \"T\" VALUES ($$x$$, E'y', X'1F', 1.5e3)",
                "insert into \"T\" values (?, ?, ?, ?)",
            ),
            ("SELECT 'open", "select …"),
            ("", ""),
        ] {
            assert_eq!(normalise(text, true), expected, "{text}");
        }
        let print = |text: &str| fingerprint(&normalise(text, true));
        assert_eq!(print("SELECT 1"), print("select   2 ;"));
        assert_ne!(print("SELECT a"), print("SELECT b"));
    }
}
