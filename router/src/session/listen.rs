//! LISTEN, UNLISTEN and NOTIFY, per tenant.
//!
//! PostgreSQL's channels belong to the whole database. A tenant's channel has a name of the guard's
//! on the server (`tenantry.channel()`, keyed with a secret), which the session translates: the
//! client sees its own names only (docs/adr/0020-listen-asks-the-guard-for-its-channel.md). A channel is the tenant's that was bound at LISTEN, and stays so
//! when a service role switches. No name of a client's gets into a statement's text: it travels as a
//! parameter, and what LISTEN is sent with is the guard's hexadecimal name.

use bytes::BytesMut;
use tenantry_wire::backend;
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::sql;

use super::Session;
use super::client::Handled;
use super::expect::{Effect, Expect};
use super::replies::ServerFault;
use super::special::Mode;
use super::state::Listened;
use crate::error::Refusal;
use crate::server::{Link, ServerState};

const CHANNEL: &str = "SELECT tenantry.channel($1)";
const NOTIFY: &str = "SELECT tenantry.pg_notify($1, $2)";

/// What became of the question which channel a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChannelFound {
    name: String,
    channel: String,
}

impl Session {
    /// Runs LISTEN in two steps: what the channel is called on the server, and LISTEN on that.
    pub(super) fn run_listen(
        &mut self,
        name: &str,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        if let Some(found) = self.channel_found.take()
            && found.name == name
        {
            let text = format!("LISTEN {}", sql::quote_identifier(&found.channel));
            let effect = Effect::Listen {
                name: found.name,
                channel: found.channel,
            };
            // Whatever becomes of the transaction, the connection is cleaned before anyone else gets it.
            server.state.dirty = true;
            return self.run_on_server(text.as_bytes(), vec![effect], mode, Some(server));
        }
        self.start_own(mode, server);
        self.put_call(server, CHANNEL, &[name]);
        self.expects.push(Expect::Channel {
            name: name.to_owned(),
            channel: None,
        });
        frontend::put_flush(&mut server.output);
        self.batch.flushed = true;
        Ok(Handled::Later)
    }

    /// Runs NOTIFY by the guard's function; the client is told of a NOTIFY.
    pub(super) fn run_notify(
        &mut self,
        name: &str,
        payload: &str,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        self.start_own(mode, server);
        self.put_call(server, NOTIFY, &[name, payload]);
        let last = matches!(mode, Mode::Simple { last: true, .. });
        self.expects.push(Expect::Notify { withhold: last });
        if last {
            self.send_owed_sync(server);
        }
        Ok(Handled::Done)
    }

    /// Runs UNLISTEN of one name (`None`: all), whichever tenant was bound when it began to listen.
    pub(super) fn run_unlisten(
        &mut self,
        name: Option<&str>,
        mode: &Mode,
        server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let wanted = |(_, known): &(&String, &Listened)| name.is_none_or(|name| name == known.name);
        let channels: Vec<String> = self
            .state
            .channels()
            .iter()
            .filter(wanted)
            .map(|(channel, _)| channel.clone())
            .collect();
        // Nothing to end, and so no reason for a connection.
        let Some(last) = channels.last() else {
            return self.command_complete("UNLISTEN");
        };
        let Some(server) = server else {
            return Ok(self.acquire());
        };
        if name.is_some() && channels.len() > 1 {
            self.start_own(mode, server);
            for channel in channels.iter().rev().skip(1) {
                let text = format!("UNLISTEN {}", sql::quote_identifier(channel));
                self.run_hidden_unnamed(server, text.as_bytes());
            }
        }
        let text = match name {
            None => "UNLISTEN *".to_owned(),
            Some(_) => format!("UNLISTEN {}", sql::quote_identifier(last)),
        };
        self.run_on_server(
            text.as_bytes(),
            vec![Effect::Unlisten(channels)],
            mode,
            Some(server),
        )
    }

    /// What precedes a statement of the router's own in the place of the client's.
    fn start_own(&mut self, mode: &Mode, server: &mut Link) {
        self.begin_implicit();
        self.prepare_server(server);
        // More than a read: the transaction stays where it is.
        self.note_statement(b"NOTIFY");
        match mode {
            Mode::Simple { .. } => self.sync_owed = true,
            Mode::Extended { .. } => self.batch.forwarded = true,
        }
        server.state.kept.give_up();
        self.batch.ended = false;
        self.note_in_flight(false);
    }

    /// Parse if need be, Bind and Execute; the entry for the Execute is the caller's to push.
    fn put_call(&mut self, server: &mut Link, text: &str, parameters: &[&str]) {
        let prepared = self.internal(text);
        self.prepare_on(server, &prepared);
        let values: Vec<Option<&[u8]>> = parameters
            .iter()
            .map(|parameter| Some(parameter.as_bytes()))
            .collect();
        frontend::put_bind(
            &mut server.output,
            "",
            &prepared.name,
            &values,
            Format::Text,
        );
        frontend::put_execute(&mut server.output, "", 0);
        self.expects.push(Expect::HiddenBind);
    }

    /// The row that tells the server's name of a channel.
    pub(super) fn note_channel(&mut self, body: &[u8]) -> Result<(), ServerFault> {
        let Some(Expect::Channel { channel, .. }) = self.expects.front_mut() else {
            return Ok(());
        };
        let row =
            backend::data_row(body).map_err(|error| ServerFault::Malformed(error.to_string()))?;
        let value = row.first().copied().flatten().unwrap_or_default();
        *channel = Some(String::from_utf8_lossy(value).into_owned());
        Ok(())
    }

    pub(super) fn channel_answered(&mut self, name: String, channel: Option<String>) {
        self.channel_found = channel.map(|channel| ChannelFound { name, channel });
    }

    pub(super) fn notify_completed(&mut self, withhold: bool) {
        let mut message = BytesMut::new();
        backend::put_command_complete(&mut message, "NOTIFY");
        if withhold {
            self.withheld = Some(message.freeze());
        } else {
            self.output.extend_from_slice(&message);
        }
    }

    /// Passes a notification on under the client's name for the channel. One of this session has the
    /// session's process id, as the client knows it; one of a channel that the session does not
    /// listen on is an earlier client's.
    pub(super) fn notified(
        &mut self,
        body: &[u8],
        server: &ServerState,
    ) -> Result<(), ServerFault> {
        let heard = backend::notification(body)
            .map_err(|error| ServerFault::Malformed(error.to_string()))?;
        let channel = std::str::from_utf8(heard.channel).unwrap_or_default();
        let Some(Listened { name, .. }) = self.state.channels().get(channel) else {
            return Ok(());
        };
        let own = heard.pid == server.key.pid;
        let pid = if own { self.identity.pid() } else { heard.pid };
        let mut message = BytesMut::new();
        backend::put_notification(&mut message, pid, name, heard.payload);
        if self.withheld.is_some() {
            // The server has completed the statement before; the client hears in that order.
            self.behind_withheld.extend_from_slice(&message);
        } else {
            self.output.extend_from_slice(&message);
        }
        Ok(())
    }

    /// What waited for a CommandComplete that was withheld.
    pub(super) fn release_notifications(&mut self) {
        if !self.behind_withheld.is_empty() {
            let waiting = std::mem::take(&mut self.behind_withheld);
            self.output.extend_from_slice(&waiting);
        }
    }

    /// Whether the connection is the session's alone for now.
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned || !self.held_cursors.is_empty() || !self.state.channels().is_empty()
    }
}
