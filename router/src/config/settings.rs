//! Every setting of a router: its key, how it is shown, and whether a reload changes it.
//!
//! One table, so that a reload, `SHOW CONFIG` and the refusal to change a fixed setting cannot
//! disagree. Nothing here reads a file.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use humantime_serde::re::humantime;

use super::{ClientSslMode, Config, ServerSslMode};

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changeable {
    /// At a reload.
    Live,
    /// At the next start only.
    Restart,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its key as in the configuration file.
    pub key: &'static str,
    /// When a changed value takes effect.
    pub changeable: Changeable,
    shown: fn(&Config) -> String,
    differs: fn(&Config, &Config) -> bool,
    adopt: fn(&mut Config, &Config),
}

/// A setting that a reload found changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its key as in the configuration file.
    pub key: String,
    /// The value in force so far, without secrets.
    pub old: String,
    /// The value now configured, without secrets.
    pub new: String,
    /// Whether it is in force now.
    pub changeable: Changeable,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.old, self.new)?;
        match self.changeable {
            Changeable::Live => Ok(()),
            Changeable::Restart => f.write_str(" (at the next start)"),
        }
    }
}

impl Setting {
    /// The value as people write it, without secrets.
    #[must_use]
    pub fn shown(&self, config: &Config) -> String {
        (self.shown)(config)
    }
}

impl Config {
    /// This configuration with those settings of `wanted` that a reload may change, and every
    /// difference between the two.
    #[must_use]
    pub fn reloaded(&self, wanted: &Self) -> (Self, Vec<Change>) {
        let mut config = self.clone();
        let mut changes = Vec::new();
        for setting in SETTINGS {
            if !(setting.differs)(self, wanted) {
                continue;
            }
            if setting.changeable == Changeable::Live {
                (setting.adopt)(&mut config, wanted);
            }
            changes.push(Change {
                key: setting.key.to_owned(),
                old: setting.shown(self),
                new: setting.shown(wanted),
                changeable: setting.changeable,
            });
        }
        (config, changes)
    }
}

macro_rules! settings {
    ($($changeable:ident $key:literal = $($field:ident).+;)+) => {
        /// Every setting, in the order in which it is shown.
        pub const SETTINGS: &[Setting] = &[$(
            Setting {
                key: $key,
                changeable: Changeable::$changeable,
                shown: |config| config.$($field).+.shown(),
                differs: |one, other| one.$($field).+ != other.$($field).+,
                adopt: |config, from| config.$($field).+.clone_from(&from.$($field).+),
            }
        ),+];
    };
}

settings! {
    Restart "router.listen" = listen;
    Restart "router.http_listen" = http_listen;
    Restart "router.control_listen" = control_listen;
    Restart "router.control_address" = control_address;
    Restart "catalog.url" = catalog_url;
    Restart "secrets.file" = secrets_file;
    Restart "router.snapshot_file" = snapshot_file;
    Restart "router.name" = name;
    Restart "router.number" = number;
    Restart "router.peer_address" = peer_address;
    Restart "router.handover_socket" = handover_socket;
    Restart "router.database" = database;
    Restart "router.threads" = threads;
    Live "router.pool_size" = pool_size;
    Live "router.pool_reserve" = pool_reserve;
    Live "router.pool_adaptive" = pool_adaptive;
    Live "router.pool_queue_max" = pool_queue_max;
    Live "router.pool_tenant_queue_max" = pool_tenant_queue_max;
    Live "router.operator_connections_max" = operator_connections_max;
    Live "router.clients_max" = clients_max;
    Live "router.clients_unauthenticated_max" = clients_unauthenticated_max;
    Live "router.connection_rate_max" = connection_rate_max;
    Live "router.login_failure_rate_max" = login_failure_rate_max;
    Restart "router.statements_per_server_max" = statements_per_server_max;
    Restart "router.message_size_max" = message_bytes_max;
    Live "router.client_tls_sslmode" = client_tls.sslmode;
    Live "router.client_tls_cert_file" = client_tls.cert_file;
    Live "router.client_tls_key_file" = client_tls.key_file;
    Live "router.client_tls_ca_file" = client_tls.ca_file;
    Live "router.client_tls_sni_suffix" = client_tls.sni_suffix;
    Live "router.server_tls_sslmode" = server_tls.sslmode;
    Live "router.server_tls_ca_file" = server_tls.ca_file;
    Live "router.log_min_duration_statement" = log_min_duration_statement;
    Live "router.log_statement_text" = log_statement_text;
    Live "router.hot_share_percent" = hot.share_percent;
    Live "router.hot_window" = hot.window;
    Live "router.hot_growth" = hot.growth;
    Live "router.cold_share_percent" = hot.cold_share_percent;
    Live "router.cold_window" = hot.cold_window;
    Live "router.login_timeout" = timeouts.login;
    Live "router.query_wait_timeout" = timeouts.query_wait;
    Live "router.server_connect_timeout" = timeouts.server_connect;
    Live "router.server_idle_timeout" = timeouts.server_idle;
    Live "router.server_retry_delay" = timeouts.server_retry;
    Live "router.provisioning_wait" = timeouts.provisioning_wait;
    Live "router.query_timeout" = timeouts.query;
    Live "router.transaction_timeout" = timeouts.transaction;
    Live "router.idle_transaction_timeout" = timeouts.idle_transaction;
    Live "router.client_idle_timeout" = timeouts.client_idle;
    Live "router.drain_timeout" = timeouts.drain;
    Live "router.drain_replaced_timeout" = timeouts.drain_replaced;
}

