//! What must be in force on the server before the client's statement runs: the transaction, the
//! settings, the tenant. Sent in the same write, without Sync, answers swallowed.
//!
//! Because there is no Sync, the server skips the client's statement too if any of it fails.

use std::sync::Arc;

use bytes::Bytes;
use tenantry_schema::guard;
use tenantry_schema::tenant::TenantId;
use tenantry_wire::frontend::{self, Format, TargetKind};
use tenantry_wire::sql::{self, Isolation, Kind, TransactionModes, quote_literal};

use super::expect::Expect;
use super::sql_statements::preparation;
use super::state::Assigned;
use super::transactions::isolation_given;
use super::{Session, Settings, Tx};
use crate::server::{BIND_STATEMENT, Bound, Link, Prepared, PreparedKey, ServerState, Source};

impl Session {
    /// Sends what is missing; answers whether anything was.
    pub(super) fn prepare_server(&mut self, server: &mut Link) -> bool {
        if !self.needs_prologue(&server.state) {
            return false;
        }
        let before = server.output.len();
        self.enter(server);
        self.leave_copy_role(server);
        self.apply_settings(server);
        self.bind_tenant(server);
        self.keep_from_writing(server);
        let sent = server.output.len() > before;
        self.unproven |= sent;
        sent
    }

    /// Brings what the next statement needs into force in a transaction of its own, where that is still to be done and
    /// nothing of the batch has been sent: a procedure may roll back what its own transaction has set.
    pub(super) fn prepare_ahead(&mut self, server: &mut Link) -> bool {
        if !matches!(self.tx, Tx::Idle) || !self.is_outside() || !self.needs_prologue(&server.state)
        {
            return true;
        }
        if self.settle(Some(&mut *server)) {
            self.begin_implicit();
            self.prepare_server(server);
            frontend::put_sync(&mut server.output);
            self.expects.push(Expect::HiddenSync);
            self.batch.ahead = true;
        }
        false
    }

    /// The one way into a transaction on the server, explicit or implicit: nothing is begun before a
    /// rollback is known to fall back to the tenant itself.
    fn enter(&mut self, server: &mut Link) {
        self.commit_bind(server);
        match self.tx {
            Tx::Idle if self.is_outside() => {
                self.begin_as_set(server, TransactionModes::default());
            }
            Tx::Deferred { .. } => self.open_transaction(server),
            _ => {}
        }
    }

    /// Begins a transaction that has failed here on the server too, and makes it fail there.
    pub(super) fn enter_failed(&mut self, prologue: Vec<String>, server: &mut Link) {
        self.tx = Tx::Deferred { prologue };
        self.enter(server);
        self.tx = Tx::FailedHere {
            open_on_server: true,
            deferred: Vec::new(),
        };
    }

    /// Binds the tenant in a transaction of its own first, where a rollback would fall back to
    /// another tenant. The bind that follows in the client's transaction stays: a cancel that comes
    /// late may kill this one.
    fn commit_bind(&mut self, server: &mut Link) {
        let tenant = self.state.tenant();
        let wanted = Bound::Known(tenant);
        let falls_well =
            server.state.fallback == Bound::Known(None) || server.state.fallback == wanted;
        if server.state.bound == wanted || falls_well || !self.is_outside() {
            return;
        }
        self.put_bound(server, tenant);
        server.state.fallback = wanted;
        frontend::put_sync(&mut server.output);
        self.expects.push(Expect::Fallback {
            tenant,
            failed: false,
        });
    }

    /// Whether a rollback of the open transaction could lead to another tenant, because a cancel has hit the bind before
    /// it: nothing more is sent in such a transaction.
    pub(super) fn falls_astray(&self, server: &ServerState) -> bool {
        let own = Bound::Known(self.state.tenant());
        matches!(self.tx, Tx::Open { .. })
            && server.fallback != own
            && server.fallback != Bound::Known(None)
    }

    /// Whether the server is in no transaction, nor in the middle of a batch.
    fn is_outside(&self) -> bool {
        matches!(self.tx, Tx::Idle | Tx::Deferred { .. })
            && !self.batch.forwarded
            && !self.sync_owed
    }

    /// Whether a statement must wait for a ReadyForQuery that is on order.
    ///
    /// If a batch fails, what its prologue set is undone: a batch behind it that was sent on the
    /// strength of that would run for the connection's earlier tenant. And a prologue is only sent
    /// where the next ReadyForQuery is its own.
    pub(super) fn awaits_proof(&self, server: Option<&Link>) -> bool {
        self.expects.has_ready()
            && (self.unproven
                || self.is_read_only()
                || server.is_some_and(|server| self.needs_prologue(&server.state)))
    }

    pub(super) fn needs_prologue(&self, server: &ServerState) -> bool {
        self.needs_bind(server)
            || (self.is_read_only() && !server.read_only && !matches!(self.tx, Tx::Failed))
    }

