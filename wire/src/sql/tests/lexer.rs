//! Texts cut into tokens as PostgreSQL cuts them.

use crate::sql::{Lexer, TokenKind};

fn tokens(text: &str, standard_conforming_strings: bool) -> Vec<(TokenKind, &str)> {
    let lexer = Lexer::new(text.as_bytes(), standard_conforming_strings);
    lexer
        .map(|token| (token.kind, &text[token.start..token.end]))
        .collect()
}

fn pieces(text: &str) -> Vec<&str> {
    tokens(text, true)
        .into_iter()
        .map(|(_, piece)| piece)
        .collect()
}

fn kinds(text: &str) -> Vec<TokenKind> {
    tokens(text, true)
        .into_iter()
        .map(|(kind, _)| kind)
        .collect()
}

#[test]
fn each_kind_of_token_is_told() {
    use TokenKind::*;
    let text =
        r#"a "b""c" U&"d" 'e''f' E'g\'h' U&'i' $$j$$ $k$l$m$k$ B'1' x'f' $1 2.5e-3 <= :: := ; é$1"#;
    assert_eq!(
        tokens(text, true),
        [
            (Ident, "a"),
            (QuotedIdent, r#""b""c""#),
            (UnicodeIdent, r#"U&"d""#),
            (String, "'e''f'"),
            (EscapeString, r"E'g\'h'"),
            (UnicodeString, "U&'i'"),
            (DollarString, "$$j$$"),
            (DollarString, "$k$l$m$k$"),
            (BitString, "B'1'"),
            (BitString, "x'f'"),
            (Param, "$1"),
            (Number, "2.5e-3"),
            (Operator, "<="),
            (TypeCast, "::"),
            (ColonEquals, ":="),
            (Punct(b';'), ";"),
            (Ident, "é$1"),
        ]
    );
}

#[test]
fn comments_nest_and_hide_everything() {
    assert_eq!(
        pieces("a /* /* ' */ ; \" */ b -- c ; '\n d"),
        ["a", "b", "d"]
    );
    assert_eq!(pieces("a--b\rc"), ["a", "c"]);
    assert_eq!(
        kinds("a /* /* */"),
        [TokenKind::Ident, TokenKind::Unterminated]
    );
    assert_eq!(pieces("/*/*/ a */*/b"), ["b"]);
    assert_eq!(pieces("/**/a/***/b"), ["a", "b"]);
}

#[test]
fn a_backslash_escapes_only_where_postgresql_says() {
    assert_eq!(pieces(r"'a\' b"), [r"'a\'", "b"]);
    assert_eq!(
        tokens(r"'a\' b'", false),
        [(TokenKind::EscapeString, r"'a\' b'")]
    );
    assert_eq!(pieces(r"E'a\' b' c"), [r"E'a\' b'", "c"]);
    assert_eq!(pieces(r"E'\\' b"), [r"E'\\'", "b"]);
    // The letter belongs to an identifier here.
    assert_eq!(pieces(r"ne'a\' b"), ["ne", r"'a\'", "b"]);
    assert_eq!(tokens("U&'a'", false), [(TokenKind::Unterminated, "U&'a'")]);
    assert_eq!(
        tokens("U&\"a\"", false),
        [(TokenKind::UnicodeIdent, "U&\"a\"")]
    );
}

#[test]
fn literals_go_on_behind_a_newline() {
    assert_eq!(pieces("'a' \n 'b' 'c'"), ["'a' \n 'b'", "'c'"]);
    assert_eq!(
        pieces("'a' -- x\n --y\n 'b;' c"),
        ["'a' -- x\n --y\n 'b;'", "c"]
    );
    assert_eq!(pieces("'a' /* \n */ 'b'"), ["'a'", "'b'"]);
    assert_eq!(pieces("'a' -- 'b'"), ["'a'"]);
    assert_eq!(pieces("E'a'\n'b\\'c' d"), ["E'a'\n'b\\'c'", "d"]);
    assert_eq!(pieces("'a'\n\n\"b\""), ["'a'", "\"b\""]);
}

#[test]
fn dollar_quotes_end_at_their_own_tag_only() {
    assert_eq!(
        pieces("$a$ $b$ ' $$ $A$ $a$ c"),
        ["$a$ $b$ ' $$ $A$ $a$", "c"]
    );
    assert_eq!(pieces("$$a$b$$c"), ["$$a$b$$", "c"]);
    assert_eq!(pieces("a$b$c$b$"), ["a$b$c$b$"], "part of an identifier");
    assert_eq!(pieces("1$$a$$"), ["1", "$$a$$"]);
    assert_eq!(pieces("$a b"), ["$", "a", "b"]);
    assert_eq!(pieces("$1$2"), ["$1", "$2"]);
    assert_eq!(kinds("$a$ b"), [TokenKind::Unterminated]);
    assert_eq!(pieces("$é$;$é$ x"), ["$é$;$é$", "x"]);
}

#[test]
fn operators_stop_at_comments_and_before_signs() {
    assert_eq!(pieces("a=-1"), ["a", "=", "-", "1"]);
    assert_eq!(pieces("a@-1"), ["a", "@-", "1"]);
    assert_eq!(pieces("a+--b\nc"), ["a", "+", "c"]);
    assert_eq!(pieces("a*/*b*/c"), ["a", "*", "c"]);
    assert_eq!(pieces("- -1"), ["-", "-", "1"]);
    assert_eq!(pieces("a->>'b'"), ["a", "->>", "'b'"]);
}

#[test]
fn numbers_leave_dots_and_letters_that_are_not_theirs() {
    assert_eq!(pieces("1..2"), ["1", "..", "2"]);
    assert_eq!(pieces("1.a"), ["1.", "a"]);
    assert_eq!(
        pieces(".5 1e5 1e 0x1F 0xg 1_000 1_"),
        [".5", "1e5", "1", "e", "0x1F", "0", "xg", "1_000", "1", "_"]
    );
    assert_eq!(pieces("1E'a'"), ["1", "E'a'"]);
}

#[test]
fn what_does_not_end_takes_the_rest() {
    for text in [
        "'a",
        "\"a",
        "E'a\\'",
        "$$a",
        "$a$ $b$",
        "/* a",
        "U&'a",
        "U&\"a",
        "b'1",
        "'a' \n 'b",
    ] {
        let tokens = tokens(text, true);
        assert_eq!(tokens.len(), 1, "{text}");
        assert_eq!(tokens[0], (TokenKind::Unterminated, text));
    }
}
