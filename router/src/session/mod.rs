//! One client's session: what it sends, what it may see, and which server connection serves it.
//!
//! [`Session`] is sans-IO: client bytes and server bytes go in, bytes for both come out, and it
//! says when it needs a server connection ([`Next::Acquire`]) and when it no longer does. Sockets,
//! waiting and timeouts are the [`driver`]'s.
//!
//! Two rules hold everything together. Statements that only pass through may be pipelined freely;
//! a statement that the router runs itself waits until nothing is outstanding ([`Session::settled`]).
//! And whatever is sent has an entry in [`Expects`], so that every reply finds its place.

mod again;
mod client;
mod comment;
mod copy;
mod describe;
pub(crate) mod driver;
mod effects;
mod errors;
mod expect;
mod extended;
mod kept;
mod listen;
mod lost;
mod observe;
mod overtime;
mod portals;
mod probe;
mod prologue;
mod read_only;
mod replay;
mod replies;
mod resets;
mod router_settings;
mod script;
mod settings_seen;
mod simple;
mod special;
mod sql_statements;
mod state;
mod statements;
#[cfg(test)]
mod tests;
mod transactions;
mod turn;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tenantry_schema::fleet::{Fleet, PoolMode, Role};
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::TenantId;
use tenantry_wire::backend::{self, ErrorFields, TxStatus};
use tenantry_wire::frame;

pub(crate) use self::again::Kept;
pub(crate) use self::observe::Observed;
pub(crate) use self::probe::Turned;
pub(crate) use self::special::unsafe_encoding;
pub(crate) use self::state::{Assigned, Settings};

use self::again::Again;
use self::expect::{Expect, Expects};
use self::probe::Asked;
use self::replay::Replay;
use self::script::Script;
use self::state::{State, View};
use self::statements::Statements;
use crate::Severity;
use crate::activity::ClientState;
use crate::error::Refusal;
use crate::limits::Killed;
use crate::server::{Registry, ServerState};

/// A portal that no client can have made: executing it makes the server roll back.
const ABORT_PORTAL: &str = "_tenantry_abort";
/// The router's portal while the unnamed one is the client's.
const OWN_PORTAL: &str = "_tenantry_own";

/// What a session needs next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Something was done; ask again.
    More,
    /// Nothing to do until bytes arrive from either side.
    Wait,
    /// A server connection for this tenant (`None`: any shard) must be attached first.
    Acquire(Option<TenantId>),
    /// The session ends once its output is written.
    Close,
}

/// The transaction as the client sees it.
#[derive(Debug)]
pub(crate) enum Tx {
    Idle,
    /// BEGIN was answered; it and what followed travel with the first statement.
    Deferred {
        prologue: Vec<String>,
    },
    /// Open on the server.
    Open {
        /// The texts that opened it, to begin anew elsewhere while nothing happened in it.
        prologue: Vec<String>,
        /// Only reads ran so far, and no tenant was bound.
        restartable: bool,
    },
    /// The server waits for ROLLBACK.
    Failed,
    /// The router waits for ROLLBACK: it refused a statement, or the server is gone.
    FailedHere {
        /// The server still has the transaction open.
        open_on_server: bool,
        /// The texts of a transaction that never reached a server: from a savepoint among them it
        /// can go on.
        deferred: Vec<String>,
    },
}

/// Progress of a batch of the extended protocol, or of one simple Query.
#[derive(Debug, Default)]
struct Batch {
    /// Messages were sent to the server since the last Sync.
    forwarded: bool,
    /// An error ended it: what follows up to Sync is skipped.
    skip: bool,
    /// Something in it failed, so an implicit transaction rolls back.
    failed: bool,
    /// The router refused something that the server does not know of: before Sync it must be made
    /// to roll back.
    abort: bool,
    /// A Flush is on its way to get outstanding replies.
    flushed: bool,
    /// A COMMIT or ROLLBACK was sent and no Sync after it.
    ended: bool,
    /// It is a simple Query of several statements, which run one by one.
    split: bool,
    /// Characters of the Query before the statement that runs.
    before: usize,
    /// What its Query needs in force is brought into force first, in a transaction of its own,
    ahead: bool,
    /// and that failed, and the client has the error.
    ahead_failed: bool,
    /// A statement of the extended protocol was run in it.
    executed: bool,
}

