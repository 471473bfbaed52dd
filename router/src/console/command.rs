//! The console's language: what a text asks for. Pure.
//!
//! PgBouncer's commands in PgBouncer's words, our own beside them, and the few statements that
//! drivers send unasked when they connect, check a connection, or give it back to a pool.

use tenantry_wire::sql::{Lexer, Token, TokenKind, split};
use tenantry_wire::sqlstate;

use super::complaint::Complaint;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Show(Show),
    /// One of the settings that the console's session reports.
    ShowParameter(String),
    /// Hold the clients of one shard, or of all.
    Pause(Option<String>),
    Resume(Option<String>),
    Disable(String),
    Enable(String),
    Reconnect(Option<String>),
    /// End the sessions on a shard, or all of them, and pause it.
    Kill(Option<String>),
    /// End one session.
    KillClient(u32),
    WaitClose(Option<String>),
    Reload,
    Shutdown(Shutdown),
    /// `SELECT version()`, `SELECT 1`: what drivers and pools ask.
    Select(Probe),
    Begin,
    Commit,
    Rollback,
    /// Accepted without effect, as PgBouncer does with what drivers set; the tag of the answer.
    Ignored(&'static str),
}

/// What can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Show {
    Help,
    Version,
    State,
    Clients,
    Servers,
    Pools,
    Queues,
    Databases,
    Users,
    Stats,
    StatsTotals,
    StatsAverages,
    Totals,
    Lists,
    Config,
    Mem,
    Sockets,
    ActiveSockets,
    Shards,
    Routers,
    Fleet,
    Tenants(usize),
    Tenant(String),
    TopTenants(usize),
    HotTenants,
    Moves,
    Limits,
}

/// How an operator wants the router to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Transactions end within the drain time.
    Drain,
    /// Transactions end, however long they take.
    WaitForServers,
    /// Sessions end by themselves, however long they take.
    WaitForClients,
}

/// A question that needs no shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    Version,
    One,
}

/// Tenants listed when no limit is given.
const LIMIT: usize = 100;

/// The commands of a text, in order. A text without any is empty.
pub(super) fn parse_all(text: &str) -> Result<Vec<Command>, Complaint> {
    split(text, true)
        .map(|range| Words::of(text.get(range).unwrap_or_default()))
        .filter(|words| !words.0.is_empty())
        .map(|words| parse(&words))
        .collect()
}

/// The words of one command: identifiers folded, strings and quoted names without their quotes.
struct Words(Vec<String>);

impl Words {
    fn of(text: &str) -> Self {
        let mut lexer = Lexer::new(text.as_bytes(), true);
        let mut words: Vec<String> = Vec::new();
        let mut end = None;
        for token in lexer.by_ref() {
            let word = word(text, token);
            // Hyphens and dots belong to names here: a host name is one word.
            let glued = end == Some(token.start) && is_part_of_name(token, &word);
            match words.last_mut() {
                Some(last) if glued || (end == Some(token.start) && ends_open(last)) => {
                    last.push_str(&word);
                }
                _ => words.push(word),
            }
            end = Some(token.end);
        }
        words.retain(|word| word != ";");
        Self(words)
    }