    /// The same without what every transaction needs anew.
    pub(super) fn needs_bind(&self, server: &ServerState) -> bool {
        if matches!(self.tx, Tx::Failed) {
            return false;
        }
        matches!(self.tx, Tx::Deferred { .. })
            || server.copy_role
            || !server.has_applied(self.state.settings())
            || server.bound != Bound::Known(self.state.tenant())
    }

    /// Only for [`Self::enter`].
    fn open_transaction(&mut self, server: &mut Link) {
        let Tx::Deferred { prologue } = &mut self.tx else {
            return;
        };
        let prologue = std::mem::take(prologue);
        let mut is_locked = false;
        for text in &prologue {
            let kind = sql::classify(text.as_bytes(), self.scs());
            if self.probes && !is_locked && matches!(kind, Kind::Savepoint(_)) {
                // A rollback to it would give back a lock that is taken behind it.
                self.bind_tenant(server);
                self.take_lock(server);
                is_locked = true;
            }
            let prepared = self.internal(text);
            self.run_hidden_prepared(server, &prepared);
            if let Kind::Begin(modes) = kind {
                self.begin_as_set(server, modes);
            }
        }
        let restartable = self.state.tenant().is_none() && !self.keeps_snapshot(&prologue);
        self.tx = Tx::Open {
            prologue,
            restartable,
        };
    }

    /// Gives the transaction that has just begun the modes that the client's settings ask for, but
    /// for those that BEGIN named.
    ///
    /// A transaction takes its modes from `default_transaction_…` as it begins, and the client's
    /// values come later, inside of it. Plain SET, because SET TRANSACTION and SET LOCAL warn
    /// outside a block; before any query, after which the isolation level cannot change.
    fn begin_as_set(&mut self, server: &mut Link, named: TransactionModes) {
        let wanted = self.state.settings();
        if server.state.has_applied(wanted) {
            return;
        }
        let applied = server.state.applied.as_ref();
        let modes = [
            ("isolation", "read committed", named.isolation.is_some()),
            ("read_only", "off", named.read_only.is_some()),
            ("deferrable", "off", named.deferrable.is_some()),
        ];
        let mut texts = Vec::new();
        for (mode, at_connect, is_named) in modes {
            let setting = format!("default_transaction_{mode}");
            let value = |settings: &Settings| match settings.get(&setting) {
                Some(Assigned::Value(value)) => Some(value.clone()),
                // No mode has a special form.
                Some(Assigned::Tail(_)) => None,
                None => Some(at_connect.to_owned()),
            };
            let before = applied.and_then(value);
            if let Some(value) = value(wanted)
                && !is_named
                && before.as_ref() != Some(&value)
            {
                texts.push(format!(
                    "SET transaction_{mode} = {}",
                    quote_literal(&value)
                ));
            }
        }
        for text in texts {
            let prepared = self.internal(&text);
            self.run_hidden_prepared(server, &prepared);
        }
    }

    /// Whether the transaction sees one snapshot throughout, which cannot be had again elsewhere.
    fn keeps_snapshot(&self, prologue: &[String]) -> bool {
        let explicit = prologue
            .iter()
            .rev()
            .find_map(|text| isolation_given(&sql::classify(text.as_bytes(), self.scs())));
        match explicit {
            Some(isolation) => isolation >= Isolation::RepeatableRead,
            None => self
                .state
                .settings()
                .get("default_transaction_isolation")
                .is_some(),
        }
    }

    /// A statement that does more than read ends the chance to begin anew elsewhere.
    pub(super) fn note_statement(&mut self, text: &[u8]) {
        let scs = self.scs();
        if let Tx::Open { restartable, .. } = &mut self.tx
            && *restartable
        {
            *restartable = sql::is_read_only_hint(text, scs);
        }
    }

    fn leave_copy_role(&mut self, server: &mut Link) {
        if server.state.copy_role {
            let prepared = self.internal(super::copy::LEAVE_COPY_ROLE);
            self.run_hidden_prepared(server, &prepared);
            server.state.copy_role = false;
        }
    }

    fn apply_settings(&mut self, server: &mut Link) {
        let wanted = self.state.settings().clone();
        if server.state.has_applied(&wanted) {
            return;
        }
        if server.state.applied.is_none() {
            server.state.bound = Bound::Unknown;
        }
        for text in wanted.statements_after(server.state.applied.as_ref()) {
            self.run_hidden_unnamed(server, text.as_bytes());
        }
        server.state.applied = Some(wanted);
        server.state.applied_in_transaction = true;
        server.state.applied_by_router = true;
    }

