//! The protocol of a console session: messages in, commands to run out, answers in, bytes out.
//!
//! Sans-IO. Simple and extended protocol, with PostgreSQL's rules for errors, Sync and transaction
//! status; transactions themselves mean nothing here, but drivers open them.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use tenantry_wire::backend::{self, ErrorFields, TxStatus};
use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{Bind, Execute, Format, Parse, Target, TargetKind, query_text};
use tenantry_wire::sqlstate;
use tenantry_wire::tag::frontend as tag;

use super::command::{Command, parse_all};
use super::complaint::Complaint;
use super::table::{Head, Table, put_heads, put_row};

/// Statements and portals of one session, each.
const NAMES_MAX: usize = 1024;

/// What a command came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) table: Option<Table>,
    /// The command tag; for a table the count of rows is added.
    pub(super) tag: &'static str,
    pub(super) notices: Vec<ErrorFields>,
    /// The session ends after this answer.
    pub(super) ends: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Run(Command),
    /// Write what is there and read more.
    Read,
    /// Write what is there and close.
    Close,
}

/// How the answer to the running command is shown.
#[derive(Debug)]
enum Running {
    Simple,
    Portal { name: Bytes, max_rows: i32 },
}

#[derive(Debug)]
enum Work {
    Command(Command),
    /// End of a simple Query.
    Ready,
}

#[derive(Debug, Clone)]
struct Statement {
    /// `None` for an empty text.
    command: Option<Command>,
}

#[derive(Debug)]
struct Portal {
    command: Option<Command>,
    formats: Vec<Format>,
    /// The answer, and how many of its rows were sent.
    answer: Option<(Outcome, usize)>,
}

/// One console session.
#[derive(Debug, Default)]
pub(super) struct Dialogue {
    pub(super) output: BytesMut,
    statements: HashMap<Bytes, Statement>,
    portals: HashMap<Bytes, Portal>,
    work: VecDeque<Work>,
    running: Option<Running>,
    /// An error in a batch: everything up to Sync is ignored.
    skip: bool,
    transaction: Transaction,
    closing: bool,
    /// The session ends with the next ReadyForQuery.
    leaving: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Transaction {
    #[default]
    None,
    Open,
    Failed,
}

impl Dialogue {
    /// Takes one message; call [`Dialogue::step`] until it wants to read.
    pub(super) fn handle(&mut self, message: &Message) {
        match message.tag {
            tag::TERMINATE => self.closing = true,
            tag::SYNC => {
                self.skip = false;
                if self.transaction == Transaction::None {
                    self.portals.clear();
                }
                self.ready();
            }
            tag::QUERY => {
                self.skip = false;
                self.query(message.body());
            }
            tag::FLUSH => {}
            _ if self.skip => {}
            _ => {
                if let Err(error) = self.extended(message) {
                    self.fail(&error);
                }
            }
        }
    }

    pub(super) fn step(&mut self) -> Step {
        loop {
            if self.closing {
                return Step::Close;
            }
            match self.work.pop_front() {
                Some(Work::Command(command)) => {
                    if self.refused_by_transaction(&command) {
                        let error = aborted();
                        self.fail(&error);
                        continue;
                    }
                    if self.running.is_none() {
                        self.running = Some(Running::Simple);
                    }
                    return Step::Run(command);
                }
                Some(Work::Ready) => self.ready(),
                None => return Step::Read,
            }
        }
    }

    /// The command that [`Dialogue::step`] gave out has been run.
    pub(super) fn ran(&mut self, command: &Command, result: Result<Outcome, Complaint>) {
        let running = self.running.take();
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => return self.fail(&error),
        };
        match command {
            Command::Begin => self.transaction = Transaction::Open,
            Command::Commit | Command::Rollback => self.transaction = Transaction::None,
            _ => {}
        }
        self.leaving |= outcome.ends;
        for notice in &outcome.notices {
            backend::put_notice(&mut self.output, notice);
        }
        match running {
            Some(Running::Portal { name, max_rows }) => {
                if let Some(portal) = self.portals.get_mut(&name) {
                    portal.answer = Some((outcome, 0));
                }
                self.continue_portal(&name, max_rows);
            }
            Some(Running::Simple) | None => self.show(&outcome),
        }
    }

