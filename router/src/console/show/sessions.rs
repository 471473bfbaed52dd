//! SHOW CLIENTS, SERVERS, SOCKETS, ACTIVE_SOCKETS.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::super::table::Kind::{Int4, Int8, Text};
use super::super::table::{Cell, Head, Table};
use super::{time, wait};
use crate::activity::{ClientRecord, ClientState, ServerRecord, ServerState};
use crate::router::Router;

macro_rules! socket_heads {
    ($($own:expr),* $(,)?) => {
        &[
            ("type", Text),
            ("user", Text),
            ("database", Text),
            ("replication", Text),
            ("state", Text),
            ("addr", Text),
            ("port", Int4),
            ("local_addr", Text),
            ("local_port", Int4),
            ("connect_time", Text),
            ("request_time", Text),
            ("wait", Int4),
            ("wait_us", Int4),
            ("close_needed", Int4),
            ("ptr", Text),
            ("link", Text),
            ("remote_pid", Int4),
            ("tls", Text),
            ("application_name", Text),
            ("prepared_statements", Int4),
            ("id", Int4),
            $($own),*
        ]
    };
}

pub(super) const CLIENTS: &[Head] = socket_heads![
    ("activity", Text),
    ("state_since", Text),
    ("role_kind", Text),
    ("tenant", Text),
    ("shard", Text),
    ("pid", Int4),
    ("transactions", Int8),
    ("queries", Int8),
    ("errors", Int8),
    ("sqlstate", Text),
    ("received", Int8),
    ("sent", Int8),
    ("total_wait_us", Int8),
    ("trace_id", Text),
];

pub(super) const SERVERS: &[Head] = socket_heads![
    ("tenant", Text),
    ("assignments", Int8),
    ("transactions", Int8),
    ("queries", Int8),
    ("errors", Int8),
];

/// PgBouncer's buffer positions are not shown: buffers here exist only while they hold something.
pub(super) const SOCKETS: &[Head] = socket_heads![];

pub(super) fn clients(router: &Router, table: &mut Table) {
    let view = View::of(router);
    for client in &view.clients {
        let mut row = view.client(client);
        row.extend(view.client_extras(router, client));
        table.push(row);
    }
}

pub(super) fn servers(router: &Router, table: &mut Table) {
    let view = View::of(router);
    for server in &view.servers {
        let totals = server.totals();
        let tenant = server.client().and_then(|id| view.by_client.get(&id));
        let mut row = view.server(server);
        row.push(tenant.and_then(|client| tenant_text(router, client)).into());
        row.push(server.assigned().into());
        row.push(totals.transactions.into());
        row.push(totals.statements.into());
        row.push(totals.errors.into());
        table.push(row);
    }
}

pub(super) fn sockets(router: &Router, table: &mut Table, active_only: bool) {
    let view = View::of(router);
    for client in &view.clients {
        if !active_only || client.state() != ClientState::Idle {
            table.push(view.client(client));
        }
    }
    for server in &view.servers {
        if !active_only || server.state() == ServerState::Active {
            table.push(view.server(server));
        }
    }
}

/// Sessions and connections at one moment.
struct View {
    clients: Vec<Arc<ClientRecord>>,
    servers: Vec<Arc<ServerRecord>>,
    by_client: HashMap<u32, Arc<ClientRecord>>,
    by_server: HashMap<u64, Arc<ServerRecord>>,
}

impl View {
    fn of(router: &Router) -> Self {
        let clients = router.activity.clients();
        let servers = router.activity.servers();
        let by_client = clients.iter().map(|c| (c.id(), Arc::clone(c))).collect();
        let by_server = servers.iter().map(|s| (s.id(), Arc::clone(s))).collect();
        Self {
            clients,
            servers,
            by_client,
            by_server,
        }
    }

    fn client(&self, client: &ClientRecord) -> Vec<Cell> {
        let origin = client.origin();
        let clock = client.clock();
        let linked = client.server().and_then(|id| self.by_server.get(&id));
        let state = match client.state() {
            ClientState::Waiting => "waiting",
            ClientState::Idle => "idle",
            ClientState::Active | ClientState::IdleInTransaction => "active",
        };
        let [wait, wait_us] = wait(client.waiting_us());
        vec![
            "C".into(),
            origin.role.name.as_str().into(),
            origin.database.as_str().into(),
            "none".into(),
            state.into(),
            address(origin.peer),
            port(origin.peer),
            address(origin.local),
            port(origin.local),
            time(clock.timestamp(client.connected_us())).into(),
            time(clock.timestamp(client.request_us())).into(),
            wait,
            wait_us,
            0_u32.into(),
            format!("C{}", client.id()).into(),
            linked
                .map(|s| format!("S{}", s.id()))
                .unwrap_or_default()
                .into(),
            0_u32.into(),
            origin.tls.as_str().into(),
            client.changing().application_name.into(),
            client.statements().into(),
            client.id().into(),
        ]
    }

    fn client_extras(&self, router: &Router, client: &ClientRecord) -> Vec<Cell> {
        let totals = client.totals();
        let linked = client.server().and_then(|id| self.by_server.get(&id));
        let shard = linked.map(|server| server.shard().name.to_string());
        vec![
            client.state().as_str().into(),
            time(client.clock().timestamp(client.since_us())).into(),
            client.origin().role.kind.as_str().into(),
            tenant_text(router, client).into(),
            shard.into(),
            client.origin().pid.into(),
            totals.transactions.into(),
            totals.statements.into(),
            totals.errors.into(),
            client.sqlstate().into(),
            totals.received.into(),
            totals.sent.into(),
            totals.wait_us.into(),
            client.origin().trace.clone().into(),
        ]
    }

    fn server(&self, server: &ServerRecord) -> Vec<Cell> {
        let origin = server.origin();
        let linked = server.client().and_then(|id| self.by_client.get(&id));
        let clock = server.clock();
        let name = linked.map(|client| client.changing().application_name);
        vec![
            "S".into(),
            origin.user.as_str().into(),
            server.shard().name.to_string().into(),
            "none".into(),
            server.state().as_str().into(),
            address(origin.peer),
            port(origin.peer),
            address(origin.local),
            port(origin.local),
            time(clock.timestamp(server.opened_us())).into(),
            time(clock.timestamp(server.since_us())).into(),
            0_u32.into(),
            0_u32.into(),
            u32::from(server.is_close_needed()).into(),
            format!("S{}", server.id()).into(),
            linked
                .map(|c| format!("C{}", c.id()))
                .unwrap_or_default()
                .into(),
            origin.pid.into(),
            origin.tls.as_str().into(),
            name.unwrap_or_default().into(),
            server.prepared().into(),
            server.id().into(),
        ]
    }
}

fn tenant_text(router: &Router, client: &ClientRecord) -> Option<String> {
    let key = router.fleet.current().settings.tenant_key;
    let tenant = client.changing().tenant?;
    Some(tenant.display(key).to_string())
}

fn address(address: Option<SocketAddr>) -> Cell {
    match address {
        Some(address) => address.ip().to_string().into(),
        None => "unix".into(),
    }
}

fn port(address: Option<SocketAddr>) -> Cell {
    address.map_or(0, |address| address.port()).into()
}
