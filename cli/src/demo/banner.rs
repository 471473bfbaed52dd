//! What the newcomer sees when the demo is ready: lines to paste.

use std::fmt::Write;

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

/// The banner. Every line that can be pasted stands alone and works as it is.
pub(super) fn text(descriptor: &Descriptor, place: &Place) -> String {
    let urls = &descriptor.urls;
    let config = place.config().display().to_string();
    let mut text = String::new();
    let mut section = |title: &str, lines: &[String]| {
        let _ = writeln!(text, "\n{title}");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    };
    let mut psql = vec![format!("psql '{}'", urls.tenant)];
    let mut curl = vec![format!("curl {}/readyz", descriptor.http)];
    if let [first, ..] = descriptor.tenants.as_slice() {
        let second = descriptor.tenants.get(1).unwrap_or(first);
        psql.push(format!(
            "psql '{}' -c 'BEGIN' -c \"SET LOCAL tenantry.tenant = '{}'\" -c 'SELECT name FROM stores' -c 'COMMIT'",
            urls.service, second.slug
        ));
        curl.insert(
            0,
            format!("curl '{}/resolve?host={}'", descriptor.http, first.hostname),
        );
    }
    section("One store, as the store itself:", &psql[..1]);
    section(
        "Any store, as a service that names one per transaction:",
        &psql[1..],
    );
    section("Which store is behind a domain, and where it lives:", &curl);
    section(
        "The fleet:",
        &[
            format!("tenantry --config '{config}' tenant list --limit 10"),
            format!("tenantry --config '{config}' shard list"),
            format!("tenantry --config '{config}' tenant create my-store --wait"),
            format!("tenantry --config '{config}' doctor"),
        ],
    );
    let dir = place.dir().display();
    section(
        "Traffic, state, end:",
        &[
            format!("tenantry demo load --dir '{dir}' --duration 10s"),
            format!("tenantry demo status --dir '{dir}'"),
            format!("tenantry demo down --dir '{dir}'"),
        ],
    );
    format!(
        "Tenantry is ready: {} shards, {} stores shown in {}\n{text}\n",
        descriptor.shards.len(),
        descriptor.tenants.len(),
        place.descriptor().display()
    )
}
