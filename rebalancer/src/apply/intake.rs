//! Turns the messages of a stream into groups of changes: pure, but for the files of large transactions.
//!
//! Only whole transactions of the source count. One that comes whole is held back until its end is there; one that comes
//! in pieces is kept by a [`Spool`] until it commits. What a transaction means for the move is read from it in the order
//! of commits, and nothing else moves the phase.

use std::collections::HashMap;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tenantry_wire::replication::{Change, Decoder, Lsn, OldTuple, PgOutput, Timestamp, Tuple};
use uuid::Uuid;

use super::batch::{Batch, Statement};
use super::error::ApplyError;
use super::marker::{Identity, Signs};
use super::row::{Op, Value};
use super::spool::{Replay, Spool};
use super::status::ApplyPhase;
use super::target::{Bound, BoundTable, Targets};

/// Changes of a group, and bytes of their values, from which on it is applied rather than added to.
const GROUP_OPS: usize = 4096;
const GROUP_BYTES: usize = 8 << 20;

/// What a message led to.
#[derive(Debug)]
pub(super) enum Taken {
    /// Nothing further.
    Done,
    /// A transaction that came in pieces has committed: give its messages to [`Intake::replayed`], then call
    /// [`Intake::complete`].
    Replay(Replay),
    /// The message begins a transaction that must wait: it committed behind the position to halt at.
    Held(Bytes),
}

/// A transaction of which messages are being read.
#[derive(Debug)]
struct Open {
    end_lsn: Lsn,
    committed_at: Timestamp,
    /// It was applied before.
    skipped: bool,
    signs: Signs,
    changes: u64,
    /// Changes that are not part of the group yet.
    held: Vec<(usize, Op)>,
    held_bytes: usize,
    /// Some of its changes are part of the group: the group cannot end before it does.
    joined: bool,
}

/// What the transactions of a group add up to, besides their rows.
#[derive(Debug, Default, Clone)]
pub(super) struct Group {
    /// End of the last complete transaction.
    pub(super) end: Lsn,
    pub(super) committed_at: Option<Timestamp>,
    pub(super) transactions: u64,
    pub(super) changes: u64,
    pub(super) probe: Option<u64>,
    /// There is something to store: rows, a marker, a probe.
    pub(super) matters: bool,
}

/// What an [`Intake`] needs to know.
#[derive(Debug, Clone)]
pub(super) struct IntakeOptions {
    pub(super) targets: Arc<Targets>,
    pub(super) who: Identity,
    /// What committed before was applied.
    pub(super) applied: Lsn,
    pub(super) phase: ApplyPhase,
    pub(super) marker: Option<Uuid>,
    pub(super) in_order: bool,
    pub(super) spill_dir: PathBuf,
    pub(super) memory_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Intake {
    options: IntakeOptions,
    decoder: Decoder,
    relations: HashMap<u32, Bound>,
    /// The transaction whose piece is being read.
    piece: Option<u32>,
    spools: HashMap<u32, Spool>,
    open: Option<Open>,
    batch: Batch,
    group: Group,
    halt_at: Option<Lsn>,
}

impl Intake {
    pub(super) fn new(options: IntakeOptions) -> Self {
        Self {
            decoder: Decoder::new(),
            relations: HashMap::new(),
            piece: None,
            spools: HashMap::new(),
            open: None,
            batch: Batch::new(Arc::clone(&options.targets), options.in_order),
            group: Group {
                end: options.applied,
                ..Group::default()
            },
            halt_at: None,
            options,
        }
    }

    pub(super) fn phase(&self) -> ApplyPhase {
        self.options.phase
    }

    pub(super) fn marker(&self) -> Option<Uuid> {
        self.options.marker
    }

    /// Transactions that committed here or behind it wait.
    pub(super) fn halt_at(&mut self, position: Option<Lsn>) {
        self.halt_at = position;
    }

    /// No transaction is being read, and none is waiting to be applied.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.group.transactions == 0
    }

