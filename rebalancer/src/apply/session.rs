//! The session that writes: a replica's, so that no trigger fires and no foreign key is checked.
//!
//! Statements are prepared once for each shape and sent many in one write. A transaction here holds whole transactions of
//! the source and the progress they make; the number of rows of every statement is known before it commits.

use std::collections::{HashMap, VecDeque};

use tenantry_wire::backend;
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::replication::Lsn;
use tenantry_wire::sql::quote_literal;
use tenantry_wire::tag::backend as tag;
use uuid::Uuid;

use super::batch::{Statement, shown};
use super::error::ApplyError;
use super::row::{Row, Value};
use super::sql::{self, Kind};
use super::target::{Target, Targets};
use crate::replication::{Link, LinkError, link::unexpected};
use crate::shard::ShardEndpoint;

/// What the planner may not do: rows are named by keys, and a plan is made once, perhaps before the table has rows or
/// statistics. What remains is to look keys up in an index, one after another in the order of the values.
const PLANNING: &[(&str, &str)] = &[
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_bitmapscan", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("jit", "off"),
    // Progress is told to the source, which forgets what was applied: a commit must be safe when it is answered.
    ("synchronous_commit", "on"),
];
/// Rows of one statement, largest first.
const BUCKETS: &[usize] = &[256, 64, 16, 4, 1];
/// Parameters of one statement, a limit of the protocol.
const PARAMETERS_MAX: usize = 65_535;
/// Statements of one write: their answers stay far below what sockets hold.
const PIPELINE_MAX: usize = 512;

const BEGIN: &str = "begin";
const COMMIT: &str = "commit";
const PROGRESS: &str = "progress";

/// Where a stream is: the row of `tenantry.move_progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) applied: Lsn,
    /// The fence marker that was reached and not lifted.
    pub(super) marker: Option<Uuid>,
}

/// Whose progress it is, and of what.
#[derive(Debug, Clone)]
pub(super) struct ProgressKey {
    pub(super) move_id: Uuid,
    pub(super) direction: &'static str,
    pub(super) tenant: String,
    /// Rows may be absent, see [`super::ApplierConfig::is_partial`].
    pub(super) is_partial: bool,
}

#[derive(Debug)]
pub(super) struct Session {
    link: Link,
    key: ProgressKey,
    progress: Option<Progress>,
    /// Names of prepared statements, by shape.
    prepared: HashMap<(usize, Kind, usize), String>,
    in_transaction: bool,
}

/// A statement that was sent and not answered yet.
#[derive(Debug)]
enum Sent {
    /// BEGIN or COMMIT.
    Control,
    Rows {
        target: usize,
        command: &'static str,
        expected: u64,
        /// The key of its first row, or the whole row.
        first: String,
        may_miss: bool,
    },
    Progress,
}

impl Session {
    /// Opens the session and reads how far the stream was applied.
    ///
    /// # Errors
    /// The destination cannot be reached or refuses.
    pub(super) async fn open(
        endpoint: &ShardEndpoint,
        key: ProgressKey,
    ) -> Result<Self, ApplyError> {
        let opened = Self::prepare(endpoint, key).await;
        opened.map_err(ApplyError::Destination)
    }

    async fn prepare(endpoint: &ShardEndpoint, key: ProgressKey) -> Result<Self, LinkError> {
        let mut link = Link::open(endpoint, PLANNING).await?;
        link.simple("SET session_replication_role = replica")
            .await?;
        let rows = link
            .simple(&format!(
                "SELECT applied_lsn, marker_nonce FROM tenantry.move_progress \
                 WHERE move_id = '{}' AND direction = {}",
                key.move_id,
                quote_literal(key.direction)
            ))
            .await?;
        let value = |column: usize| rows.first().and_then(|row| row.get(column)?.as_deref());
        let progress = value(0)
            .and_then(|text| text.parse().ok())
            .map(|applied| Progress {
                applied,
                marker: value(1).and_then(|text| text.parse().ok()),
            });
        let mut session = Self {
            link,
            key,
            progress,
            prepared: HashMap::new(),
            in_transaction: false,
        };
        for (name, text) in [
            (BEGIN, "BEGIN"),
            (COMMIT, "COMMIT"),
            (PROGRESS, include_str!("progress.sql")),
        ] {
            frontend::put_parse(session.link.output(), name, text, &[]);
        }
        session
            .sync(VecDeque::new(), None)
            .await
            .map_err(|error| match error {
                ApplyError::Destination(error) => error,
                _ => LinkError::Unexpected(char::from(tag::COMMAND_COMPLETE)),
            })?;
        Ok(session)
    }

