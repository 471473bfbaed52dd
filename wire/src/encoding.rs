//! Which client encodings the tokenizer can be trusted with.
//!
//! In most encodings a byte below 0x80 is always the ASCII character it looks like. In the seven that PostgreSQL
//! accepts from clients but not for databases, such a byte can be the second half of a character: a backslash or a
//! quote that is none. Tokenizer and server would then read a statement differently, so the router refuses them.

/// Names of the unsafe encodings and their aliases, as PostgreSQL compares names: lower case, letters and digits only.
const UNSAFE: &[&str] = &[
    "big5",
    "gb18030",
    "gbk",
    "johab",
    "mskanji",
    "shiftjis",
    "shiftjis2004",
    "sjis",
    "uhc",
    "win932",
    "win936",
    "win949",
    "win950",
    "windows932",
    "windows936",
    "windows949",
    "windows950",
];

/// Whether a value of `client_encoding` names an encoding in which ASCII bytes are ASCII characters. A name that
/// PostgreSQL does not know counts as safe: PostgreSQL refuses it.
#[must_use]
pub fn is_ascii_safe(name: &str) -> bool {
    !UNSAFE.contains(&canonical(name).as_str())
}

/// Whether a value of `client_encoding` means UTF-8, however it is written: asyncpg sends `'utf-8'`, with the quotes.
#[must_use]
pub fn is_utf8(name: &str) -> bool {
    matches!(canonical(name).as_str(), "utf8" | "unicode")
}

fn canonical(name: &str) -> String {
    let kept = name.chars().filter(char::is_ascii_alphanumeric);
    kept.map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_does_not_matter() {
        for name in ["SJIS", "Shift_JIS_2004", "'gb-k'", "Win950"] {
            assert!(!is_ascii_safe(name), "{name}");
        }
        for name in [
            "UTF8",
            "LATIN1",
            "WIN1252",
            "EUC_JP",
            "SQL_ASCII",
            "nonsense",
            "",
        ] {
            assert!(is_ascii_safe(name), "{name}");
        }
        assert!(is_utf8("'utf-8'") && is_utf8("UNICODE") && !is_utf8("LATIN1"));
    }
}
