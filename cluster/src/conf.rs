//! The configuration files of a server. They are written anew at each start; what a user wants to keep goes into
//! `custom.conf` beside them, which is read last.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::account::Account;
use crate::error::ServerError;
use crate::options::ServerOptions;

const HBA: &str = "\
# Written at each start. Every connection proves a password, also over the socket.
# TYPE  DATABASE     USER  ADDRESS        METHOD
local   all          all                  scram-sha-256
host    all          all   127.0.0.1/32   scram-sha-256
local   replication  all                  scram-sha-256
host    replication  all   127.0.0.1/32   scram-sha-256
";

/// Files in the data directory.
const CERTIFICATE: &str = "server.crt";
const PRIVATE_KEY: &str = "server.key";

/// What every server gets.
const COMMON: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("password_encryption", "scram-sha-256"),
    ("max_connections", "100"),
    // Moves and reference tables travel by logical replication.
    ("wal_level", "logical"),
    ("max_wal_senders", "16"),
    ("max_replication_slots", "16"),
    ("max_prepared_transactions", "0"),
    // Statements are short: compiling them costs more than it gains.
    ("jit", "off"),
    // Causes of a failed start are recognised by their English text.
    ("lc_messages", "C"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("datestyle", "ISO, MDY"),
    ("default_text_search_config", "pg_catalog.english"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
];

/// Data that nobody will miss when the machine fails: nothing is flushed to disk, and memory is kept small because
/// many run at once. Commits stay synchronous, so that what was committed survives a killed server.
const THROWAWAY: &[(&str, &str)] = &[
    ("fsync", "off"),
    // Segments inside the data directory: those of a killed server go with it.
    ("dynamic_shared_memory_type", "mmap"),
    ("full_page_writes", "off"),
    ("shared_buffers", "32MB"),
    ("max_wal_size", "256MB"),
    ("min_wal_size", "8MB"),
];

const DURABLE: &[(&str, &str)] = &[
    ("dynamic_shared_memory_type", "posix"),
    ("shared_buffers", "128MB"),
    ("max_wal_size", "1GB"),
    ("min_wal_size", "80MB"),
];

/// Writes `postgresql.conf` and `pg_hba.conf` into the data directory.
pub(crate) fn write(
    data: &Path,
    socket_dir: &Path,
    port: u16,
    options: &ServerOptions,
    account: &Account,
) -> Result<(), ServerError> {
    for (name, text) in [
        ("postgresql.conf", render(socket_dir, port, options)),
        ("pg_hba.conf", HBA.to_owned()),
    ] {
        let path = data.join(name);
        fs::write(&path, text).map_err(ServerError::io("write", &path))?;
        account.own(&path)?;
    }
    if let Some(tls) = &options.tls {
        for (name, text) in [
            (CERTIFICATE, &tls.certificate),
            (PRIVATE_KEY, &tls.private_key),
        ] {
            let path = data.join(name);
            let write = || {
                fs::write(&path, text)?;
                // PostgreSQL refuses a key that others can read.
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            };
            write().map_err(ServerError::io("write", &path))?;
            account.own(&path)?;
        }
    }
    Ok(())
}

fn render(socket_dir: &Path, port: u16, options: &ServerOptions) -> String {
    let mut text =
        String::from("# Written at each start; put settings of your own into custom.conf.\n");
    let own = [
        ("port", port.to_string()),
        ("unix_socket_directories", socket_dir.display().to_string()),
        ("unix_socket_permissions", "0700".to_owned()),
    ];
    let kind = if options.is_durable() {
        DURABLE
    } else {
        THROWAWAY
    };
    let fixed = COMMON
        .iter()
        .chain(kind)
        .map(|(name, value)| (*name, (*value).to_owned()));
    let given = options
        .settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()));
    let tls = [
        ("ssl", "on"),
        ("ssl_cert_file", CERTIFICATE),
        ("ssl_key_file", PRIVATE_KEY),
    ];
    let tls = tls.map(|(name, value)| (name, value.to_owned()));
    let tls = tls.into_iter().filter(|_| options.tls.is_some());
    // The last line of a name wins.
    for (name, value) in own.into_iter().chain(fixed).chain(tls).chain(given) {
        let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
    }
    text.push_str("include_if_exists 'custom.conf'\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_encrypts_only_with_a_certificate() {
        let plain = ServerOptions::throwaway();
        assert!(!render(Path::new("/tmp/x"), 5432, &plain).contains("ssl"));
        let text = render(Path::new("/tmp/x"), 5432, &plain.tls("certificate", "key"));
        assert!(text.contains("ssl = 'on'\nssl_cert_file = 'server.crt'\n"));
    }

    #[test]
    fn given_settings_come_last_and_are_quoted() {
        let options = ServerOptions::throwaway()
            .setting("fsync", "on")
            .setting("application_name", "it's");
        let text = render(Path::new("/tmp/x"), 5432, &options);
        assert!(text.contains("port = '5432'\n"));
        assert!(text.rfind("fsync = 'on'") > text.find("fsync = 'off'"));
        assert!(text.contains("application_name = 'it''s'\n"));
    }
}
