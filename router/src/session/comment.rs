//! The tenant that a comment at the end of a statement names, for roles that allow it: `/*tenantry_tenant='ID'*/`.
//!
//! The weakest way to name a tenant: SET and SET LOCAL are stronger, and only what the startup packet said gives way. It
//! counts for the statement and, as SET LOCAL does, to the end of its transaction, in which no other tenant may follow.
//! A prepared statement keeps the tenant of its text, which is prepared without the comment: it is one for all tenants.

use tenantry_schema::tenant::TenantId;
use tenantry_wire::frontend::{Bind, Parse, Target, TargetKind, query_text};
use tenantry_wire::sql;
use tenantry_wire::tag::frontend as tag;

use super::client::{ClientMessage, Handled, runs_something};
use super::extended::ends_transaction;
use super::statements::ClientStatement;
use super::{Session, Tx};
use crate::error::Refusal;
use crate::server::Link;

impl Session {
    /// Before the message is looked at: the tenant that its statement names becomes the session's. `None`: the message
    /// is next.
    pub(super) fn heed_comment(
        &mut self,
        message: &ClientMessage<'_>,
        mut server: Option<&mut Link>,
    ) -> Result<Option<Handled>, Refusal> {
        if matches!(self.tx, Tx::Failed | Tx::FailedHere { .. }) {
            return Ok(None);
        }
        // What comes behind a commented statement is not meant: the comment ends with its transaction.
        if matches!(self.tx, Tx::Idle)
            && self.state.is_commented()
            && self.expects.has_ready()
            && runs_something(message.tag)
            && !self.settle(server.as_deref_mut())
        {
            return Ok(Some(Handled::Later));
        }
        let Some(named) = self.named_by(message) else {
            return Ok(None);
        };
        if self.identity.bound.is_none() && self.state.is_tenant_set() {
            return Ok(None);
        }
        let tenant = match named {
            Named::Text(_) if message.tag == tag::QUERY && self.ends_within(message) => {
                Err(Refusal::Unsupported {
                    what: "a tenant named by a comment behind the end of a transaction".to_owned(),
                    hint: "send what follows COMMIT or ROLLBACK as a query of its own",
                })
            }
            Named::Text(name) => self.permitted(&name),
            Named::Id(tenant) => Ok(tenant),
        };
        if let Ok(tenant) = tenant
            && self.state.tenant() == Some(tenant)
            && (!self.expects.has_ready() || !matches!(self.tx, Tx::Idle))
        {
            self.begin_implicit();
            self.state.note_comment(tenant);
            return Ok(None);
        }
        if !self.settle(server.as_deref_mut()) {
            return Ok(Some(Handled::Later));
        }
        let switched = tenant.and_then(|tenant| self.go_over(tenant, server.as_deref_mut()));
        match switched {
            Ok(handled) => Ok(Some(handled)),
            Err(refusal) if message.tag == tag::QUERY => {
                Ok(Some(self.refuse_query(&refusal, server)))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Goes over to another tenant. Only called when settled.
    fn go_over(&mut self, tenant: TenantId, server: Option<&mut Link>) -> Result<Handled, Refusal> {
        if !self.ready_to_switch(server) {
            return Ok(Handled::Later);
        }
        self.check_switch(Some(tenant))?;
        self.begin_implicit();
        self.state.note_comment(tenant);
        // The connection of the tenant before is given up first.
        Ok(Handled::Again)
    }

    /// Whether a transaction ends before the last statement of a Query: the comment would end with it.
    fn ends_within(&self, message: &ClientMessage<'_>) -> bool {
        let Ok(text) = query_text(message.body) else {
            return false;
        };
        let scs = self.scs();
        let mut ranges = sql::split(text, scs).peekable();
        while let Some(range) = ranges.next() {
            let statement = text.get(range).unwrap_or_default();
            if ranges.peek().is_some() && ends_transaction(&sql::classify(statement, scs)) {
                return true;
            }
        }
        false
    }

    /// What the statement of a message names.
    fn named_by(&self, message: &ClientMessage<'_>) -> Option<Named> {
        let statement = match message.tag {
            tag::QUERY => return self.named_in(query_text(message.body).ok()?),
            tag::PARSE => return self.named_in(Parse::decode(message.body).ok()?.text),
            tag::BIND => Bind::decode(message.body).ok()?.statement,
            tag::DESCRIBE => match Target::decode(message.body).ok()? {
                target if target.kind == TargetKind::Statement => target.name,
                _ => return None,
            },
            _ => return None,
        };
        match self.statements.find(statement)? {
            ClientStatement::Server { commented, .. }
            | ClientStatement::Unnamed { commented, .. } => commented.map(Named::Id),
            ClientStatement::Router { text, .. } => self.named_in(text),
        }
    }

    fn named_in(&self, text: &[u8]) -> Option<Named> {
        let (name, _) = sql::tenant_comment(text, self.scs())?;
        Some(Named::Text(name))
    }

    /// Takes the comment off a statement that is prepared; answers whom it names.
    pub(super) fn take_comment(&self, parse: &mut Parse<'_>) -> Option<TenantId> {
        if !self.identity.role.limits.tenant_comment {
            return None;
        }
        let (name, end) = sql::tenant_comment(parse.text, self.scs())?;
        parse.text = parse.text.get(..end)?;
        self.permitted(&name).ok()
    }
}

/// A tenant as a statement names it.
enum Named {
    /// In its text.
    Text(String),
    /// In its text when it was prepared.
    Id(TenantId),
}
