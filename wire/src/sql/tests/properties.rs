//! What holds for any text, however malformed.

use proptest::prelude::*;

use crate::sql::{
    Kind, Lexer, SetValue, classify, is_ordinary, is_read_only_hint, is_single, may_set_unseen,
    mentions_setting_function, quote_identifier, quote_literal, split, takes_session_lock,
    tenant_comment,
};

/// Pieces from which texts with many lexical traps are made.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "'",
        "''",
        "\"",
        "E'",
        "U&'",
        "U&\"",
        "$$",
        "$a$",
        "\\",
        "\\'",
        "--",
        "/*",
        "*/",
        "\n",
        ";",
        " ",
        "(",
        ")",
        "a",
        "é",
        "1",
        "$1",
        "::",
        "=",
        "-",
        "set ",
        "set_config",
        "(",
        "create function ",
        "begin ",
        "atomic ",
        "case ",
        "end ",
        "select ",
        "tenantry.",
        "tenant",
        ",",
        "as ",
        "uescape ",
        "into temp ",
        "insert ",
        "with ",
        "current_setting",
        "query_to_xml",
        "pg_settings",
        "update ",
        "pg_advisory_lock",
        "pg_backend_pid()",
        "u&\"",
    ])
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(piece(), 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn tokens_are_in_order_and_not_empty(text in text(), scs: bool) {
        let mut end = 0;
        for token in Lexer::new(text.as_bytes(), scs) {
            prop_assert!(token.start >= end);
            prop_assert!(token.end > token.start);
            end = token.end;
        }
        prop_assert!(end <= text.len());
    }

    /// What is told to be ordinary without a closer look is found to be ordinary by each of them.
    #[test]
    fn an_ordinary_statement_stands_a_closer_look(text in text(), start in 0..5_usize) {
        let start = ["", "select ", " INSERT ", "with ", "update"][start];
        let text = [start, &text].concat();
        let bytes = text.as_bytes();
        if is_ordinary(bytes) {
            for scs in [true, false] {
                prop_assert_eq!(classify(bytes, scs), Kind::Plain);
                prop_assert!(is_single(bytes, scs));
            }
            prop_assert!(!may_set_unseen(bytes) && !mentions_setting_function(bytes));
            prop_assert!(!takes_session_lock(bytes) && !bytes.contains(&b'\\'));
        }
    }

    /// Dividing loses nothing: between two statements stand only white space, comments and semicolons.
    #[test]
    fn statements_cover_the_text(text in text(), scs: bool) {
        let mut end = 0;
        let mut count = 0;
        for range in split(&text, scs) {
            prop_assert!(range.start >= end);
            prop_assert!(classify(&text[end..range.start], scs) == Kind::Empty);
            prop_assert!(!matches!(classify(&text[range.clone()], scs), Kind::Empty));
            prop_assert!(is_single(&text[range.clone()], scs));
            end = range.end;
            count += 1;
        }
        prop_assert_eq!(is_single(&text, scs), count < 2);
    }

    #[test]
    fn nothing_makes_the_classifier_panic(bytes: Vec<u8>, text in text(), scs: bool) {
        for text in [&bytes[..], text.as_bytes()] {
            let _ = classify(text, scs);
            let _ = is_read_only_hint(text, scs);
            let _ = tenant_comment(text, scs);
        }
    }

    /// What is quoted comes back as it was, whatever it is.
    #[test]
    fn quoted_names_and_values_survive(name in "[^\\x00]{1,15}", value in "[^\\x00]{0,40}", scs: bool) {
        let text = format!("set {} = {}", quote_identifier(&name), quote_literal(&value));
        let Kind::Set { name: found, value: read, .. } = classify(&text, scs) else {
            return Err(TestCaseError::fail(text));
        };
        prop_assert_eq!(found, name.to_ascii_lowercase());
        prop_assert_eq!(read, SetValue::Values(vec![value]));
    }

    /// White space and comments between tokens change nothing.
    #[test]
    fn comments_change_nothing(gaps in prop::collection::vec(prop::sample::select(vec![" ", "\n", "/* ; ' */", "-- ' ;\n", "\t/* /* */ */ "]), 9)) {
        let words = ["", "set", "local", "tenantry", ".", "tenant", "=", "'7'", ";"];
        let text: String = words.iter().zip(&gaps).flat_map(|(word, gap)| [*word, *gap]).collect();
        let is_tenant = matches!(classify(&text, true), Kind::Set { local: true, ref name, .. } if name == "tenantry.tenant");
        prop_assert!(is_tenant, "{}", text);
    }
}
