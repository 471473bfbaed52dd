//! What the newcomer sees when the demo is ready: lines to paste.

use std::fmt::Write;
use std::path::PathBuf;

use super::descriptor::Descriptor;
use super::place::Place;
use crate::exit::Failure;
use crate::output::{Format, Printer, note};

/// Prints the descriptor for programs, and lines to paste for people.
pub(super) fn print(
    descriptor: &Descriptor,
    place: &Place,
    printer: Printer,
) -> Result<(), Failure> {
    if printer.format() == Format::Table {
        return printer.raw(&text(descriptor, place));
    }
    note("ready");
    printer.one(descriptor)
}

/// The banner. Every line that can be pasted stands alone and works as it is, from any directory.
fn text(descriptor: &Descriptor, place: &Place) -> String {
    let urls = &descriptor.urls;
    let http = &descriptor.http;
    let mut text = format!(
        "Tenantry is ready: {} shards and a catalog, described in {}\n",
        descriptor.shards.len(),
        place.descriptor().display()
    );
    let mut section = |title: &str, lines: &[String]| {
        let _ = writeln!(text, "\n{title}");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    };
    section(
        "One store, as the store itself:",
        &[format!("psql {}", quoted(&urls.tenant))],
    );
    if let [first, rest @ ..] = descriptor.tenants.as_slice() {
        let other = &rest.first().unwrap_or(first).slug;
        section(
            "Any store, as a service that names one per transaction:",
            &[format!(
                "psql {} -c BEGIN -c \"SET LOCAL tenantry.tenant = '{other}'\" -c 'SELECT name, currency FROM stores' -c COMMIT",
                quoted(&urls.service)
            )],
        );
        section(
            "Which store is behind a domain, and where it lives:",
            &[
                format!(
                    "curl {}",
                    quoted(&format!("{http}/resolve?host={}", first.hostname))
                ),
                format!("curl {http}/readyz"),
            ],
        );
    }
    let program = program();
    let config = quoted(&place.config().to_string_lossy());
    section(
        "The fleet:",
        &[
            "tenant list --limit 10",
            "shard list",
            "tenant create my-store --wait",
            "doctor",
        ]
        .map(|command| format!("{program} --config {config} {command}")),
    );
    let dir = quoted(&place.dir().to_string_lossy());
    section(
        "Traffic, state, end:",
        &["load --duration 10s", "status", "down"]
            .map(|command| format!("{program} demo {command} --dir {dir}")),
    );
    text.push('\n');
    text
}

/// This program as a shell finds it: by name when it was called by name, else by its path.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from);
    match (called, std::env::current_exe()) {
        (Some(called), Ok(path)) if called.components().count() > 1 => {
            quoted(&path.to_string_lossy())
        }
        _ => "tenantry".to_owned(),
    }
}

/// The text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_of_a_shell_are_quoted_when_they_must_be() {
        assert_eq!(quoted("/var/lib/tenantry/demo"), "/var/lib/tenantry/demo");
        assert_eq!(
            quoted("http://h/resolve?host=a"),
            "'http://h/resolve?host=a'"
        );
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
