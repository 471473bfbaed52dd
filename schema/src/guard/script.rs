//! The guard's SQL, rendered for a fleet.
//!
//! The files under `sql/` name what differs between fleets as `@word@`. Every statement in them may run again: a second
//! run changes nothing.

use sha2::{Digest, Sha256};

use super::hex;
use crate::fleet::FleetSettings;
use crate::shard::ShardId;
use crate::tenant::TenantKey;

/// Version of the guard's SQL. Raise it with every change to what it means.
pub const VERSION: u32 = 2;

/// Advisory locks of the guard use two keys, of which the first is one of these. Clients cannot take advisory locks
/// except through wrappers, and those use one key.
const TENANT_LOCK_CLASS: i32 = 0x7465_6e61;
const ID_LOCK_CLASS: i32 = 0x7465_6e62;

/// What a deployment may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardOptions {
    /// Mark the reviewed operators leakproof, so that they can use indexes below the policies.
    pub leakproof_operators: bool,
}

impl Default for GuardOptions {
    fn default() -> Self {
        Self {
            leakproof_operators: true,
        }
    }
}

/// The guard's SQL for one shard. The parts run in this order, each as one simple query; all but `roles` in one
/// transaction.
#[derive(Debug, Clone)]
pub struct GuardScript {
    /// The server's roles, as superuser, in a transaction of its own that locks `pg_authid` first.
    pub roles: String,
    /// The schema itself, as superuser.
    pub schema: String,
    /// Everything that `tenantry_owner` owns, run as that role.
    pub objects: String,
    /// What only a superuser may take away or mark.
    pub hardening: String,
    /// SHA-256 over all parts, hexadecimal: what is recorded as installed.
    pub checksum: String,
}

const ROLES: &str = include_str!("sql/roles.sql");
const SCHEMA: &str = include_str!("sql/00_schema.sql");
const OBJECTS: [&str; 9] = [
    include_str!("sql/01_tables.sql"),
    include_str!("sql/02_binding.sql"),
    include_str!("sql/03_fence.sql"),
    include_str!("sql/04_ids.sql"),
    include_str!("sql/05_wrappers.sql"),
    include_str!("sql/06_copy.sql"),
    include_str!("sql/07_cover.sql"),
    include_str!("sql/11_moves.sql"),
    include_str!("sql/08_findings.sql"),
];
const HARDENING: [&str; 2] = [
    include_str!("sql/09_revokes.sql"),
    include_str!("sql/10_leakproof.sql"),
];

/// Renders the guard for a shard.
pub fn script(settings: &FleetSettings, shard: ShardId, options: GuardOptions) -> GuardScript {
    let words = words(settings, shard, options);
    let render = |text: &str| render(text, &words);
    let roles = render(ROLES);
    let schema = render(SCHEMA);
    let objects = OBJECTS.map(render).concat();
    let hardening = HARDENING.map(render).concat();
    let mut digest = Sha256::new();
    for part in [&roles, &schema, &objects, &hardening] {
        digest.update(part.as_bytes());
    }
    GuardScript {
        checksum: hex::encode(&digest.finalize()),
        roles,
        schema,
        objects,
        hardening,
    }
}

