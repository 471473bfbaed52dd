//! What a client session carries from statement to statement: its tenant and its settings, with
//! the transactional behaviour of PostgreSQL's own settings.
//!
//! Pure data. A rollback restores what the transaction (or savepoint) started with; `SET LOCAL`
//! ends with the transaction.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tenantry_schema::tenant::TenantId;
use tenantry_wire::sql::quote_literal;

/// A setting's value as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Assigned {
    /// What stands behind `SET`: a special form without a value of its own.
    Tail(String),
    /// The value as `set_config()` and the startup packet take it.
    Value(String),
}

/// The client's settings by folded name.
///
/// Compared by hash, so that a server connection that already has them costs nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    values: Arc<BTreeMap<String, Assigned>>,
    hash: u64,
}

impl Settings {
    pub(crate) fn new(values: BTreeMap<String, Assigned>) -> Self {
        let hash = hash_of(&values);
        Self {
            values: Arc::new(values),
            hash,
        }
    }

    /// The client's name for itself.
    pub(crate) fn application_name(&self) -> Option<String> {
        match self.get("application_name")? {
            Assigned::Value(value) => Some(value.clone()),
            Assigned::Tail(tail) => Some(tail.trim_matches(['\'', ' ', '=']).to_owned()),
        }
    }

    /// Equal hashes are taken for equal settings; 0 is the empty map.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn set(&mut self, name: &str, value: Assigned) {
        let mut values = (*self.values).clone();
        values.insert(name.to_owned(), value);
        *self = Self::new(values);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Assigned> {
        self.values.get(name)
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let mut values = (*self.values).clone();
        values.remove(name);
        *self = Self::new(values);
    }

    /// The statements that bring these settings into force on a connection where `applied` are;
    /// `None` is not known. RESET ALL, which also unbinds, leaves the role as it is.
    pub(crate) fn statements_after(&self, applied: Option<&Settings>) -> Vec<String> {
        match applied {
            Some(applied) => applied.difference(self),
            None => {
                let mut statements = vec!["RESET ALL".to_owned(), "RESET ROLE".to_owned()];
                statements.extend(Settings::default().difference(self));
                statements
            }
        }
    }

    /// The statements that turn a connection with `self` into one with `wanted`.
    fn difference(&self, wanted: &Settings) -> Vec<String> {
        let mut statements = Vec::new();
        for name in self.values.keys() {
            if !wanted.values.contains_key(name) {
                statements.push(format!("RESET {}", quote_name(name)));
            }
        }
        for (name, value) in wanted.values.iter() {
            if self.values.get(name) != Some(value) {
                statements.push(value.statement(name, false));
            }
        }
        statements
    }
}

fn hash_of(values: &BTreeMap<String, Assigned>) -> u64 {
    if values.is_empty() {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    values.hash(&mut hasher);
    hasher.finish()
}

impl Assigned {
    /// The statement that gives a setting this value; `local` to the transaction or to the session.
    pub(crate) fn statement(&self, name: &str, local: bool) -> String {
        match self {
            Self::Tail(tail) if local => format!("SET LOCAL {tail}"),
            Self::Tail(tail) => format!("SET {tail}"),
            Self::Value(value) => format!(
                "SELECT pg_catalog.set_config({}, {}, {local})",
                quote_literal(name),
                quote_literal(value)
            ),
        }
    }
}

/// `a.b` as `"a"."b"`, so that no name can be read as anything else.
fn quote_name(name: &str) -> String {
    name.split('.')
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
        .collect::<Vec<_>>()
        .join(".")
}

/// A channel that a session listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listened {
    /// The client's name of it.
    pub(crate) name: String,
    /// The tenant whose channel it is.
    pub(crate) tenant: Option<TenantId>,
}

/// The values of one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Values {
    /// Tenant by session `SET` or from the startup packet.
    pub(crate) tenant: Option<TenantId>,
    /// Tenant by `SET LOCAL`; gone with the transaction. `Some(None)` is `SET LOCAL … TO DEFAULT`.
    pub(crate) tenant_local: Option<Option<TenantId>>,
    /// The session's tenant is one that a SET named, not the startup packet.
    is_set: bool,
    /// Tenant by a comment, the weakest way; gone with the transaction.
    commented: Option<TenantId>,
    pub(crate) settings: Settings,
    /// What the session listens on, by the server's names of the channels.
    channels: Arc<BTreeMap<String, Listened>>,
    /// The reported settings as the client knew them.
    view: View,
}

impl Values {
    /// The tenant of a statement: by SET LOCAL, else by SET, else by a comment, else by the startup packet.
    fn tenant(&self) -> Option<TenantId> {
        let by_comment = || self.commented.filter(|_| !self.is_set);
        self.tenant_local
            .unwrap_or_else(|| by_comment().or(self.tenant))
    }