    /// There is a group, and it can end here.
    pub(super) fn can_commit(&self) -> bool {
        self.group.transactions > 0 && self.open.as_ref().is_none_or(|open| !open.joined)
    }

    /// Whatever comes next should wait until what there is has been applied.
    pub(super) fn is_full(&self) -> bool {
        self.batch.ops() >= GROUP_OPS
            || self.batch.bytes() >= GROUP_BYTES
            || matches!(self.options.phase, ApplyPhase::Ended)
    }

    /// Bytes kept of transactions that still run.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.spools.values().map(Spool::bytes).sum()
    }

    /// From the next group on, changes of the same row are folded again.
    pub(super) fn fold(&mut self) {
        self.options.in_order = false;
        self.batch.fold_from_now_on();
    }

    /// The group's statements so far.
    pub(super) fn statements(&mut self) -> Vec<Statement> {
        self.batch.take()
    }

    /// Ends the group.
    pub(super) fn take_group(&mut self) -> Group {
        let next = Group {
            end: self.group.end,
            ..Group::default()
        };
        mem::replace(&mut self.group, next)
    }

    /// Reads the stream's next message.
    ///
    /// # Errors
    /// The message makes no sense, or says that the move cannot go on.
    pub(super) fn take(&mut self, message: Bytes) -> Result<Taken, ApplyError> {
        match self.decoder.decode(&message)? {
            PgOutput::Begin { final_lsn, .. }
            | PgOutput::StreamCommit {
                commit_lsn: final_lsn,
                ..
            } if self.halt_at.is_some_and(|halt| final_lsn >= halt) => {
                return Ok(Taken::Held(message));
            }
            PgOutput::Begin {
                final_lsn,
                committed_at,
                ..
            } => self.begin(final_lsn, Lsn::INVALID, committed_at)?,
            PgOutput::Commit { end_lsn, .. } => {
                let open = self.open.as_mut();
                open.ok_or(ApplyError::Malformed("a commit without a transaction"))?
                    .end_lsn = end_lsn;
                self.complete()?;
                return Ok(Taken::Done);
            }
            PgOutput::StreamStart { xid, .. } => {
                self.piece = Some(xid);
                self.spools.entry(xid).or_default();
            }
            PgOutput::StreamStop => self.piece = None,
            PgOutput::StreamAbort { xid, subxid } => self.stream_abort(xid, subxid)?,
            PgOutput::StreamCommit {
                xid,
                commit_lsn,
                end_lsn,
                committed_at,
            } => {
                self.begin(commit_lsn, end_lsn, committed_at)?;
                let spool = self.spools.remove(&xid).unwrap_or_default();
                return spool.replay().map(Taken::Replay).map_err(ApplyError::Spool);
            }
            PgOutput::Origin { .. } => {}
            PgOutput::Change { xid: Some(xid), .. } => self.keep(xid, message.clone())?,
            PgOutput::Change { xid: None, change } => self.change(&message, change)?,
        }
        Ok(Taken::Done)
    }

    /// Reads a message of a transaction that came in pieces and has committed.
    ///
    /// # Errors
    /// As [`Intake::take`].
    pub(super) fn replayed(&mut self, message: &Bytes) -> Result<(), ApplyError> {
        match Decoder::inside_piece().decode(message)? {
            PgOutput::Change { change, .. } => self.change(message, change),
            _ => Err(ApplyError::Malformed(
                "something else than changes in a piece",
            )),
        }
    }

    /// Lets the transaction being read become part of the group at once, because it is large.
    ///
    /// # Errors
    /// Its changes contradict each other.
    pub(super) fn join(&mut self) -> Result<(), ApplyError> {
        if let Some(open) = &mut self.open {
            open.joined = true;
            open.held_bytes = 0;
            for (target, op) in open.held.drain(..) {
                self.batch.push(target, op)?;
            }
        }
        Ok(())
    }

    /// The transaction being read is complete.
    ///
    /// # Errors
    /// Its changes contradict each other.
    pub(super) fn complete(&mut self) -> Result<(), ApplyError> {
        self.join()?;
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        self.group.end = self.group.end.max(open.end_lsn);
        self.group.transactions += 1;
        if open.skipped {
            return Ok(());
        }
        self.group.committed_at = Some(open.committed_at);
        self.group.changes += open.changes;
        self.group.matters |= open.changes > 0;
        self.obey(&open.signs);
        Ok(())
    }

    /// What a complete transaction means for the move.
    fn obey(&mut self, signs: &Signs) {
        let who = &self.options.who;
        if let Some(probe) = signs.probe {
            self.group.probe = Some(probe);
            self.group.matters |= self.options.phase != ApplyPhase::Discarding;
        }
        let (phase, marker) = match self.options.phase {
            ApplyPhase::Discarding if signs.flipped(who) => (ApplyPhase::Applying, None),
            ApplyPhase::Applying => match signs.fenced(who) {
                Some(nonce) => (ApplyPhase::Fenced, Some(nonce)),
                None => return,
            },
            ApplyPhase::Fenced if signs.moved(who) => {
                // Nothing to store: the tenant may be active on the other side by now.
                self.options.phase = ApplyPhase::Ended;
                return;
            }
            ApplyPhase::Fenced if signs.active() => (ApplyPhase::Applying, None),
            _ => return,
        };
        self.options.phase = phase;
        self.options.marker = marker;
        self.group.matters = true;
    }

    fn begin(
        &mut self,
        commit_lsn: Lsn,
        end_lsn: Lsn,
        committed_at: Timestamp,
    ) -> Result<(), ApplyError> {
        if self.open.is_some() {
            return Err(ApplyError::Malformed("a transaction inside another"));
        }
        self.open = Some(Open {
            end_lsn,
            committed_at,
            skipped: commit_lsn < self.options.applied,
            signs: Signs::default(),
            changes: 0,
            held: Vec::new(),
            held_bytes: 0,
            joined: false,
        });
        Ok(())
    }

    fn stream_abort(&mut self, xid: u32, subxid: u32) -> Result<(), ApplyError> {
        if xid == subxid {
            self.spools.remove(&xid);
        } else if let Some(spool) = self.spools.get_mut(&xid) {
            spool.roll_back(subxid).map_err(ApplyError::Spool)?;
        }
        Ok(())
    }

    /// Keeps a message of a transaction that still runs.
    fn keep(&mut self, part: u32, message: Bytes) -> Result<(), ApplyError> {
        let piece = self.piece.and_then(|xid| self.spools.get_mut(&xid));
        let spool = piece.ok_or(ApplyError::Malformed("a piece without a transaction"))?;
        spool.push(part, message).map_err(ApplyError::Spool)?;
        let in_memory: u64 = self.spools.values().map(Spool::memory_bytes).sum();
        if in_memory > self.options.memory_bytes
            && let Some(largest) = self
                .spools
                .values_mut()
                .max_by_key(|spool| spool.memory_bytes())
        {
            largest
                .spill(&self.options.spill_dir)
                .map_err(ApplyError::Spool)?;
        }
        Ok(())
    }

    fn change(&mut self, message: &Bytes, change: Change<'_>) -> Result<(), ApplyError> {
        match change {
            Change::Relation(relation) => {
                let before = self.relations.get(&relation.oid);
                let bound = Bound::new(&self.options.targets, &relation, before)?;
                self.relations.insert(relation.oid, bound);
                Ok(())
            }
            Change::Type { .. } => Ok(()),
            Change::Insert { relation, new } => self.row(message, relation, RowChange::Insert(new)),
            Change::Update { relation, old, new } => {
                self.row(message, relation, RowChange::Update(old, new))
            }
            Change::Delete { relation, old } => self.row(message, relation, RowChange::Delete(old)),
            Change::Truncate { relations, .. } => self.truncated(&relations),
            // One outside a transaction is not part of the order of commits and means nothing.
            Change::Message(text) => {
                let who = &self.options.who;
                if let Some(open) = self.open.as_mut().filter(|open| !open.skipped) {
                    open.signs.message(who, &text);
                }
                Ok(())
            }
        }
    }

    fn row(
        &mut self,
        message: &Bytes,
        relation: u32,
        change: RowChange<'_>,
    ) -> Result<(), ApplyError> {
        let unknown = ApplyError::Malformed("rows of a table that it has not described");
        let bound = self.relations.get(&relation).ok_or(unknown)?;
        let outside = ApplyError::Malformed("rows outside a transaction");
        let open = self.open.as_mut().ok_or(outside)?;
        if open.skipped {
            return Ok(());
        }
        let table = match bound {
            Bound::Owner(columns) => {
                if let RowChange::Insert(new) | RowChange::Update(_, new) = change {
                    open.signs.owner_changed(columns.row(new));
                }
                return Ok(());
            }
            Bound::Other { table } => {
                return Err(ApplyError::SchemaChanged {
                    table: table.clone(),
                    reason: "it is not known here".to_owned(),
                });
            }
            Bound::Table(table) => table,
        };
        match self.options.phase {
            ApplyPhase::Discarding => return Ok(()),
            ApplyPhase::Fenced | ApplyPhase::Ended => {
                return Err(ApplyError::BehindFence {
                    table: self.options.targets.target(table.target).table.relation(),
                });
            }
            _ => {}
        }
        let op = op(&self.options.targets, table, message, change)?;
        open.changes += 1;
        if open.joined {
            return self.batch.push(table.target, op);
        }
        open.held_bytes += op.bytes();
        open.held.push((table.target, op));
        if open.held.len() >= GROUP_OPS || open.held_bytes >= GROUP_BYTES {
            self.join()?;
        }
        Ok(())
    }

    fn truncated(&self, relations: &[u32]) -> Result<(), ApplyError> {
        let open = self.open.as_ref();
        if self.options.phase == ApplyPhase::Discarding || open.is_some_and(|open| open.skipped) {
            return Ok(());
        }
        let name = |oid: &u32| match self.relations.get(oid) {
            Some(Bound::Table(table)) => self.options.targets.target(table.target).table.relation(),
            Some(Bound::Owner(_)) => "tenantry.owner".to_owned(),
            Some(Bound::Other { table }) => table.clone(),
            None => format!("table {oid}"),
        };
        Err(ApplyError::Truncated {
            tables: relations.iter().map(name).collect(),
        })
    }
}