/// What a session shares with its router; immutable but for what carries its own lock.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) fleet: Arc<crate::fleet::FleetWatch>,
    pub(crate) message_bytes_max: usize,
    /// Whether a session that waits gives the memory of its buffers back.
    pub(crate) lends_buffers: bool,
}

/// Who the client is; fixed at startup.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) session: u64,
    pub(crate) role: Arc<Role>,
    /// Bound by the connection and not to be changed.
    pub(crate) bound: Option<TenantId>,
}

impl Identity {
    /// The process id that the client was told.
    fn pid(&self) -> i32 {
        // Made of a process id, which is not negative.
        i32::try_from(self.session).unwrap_or_default()
    }
}

/// State of one client session.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    identity: Identity,
    state: State,
    tx: Tx,
    batch: Batch,
    expects: Expects,
    statements: Statements,
    script: Option<Script>,
    /// Bytes for the client.
    pub(crate) output: BytesMut,
    /// Bytes of a large server message still to be passed on as they come.
    passing: usize,
    /// Bytes of a large client message still to be passed on as they come.
    passing_in: usize,
    /// The large message goes to the server; otherwise it is dropped.
    passing_in_open: bool,
    /// The server reads a COPY stream.
    copy_in: bool,
    /// A COPY FROM STDIN was sent and has not been answered.
    copy_starting: bool,
    /// A simple Query runs by extended protocol: the router owes the server a Sync.
    sync_owed: bool,
    /// A prologue was sent and the ReadyForQuery behind it has not come.
    unproven: bool,
    /// CommandComplete that waits for ReadyForQuery.
    withheld: Option<Bytes>,
    /// Notifications that came behind the CommandComplete that waits.
    behind_withheld: BytesMut,
    /// The server's name of the channel that the next LISTEN is about.
    channel_found: Option<listen::ChannelFound>,
    /// What a server said as it ended the session there.
    last_words: Option<ErrorFields>,
    /// RowDescription that waits for a result.
    description: Option<Bytes>,
    /// Reported settings as the client knows them.
    reported: View,
    /// Among them [`settings_seen::STRINGS`], which every statement asks for.
    scs: bool,
    /// What the server has reported in the middle of a Query that runs statement by statement: news at its end.
    late_reports: BTreeMap<String, String>,
    /// A rollback took settings with it that the router had brought into force: what the server reports then is not
    /// the client's, which is to know this instead.
    reverted: Option<View>,
    /// The session must keep its server connection.
    pinned: bool,
    /// Cursors that outlive their transaction; the session keeps its connection while there are any.
    held_cursors: HashSet<String>,
    /// The server's unnamed portal is the client's; what the router runs itself uses that name too.
    unnamed_portal: bool,
    /// The unnamed portal is that of a simple Query which the router refused.
    failed_portal: bool,
    /// A statement outside a transaction, or a COMMIT, is in flight: if the server is lost its
    /// outcome is unknown.
    outcome_open: bool,
    /// The transaction was lost while nothing ran: the next error says why.
    lost: Option<Refusal>,
    /// The request that runs again.
    again: Option<Box<Again>>,
    /// The client has asked for the description of a portal.
    describes_portals: bool,
    /// What runs has been cancelled by the router: the error says why.
    overdue: Option<Box<Refusal>>,
    /// The next transaction waits until this one's replies are here and its server connection is given up.
    pauses: bool,
    /// Why the tenant's transactions only read, if so.
    read_only: Option<Box<Killed>>,
    /// Requests answered and transactions ended; they wrap.
    progress: (u32, u32),
    closing: bool,
    /// Whether the message that waits for a server connection is ordinary, see [`tenantry_wire::sql::is_ordinary`].
    looked_at: Option<bool>,
    /// The shard that serves this session while it has no tenant. One and the same, because what
    /// drivers ask the catalog then (oids of tables and types) differs from shard to shard.
    home: Option<ShardId>,
    /// The shard of the server connection that the session was given last.
    held: Option<ShardId>,
    /// What the client sends is kept while its transaction may have to begin again,
    keeps_messages: bool,
    /// here,
    replay: Option<Box<Replay>>,
    /// unless the client has been sent something of it: bytes so far.
    sent: u64,
    /// The guard is asked before each transaction, because the tenant moves,
    probes: bool,
    /// but not before this one.
    shuns_probe: bool,
    /// It has been asked.
    asked: Option<Box<Asked>>,
    /// It has answered, in a transaction that is open for the client's message.
    entered: bool,
    /// The transaction did not begin.
    turned: Option<Turned>,
    counts: Counts,
    /// Statements are remembered for the log.
    observing: bool,
    observed: Option<Box<Observed>>,
}