    /// What was for the transaction only.
    fn end_transaction(&mut self) {
        self.tenant_local = None;
        self.commented = None;
    }
}

/// Reported settings by name.
pub(crate) type View = Arc<BTreeMap<String, String>>;

/// [`Values`] with their transaction and savepoint history.
#[derive(Debug)]
pub(crate) struct State {
    startup: Values,
    now: Values,
    /// First the values at BEGIN, then one entry per savepoint.
    saved: Vec<(Option<String>, Values)>,
}

impl State {
    pub(crate) fn new(tenant: Option<TenantId>, settings: Settings) -> Self {
        let startup = Values {
            tenant,
            tenant_local: None,
            is_set: false,
            commented: None,
            settings,
            channels: Arc::default(),
            view: View::default(),
        };
        Self {
            now: startup.clone(),
            startup,
            saved: Vec::new(),
        }
    }

    /// The tenant that a statement run now belongs to.
    pub(crate) fn tenant(&self) -> Option<TenantId> {
        self.now.tenant()
    }

    /// Whether SET or SET LOCAL has named the tenant, or that there is none.
    pub(crate) fn is_tenant_set(&self) -> bool {
        self.now.is_set || self.now.tenant_local.is_some()
    }

    pub(crate) fn is_commented(&self) -> bool {
        self.now.commented.is_some()
    }

    /// A comment names the tenant of the transaction.
    pub(crate) fn note_comment(&mut self, tenant: TenantId) {
        self.now.commented = Some(tenant);
    }

    /// The tenant once the transaction has ended and with it SET LOCAL.
    pub(crate) fn session_tenant(&self) -> Option<TenantId> {
        self.now.tenant
    }

    /// The tenant after a rollback to the savepoint, or of the whole transaction; `None`: there is no such savepoint.
    pub(crate) fn tenant_at(&self, savepoint: Option<&str>) -> Option<Option<TenantId>> {
        let at = match savepoint {
            Some(name) => self.find(name)?,
            None => 0,
        };
        let values = &self.saved.get(at)?.1;
        Some(if savepoint.is_some() {
            values.tenant()
        } else {
            values.tenant
        })
    }

    pub(crate) fn startup_tenant(&self) -> Option<TenantId> {
        self.startup.tenant
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.now.settings
    }

    pub(crate) fn set_tenant(&mut self, tenant: Option<TenantId>, local: bool) {
        if local {
            self.now.tenant_local = Some(tenant);
        } else {
            self.now.tenant = tenant;
            self.now.is_set = true;
            self.now.tenant_local = None;
        }
    }

    /// RESET: the startup packet's tenant, and comments count again.
    pub(crate) fn reset_tenant(&mut self) {
        self.set_tenant(self.startup.tenant, false);
        self.now.is_set = false;
    }

    pub(crate) fn set(&mut self, name: &str, value: Assigned) {
        self.now.settings.set(name, value);
    }

    /// Back to what the startup packet said.
    pub(crate) fn reset(&mut self, name: &str) {
        match self.startup.settings.get(name) {
            Some(value) => {
                let value = value.clone();
                self.now.settings.set(name, value);
            }
            // PostgreSQL never forgets the name of such a setting.
            None if name.contains('.') => {
                self.now.settings.set(name, Assigned::Value(String::new()));
            }
            None => self.now.settings.remove(name),
        }
    }

    pub(crate) fn reset_all(&mut self) {
        let channels = std::mem::take(&mut self.now.channels);
        let named: Vec<String> = self
            .now
            .settings
            .values
            .keys()
            .filter(|name| name.contains('.'))
            .cloned()
            .collect();
        self.now = self.startup.clone();
        self.now.channels = channels;
        for name in named {
            self.reset(&name);
        }
    }

    /// The channels that the client listens on, by the server's names.
    pub(crate) fn channels(&self) -> &BTreeMap<String, Listened> {
        &self.now.channels
    }

    pub(crate) fn listen(&mut self, channel: String, name: String) {
        let tenant = self.tenant();
        let listened = Listened { name, tenant };
        Arc::make_mut(&mut self.now.channels).insert(channel, listened);
    }

    pub(crate) fn unlisten(&mut self, channel: &str) {
        Arc::make_mut(&mut self.now.channels).remove(channel);
    }

    /// The connection that listened is gone, or cleaned.
    pub(crate) fn forget_channels(&mut self) {
        self.now.channels = Arc::default();
        for (_, values) in &mut self.saved {
            values.channels = Arc::default();
        }
    }

    /// Notes what the client knows when a transaction or savepoint begins.
    pub(crate) fn note_view(&mut self, view: &View) {
        if let Some((_, values)) = self.saved.last_mut() {
            values.view = Arc::clone(view);
        }
    }

