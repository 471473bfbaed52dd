//! The lexer, the splitter and the classifier over any bytes. The first byte says whether strings conform (`-`: not).
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenantry_wire::sql::{
    Kind, Lexer, classify, is_ordinary, is_read_only_hint, is_single, may_set_unseen, split,
    takes_session_lock, tenant_comment,
};

fuzz_target!(|data: &[u8]| {
    let Some((first, text)) = data.split_first() else {
        return;
    };
    let scs = *first != b'-';
    let mut end = 0;
    for token in Lexer::new(text, scs) {
        assert!(token.start >= end && token.end > token.start && token.end <= text.len());
        end = token.end;
    }

    let mut end = 0;
    let mut count = 0;
    for range in split(text, scs) {
        assert!(range.start >= end && range.end <= text.len());
        assert!(matches!(
            classify(&text[end..range.start], scs),
            Kind::Empty
        ));
        let statement = &text[range.clone()];
        assert!(!matches!(classify(statement, scs), Kind::Empty));
        assert!(is_single(statement, scs));
        let _ = is_read_only_hint(statement, scs);
        end = range.end;
        count += 1;
    }
    assert_eq!(is_single(text, scs), count < 2);
    let _ = classify(text, scs);
    let _ = tenant_comment(text, scs);
    if is_ordinary(text) {
        assert!(matches!(classify(text, scs), Kind::Plain) && is_single(text, scs));
        assert!(!takes_session_lock(text) && !may_set_unseen(text));
    }
});