/// What a session ran since it was last asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) statements: u64,
    pub(crate) transactions: u64,
    /// Rows that statements returned or changed, as their tags say.
    pub(crate) rows: u64,
    /// Errors that the client was sent, and the SQLSTATE of the last.
    pub(crate) errors: u64,
    pub(crate) sqlstate: Option<[u8; 5]>,
    /// Named statements: prepared by the client, prepared on a server, executed.
    pub(crate) client_parses: u64,
    pub(crate) server_parses: u64,
    pub(crate) binds: u64,
    /// Named statements that the client has now.
    pub(crate) named: usize,
}

impl Counts {
    fn error(&mut self, code: &str) {
        self.errors += 1;
        self.sqlstate = code.as_bytes().try_into().ok();
    }
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        identity: Identity,
        tenant: Option<TenantId>,
        settings: Settings,
        reported: Arc<BTreeMap<String, String>>,
    ) -> Self {
        Self {
            shared,
            identity,
            state: State::new(tenant, settings),
            tx: Tx::Idle,
            batch: Batch::default(),
            expects: Expects::default(),
            statements: Statements::default(),
            script: None,
            output: BytesMut::new(),
            passing: 0,
            passing_in: 0,
            passing_in_open: false,
            copy_in: false,
            copy_starting: false,
            sync_owed: false,
            unproven: false,
            withheld: None,
            behind_withheld: BytesMut::new(),
            channel_found: None,
            last_words: None,
            description: None,
            scs: reads_standard_strings(&reported),
            reported,
            late_reports: BTreeMap::new(),
            reverted: None,
            pinned: false,
            held_cursors: HashSet::new(),
            unnamed_portal: false,
            failed_portal: false,
            outcome_open: false,
            lost: None,
            again: None,
            describes_portals: false,
            overdue: None,
            pauses: false,
            read_only: None,
            progress: (0, 0),
            closing: false,
            looked_at: None,
            home: None,
            held: None,
            keeps_messages: false,
            replay: None,
            sent: 0,
            probes: false,
            shuns_probe: false,
            asked: None,
            entered: false,
            turned: None,
            counts: Counts::default(),
            observing: false,
            observed: None,
        }
    }

    pub(crate) fn fleet(&self) -> Arc<Fleet> {
        self.shared.fleet.current()
    }

    pub(crate) fn lends_buffers(&self) -> bool {
        self.shared.lends_buffers
    }

    pub(crate) fn home(&self) -> Option<ShardId> {
        self.home
    }

    /// The session has been given a connection to this shard.
    pub(crate) fn set_held(&mut self, shard: Option<ShardId>) {
        self.held = shard;
    }

    /// The shard of the server connection that the session was given last.
    pub(crate) fn held(&self) -> Option<ShardId> {
        self.held
    }

    /// Whether what the client sends has to be kept until it is known that its tenant is served.
    pub(crate) fn set_keeps_messages(&mut self, keeps: bool) {
        self.keeps_messages = keeps;
        if !keeps {
            self.replay = None;
        }
    }

    pub(crate) fn keeps_messages(&self) -> bool {
        self.keeps_messages
    }

    pub(crate) fn set_home(&mut self, shard: Option<ShardId>) {
        self.home = shard;
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Nothing is outstanding: the server has answered all that was sent.
    fn settled(&self) -> bool {
        self.expects.is_empty()
    }

    /// Whether the attached server connection may serve someone else now.
    pub(crate) fn is_releasable(&self) -> bool {
        !self.is_pinned() && self.is_at_rest() && !self.keeps_connection()
    }

    /// Whether the role's pool mode is `session`.
    pub(crate) fn is_session_pooled(&self) -> bool {
        self.identity.role.limits.pool_mode == PoolMode::Session
    }

    /// In pool mode `session` a connection stays with the session for as long as its tenant lives
    /// there; without a tenant there is nothing to keep.
    fn keeps_connection(&self) -> bool {
        self.is_session_pooled()
            && self.held.is_some()
            && self.state.tenant().and_then(|tenant| self.shard_of(tenant)) == self.held
    }

    fn shard_of(&self, tenant: TenantId) -> Option<ShardId> {
        let fleet = self.fleet();
        let record = fleet.directory.by_id(tenant)?;
        fleet.place(&record).map(|placement| placement.shard)
    }

    /// Whether the server owes nothing and keeps nothing for this session: outside any
    /// transaction, perhaps between two statements of one Query.
    fn is_at_rest(&self) -> bool {
        self.is_outside_server_transaction()
            && self.settled()
            && !self.batch.forwarded
            && !self.copy_in
            && !self.copy_starting
            && !self.sync_owed
            && !self.entered
            && self.passing_in == 0
    }

    fn is_outside_server_transaction(&self) -> bool {
        matches!(
            self.tx,
            Tx::Idle
                | Tx::Deferred { .. }
                | Tx::FailedHere {
                    open_on_server: false,
                    ..
                }
        )
    }

    /// Bytes that the client message at the front of the input takes as a whole.
    pub(crate) fn wanted(&self, input: &[u8]) -> usize {
        if self.passing_in > 0 {
            return 0;
        }
        match frame::peek(input, self.shared.message_bytes_max) {
            Ok(Some(head)) => head.total,
            _ => 0,
        }
    }

    /// Whether a client message has been passed on in part only.
    pub(crate) fn is_mid_message(&self) -> bool {
        self.passing > 0
    }

    /// Whether the server connection cannot be proven clean if the session ends now.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.settled()
            || self.batch.forwarded
            || self.copy_in
            || self.copy_starting
            || self.sync_owed
            || self.entered
            || self.passing > 0
            || self.passing_in > 0
    }

    /// Statements run since the counts were last taken.
    pub(crate) fn statements_run(&self) -> u64 {
        self.counts.statements
    }

    /// Whether the session is to give its server connection up between two transactions of a pipeline.
    pub(crate) fn set_pauses(&mut self, pauses: bool) {
        self.pauses = pauses;
    }

    /// Whether a pipeline stops here until what it has sent is answered.
    fn is_paused(&self) -> bool {
        self.pauses
            && matches!(self.tx, Tx::Idle)
            && !self.batch.forwarded
            && !self.sync_owed
            && !self.settled()
    }

    pub(crate) fn take_counts(&mut self) -> Counts {
        let mut counts = std::mem::take(&mut self.counts);
        counts.named = self.statements.len();
        counts
    }

    /// What the session does while it waits for bytes.
    pub(crate) fn activity(&self) -> ClientState {
        if !self.settled()
            || self.batch.forwarded
            || self.script.is_some()
            || self.again.is_some()
            || self.copy_in
        {
            return ClientState::Active;
        }
        match self.tx {
            Tx::Idle => ClientState::Idle,
            _ => ClientState::IdleInTransaction,
        }
    }

    /// Requests answered and transactions ended so far; they wrap.
    pub(crate) fn progress(&self) -> (u32, u32) {
        self.progress
    }

    pub(crate) fn tenant(&self) -> Option<TenantId> {
        self.state.tenant()
    }

    pub(crate) fn settings(&self) -> &Settings {
        self.state.settings()
    }

    /// Whether a stopping router may end the session now.
    pub(crate) fn is_drainable(&self) -> bool {
        self.is_at_rest()
            && self.script.is_none()
            && self.again.is_none()
            && matches!(self.tx, Tx::Idle)
    }

    /// The transaction status that the client is told.
    fn status(&self) -> TxStatus {
        match self.tx {
            Tx::Idle => TxStatus::Idle,
            Tx::Deferred { .. } | Tx::Open { .. } => TxStatus::InTransaction,
            Tx::Failed | Tx::FailedHere { .. } => TxStatus::Failed,
        }
    }

    fn scs(&self) -> bool {
        self.scs
    }

    /// Puts an answer of the router in its place among the server's replies.
    fn answer(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if self.settled() {
            write(&mut self.output);
        } else {
            let mut bytes = BytesMut::new();
            write(&mut bytes);
            self.expects.push(Expect::Local(bytes.freeze()));
        }
    }

    /// ReadyForQuery of the router's own, which ends an implicit transaction that never reached a
    /// server. Only valid when settled.
    fn ready(&mut self) {
        debug_assert!(self.settled(), "ReadyForQuery before its time");
        self.end_results();
        if matches!(self.tx, Tx::Idle) {
            self.end_implicit();
            self.clear_portals();
        }
        self.batch = Batch::default();
        self.again = None;
        self.replay = None;
        self.shuns_probe = false;
        let status = self.status();
        backend::put_ready(&mut self.output, status);
    }

    /// What was held back for the end of a Query.
    fn end_results(&mut self) {
        if let Some(withheld) = self.withheld.take()
            && !self.batch.failed
        {
            self.output.extend_from_slice(&withheld);
        }
        for (name, value) in std::mem::take(&mut self.late_reports) {
            if self.reported.get(&name) != Some(&value) {
                backend::put_parameter_status(&mut self.output, &name, &value);
                self.know(name, value);
            }
        }
    }

    /// The client knows this setting now.
    fn know(&mut self, name: String, value: String) {
        Arc::make_mut(&mut self.reported).insert(name, value);
        self.scs = reads_standard_strings(&self.reported);
    }

    fn end_implicit(&mut self) {
        if self.state.in_transaction() {
            if self.batch.failed {
                self.state.rollback();
            } else {
                self.state.commit();
            }
        }
    }

    /// Makes the tracked values transactional before the first statement of a batch.
    fn begin_implicit(&mut self) {
        if matches!(self.tx, Tx::Idle) && !self.state.in_transaction() {
            self.begin_state();
        }
    }

    /// What a rollback restores.
    fn begin_state(&mut self) {
        self.state.begin();
        self.note_view();
    }

    /// What the client knows now, or will at the end of its Query.
    fn note_view(&mut self) {
        if self.late_reports.is_empty() {
            self.state.note_view(&self.reported);
        } else {
            let mut view = View::clone(&self.reported);
            Arc::make_mut(&mut view).extend(self.late_reports.clone());
            self.state.note_view(&view);
        }
    }

    /// The error of a refused statement, and its effect on the transaction. Only valid when settled.
    fn refuse(&mut self, refusal: &Refusal) {
        tracing::debug!(name = refusal.name(), %refusal, "refused");
        self.counts.error(refusal.code());
        // A simple Query runs in the unnamed portal, which is there until the failed transaction ends.
        self.failed_portal |= self.script.is_some() && !matches!(self.tx, Tx::Idle);
        self.unnamed_portal |= self.failed_portal;
        backend::put_error(&mut self.output, &refusal.fields(Severity::Error));
        self.batch.failed = true;
        match &mut self.tx {
            Tx::Deferred { prologue } => {
                self.tx = Tx::FailedHere {
                    open_on_server: false,
                    deferred: std::mem::take(prologue),
                }
            }
            Tx::Open { .. } => {
                self.tx = Tx::FailedHere {
                    open_on_server: true,
                    deferred: Vec::new(),
                }
            }
            Tx::Idle => self.batch.abort = self.batch.forwarded || self.sync_owed,
            Tx::Failed | Tx::FailedHere { .. } => {}
        }
    }

    /// Ends the session with a FATAL error.
    pub(crate) fn fatal(&mut self, refusal: &Refusal) {
        if !self.is_mid_message() {
            backend::put_error(&mut self.output, &refusal.fields(Severity::Fatal));
        }
        self.closing = true;
    }

    /// Values for the shard and epoch settings of the router.
    fn placement(&self, tenant: TenantId) -> Option<(String, u64)> {
        let fleet = self.fleet();
        let record = fleet.directory.by_id(tenant)?;
        let placement = fleet.place(&record)?;
        let shard = fleet.shards.get(&placement.shard)?;
        Some((shard.name.to_string(), placement.epoch.0))
    }

    /// Notes a reported setting; answers whether the client must be told.
    fn note_reported(&mut self, server: &mut ServerState, name: &str, value: &str) -> bool {
        if server.parameters.get(name).map(String::as_str) != Some(value) {
            server.parameters.insert(name.to_owned(), value.to_owned());
        }
        if self.reported.get(name).map(String::as_str) == Some(value) {
            return false;
        }
        self.know(name.to_owned(), value.to_owned());
        true
    }
}

/// How string constants are read by a session that knows these settings.
fn reads_standard_strings(reported: &BTreeMap<String, String>) -> bool {
    reported
        .get(settings_seen::STRINGS)
        .is_none_or(|value| value == "on")
}
