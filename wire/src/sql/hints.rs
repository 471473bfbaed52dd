//! Cheap judgements over a whole statement. They search the text, or its tokens, and may err to the safe side only.

use super::{cursor::Cursor, keywords::fold, lexer::TokenKind};

/// Longest text that is told to be ordinary, bytes: for longer ones several fast searches cost less than one slow pass.
const ORDINARY_MAX: usize = 1024;

/// The bytes that [`is_ordinary`] looks at more closely.
const IS_TELLING: [bool; 256] = {
    let mut telling = [false; 256];
    let bytes = *b"_&;\\mM";
    let mut at = 0;
    while at < bytes.len() {
        telling[bytes[at] as usize] = true;
        at += 1;
    }
    telling
};

/// Whether the text is one statement that concerns the router in nothing, however string constants are read:
/// [`super::classify()`] says [`super::Kind::Plain`], no other judgement here holds, and there is no backslash. Most
/// statements are, and are told here by one pass over their bytes; false says nothing.
#[must_use]
pub fn is_ordinary(text: &[u8]) -> bool {
    if text.len() > ORDINARY_MAX {
        return false;
    }
    let begins = text.trim_ascii_start();
    let is_word = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 128..);
    let word = begins.iter().take_while(is_word);
    let selects = match begins.get(..word.count()) {
        Some(word) if word.eq_ignore_ascii_case(b"select") => true,
        Some(word) if word.eq_ignore_ascii_case(b"with") => true,
        Some(word) if word.eq_ignore_ascii_case(b"insert") => false,
        Some(word) if word.eq_ignore_ascii_case(b"update") => false,
        Some(word) if word.eq_ignore_ascii_case(b"delete") => false,
        _ => return false,
    };
    let matters = |at, byte| match byte {
        b'_' => is_part_of_name_that_matters(text, at),
        b'm' | b'M' => selects && surrounded(text, at, b"te", b"p"),
        b'&' => surrounded(text, at, b"u", b"\""),
        b';' => !super::split::is_end(text.get(at..).unwrap_or_default()),
        b'\\' => true,
        _ => false,
    };
    let mut from = 0;
    let is_telling = |byte: &u8| IS_TELLING[usize::from(*byte)];
    while let Some(rest) = text.get(from..)
        && let Some(skipped) = rest.iter().position(is_telling)
    {
        let at = from + skipped;
        if text.get(at).is_some_and(|byte| matters(at, *byte)) {
            return false;
        }
        from = at + 1;
    }
    true
}

/// Whether one of the names that the judgements here look for has this underscore.
fn is_part_of_name_that_matters(text: &[u8], at: usize) -> bool {
    let last = at.checked_sub(1).and_then(|before| text.get(before));
    let (Some(last), Some(next)) = (last, text.get(at + 1)) else {
        return false;
    };
    match (last.to_ascii_lowercase(), next.to_ascii_lowercase()) {
        (b't', b'c') => surrounded(text, at, b"set", b"config"),
        (b't', b's') => surrounded(text, at, b"current", b"setting"),
        (b'y', b't') => surrounded(text, at, b"query", b"to"),
        (b's', b's') => surrounded(text, at, b"ts", b"stat"),
        (b's', b'r') => surrounded(text, at, b"ts", b"rewrite"),
        (b'g', b's') => surrounded(text, at, b"pg", b"settings"),
        (b'y', b'l') => surrounded(text, at, b"advisory", b"lock"),
        (b'd', b'p') => surrounded(text, at, b"backend", b"pid"),
        _ => false,
    }
}

/// Whether the text may call `set_config` or `current_setting`, or hides identifiers behind escapes. A pass over the
/// bytes without allocation; also true where the words stand in a literal or a comment.
#[must_use]
pub fn mentions_setting_function(text: &[u8]) -> bool {
    memchr::memchr2_iter(b'_', b'&', text).any(|at| match text.get(at) {
        Some(b'_') => {
            surrounded(text, at, b"set", b"config") || surrounded(text, at, b"current", b"setting")
        }
        _ => surrounded(text, at, b"u", b"\""),
    })
}

