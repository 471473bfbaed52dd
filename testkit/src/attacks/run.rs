//! Trying one attack.

use bytes::BytesMut;

use tenantry_wire::frame::Message;
use tenantry_wire::frontend::{self, Format};
use tenantry_wire::tag::backend as tag;

use super::{Arena, Attack, Expect, MARKER, Side, Step};
use crate::{RawClient, RawError, commands_of, error_of, rows_of};

/// An attack that did not fail as it must.
#[derive(Debug, thiserror::Error)]
#[error("attack {attack:?}: {what}")]
pub struct AttackError {
    /// The attack's name.
    pub attack: &'static str,
    /// What happened instead.
    pub what: String,
}

/// What an attack may know about its victim.
struct Loot {
    stolen: String,
    pid: String,
    row: String,
}

/// Everything the attacker received.
#[derive(Default)]
struct Seen {
    codes: Vec<String>,
    last: Vec<Message>,
}

/// Tries an attack and checks what came of it.
///
/// # Errors
/// The attack succeeded, or could not be tried.
pub async fn run(arena: &impl Arena, attack: &Attack) -> Result<(), AttackError> {
    attempt(arena, attack).await.map_err(|error| AttackError {
        attack: attack.name,
        what: format!("{error:#}"),
    })
}

async fn attempt(arena: &impl Arena, attack: &Attack) -> anyhow::Result<()> {
    let before = arena.victims_rows().await?;
    let mut victim = arena.open(Side::Victim, &[]).await?;
    let loot = Loot {
        stolen: cell(&mut victim, "SELECT current_setting('tenantry.tenant')").await?,
        pid: cell(&mut victim, "SELECT pg_backend_pid() + 0").await?,
        row: cell(&mut victim, "SELECT id FROM customers ORDER BY id LIMIT 1").await?,
    };
    let mut attacker = arena.open(Side::Attacker, &[]).await?;
    let mut seen = Seen::default();
    for step in &attack.steps {
        let fill = |text: &str| fill(arena, &loot, text);
        if let Step::Victim(sql, expected) = step {
            let found = cell(&mut victim, &fill(sql)).await?;
            anyhow::ensure!(
                found == fill(expected),
                "the victim's {sql:?} returned {found:?}"
            );
            continue;
        }
        if let Step::Login(parameters) = step {
            let parameters: Vec<(&str, String)> = parameters
                .iter()
                .map(|(name, value)| (name.as_str(), fill(value)))
                .collect();
            let parameters: Vec<(&str, &str)> = parameters
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            match arena.open(Side::Attacker, &parameters).await {
                Ok(session) => attacker = session,
                Err(RawError::Refused(error)) => seen.codes.push(error.code.to_string()),
                Err(error) => return Err(error.into()),
            }
            continue;
        }
        let messages = take(&mut attacker, step, &fill).await?;
        note(&mut seen, messages)?;
    }
    if !(arena.has_router() && matches!(attack.expect, Expect::Forged(_))) {
        judge(&attack.expect, &seen, &|text: &str| {
            fill(arena, &loot, text)
        })?;
    }
    // The attacker's session is still there, with whatever it holds.
    serve(&mut victim).await?;
    let after = arena.victims_rows().await?;
    anyhow::ensure!(before == after, "the victim's rows were changed");
    drop(attacker);
    Ok(())
}

fn fill(arena: &impl Arena, loot: &Loot, text: &str) -> String {
    let (attacker, victim) = arena.tenants();
    text.replace("{attacker}", attacker)
        .replace("{victim}", victim)
        .replace("{stolen}", &loot.stolen)
        .replace("{pid}", &loot.pid)
        .replace("{row}", &loot.row)
}

async fn take(
    session: &mut RawClient,
    step: &Step,
    fill: &impl Fn(&str) -> String,
) -> Result<Vec<Message>, RawError> {
    match step {
        Step::Query(sql) => session.query(&fill(sql)).await,
        Step::Bytes(bytes) => {
            session.send(|out| frontend::put_query(out, bytes)).await?;
            session.until_ready().await
        }
        Step::Extended(sql, parameters) => {
            let parameters: Vec<String> = parameters.iter().map(|text| fill(text)).collect();
            let parameters: Vec<Option<&[u8]>> = parameters
                .iter()
                .map(|text| Some(text.as_bytes()))
                .collect();
            let sql = fill(sql);
            session
                .send(|out| {
                    frontend::put_parse(out, "", &sql, &[]);
                    frontend::put_bind(out, "", "", &parameters, Format::Text);
                    frontend::put_execute(out, "", 0);
                    frontend::put_sync(out);
                })
                .await?;
            session.until_ready().await
        }
        Step::Copy(sql, data) => copy(session, &fill(sql), &fill(data)).await,
        Step::Call(function, arguments) => {
            let sql = format!("SELECT '{function}'::regprocedure::oid");
            let oid = cell(session, &sql)
                .await
                .map_err(|error| RawError::Login(error.to_string()))?;
            let arguments: Vec<String> = arguments.iter().map(|text| fill(text)).collect();
            let mut body = BytesMut::new();
            put_function_call(&mut body, oid.parse().unwrap_or(0), &arguments);
            session.send_bytes(&body).await?;
            session.until_ready().await
        }
        // Not messages of the attacker's session.
        Step::Login(_) | Step::Victim(..) => Ok(Vec::new()),
    }
}

