//! The console: database `tenantry`, where operators look at the router and tell it what to do.
//!
//! A session of its own kind: no shard, no tenant, no pool, so that it works when all of those do
//! not. The language is [`command`], the protocol [`dialogue`], what is shown [`show`], what is
//! done [`act`]. Only roles of kind operator come here (see `identify`).

mod act;
mod command;
mod complaint;
mod dialogue;
mod parameters;
mod show;
mod table;

use std::future::poll_fn;
use std::sync::Arc;

use bytes::BytesMut;
use tenantry_wire::backend::{self, ErrorFields, Severity, TxStatus};
use tenantry_wire::frame::Message;
use tenantry_wire::sqlstate;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub use self::command::Shutdown;

use self::command::{Command, Probe};
use self::complaint::Complaint;
use self::dialogue::{Dialogue, Outcome, Step};
use crate::activity::{Called, ClientRecord, ClientState, Meter};
use crate::cancel::CancelSlot;
use crate::error::Refusal;
use crate::router::Router;
use crate::stream::Stream;

/// Largest message of a console session, bytes.
const MESSAGE_MAX: usize = 64 << 10;

/// One console session.
pub(crate) struct Console {
    pub(crate) router: Arc<Router>,
    pub(crate) stream: Stream,
    pub(crate) input: BytesMut,
    /// What login still owes the client.
    pub(crate) greeting: BytesMut,
    pub(crate) slot: Arc<CancelSlot>,
    pub(crate) record: Arc<ClientRecord>,
    /// Shows the session to others, and to itself.
    pub(crate) meter: Meter,
}

/// What ends a wait besides its own end.
enum Interrupted {
    Canceled,
    /// The client is gone, the session is killed, or the router stops.
    End,
}

impl Console {
    /// Greets the client and serves it to the end.
    pub(crate) async fn run(mut self) {
        let mut output = std::mem::take(&mut self.greeting);
        backend::put_auth_ok(&mut output);
        for (name, value) in parameters::reported() {
            backend::put_parameter_status(&mut output, name, value);
        }
        let slot = &self.slot;
        backend::put_backend_key_data(&mut output, slot.pid(), slot.key());
        backend::put_ready(&mut output, TxStatus::Idle);
        let mut dialogue = Dialogue::default();
        dialogue.output = output;
        if self.converse(&mut dialogue).await {
            let fields = Refusal::Shutdown.fields(Severity::Fatal);
            backend::put_error(&mut dialogue.output, &fields);
        }
        // Whoever is gone needs no goodbye.
        let _ = self.stream.send(&dialogue.output).await;
        let _ = self.stream.shutdown().await;
    }

    /// True if the session was ended from here.
    async fn converse(&mut self, dialogue: &mut Dialogue) -> bool {
        loop {
            match dialogue.step() {
                Step::Close => return false,
                Step::Run(command) => match self.execute(&command).await {
                    Ok(result) => dialogue.ran(&command, result),
                    Err(Interrupted::Canceled) => {
                        let fields = Refusal::Canceled.fields(Severity::Error);
                        dialogue.ran(&command, Err(fields.into()));
                    }
                    Err(Interrupted::End) => return true,
                },
                Step::Read => match Message::take(&mut self.input, MESSAGE_MAX) {
                    Ok(Some(message)) => dialogue.handle(&message),
                    Ok(None) => {
                        if let Some(ended) = self.read(dialogue).await {
                            return ended;
                        }
                    }
                    Err(error) => {
                        let code = sqlstate::PROTOCOL_VIOLATION;
                        let fields = ErrorFields::new(Severity::Fatal, code, error.to_string());
                        backend::put_error(&mut dialogue.output, &fields);
                        return false;
                    }
                },
            }
        }
    }

    /// Writes what is there and reads more. `Some` ends the session; true if it is ended from here.
    async fn read(&mut self, dialogue: &mut Dialogue) -> Option<bool> {
        let output = dialogue.output.split();
        self.meter.rests(ClientState::Idle);
        if self.stream.send(&output).await.is_err() {
            return Some(false);
        }
        let mut called = Called::new(&self.record);
        tokio::select! {
            () = poll_fn(|cx| called.poll_killed(cx)) => Some(true),
            () = self.router.drain.cancelled() => Some(true),
            read = self.stream.read_buf(&mut self.input) => match read {
                Ok(0) | Err(_) => Some(false),
                Ok(_) => None,
            },
        }
    }

    /// Runs a command; while it waits, the client may cancel it or leave.
    async fn execute(
        &mut self,
        command: &Command,
    ) -> Result<Result<Outcome, Complaint>, Interrupted> {
        let slot: Arc<CancelSlot> = Arc::clone(&self.slot);
        let queued = slot.queue();
        let mut called = Called::new(&self.record);
        let record = Arc::clone(&self.record);
        self.meter.rests(ClientState::Active);
        tokio::select! {
            biased;
            result = answer(&self.router, &record, command) => Ok(result),
            () = queued.cancelled() => Err(Interrupted::Canceled),
            () = poll_fn(|cx| called.poll_killed(cx)) => Err(Interrupted::End),
            () = gone(&mut self.stream, &mut self.input) => Err(Interrupted::End),
        }
    }
}

/// Resolves when the client has closed its side or sends more than it may.
async fn gone(stream: &mut Stream, input: &mut BytesMut) {
    while input.len() < MESSAGE_MAX {
        match stream.read_buf(input).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

async fn answer(
    router: &Arc<Router>,
    asker: &Arc<ClientRecord>,
    command: &Command,
) -> Result<Outcome, Complaint> {
    let done = |tag| {
        Ok(Outcome {
            tag,
            ..Outcome::default()
        })
    };
    match command {
        Command::Show(what) => show::answer(router, what),
        Command::ShowParameter(name) => Ok(show::parameter(name)),
        Command::Select(Probe::Version) => Ok(show::version()),
        Command::Select(Probe::One) => Ok(show::one()),
        Command::Begin => done("BEGIN"),
        Command::Commit => done("COMMIT"),
        Command::Rollback => done("ROLLBACK"),
        Command::Ignored(tag) => done(tag),
        command => act::act(router, asker, command).await,
    }
}