    fn bind_tenant(&mut self, server: &mut Link) {
        let tenant = self.state.tenant();
        if server.state.bound == Bound::Known(tenant) {
            return;
        }
        let value = self.signed(&server.state, tenant);
        self.run_hidden(server, BIND_STATEMENT, &[Some(value.as_bytes())], None);
        server.state.bound = Bound::Known(tenant);
        server.state.bound_in_transaction = true;
    }

    fn put_bound(&self, server: &mut Link, tenant: Option<TenantId>) {
        let value = self.signed(&server.state, tenant);
        let parameters = [Some(value.as_bytes())];
        frontend::put_bind(
            &mut server.output,
            "",
            BIND_STATEMENT,
            &parameters,
            Format::Text,
        );
        frontend::put_execute(&mut server.output, "", 0);
    }

    /// The value that `tenantry.tenant()` accepts on this connection only; empty for nobody.
    fn signed(&self, server: &ServerState, tenant: Option<TenantId>) -> String {
        let key = self.fleet().settings.tenant_key;
        tenant.map_or_else(String::new, |tenant| {
            let id = tenant.display(key).to_string();
            guard::sign(&server.guard, &server.identity, &id)
        })
    }

    /// A statement of the router's own.
    pub(super) fn internal(&self, text: &str) -> Arc<Prepared> {
        self.shared.registry.intern(PreparedKey {
            source: Source::Protocol {
                text: Bytes::copy_from_slice(text.as_bytes()),
                types: Bytes::new(),
            },
            settings_hash: 0,
        })
    }

    /// Whether the statement is held, or can be prepared now.
    ///
    /// If a batch fails, what was prepared and closed in it has not happened: nothing is prepared on the strength of a
    /// batch before, and the batch behind waits for the outcome.
    pub(super) fn can_prepare(&self, server: &Link, prepared: &Prepared) -> bool {
        !self.expects.has_ready() || server.state.prepared.holds(prepared)
    }

    /// Sends a Parse unless the connection holds the statement already.
    pub(super) fn prepare_on(&mut self, server: &mut Link, prepared: &Arc<Prepared>) {
        if server.state.prepared.touch(prepared) {
            return;
        }
        match &prepared.source {
            Source::Protocol { text, types } => {
                frontend::put_parse_raw(&mut server.output, &prepared.name, text, types);
                self.expects
                    .push(Expect::HiddenParse(Some(Arc::clone(prepared))));
            }
            Source::Sql { .. } => {
                let text = preparation(prepared);
                frontend::put_parse(&mut server.output, "", text, &[]);
                self.expects.push(Expect::HiddenParse(None));
                server.state.unnamed = None;
                self.run_hidden(server, "", &[], Some(Arc::clone(prepared)));
            }
        }
        self.hold(server, prepared);
    }

    /// Notes that the connection will hold the statement, closing another one if it holds too many.
    pub(super) fn hold(&mut self, server: &mut Link, prepared: &Arc<Prepared>) {
        self.counts.server_parses += 1;
        self.unproven = true;
        if let Some(evicted) = server.state.prepared.insert(Arc::clone(prepared)) {
            frontend::put_close(&mut server.output, TargetKind::Statement, &evicted.name);
            self.expects.push(Expect::HiddenClose(Some(evicted)));
        }
    }

    pub(super) fn run_hidden_prepared(&mut self, server: &mut Link, prepared: &Arc<Prepared>) {
        self.prepare_on(server, prepared);
        self.run_hidden(server, &prepared.name, &[], None);
    }

    /// Bind and Execute of a statement that the connection holds.
    fn run_hidden(
        &mut self,
        server: &mut Link,
        statement: &str,
        parameters: &[Option<&[u8]>],
        makes: Option<Arc<Prepared>>,
    ) {
        let portal = self.own_portal();
        frontend::put_bind(
            &mut server.output,
            portal,
            statement,
            parameters,
            Format::Text,
        );
        frontend::put_execute(&mut server.output, portal, 0);
        self.expects.push(Expect::HiddenBind);
        self.expects.push(Expect::HiddenExecute(makes));
        self.leave_portal(server, portal);
    }

    /// The portal for a statement of the router's own.
    pub(super) fn own_portal(&self) -> &'static str {
        if self.unnamed_portal {
            super::OWN_PORTAL
        } else {
            ""
        }
    }

    /// A named portal has to be closed before its name is used again.
    pub(super) fn leave_portal(&mut self, server: &mut Link, portal: &str) {
        if !portal.is_empty() {
            frontend::put_close(&mut server.output, TargetKind::Portal, portal);
            self.expects.push(Expect::HiddenClose(None));
        }
    }

    /// For texts that are too varied to keep; takes the place of the unnamed statement.
    pub(super) fn run_hidden_unnamed(&mut self, server: &mut Link, text: &[u8]) {
        frontend::put_parse(&mut server.output, "", text, &[]);
        self.expects.push(Expect::HiddenParse(None));
        server.state.unnamed = None;
        self.run_hidden(server, "", &[], None);
    }
}