    fn query(&mut self, body: &[u8]) {
        let commands = query_text(body)
            .map_err(|error| protocol_error(&error.to_string()))
            .and_then(|text| parse_all(&String::from_utf8_lossy(text)));
        match commands {
            Ok(commands) if commands.is_empty() => backend::put_empty_query(&mut self.output),
            Ok(commands) => self.work.extend(commands.into_iter().map(Work::Command)),
            Err(error) => self.error(&error),
        }
        self.work.push_back(Work::Ready);
    }

    fn extended(&mut self, message: &Message) -> Result<(), Complaint> {
        let malformed = |error: tenantry_wire::MessageError| protocol_error(&error.to_string());
        match message.tag {
            tag::PARSE => self.parse(Parse::decode(message.body()).map_err(malformed)?),
            tag::BIND => self.bind(&Bind::decode(message.body()).map_err(malformed)?),
            tag::DESCRIBE => self.describe(Target::decode(message.body()).map_err(malformed)?),
            tag::EXECUTE => {
                let execute = Execute::decode(message.body()).map_err(malformed)?;
                self.execute(Bytes::copy_from_slice(execute.portal), execute.max_rows)
            }
            tag::CLOSE => {
                let target = Target::decode(message.body()).map_err(malformed)?;
                match target.kind {
                    TargetKind::Statement => drop(self.statements.remove(target.name)),
                    TargetKind::Portal => drop(self.portals.remove(target.name)),
                }
                backend::put_close_complete(&mut self.output);
                Ok(())
            }
            other => {
                self.closing = true;
                let letter = std::ascii::escape_default(other);
                Err(Complaint::fatal(
                    sqlstate::PROTOCOL_VIOLATION,
                    format!("message {letter} has no meaning in the console"),
                ))
            }
        }
    }

    fn parse(&mut self, parse: Parse<'_>) -> Result<(), Complaint> {
        let mut commands = parse_all(&String::from_utf8_lossy(parse.text))?;
        if commands.len() > 1 {
            return Err(Complaint::error(
                sqlstate::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            ));
        }
        if !parse.name.is_empty() && self.statements.contains_key(parse.name) {
            return Err(Complaint::error(
                sqlstate::DUPLICATE_PREPARED_STATEMENT,
                "prepared statement already exists",
            ));
        }
        bounded(self.statements.len())?;
        let command = commands.pop();
        let name = Bytes::copy_from_slice(parse.name);
        self.statements.insert(name, Statement { command });
        backend::put_parse_complete(&mut self.output);
        Ok(())
    }

    fn bind(&mut self, bind: &Bind<'_>) -> Result<(), Complaint> {
        let statement = self.statement(bind.statement)?.clone();
        let malformed = |error: tenantry_wire::MessageError| protocol_error(&error.to_string());
        if bind.parameters().map_err(malformed)?.next().is_some() {
            return Err(protocol_error("console commands take no parameters"));
        }
        let formats = bind.result_formats().map_err(malformed)?;
        bounded(self.portals.len())?;
        self.portals.insert(
            Bytes::copy_from_slice(bind.portal),
            Portal {
                command: statement.command,
                formats,
                answer: None,
            },
        );
        backend::put_bind_complete(&mut self.output);
        Ok(())
    }

    fn describe(&mut self, target: Target<'_>) -> Result<(), Complaint> {
        let (columns, formats) = match target.kind {
            TargetKind::Statement => {
                let statement = self.statement(target.name)?;
                let columns = statement.command.as_ref().and_then(heads);
                backend::put_parameter_description(&mut self.output, &[]);
                (columns, &[][..])
            }
            TargetKind::Portal => {
                let portal = self.portals.get(target.name).ok_or_else(no_portal)?;
                let columns = portal.command.as_ref().and_then(heads);
                (columns, portal.formats.as_slice())
            }
        };
        match columns {
            Some(columns) => put_heads(&mut self.output, columns, formats),
            None => backend::put_no_data(&mut self.output),
        }
        Ok(())
    }