    /// What the client is to know again if everything since the last savepoint or BEGIN is undone.
    pub(crate) fn view(&self) -> Option<View> {
        self.saved
            .last()
            .map(|(_, values)| Arc::clone(&values.view))
    }

    /// The same for a rollback of the transaction, or to a savepoint.
    pub(crate) fn view_before(&self, savepoint: Option<&str>) -> Option<View> {
        let at = match savepoint {
            Some(name) => self.find(name)?,
            None => 0,
        };
        self.saved
            .get(at)
            .map(|(_, values)| Arc::clone(&values.view))
    }

    pub(crate) fn startup_hash(&self) -> u64 {
        self.startup.settings.hash()
    }

    /// What the client's startup packet set this to.
    pub(crate) fn startup_value(&self, name: &str) -> Option<&Assigned> {
        self.startup.settings.get(name)
    }

    /// A transaction starts, explicit or implicit; nested calls change nothing.
    pub(crate) fn begin(&mut self) {
        if self.saved.is_empty() {
            self.saved.push((None, self.now.clone()));
        }
    }

    pub(crate) fn in_transaction(&self) -> bool {
        !self.saved.is_empty()
    }

    pub(crate) fn commit(&mut self) {
        self.saved.clear();
        self.now.end_transaction();
    }

    pub(crate) fn rollback(&mut self) {
        if !self.saved.is_empty() {
            self.now = self.saved.swap_remove(0).1;
        }
        self.saved.clear();
        self.now.end_transaction();
    }

    pub(crate) fn savepoint(&mut self, name: &str) {
        self.begin();
        self.saved.push((Some(name.to_owned()), self.now.clone()));
    }

    /// Values return to the savepoint, which stays.
    pub(crate) fn rollback_to(&mut self, name: &str) {
        if let Some(at) = self.find(name) {
            self.saved.truncate(at + 1);
            self.now = self.saved[at].1.clone();
        }
    }

    /// Values stay, the savepoint and those after it go.
    pub(crate) fn release(&mut self, name: &str) {
        if let Some(at) = self.find(name) {
            self.saved.truncate(at);
        }
    }

    pub(crate) fn has_savepoint(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.saved
            .iter()
            .rposition(|(saved, _)| saved.as_deref() == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(n: i64) -> Option<TenantId> {
        Some(TenantId::from_bigint(n).unwrap())
    }

    fn tail(text: &str) -> Assigned {
        Assigned::Tail(text.to_owned())
    }

    #[test]
    fn rollback_restores_and_local_ends_with_the_transaction() {
        let mut state = State::new(tenant(1), Settings::default());
        state.begin();
        state.set_tenant(tenant(2), true);
        assert_eq!(state.tenant(), tenant(2));
        state.commit();
        assert_eq!(state.tenant(), tenant(1));

        state.begin();
        state.set_tenant(tenant(3), false);
        state.set("datestyle", tail("'ISO'"));
        state.rollback();
        assert_eq!(state.tenant(), tenant(1));
        assert_eq!(state.settings().hash(), 0);
    }

    #[test]
    fn savepoints_nest() {
        let mut state = State::new(None, Settings::default());
        state.begin();
        state.savepoint("a");
        state.set_tenant(tenant(1), true);
        state.savepoint("a");
        state.set_tenant(tenant(2), true);
        state.rollback_to("a");
        assert_eq!(state.tenant(), tenant(1));
        state.release("a");
        state.rollback_to("a");
        assert_eq!(state.tenant(), None);
    }

    #[test]
    fn reset_returns_to_the_startup_value() {
        let startup = Settings::new(BTreeMap::from([(
            "timezone".to_owned(),
            Assigned::Value("UTC".to_owned()),
        )]));
        let mut state = State::new(None, startup.clone());
        state.set("timezone", tail("'Europe/Vienna'"));
        state.set("jit", tail("off"));
        assert_ne!(state.settings().hash(), startup.hash());
        state.reset("timezone");
        state.reset("jit");
        assert_eq!(state.settings().hash(), startup.hash());
    }

    #[test]
    fn only_differences_are_sent() {
        let from = Settings::new(BTreeMap::from([
            ("a".to_owned(), tail("1")),
            ("b".to_owned(), tail("2")),
        ]));
        let to = Settings::new(BTreeMap::from([
            ("b".to_owned(), tail("2")),
            ("my.c".to_owned(), Assigned::Value("x".to_owned())),
        ]));
        assert_eq!(
            from.difference(&to),
            vec![
                "RESET \"a\"",
                "SELECT pg_catalog.set_config('my.c', 'x', false)"
            ]
        );
    }
}
