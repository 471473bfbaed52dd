//! Ways to see or disturb another tenant, and what tries them.
//!
//! Each [`Attack`] is a line of a table ([`table()`]): what a session of one tenant sends, and what has to come of it. The
//! table does not know whether it runs directly at a shard or through a router: an [`Arena`] opens the sessions.
//! Whatever an attack expects, three things must hold after each: nothing the attacker received contains the victim's
//! marker, the victim's rows are as they were, and the victim is served.

mod run;
mod table;

pub use run::{AttackError, run};
pub use table::table;

use crate::{RawClient, RawError};

/// Occurs in every text the victim stores, and nowhere else.
pub const MARKER: &str = "quicksilver-heron";

/// Who a session acts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The tenant that must see nothing but itself.
    Attacker,
    /// The tenant with something to hide.
    Victim,
}

/// Where attacks are tried.
pub trait Arena {
    /// The tenants' canonical ids: attacker, victim.
    fn tenants(&self) -> (&str, &str);

    /// Whether a router stands between sessions and shard.
    fn has_router(&self) -> bool;

    /// Opens a session of a tenant that may act for no other, with further startup parameters. With
    /// parameters, a session directly at a shard is left as they make it: not bound.
    fn open(
        &self,
        side: Side,
        parameters: &[(&str, &str)],
    ) -> impl Future<Output = Result<RawClient, RawError>>;

    /// A digest of everything that belongs to the victim, by a role that sees all rows.
    fn victims_rows(&self) -> impl Future<Output = anyhow::Result<String>>;
}

/// Where an attack can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// PostgreSQL refuses it, with a router before it or not.
    Everywhere,
    /// PostgreSQL has no grant for it: only the router refuses it.
    Router,
}

/// One thing an attack does. In texts, `{attacker}` and `{victim}` are the tenants' ids, `{stolen}` the value of
/// `tenantry.tenant` in a session of the victim, `{pid}` that session's process id, `{row}` the id of one of the
/// victim's customers.
#[derive(Debug, Clone)]
pub enum Step {
    /// A simple query.
    Query(String),
    /// A simple query of bytes that need not be UTF-8.
    Bytes(Vec<u8>),
    /// Parse, Bind, Execute and Sync in one write.
    Extended(String, Vec<String>),
    /// A simple query that begins a COPY FROM STDIN, and the data.
    Copy(String, String),
    /// FunctionCall of the function with this `regprocedure` text, with text arguments.
    Call(String, Vec<String>),
    /// A new session of the attacker, with startup parameters, instead of the old one.
    Login(Vec<(String, String)>),
    /// The victim runs a query that must return this one value.
    Victim(String, String),
}

/// What has to come of an attack.
#[derive(Debug, Clone)]
pub enum Expect {
    /// Some step is refused with one of these SQLSTATEs.
    Refused(&'static [&'static str]),
    /// Some step is refused with one of these SQLSTATEs. A router may instead undo the forgery and serve the attacker
    /// his own rows.
    Forged(&'static [&'static str]),
    /// The last step neither returns nor changes a row.
    Nothing,
    /// The last step returns this one value.
    Shows(String),
    /// Anything: the attacker sees only what is his.
    Harmless,
}

/// A way to see or disturb another tenant.
#[derive(Debug, Clone)]
pub struct Attack {
    /// What it tries, for people and for finding it again.
    pub name: &'static str,
    /// Where it can fail.
    pub reach: Reach,
    /// What the attacker does.
    pub steps: Vec<Step>,
    /// What has to come of it.
    pub expect: Expect,
}

/// What a tenant stores before the attacks; `{name}` is the marker for the victim and something else for the attacker.
pub const SEED: &str = "
    WITH store AS (
        INSERT INTO stores (name, email) VALUES ('{name}', 'owner@{name}.example') RETURNING id),
    customer AS (
        INSERT INTO customers (store_id, email, name, metafields)
        SELECT id, 'first@{name}.example', '{name}', '{\"note\": \"{name}\"}' FROM store RETURNING id, store_id),
    product AS (
        INSERT INTO products (store_id, handle, title, description, tags, status)
        SELECT id, '{name}', '{name} mug', 'sold by {name}', '{\"{name}\"}', 'active' FROM store)
    INSERT INTO orders (store_id, customer_id, number, email, currency, subtotal, total)
    SELECT store_id, id, 1001, 'first@{name}.example', 'EUR', 100, 100 FROM customer";
