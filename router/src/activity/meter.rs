//! A session's own side of what others see of it: notes transitions as they happen and hands its
//! counts over when a server connection is given up.
//!
//! A statement outside a transaction costs two readings of the clock: one when it gets its server
//! connection and one when it gives it up.

use std::sync::Arc;

use tenantry_schema::tenant::TenantId;

use super::{ClientRecord, ClientState, ServerRecord, TenantLoad, Totals};
use crate::session::Counts;

/// Owned by the task of one session.
#[derive(Debug)]
pub(crate) struct Meter {
    record: Arc<ClientRecord>,
    state: ClientState,
    since: u64,
    /// The server connection it holds, and since when.
    held: Option<(Arc<ServerRecord>, u64)>,
    /// For whom it works.
    tenant: Option<TenantId>,
    shown_tenant: Option<TenantId>,
    shown_settings: u64,
    /// How long the request took that ended last.
    request_us: Option<u64>,
    /// Not handed over yet.
    pending: Totals,
}

impl Meter {
    pub(crate) fn new(record: &Arc<ClientRecord>, settings_hash: u64) -> Self {
        let tenant = record.origin().tenant;
        Self {
            record: Arc::clone(record),
            state: ClientState::Idle,
            since: record.since_us(),
            held: None,
            tenant,
            shown_tenant: tenant,
            shown_settings: settings_hash,
            request_us: None,
            pending: Totals::default(),
        }
    }

    pub(crate) fn record(&self) -> &ClientRecord {
        &self.record
    }

    pub(crate) fn received(&mut self, bytes: usize) {
        self.pending.received += bytes as u64;
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.pending.sent += bytes as u64;
    }

    /// No server connection is free.
    pub(crate) fn waits(&mut self) {
        let now = self.record.clock().now_us();
        self.enter(ClientState::Waiting, now);
    }

    /// It has a server connection since `now` and works for `tenant`.
    pub(crate) fn leased(
        &mut self,
        server: &Arc<ServerRecord>,
        tenant: Option<TenantId>,
        now: u64,
    ) {
        if self.state == ClientState::Waiting {
            self.pending.wait_us += now.saturating_sub(self.since);
        }
        self.tenant = tenant;
        if self.shown_tenant != tenant {
            self.shown_tenant = tenant;
            self.record.set_tenant(tenant);
        }
        server.leased(self.record.id(), now);
        self.record.set_server(server.id());
        self.held = Some((Arc::clone(server), now));
        self.enter(ClientState::Active, now);
    }

    /// The wait ended without a connection.
    pub(crate) fn refused(&mut self) {
        let now = self.record.clock().now_us();
        if self.state == ClientState::Waiting {
            self.pending.wait_us += now.saturating_sub(self.since);
        }
        self.enter(ClientState::Active, now);
    }

    /// So many requests have been answered and transactions ended since the session began.
    pub(crate) fn gets_on(&mut self, requests: u32, transactions: u32) {
        self.record.set_progress(requests, transactions);
    }

    /// Everything that could be done was done; the session waits for bytes in this state.
    pub(crate) fn rests(&mut self, state: ClientState) {
        if self.state != state {
            let now = self.record.clock().now_us();
            self.enter(state, now);
        }
    }

    /// How long the request took that ended last; asked once for each.
    pub(crate) fn take_request_us(&mut self) -> Option<u64> {
        self.request_us.take()
    }

    /// It gives its server connection up, which keeps `prepared` statements.
    pub(crate) fn released(&mut self, counts: Counts, prepared: usize, tenants: &TenantLoad) {
        let now = self.record.clock().now_us();
        self.enter(ClientState::Idle, now);
        self.count(counts, tenants, now);
        if let Some((server, _)) = self.held.take() {
            server.released(prepared as u64, now);
        }
        self.record.set_server(0);
    }

    /// It keeps its server connection beyond the transaction; what it did is counted now.
    pub(crate) fn hand_over(&mut self, counts: Counts, tenants: &TenantLoad) {
        let now = self.record.clock().now_us();
        self.count(counts, tenants, now);
    }

    /// What the session now stands for, where others can see it. Told only when it has changed.
    pub(crate) fn shows(
        &mut self,
        tenant: Option<TenantId>,
        settings_hash: u64,
        application_name: impl FnOnce() -> Option<String>,
    ) {
        if self.shown_tenant != tenant {
            self.shown_tenant = tenant;
            self.record.set_tenant(tenant);
        }
        if self.shown_settings != settings_hash {
            self.shown_settings = settings_hash;
            self.record
                .set_application_name(&application_name().unwrap_or_default());
        }
    }

    fn count(&mut self, counts: Counts, tenants: &TenantLoad, now: u64) {
        let mut totals = std::mem::take(&mut self.pending);
        totals.statements = counts.statements;
        totals.transactions = counts.transactions;
        totals.errors = counts.errors;
        totals.rows = counts.rows;
        totals.client_parses = counts.client_parses;
        totals.server_parses = counts.server_parses;
        totals.binds = counts.binds;
        if let Some(code) = counts.sqlstate {
            self.record.set_sqlstate(code);
        }
        self.record.set_statements(counts.named as u64);
        if let Some((server, since)) = &mut self.held {
            totals.transaction_us = now.saturating_sub(*since);
            *since = now;
            server.counted(now);
            server.counters.add(&totals);
            if totals.transactions > 0 {
                server.transactions.note(totals.transaction_us);
            }
        }
        self.record.counters.add(&totals);
        if let Some(tenant) = self.tenant {
            tenants.add(tenant, &totals);
        }
    }

    fn enter(&mut self, state: ClientState, now: u64) {
        if self.state == ClientState::Active
            && state != ClientState::Active
            && let Some((server, _)) = &self.held
        {
            let request = now.saturating_sub(self.since);
            self.pending.request_us += request;
            self.request_us = Some(request);
            server.requests.note(request);
        }
        self.state = state;
        self.since = now;
        self.record.set_state(state, now);
    }
}