/// FunctionCall with arguments and result in text (PostgreSQL documentation, "Message Formats").
fn put_function_call(out: &mut BytesMut, oid: u32, arguments: &[String]) {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend([0, 1, 0, 0]);
    body.extend((arguments.len() as u16).to_be_bytes());
    for argument in arguments {
        body.extend((argument.len() as u32).to_be_bytes());
        body.extend(argument.as_bytes());
    }
    body.extend([0, 0]);
    out.extend_from_slice(b"F");
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(&body);
}

async fn copy(session: &mut RawClient, sql: &str, data: &str) -> Result<Vec<Message>, RawError> {
    session.send(|out| frontend::put_query(out, sql)).await?;
    let mut messages = Vec::new();
    loop {
        let message = session.receive().await?;
        let seen = message.tag;
        messages.push(message);
        match seen {
            tag::COPY_IN => {
                session
                    .send(|out| {
                        frontend::put_copy_data(out, data.as_bytes());
                        frontend::put_copy_done(out);
                    })
                    .await?;
            }
            tag::READY_FOR_QUERY => return Ok(messages),
            _ => {}
        }
    }
}

fn note(seen: &mut Seen, messages: Vec<Message>) -> anyhow::Result<()> {
    for message in &messages {
        let body = String::from_utf8_lossy(message.body());
        anyhow::ensure!(!body.contains(MARKER), "the attacker received {body:?}");
    }
    if let Some(error) = error_of(&messages) {
        seen.codes.push(error.code.to_string());
    }
    seen.last = messages;
    Ok(())
}

fn judge(expect: &Expect, seen: &Seen, fill: &impl Fn(&str) -> String) -> anyhow::Result<()> {
    let rows = rows_of(&seen.last);
    match expect {
        Expect::Refused(codes) | Expect::Forged(codes) => anyhow::ensure!(
            seen.codes.iter().any(|code| codes.contains(&code.as_str())),
            "refused with {:?} instead of one of {codes:?}; it returned {rows:?}",
            seen.codes
        ),
        Expect::Nothing => {
            let changed: Vec<String> = commands_of(&seen.last)
                .into_iter()
                .filter(|command| {
                    command.starts_with(char::is_uppercase) && !command.ends_with(" 0")
                })
                .filter(|command| command.contains(' '))
                .collect();
            anyhow::ensure!(
                error_of(&seen.last).is_none() && rows.is_empty() && changed.is_empty(),
                "it returned {rows:?}, changed {changed:?}, failed with {:?}",
                seen.codes
            );
        }
        Expect::Shows(text) => {
            let expected = vec![vec![Some(fill(text))]];
            anyhow::ensure!(
                rows == expected,
                "it returned {rows:?} instead of {expected:?}, errors {:?}",
                seen.codes
            );
        }
        Expect::Harmless => {}
    }
    Ok(())
}

/// The victim reads, locks and numbers rows of its own.
async fn serve(session: &mut RawClient) -> anyhow::Result<()> {
    for (sql, expected) in [
        ("SELECT count(*) FROM customers", "1"),
        (
            "SELECT count(*) FROM products WHERE search @@ to_tsquery('simple', 'mug')",
            "1",
        ),
        ("SELECT tenantry.next_id() > 0", "t"),
        (
            "SELECT count(*) FROM (SELECT FROM orders FOR UPDATE) o",
            "1",
        ),
    ] {
        let found = cell(session, sql).await?;
        anyhow::ensure!(found == expected, "the victim's {sql:?} returned {found:?}");
    }
    Ok(())
}

/// The only value that a query returns.
async fn cell(session: &mut RawClient, sql: &str) -> anyhow::Result<String> {
    let messages = session.query(sql).await?;
    if let Some(error) = error_of(&messages) {
        anyhow::bail!("{sql:?} failed: {} {}", error.code, error.message);
    }
    match rows_of(&messages).as_slice() {
        [row] => match row.as_slice() {
            [Some(value)] => Ok(value.clone()),
            other => anyhow::bail!("{sql:?} returned {other:?}"),
        },
        rows => anyhow::bail!("{sql:?} returned {} rows", rows.len()),
    }
}