/// Renders a migration of the reference schema, which is written for the default fleet: `tenant_id bigint` declares
/// the tenant column and `tenant_id` names it. Other fleets get their own column name and type in these places.
pub fn render_tenant_column(sql: &str, settings: &FleetSettings) -> String {
    const COLUMN: &str = "tenant_id";
    let name = quote_identifier(&settings.tenant_column);
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(at) = rest.find(COLUMN) {
        let (before, found) = rest.split_at(at);
        let after = &found[COLUMN.len()..];
        out.push_str(before);
        rest = after;
        if before.ends_with(is_word) || after.starts_with(is_word) {
            out.push_str(COLUMN);
            continue;
        }
        out.push_str(&name);
        let spaces = after.len() - after.trim_start_matches(' ').len();
        if let Some(tail) = after[spaces..].strip_prefix("bigint") {
            out.push_str(&after[..spaces]);
            out.push_str(settings.tenant_key.sql_type());
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(
    settings: &FleetSettings,
    shard: ShardId,
    options: GuardOptions,
) -> Vec<(&'static str, String)> {
    let column = quote_identifier(&settings.tenant_column);
    let (hash, remember, is_copying) = match settings.tenant_key {
        TenantKey::Bigint => ("hashint8", remember_bigint(), bigint_is_copying(&column)),
        TenantKey::Uuid => ("uuid_hash", remember_uuid(), uuid_is_copying(&column)),
    };
    vec![
        ("@key@", settings.tenant_key.sql_type().to_owned()),
        ("@key_hash@", hash.to_owned()),
        ("@column_literal@", quote_literal(&settings.tenant_column)),
        ("@lock_class@", TENANT_LOCK_CLASS.to_string()),
        ("@id_class@", ID_LOCK_CLASS.to_string()),
        ("@shard@", shard.to_string()),
        ("@leakproof@", options.leakproof_operators.to_string()),
        ("@remember_copying@", remember),
        ("@row_is_copying@", is_copying),
    ]
}

fn render(text: &str, words: &[(&'static str, String)]) -> String {
    words.iter().fold(text.to_owned(), |text, (word, value)| {
        text.replace(word, value)
    })
}

// The tenant whose COPY this session runs is remembered in sequences, see 06_copy.sql: 64 bits each.

fn remember_bigint() -> String {
    "perform pg_catalog.setval('tenantry.copying_low', tenant);".to_owned()
}

fn bigint_is_copying(column: &str) -> String {
    format!("new.{column} operator(pg_catalog.=) pg_catalog.currval('tenantry.copying_low')")
}

fn remember_uuid() -> String {
    format!(
        "perform pg_catalog.setval('tenantry.copying_high', {});\n    \
         perform pg_catalog.setval('tenantry.copying_low', {});",
        uuid_half("tenant", 1),
        uuid_half("tenant", 9)
    )
}

fn uuid_is_copying(column: &str) -> String {
    let row = format!("new.{column}");
    format!(
        "{} operator(pg_catalog.=) pg_catalog.currval('tenantry.copying_high')\n       \
         and {} operator(pg_catalog.=) pg_catalog.currval('tenantry.copying_low')",
        uuid_half(&row, 1),
        uuid_half(&row, 9)
    )
}

fn uuid_half(value: &str, from: u8) -> String {
    format!(
        "('x' operator(pg_catalog.||) pg_catalog.encode(pg_catalog.substr(pg_catalog.uuid_send({value}), {from}, 8), \
         'hex'))::bit(64)::bigint"
    )
}

fn quote_identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn settings(tenant_key: TenantKey, column: &str) -> FleetSettings {
        FleetSettings {
            tenant_key,
            tenant_column: column.to_owned(),
        }
    }

    #[test]
    fn every_word_is_replaced() {
        let shard = ShardId::new(7).unwrap();
        for key in [TenantKey::Bigint, TenantKey::Uuid] {
            let script = script(&settings(key, "Store"), shard, GuardOptions::default());
            for part in [
                &script.roles,
                &script.schema,
                &script.objects,
                &script.hardening,
            ] {
                let left = part.split('@').find(|word| {
                    !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
                });
                assert_eq!(left, None);
            }
        }
    }

    #[test]
    fn the_checksum_names_what_is_installed() {
        let checksum = |key, shard, leakproof_operators| {
            let shard = ShardId::new(shard).unwrap();
            let options = GuardOptions {
                leakproof_operators,
            };
            script(&settings(key, "tenant_id"), shard, options).checksum
        };
        let base = checksum(TenantKey::Bigint, 1, true);
        assert_eq!(base, checksum(TenantKey::Bigint, 1, true));
        assert_ne!(base, checksum(TenantKey::Uuid, 1, true));
        assert_ne!(base, checksum(TenantKey::Bigint, 2, true));
        assert_ne!(base, checksum(TenantKey::Bigint, 1, false));
    }

    #[test]
    fn the_tenant_column_is_rendered_as_a_word() {
        let sql =
            "tenant_id bigint, x_tenant_id bigint, tenant_ids (tenant_id, id), tenant_id   bigint";
        assert_eq!(
            render_tenant_column(sql, &settings(TenantKey::Uuid, "Store")),
            "\"Store\" uuid, x_tenant_id bigint, tenant_ids (\"Store\", id), \"Store\"   uuid"
        );
        assert_eq!(
            render_tenant_column(sql, &settings(TenantKey::Bigint, "tenant_id")),
            sql
        );
    }
}
