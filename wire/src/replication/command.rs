//! Texts of the commands that a walsender understands and a client cannot write as SQL.

use super::Lsn;
use crate::sql::{quote_identifier, quote_literal};

/// How long a slot lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// Until it is dropped.
    Permanent,
    /// As long as the connection that made it.
    Temporary,
}

/// What becomes of the snapshot that stands at a new slot's first position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotAction {
    /// Others may import it until the connection runs its next command.
    Export,
    /// Nobody needs it.
    Nothing,
}

/// CREATE_REPLICATION_SLOT for `pgoutput`. The answer is one row: name, consistent point, name of the snapshot, plugin.
#[must_use]
pub fn create_slot(name: &str, kind: SlotKind, snapshot: SnapshotAction) -> String {
    let temporary = match kind {
        SlotKind::Permanent => "",
        SlotKind::Temporary => " TEMPORARY",
    };
    let snapshot = match snapshot {
        SnapshotAction::Export => "export",
        SnapshotAction::Nothing => "nothing",
    };
    format!(
        "CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput (SNAPSHOT '{snapshot}')",
        quoted(name)
    )
}

/// START_REPLICATION with version 2 of `pgoutput`: large transactions are sent while they run, and messages of
/// `pg_logical_emit_message` with them. Values come as text.
#[must_use]
pub fn start_replication(slot: &str, from: Lsn, publication: &str) -> String {
    // The option is a list of identifiers inside a string.
    let publications = quote_literal(&quote_identifier(publication));
    format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '2', streaming 'on', messages 'true', \
         publication_names {publications})",
        quoted(slot)
    )
}

/// The grammar of these commands has words of its own, so names are always quoted.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