/// How the value of a setting is shown.
trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown_as_text {
    ($($type:ty),+) => {
        $(impl Shown for $type {
            fn shown(&self) -> String {
                self.to_string()
            }
        })+
    };
}

shown_as_text!(SocketAddr, u16, usize, bool, ClientSslMode, ServerSslMode);

impl Shown for String {
    /// A URI loses its user information and its query, either of which may hold a password. A
    /// keyword string, which may hold one anywhere, is not shown, nor is a URI that can be read in
    /// several ways or in none: what looks like its place may be part of a password.
    fn shown(&self) -> String {
        let hidden = || "(hidden)".to_owned();
        let Some((scheme, rest)) = self.split_once("://") else {
            return if self.contains('=') {
                hidden()
            } else {
                self.clone()
            };
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let ambiguous = query.contains('@') || place.matches('@').count() > 1;
        if ambiguous || self.parse::<tokio_postgres::Config>().is_err() {
            return hidden();
        }
        let place = place.split_once('@').map_or(place, |(_, place)| place);
        format!("{scheme}://{place}")
    }
}

impl Shown for PathBuf {
    fn shown(&self) -> String {
        self.display().to_string()
    }
}

impl Shown for Duration {
    fn shown(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> String {
        self.as_ref().map(Shown::shown).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_takes_what_is_live_and_names_the_rest() {
        let old = Config::default();
        let mut wanted = Config {
            pool_size: 3,
            listen: SocketAddr::from(([127, 0, 0, 1], 1)),
            ..old.clone()
        };
        wanted.timeouts.query_wait = Duration::from_millis(80);
        let (now, changes) = old.reloaded(&wanted);
        assert_eq!(now.pool_size, 3);
        assert_eq!(now.timeouts.query_wait, Duration::from_millis(80));
        assert_eq!(now.listen, old.listen);
        let texts: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "router.listen: 127.0.0.1:6432 -> 127.0.0.1:1 (at the next start)",
                "router.pool_size: 20 -> 3",
                "router.query_wait_timeout: 30s -> 80ms",
            ]
        );
    }

    /// A field that the table lacks could neither be reloaded nor be refused.
    #[test]
    fn every_field_is_in_the_table() {
        fn leaves(value: &serde_json::Value) -> usize {
            match value {
                serde_json::Value::Object(fields) => fields.values().map(leaves).sum(),
                _ => 1,
            }
        }
        let value = serde_json::to_value(Config::default()).unwrap();
        assert_eq!(leaves(&value), SETTINGS.len());
    }

    #[test]
    fn the_place_of_a_catalog_is_shown() {
        for (url, shown) in [
            (
                "postgresql://u:p@h:5432/catalog",
                "postgresql://h:5432/catalog",
            ),
            ("postgres://u:p@h,g/c?connect_timeout=3", "postgres://h,g/c"),
            ("postgresql://h/catalog", "postgresql://h/catalog"),
            ("postgresql:///c?host=/tmp", "postgresql:///c"),
        ] {
            assert_eq!(url.to_owned().shown(), shown);
        }
    }

    #[test]
    fn no_password_is_shown() {
        for url in [
            "postgresql://u:swordfish@h:5432/catalog",
            "postgresql://h/catalog?password=swordfish&user=u",
            "host=h password=swordfish",
            "postgresql://u:sword@fish@h/catalog",
            "postgresql://u:fish?sword@h/catalog",
            "postgresql://u:sword@fish?x@h/catalog",
            "postgresql://u:sword/fish@h/catalog",
            "postgresql://u:sword@fish/x@h/catalog",
            "postgresql://u:swordfish/catalog",
            "postgresql://h/catalog?password=sword@fish",
            "postgresql://u@h/catalog?password=sword?fish",
        ] {
            let config = Config {
                catalog_url: url.to_owned(),
                ..Config::default()
            };
            for setting in SETTINGS {
                assert!(!setting.shown(&config).contains("fish"), "{url}");
            }
        }
    }
}