/// What happened to a row, as the stream has it.
#[derive(Debug, Clone, Copy)]
enum RowChange<'a> {
    Insert(Tuple<'a>),
    Update(Option<OldTuple<'a>>, Tuple<'a>),
    Delete(OldTuple<'a>),
}

fn op(
    targets: &Targets,
    table: &BoundTable,
    message: &Bytes,
    change: RowChange<'_>,
) -> Result<Op, ApplyError> {
    let target = targets.target(table.target);
    Ok(match change {
        RowChange::Insert(new) => {
            let new = table.row(targets, message, new)?;
            // A row that an update let into the filter comes as a new one, without what did not change.
            if new.contains(&Value::Unchanged) {
                return Err(ApplyError::Incomplete {
                    table: target.table.relation(),
                });
            }
            Op::Insert(new)
        }
        RowChange::Update(old, new) => {
            let new = table.row(targets, message, new)?;
            let old_key = old
                .map(|old| table.old_key(targets, message, old))
                .transpose()?;
            if old_key.is_none() && target.key.is_empty() {
                return Err(ApplyError::Key {
                    table: target.table.relation(),
                });
            }
            Op::Update {
                // A full identity always comes with the old row, most often with the same key.
                old_key: old_key.filter(|key| *key != target.key_of(&new)),
                new,
            }
        }
        RowChange::Delete(old) => Op::Delete {
            key: table.old_key(targets, message, old)?,
        },
    })
}