/// Whether the text may change settings where no reader of statements sees it: by a function that runs a text as a
/// query, by an update of `pg_settings`, or under an escaped name. Also true where the words stand in a literal or a
/// comment.
#[must_use]
pub fn may_set_unseen(text: &[u8]) -> bool {
    let updates =
        || memchr::memchr2_iter(b'd', b'D', text).any(|at| surrounded(text, at, b"up", b"ate"));
    memchr::memchr2_iter(b'_', b'&', text).any(|at| match text.get(at) {
        Some(b'_') => {
            surrounded(text, at, b"query", b"to")
                || surrounded(text, at, b"ts", b"stat")
                || surrounded(text, at, b"ts", b"rewrite")
                || (surrounded(text, at, b"pg", b"settings") && updates())
        }
        _ => surrounded(text, at, b"u", b"\""),
    })
}

/// Whether the text may take an advisory lock that outlives the transaction.
#[must_use]
pub fn takes_session_lock(text: &[u8]) -> bool {
    memchr::memchr_iter(b'_', text).any(|at| surrounded(text, at, b"advisory", b"lock"))
}

/// Whether the text may call `pg_backend_pid`.
pub(super) fn mentions_backend_pid(text: &[u8]) -> bool {
    memchr::memchr_iter(b'_', text).any(|at| surrounded(text, at, b"backend", b"pid"))
}

pub(super) fn mentions_temp(text: &[u8]) -> bool {
    memchr::memchr2_iter(b'm', b'M', text).any(|at| surrounded(text, at, b"te", b"p"))
}

/// Whether `before` and `after` stand around the byte at `at`, in any case.
#[inline]
fn surrounded<const B: usize, const A: usize>(
    text: &[u8],
    at: usize,
    before: &[u8; B],
    after: &[u8; A],
) -> bool {
    let Some((head, tail)) = text.split_at_checked(at) else {
        return false;
    };
    // Nearly every place is ruled out by its neighbours.
    let same = |a: Option<&u8>, b: Option<&u8>| match (a, b) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        _ => false,
    };
    same(head.last(), before.last())
        && same(tail.get(1), after.first())
        && head
            .last_chunk::<B>()
            .is_some_and(|end| end.eq_ignore_ascii_case(before))
        && tail
            .get(1..=A)
            .is_some_and(|start| start.eq_ignore_ascii_case(after))
}

/// Whether a statement may end transactions while it runs: CALL and DO, whose procedures may.
#[must_use]
pub fn may_end_transactions<T: AsRef<[u8]> + ?Sized>(
    text: &T,
    standard_conforming_strings: bool,
) -> bool {
    let cursor = Cursor::new(text.as_ref(), standard_conforming_strings);
    cursor.at_keyword("call") || cursor.at_keyword("do")
}

/// Whether a statement sends rows while it runs, as SELECT does, and not when it is done.
#[must_use]
pub fn is_select<T: AsRef<[u8]> + ?Sized>(text: &T, standard_conforming_strings: bool) -> bool {
    const STARTS: &[&str] = &["select", "values", "table", "with"];
    let mut cursor = Cursor::new(text.as_ref(), standard_conforming_strings);
    while cursor.punct(b'(') {}
    STARTS.iter().any(|keyword| cursor.at_keyword(keyword))
}

/// Whether a statement only reads, as far as its words tell: functions it calls may still write. SELECT, VALUES, TABLE,
/// SHOW and EXPLAIN without ANALYZE, with no INTO, no row locks and no data-modifying part.
#[must_use]
pub fn is_read_only_hint<T: AsRef<[u8]> + ?Sized>(
    text: &T,
    standard_conforming_strings: bool,
) -> bool {
    const READS: &[&str] = &["select", "values", "table", "show", "explain", "with"];
    const LOCKS: &[&str] = &["update", "no", "share", "key"];
    let mut cursor = Cursor::new(text.as_ref(), standard_conforming_strings);
    while cursor.punct(b'(') {}
    if !READS.iter().any(|keyword| cursor.at_keyword(keyword)) {
        return false;
    }
    while let Some(token) = cursor.bump() {
        let reads = match token.kind {
            TokenKind::Ident => match fold(cursor.slice(token), &mut [0; 8]) {
                b"into" | b"insert" | b"update" | b"delete" | b"merge" | b"analyze"
                | b"analyse" => false,
                b"for" => !LOCKS.iter().any(|keyword| cursor.at_keyword(keyword)),
                _ => true,
            },
            TokenKind::Punct(b';') => cursor.at_end(),
            TokenKind::Unterminated => false,
            _ => true,
        };
        if !reads {
            return false;
        }
    }
    true
}
