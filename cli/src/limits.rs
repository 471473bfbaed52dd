//! Limits on the command line and as they are shown: the same for plans and for tenants.

use clap::Args;
use serde::Serialize;
use tenantry_schema::limits::{Limit, LimitKind, Limits};

use crate::config::Period;
use crate::output::record;

/// What of the limits is to change; what is not named stays as it is.
#[derive(Args, Debug)]
pub(crate) struct LimitArgs {
    /// Statements per second over the whole fleet, `none` for no limit, `unset` to say nothing
    #[arg(long, value_name = "N", value_parser = number)]
    queries_per_second: Option<Limit>,
    /// Statements at once beyond that rate; without it, as many as the rate gives in a second
    #[arg(long, value_name = "N", value_parser = number)]
    query_burst: Option<Limit>,
    /// Transactions at once over the whole fleet
    #[arg(long, value_name = "N", value_parser = number)]
    transactions: Option<Limit>,
    /// Client connections over the whole fleet
    #[arg(long, value_name = "N", value_parser = number)]
    connections: Option<Limit>,
    /// How long a statement may run
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    statement_time: Option<Limit>,
    /// How long a transaction may be open
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    transaction_time: Option<Limit>,
    /// Share of a busy pool, in relation to other tenants' weights; 1 to 1000
    #[arg(long, value_name = "N", value_parser = weight)]
    weight: Option<Limit>,
}

impl LimitArgs {
    /// Takes over what the command line names; whether it names anything.
    pub(crate) fn apply(&self, limits: &mut Limits) -> bool {
        let named = [
            (LimitKind::QueriesPerSecond, self.queries_per_second),
            (LimitKind::QueryBurst, self.query_burst),
            (LimitKind::Transactions, self.transactions),
            (LimitKind::Connections, self.connections),
            (LimitKind::StatementTime, self.statement_time),
            (LimitKind::TransactionTime, self.transaction_time),
            (LimitKind::Weight, self.weight),
        ];
        for (kind, limit) in named {
            if let Some(limit) = limit {
                limits.set(kind, limit);
            }
        }
        named.iter().any(|(_, limit)| limit.is_some())
    }
}

fn number(text: &str) -> Result<Limit, String> {
    limit(text, LimitKind::Connections, |text| text.parse().ok())
}

fn weight(text: &str) -> Result<Limit, String> {
    limit(text, LimitKind::Weight, |text| text.parse().ok())
}

fn milliseconds(text: &str) -> Result<Limit, String> {
    limit(text, LimitKind::StatementTime, |text| {
        let Period(time) = text.parse().ok()?;
        u32::try_from(time.as_millis()).ok()
    })
}

fn limit(
    text: &str,
    kind: LimitKind,
    read: impl FnOnce(&str) -> Option<u32>,
) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit::Unlimited),
        "unset" => Ok(Limit::Unsaid),
        _ => match read(text) {
            Some(value) if (1..=kind.max()).contains(&value) => Ok(Limit::At(value)),
            _ => Err(format!(
                "expected 1 to {}, a time such as `30s` where it is one, `none` or `unset`",
                kind.max()
            )),
        },
    }
}

/// Limits as they are shown, with whose they are.
#[derive(Debug, Serialize)]
pub(crate) struct LimitsView {
    /// A plan's or a tenant's name.
    name: String,
    /// The tenant's plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<String>,
    queries_per_second: Option<u32>,
    query_burst: Option<u32>,
    transactions: Option<u32>,
    connections: Option<u32>,
    statement_time_ms: Option<u32>,
    transaction_time_ms: Option<u32>,
    weight: u32,
    /// Which of them are the tenant's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    own: Option<Vec<&'static str>>,
}

record!(LimitsView {
    name => "NAME", plan => "PLAN", queries_per_second => "QUERIES/s", query_burst => "BURST",
    transactions => "TRANSACTIONS", connections => "CONNECTIONS", statement_time_ms => "STATEMENT ms",
    transaction_time_ms => "TRANSACTION ms", weight => "WEIGHT", own => "OWN",
});

impl LimitsView {
    /// A plan's.
    pub(crate) fn of_plan(name: &str, limits: &Limits) -> Self {
        let value = |kind| limits.value(kind);
        Self {
            name: name.to_owned(),
            plan: None,
            queries_per_second: value(LimitKind::QueriesPerSecond),
            query_burst: value(LimitKind::QueryBurst),
            transactions: value(LimitKind::Transactions),
            connections: value(LimitKind::Connections),
            statement_time_ms: value(LimitKind::StatementTime),
            transaction_time_ms: value(LimitKind::TransactionTime),
            weight: limits.weight(),
            own: None,
        }
    }

    /// A tenant's: what is in force, and what of it is its own.
    pub(crate) fn of_tenant(slug: &str, plan: &str, own: &Limits, planned: &Limits) -> Self {
        Self {
            plan: Some(plan.to_owned()),
            own: Some(own.said().map(|(kind, _)| kind.as_str()).collect()),
            ..Self::of_plan(slug, &own.or(planned))
        }
    }
}