    /// How far the stream was applied; none if it never was.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.progress
    }

    /// A transaction is open that only [`Session::commit`] ends well.
    pub(super) fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Runs statements in the open transaction, or begins one.
    ///
    /// # Errors
    /// The destination refuses or has other rows than the source; the session is of no use then.
    pub(super) async fn apply(
        &mut self,
        targets: &Targets,
        statements: Vec<Statement>,
    ) -> Result<(), ApplyError> {
        let mut sent = self.begin();
        for statement in statements {
            self.send(targets, &statement, &mut sent).await?;
        }
        self.sync(sent, Some(targets)).await
    }

    /// Runs the rest of a group, stores its progress and commits.
    ///
    /// # Errors
    /// As [`Session::apply`], or somebody else has stored progress.
    pub(super) async fn commit(
        &mut self,
        targets: &Targets,
        statements: Vec<Statement>,
        progress: Progress,
    ) -> Result<(), ApplyError> {
        let mut sent = self.begin();
        for statement in statements {
            self.send(targets, &statement, &mut sent).await?;
        }
        self.put_progress(progress);
        sent.push_back(Sent::Progress);
        self.sync(sent, Some(targets)).await?;

        self.put_execute(COMMIT, &[]);
        self.sync(VecDeque::from([Sent::Control]), None).await?;
        self.in_transaction = false;
        self.progress = Some(progress);
        Ok(())
    }

    fn begin(&mut self) -> VecDeque<Sent> {
        let mut sent = VecDeque::new();
        if !self.in_transaction {
            self.put_execute(BEGIN, &[]);
            sent.push_back(Sent::Control);
            self.in_transaction = true;
        }
        sent
    }

    /// Sends a statement in pieces of known shapes.
    async fn send(
        &mut self,
        targets: &Targets,
        statement: &Statement,
        sent: &mut VecDeque<Sent>,
    ) -> Result<(), ApplyError> {
        let target = targets.target(statement.target);
        let mut rows = statement.rows.as_slice();
        while !rows.is_empty() {
            let (piece, rest) = rows.split_at(bucket(target, &statement.kind, rows.len()));
            rows = rest;
            self.put_rows(target, statement, piece);
            sent.push_back(Sent::Rows {
                target: statement.target,
                command: statement.kind.name(),
                expected: piece.len() as u64,
                first: first_key(target, &statement.kind, piece),
                may_miss: self.key.is_partial
                    && matches!(statement.kind, Kind::Update { .. } | Kind::Delete),
            });
            if sent.len() >= PIPELINE_MAX {
                self.sync(std::mem::take(sent), Some(targets)).await?;
            }
        }
        Ok(())
    }

    fn put_rows(&mut self, target: &Target, statement: &Statement, rows: &[Row]) {
        let shape = (statement.target, statement.kind.clone(), rows.len());
        let number = self.prepared.len();
        let mut parse = None;
        let name = self.prepared.entry(shape).or_insert_with(|| {
            parse = Some(sql::statement(target, &statement.kind, rows.len()));
            format!("s{number}")
        });
        let name = name.clone();
        if let Some(text) = parse {
            frontend::put_parse(self.link.output(), &name, text, &[]);
        }
        let values: Vec<_> = rows.iter().flatten().map(Value::parameter).collect();
        self.put_execute(&name, &values);
    }

    fn put_progress(&mut self, progress: Progress) {
        let move_id = self.key.move_id.to_string();
        let tenant = self.key.tenant.clone();
        let applied = progress.applied.to_string();
        let marker = progress.marker.map(|nonce| nonce.to_string());
        let before = self.progress.map(|progress| progress.applied.to_string());
        let direction = self.key.direction;
        self.put_execute(
            PROGRESS,
            &[
                Some(move_id.as_bytes()),
                Some(direction.as_bytes()),
                Some(tenant.as_bytes()),
                Some(applied.as_bytes()),
                marker.as_deref().map(str::as_bytes),
                before.as_deref().map(str::as_bytes),
            ],
        );
    }

    fn put_execute(&mut self, statement: &str, parameters: &[Option<&[u8]>]) {
        let out = self.link.output();
        frontend::put_bind(out, "", statement, parameters, Format::Text);
        frontend::put_execute(out, "", 0);
    }

    /// Sends everything and reads the answers.
    async fn sync(
        &mut self,
        mut sent: VecDeque<Sent>,
        targets: Option<&Targets>,
    ) -> Result<(), ApplyError> {
        frontend::put_sync(self.link.output());
        self.link.flush().await.map_err(ApplyError::Destination)?;
        loop {
            let message = match self.link.receive().await {
                Ok(message) => message,
                Err(error) => return Err(refused(error, sent.front(), targets)),
            };
            match message.tag {
                tag::PARSE_COMPLETE | tag::BIND_COMPLETE => {}
                tag::COMMAND_COMPLETE => {
                    let command = backend::command_complete(message.body())?;
                    let Some(statement) = sent.pop_front() else {
                        return Err(ApplyError::Destination(unexpected(&message)));
                    };
                    self.check(statement, command, targets)?;
                }
                tag::READY_FOR_QUERY if sent.is_empty() => return Ok(()),
                _ => return Err(ApplyError::Destination(unexpected(&message))),
            }
        }
    }

    /// An update or delete must meet exactly the rows that changed on the source.
    fn check(
        &self,
        statement: Sent,
        command: &[u8],
        targets: Option<&Targets>,
    ) -> Result<(), ApplyError> {
        let affected = affected(command);
        match statement {
            Sent::Progress if affected != 1 => Err(ApplyError::Overtaken {
                expected: self
                    .progress
                    .map_or(Lsn::INVALID, |progress| progress.applied),
            }),
            Sent::Rows {
                target,
                command,
                expected,
                first,
                may_miss,
            } if affected != expected && !(may_miss && affected < expected) => {
                Err(ApplyError::RowCount {
                    table: relation(targets, target),
                    command,
                    expected,
                    affected,
                    key: first,
                })
            }
            _ => Ok(()),
        }
    }
}