    fn slices(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

fn is_part_of_name(token: Token, word: &str) -> bool {
    matches!(
        token.kind,
        TokenKind::Operator | TokenKind::Punct(_) | TokenKind::Number
    ) && word.starts_with(['-', '.', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
}

fn ends_open(word: &str) -> bool {
    word.ends_with(['-', '.']) && word.len() > 1
}

fn word(text: &str, token: Token) -> String {
    let slice = text.get(token.start..token.end).unwrap_or_default();
    match token.kind {
        TokenKind::Ident => slice.to_ascii_lowercase(),
        TokenKind::QuotedIdent | TokenKind::String => slice
            .get(1..slice.len().saturating_sub(1))
            .unwrap_or_default()
            .to_owned(),
        _ => slice.to_owned(),
    }
}

fn parse(words: &Words) -> Result<Command, Complaint> {
    let words = words.slices();
    let shard = |name: &&str| (*name).to_owned();
    Ok(match words.as_slice() {
        ["show", "transaction", "isolation", "level"] => {
            Command::ShowParameter("transaction_isolation".to_owned())
        }
        ["show", "time", "zone"] => Command::ShowParameter("timezone".to_owned()),
        ["show", rest @ ..] => return show(rest),
        ["pause"] => Command::Pause(None),
        ["pause", name] => Command::Pause(Some(shard(name))),
        ["resume"] => Command::Resume(None),
        ["resume", name] => Command::Resume(Some(shard(name))),
        ["disable", name] => Command::Disable(shard(name)),
        ["enable", name] => Command::Enable(shard(name)),
        ["reconnect"] => Command::Reconnect(None),
        ["reconnect", name] => Command::Reconnect(Some(shard(name))),
        ["kill"] => Command::Kill(None),
        ["kill", name] => match name.parse() {
            Ok(number) => Command::KillClient(number),
            Err(_) => Command::Kill(Some(shard(name))),
        },
        ["kill_client", number] => Command::KillClient(number.parse().map_err(|_| {
            Complaint::error(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("\"{number}\" is no client number"),
            )
            .with_hint("SHOW CLIENTS has them in its column id")
        })?),
        ["wait_close"] => Command::WaitClose(None),
        ["wait_close", name] => Command::WaitClose(Some(shard(name))),
        ["reload"] => Command::Reload,
        ["shutdown"] => Command::Shutdown(Shutdown::Drain),
        ["shutdown", "wait_for_servers"] => Command::Shutdown(Shutdown::WaitForServers),
        ["shutdown", "wait_for_clients"] => Command::Shutdown(Shutdown::WaitForClients),
        ["suspend"] => {
            return Err(Complaint::error(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "SUSPEND is not supported",
            )
            .with_hint("PAUSE holds clients at their next transaction"));
        }
        words => return driver(words).ok_or_else(|| unknown(words)),
    })
}

fn show(words: &[&str]) -> Result<Command, Complaint> {
    let limit = |text: &str| {
        text.parse().map_err(|_| {
            Complaint::error(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("\"{text}\" is no number of tenants"),
            )
        })
    };
    Ok(Command::Show(match words {
        [] | ["help"] => Show::Help,
        ["version"] => Show::Version,
        ["state"] => Show::State,
        ["clients"] => Show::Clients,
        ["servers"] => Show::Servers,
        ["pools"] => Show::Pools,
        ["queues"] => Show::Queues,
        ["databases"] => Show::Databases,
        ["users" | "roles"] => Show::Users,
        ["stats"] => Show::Stats,
        ["stats_totals"] => Show::StatsTotals,
        ["stats_averages"] => Show::StatsAverages,
        ["totals"] => Show::Totals,
        ["lists"] => Show::Lists,
        ["config"] => Show::Config,
        ["mem"] => Show::Mem,
        ["sockets"] => Show::Sockets,
        ["active_sockets"] => Show::ActiveSockets,
        ["shards"] => Show::Shards,
        ["routers"] => Show::Routers,
        ["fleet"] => Show::Fleet,
        ["tenants"] => Show::Tenants(LIMIT),
        ["tenants", "limit", count] => Show::Tenants(limit(count)?),
        ["tenant", name] => Show::Tenant((*name).to_owned()),
        ["hot_tenants"] => Show::HotTenants,
        ["moves"] => Show::Moves,
        ["limits"] => Show::Limits,
        ["top_tenants"] => Show::TopTenants(LIMIT),
        ["top_tenants", "limit", count] => Show::TopTenants(limit(count)?),
        [name] if super::parameters::value(name).is_some() => {
            return Ok(Command::ShowParameter((*name).to_owned()));
        }
        words => return Err(unknown(&[&["show"], words].concat())),
    }))
}

/// What drivers say by themselves.
fn driver(words: &[&str]) -> Option<Command> {
    Some(match words {
        ["select", "1"] => Command::Select(Probe::One),
        ["select", "version", "(", ")"] | ["select", "pg_catalog.version", "(", ")"] => {
            Command::Select(Probe::Version)
        }
        ["begin" | "start", ..] => Command::Begin,
        ["commit" | "end", ..] => Command::Commit,
        ["rollback" | "abort", ..] => Command::Rollback,
        ["set", ..] => Command::Ignored("SET"),
        ["reset", ..] => Command::Ignored("RESET"),
        ["discard", "all"] => Command::Ignored("DISCARD ALL"),
        ["deallocate", ..] => Command::Ignored("DEALLOCATE"),
        ["unlisten", ..] => Command::Ignored("UNLISTEN"),
        _ => return None,
    })
}

fn unknown(words: &[&str]) -> Complaint {
    let first: Vec<&str> = words.iter().take(3).copied().collect();
    Complaint::error(
        sqlstate::SYNTAX_ERROR,
        format!("unknown command \"{}\"", first.join(" ").to_uppercase()),
    )
    .with_hint("SHOW HELP lists the commands")
    .with_routine("CONSOLE_COMMAND_UNKNOWN")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Command {
        let mut all = parse_all(text).unwrap();
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    #[test]
    fn commands_are_read_as_pgbouncer_reads_them() {
        for (text, expected) in [
            ("SHOW CLIENTS;", Command::Show(Show::Clients)),
            ("  show /* all */ pools -- now", Command::Show(Show::Pools)),
            ("PAUSE", Command::Pause(None)),
            ("PAUSE shard-1", Command::Pause(Some("shard-1".to_owned()))),
            (
                "resume \"shard-1\"",
                Command::Resume(Some("shard-1".to_owned())),
            ),
            ("KILL 17", Command::KillClient(17)),
            ("KILL_CLIENT 17", Command::KillClient(17)),
            ("KILL eu1", Command::Kill(Some("eu1".to_owned()))),
            (
                "SHUTDOWN WAIT_FOR_CLIENTS",
                Command::Shutdown(Shutdown::WaitForClients),
            ),
            (
                "SHOW TENANT www.flowers-4-you.example",
                Command::Show(Show::Tenant("www.flowers-4-you.example".to_owned())),
            ),
            (
                "SHOW TENANT 42",
                Command::Show(Show::Tenant("42".to_owned())),
            ),
            (
                "SHOW TENANT '018f3c5e-0000-7000-8000-000000000001'",
                Command::Show(Show::Tenant(
                    "018f3c5e-0000-7000-8000-000000000001".to_owned(),
                )),
            ),
            (
                "SHOW TOP_TENANTS LIMIT 5",
                Command::Show(Show::TopTenants(5)),
            ),
            ("SET client_encoding TO 'UTF8'", Command::Ignored("SET")),
            ("SELECT version()", Command::Select(Probe::Version)),
            (
                "select pg_catalog.version()",
                Command::Select(Probe::Version),
            ),
            (
                "SHOW server_version",
                Command::ShowParameter("server_version".to_owned()),
            ),
        ] {
            assert_eq!(one(text), expected, "{text}");
        }
        assert_eq!(parse_all(" ; -- nothing").unwrap(), []);
        assert_eq!(
            parse_all("SHOW HELP; RELOAD").unwrap(),
            [Command::Show(Show::Help), Command::Reload]
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        for text in [
            "SELECT * FROM t",
            "SHOW NONSENSE",
            "KILL_CLIENT x",
            "PAUSE a b",
            "SUSPEND",
        ] {
            let error = parse_all(text).unwrap_err();
            assert!(error.hint.is_some(), "{text}: {error:?}");
        }
    }
}
