//! Describe: the server's answer, or the router's for a statement that it runs itself.

use bytes::Bytes;
use tenantry_wire::backend::{self, Column};
use tenantry_wire::frontend::{self, Format, Target, TargetKind};
use tenantry_wire::sql::{self, Arg, Kind, ParamType, SettingCall};

use super::client::{ClientMessage, Handled};
use super::expect::{Expect, Shown};
use super::extended::malformed_target;
use super::statements::{ClientStatement, Portal};
use super::{Session, Tx};
use crate::error::Refusal;
use crate::server::Link;

const TEXT_OID: u32 = 25;
const BOOL_OID: u32 = 16;
pub(super) const INT4_OID: u32 = 23;

impl Session {
    pub(super) fn describe(
        &mut self,
        message: ClientMessage<'_>,
        mut server: Option<&mut Link>,
    ) -> Result<Handled, Refusal> {
        let target =
            Target::decode(message.body).map_err(|error| malformed_target(&message, error))?;
        if target.kind == TargetKind::Portal {
            let own = self.statements.find_portal(target.name);
            // It may end with the batch before.
            if matches!(own, Some(Portal::Router { .. }))
                && self.expects.has_ready()
                && !self.settle(server.as_deref_mut())
            {
                return Ok(Handled::Later);
            }
            if let Some(Portal::Router { text, binary, .. }) = self.statements.portal(target.name) {
                let (text, binary) = (text.clone(), *binary);
                self.describe_own(&text, None, binary);
                return Ok(Handled::Done);
            }
            if target.name.is_empty() && self.failed_portal && matches!(self.tx, Tx::Failed) {
                // Of what the router refuses, nothing has columns before it runs.
                if !self.settle(server) {
                    return Ok(Handled::Later);
                }
                backend::put_no_data(&mut self.output);
                return Ok(Handled::Done);
            }
            if self.lacks_portal(target.name) {
                return self.unknown_portal(target.name, server);
            }
            self.describes_portals = true;
            let expect = Expect::Describe(Shown::AtOnce);
            return self.forward_extended(message, server, expect);
        }
        let Some(mut statement) = self.statements.find(target.name).cloned() else {
            if !self.settle(server) {
                return Ok(Handled::Later);
            }
            return Err(Refusal::UnknownStatement {
                name: String::from_utf8_lossy(target.name).into_owned(),
            });
        };
        let mut needed = None;
        if let ClientStatement::Router { text, types } = &statement
            && self.executes(text)
        {
            if !self.settle(server.as_deref_mut()) {
                return Ok(Handled::Later);
            }
            if let Some((prepared, execute)) = self.execute_as_servers(text, types)? {
                needed = Some(prepared);
                statement = execute;
            }
        }
        if let ClientStatement::Router { text, types } = &statement {
            self.describe_own(text, Some(types), false);
            return Ok(Handled::Done);
        }
        let Some(server) = self.ready_server(server)? else {
            return Ok(self.acquire_or_later());
        };
        match &statement {
            ClientStatement::Server { prepared, .. } if !self.can_prepare(server, prepared) => {
                return Ok(Handled::Later);
            }
            ClientStatement::Server { prepared, .. } => {
                if let Some(needed) = &needed {
                    self.prepare_on(server, needed);
                }
                self.prepare_on(server, prepared);
                let name = &prepared.name;
                frontend::put_describe(&mut server.output, TargetKind::Statement, name);
                server.state.kept.push(message.bytes);
                let name = Bytes::copy_from_slice(target.name);
                self.expects.push(Expect::DescribeStatement(name));
            }
            _ => {
                self.ensure_unnamed(&statement, server);
                server.output.extend_from_slice(message.bytes);
                server.state.kept.give_up();
                self.expects.push(Expect::Describe(Shown::AtOnce));
            }
        }
        Ok(Handled::Done)
    }

    /// Describes a statement that the router runs; `types` is given for a statement, not a portal.
    fn describe_own(&mut self, text: &[u8], types: Option<&[u8]>, binary: bool) {
        let kind = sql::classify(text, self.scs());
        let columns = result_columns(&kind, binary);
        let oids = types.map(|types| parameter_oids(&kind, types));
        self.answer(|out| {
            if let Some(oids) = oids {
                backend::put_parameter_description(out, &oids);
            }
            if columns.is_empty() {
                backend::put_no_data(out);
            } else {
                backend::put_row_description(out, &columns);
            }
        });
    }
}

/// What the statement returns. Texts travel alike in both formats.
fn result_columns<'k>(kind: &'k Kind<'_>, binary: bool) -> Vec<Column<'k>> {
    match kind {
        Kind::Show(name) => vec![Column::text(name)],
        Kind::SetConfig { calls, .. } => {
            let columns = calls.iter().map(|call| Column::text(call.column()));
            columns.collect()
        }
        Kind::BackendPid { column } => {
            let mut column = Column::of_type(column, INT4_OID, 4);
            if binary {
                column.format = Format::Binary;
            }
            vec![column]
        }
        _ => Vec::new(),
    }
}

/// Types of a router statement's parameters: what the client said, else what set_config() takes.
pub(super) fn parameter_oids(kind: &Kind<'_>, types: &[u8]) -> Vec<u32> {
    let mut oids: Vec<u32> = types
        .as_chunks::<4>()
        .0
        .iter()
        .map(|oid| u32::from_be_bytes(*oid))
        .collect();
    if let Kind::SetConfig { calls, .. } = kind {
        note_call_parameters(calls, &mut oids);
    }
    for oid in &mut oids {
        if *oid == 0 {
            *oid = TEXT_OID;
        }
    }
    oids
}

fn note_call_parameters(calls: &[SettingCall], oids: &mut Vec<u32>) {
    let mut note = |argument: &Arg, oid: u32| {
        let number = match argument {
            Arg::Param(number) => *number,
            Arg::TypedParam(number, _) => *number,
            _ => return,
        };
        let Some(index) = usize::from(number).checked_sub(1) else {
            return;
        };
        if oids.len() <= index {
            oids.resize(index + 1, 0);
        }
        if oids[index] == 0 {
            oids[index] = oid;
        }
    };
    for call in calls {
        note(call.name(), TEXT_OID);
        if let SettingCall::Set { value, local, .. } = call {
            let oid = match value {
                Arg::TypedParam(_, ParamType::Integer) => 23,
                Arg::TypedParam(_, ParamType::Bigint) => 20,
                Arg::TypedParam(_, ParamType::Uuid) => 2950,
                _ => TEXT_OID,
            };
            note(value, oid);
            note(local, BOOL_OID);
        }
    }
}