    fn execute(&mut self, name: Bytes, max_rows: i32) -> Result<(), Complaint> {
        let portal = self.portals.get(&name).ok_or_else(no_portal)?;
        if portal.answer.is_some() {
            self.continue_portal(&name, max_rows);
            return Ok(());
        }
        match portal.command.clone() {
            Some(command) => {
                self.running = Some(Running::Portal { name, max_rows });
                self.work.push_back(Work::Command(command));
            }
            None => backend::put_empty_query(&mut self.output),
        }
        Ok(())
    }

    /// Sends the next rows of a portal.
    fn continue_portal(&mut self, name: &Bytes, max_rows: i32) {
        let Some(portal) = self.portals.get_mut(name) else {
            return;
        };
        let Some((outcome, sent)) = &mut portal.answer else {
            return;
        };
        let Some(table) = &outcome.table else {
            return backend::put_command_complete(&mut self.output, outcome.tag);
        };
        let left = table.rows.len() - *sent;
        let now = usize::try_from(max_rows)
            .ok()
            .filter(|max| *max > 0)
            .map_or(left, |max| max.min(left));
        for row in table.rows.iter().skip(*sent).take(now) {
            put_row(&mut self.output, table.heads, row, &portal.formats);
        }
        *sent += now;
        if now < left {
            backend::put_portal_suspended(&mut self.output);
        } else {
            complete(&mut self.output, outcome.tag, now);
        }
    }

    /// The answer to a command of a simple Query.
    fn show(&mut self, outcome: &Outcome) {
        match &outcome.table {
            Some(table) => {
                put_heads(&mut self.output, table.heads, &[]);
                for row in &table.rows {
                    put_row(&mut self.output, table.heads, row, &[]);
                }
                complete(&mut self.output, outcome.tag, table.rows.len());
            }
            None => backend::put_command_complete(&mut self.output, outcome.tag),
        }
    }

    fn statement(&self, name: &[u8]) -> Result<&Statement, Complaint> {
        self.statements.get(name).ok_or_else(|| {
            Complaint::error(
                sqlstate::INVALID_SQL_STATEMENT_NAME,
                "prepared statement does not exist",
            )
        })
    }

    /// An error ends the batch, or the Query.
    fn fail(&mut self, error: &Complaint) {
        let simple = self.work.iter().any(|work| matches!(work, Work::Ready));
        self.work.clear();
        self.error(error);
        if simple {
            self.work.push_back(Work::Ready);
        } else {
            self.skip = true;
        }
    }

    fn error(&mut self, error: &Complaint) {
        backend::put_error(&mut self.output, error);
        if self.transaction == Transaction::Open {
            self.transaction = Transaction::Failed;
        }
        self.running = None;
    }

    fn refused_by_transaction(&self, command: &Command) -> bool {
        let ends = matches!(command, Command::Commit | Command::Rollback);
        self.transaction == Transaction::Failed && !ends
    }

    fn ready(&mut self) {
        self.closing |= self.leaving;
        let status = match self.transaction {
            Transaction::None => TxStatus::Idle,
            Transaction::Open => TxStatus::InTransaction,
            Transaction::Failed => TxStatus::Failed,
        };
        backend::put_ready(&mut self.output, status);
    }
}

/// The columns that a command answers with, known before it runs.
fn heads(command: &Command) -> Option<&'static [Head]> {
    super::show::heads(command)
}

fn complete(output: &mut BytesMut, tag: &str, rows: usize) {
    match tag {
        "SELECT" => backend::put_command_complete(output, format!("SELECT {rows}")),
        tag => backend::put_command_complete(output, tag),
    }
}

fn bounded(names: usize) -> Result<(), Complaint> {
    if names < NAMES_MAX {
        return Ok(());
    }
    Err(Complaint::error(
        sqlstate::PROGRAM_LIMIT_EXCEEDED,
        format!("a console session has at most {NAMES_MAX} statements and portals"),
    ))
}

fn aborted() -> Complaint {
    Complaint::error(
        sqlstate::IN_FAILED_SQL_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

fn no_portal() -> Complaint {
    Complaint::error(sqlstate::INVALID_CURSOR_NAME, "portal does not exist")
}

fn protocol_error(message: &str) -> Complaint {
    Complaint::error(sqlstate::PROTOCOL_VIOLATION, message)
}