/// What the destination's refusal of a statement means.
fn refused(error: LinkError, statement: Option<&Sent>, targets: Option<&Targets>) -> ApplyError {
    let integrity = error.code().is_some_and(|code| code.starts_with("23"));
    match statement {
        Some(Sent::Rows {
            target, command, ..
        }) if integrity => ApplyError::Conflict {
            table: relation(targets, *target),
            command,
            source: error,
        },
        _ => ApplyError::Destination(error),
    }
}

fn relation(targets: Option<&Targets>, target: usize) -> String {
    targets.map_or_else(String::new, |targets| {
        targets.target(target).table.relation()
    })
}

fn bucket(target: &Target, kind: &Kind, rows: usize) -> usize {
    if matches!(kind, Kind::Rewrite { .. }) {
        return 1;
    }
    let width = kind.width(target).max(1);
    let fits = |size: &usize| *size <= rows && *size * width <= PARAMETERS_MAX;
    BUCKETS.iter().copied().find(fits).unwrap_or(1)
}

fn first_key(target: &Target, kind: &Kind, rows: &[Row]) -> String {
    let row = rows.first().map(AsRef::as_ref).unwrap_or_default();
    if kind.has_key() {
        shown(row.get(..target.key.len()).unwrap_or_default())
    } else {
        shown(&target.key_of(row))
    }
}

/// The number at the end of a command tag.
fn affected(command: &[u8]) -> u64 {
    let text = std::str::from_utf8(command).unwrap_or_default();
    let number = text
        .rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok());
    number.unwrap_or(0)
}
