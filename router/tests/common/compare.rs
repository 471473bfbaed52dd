//! The same messages through the router and directly to the shard: sessions of both kinds, and what
//! of their answers must be equal.

use std::net::SocketAddr;
use std::time::Duration;

use tenantry_schema::guard;
use tenantry_testkit::{Login, RawClient, rows_of};
use tenantry_wire::frame::Message;

use super::Setup;

/// A session at the shard itself, bound as the router binds.
pub async fn direct(setup: &Setup, index: usize) -> RawClient {
    direct_with(setup, index, |login| login).await
}

/// The same with a startup packet of the caller's.
pub async fn direct_with(
    setup: &Setup,
    index: usize,
    change: impl FnOnce(Login) -> Login,
) -> RawClient {
    let (target, login) = direct_login(setup, index).await;
    let mut client = RawClient::login(target, &change(login)).await.unwrap();
    let secrets = setup
        .fleet
        .shard_of(setup.tenant(index))
        .await
        .unwrap()
        .secrets();
    let identity = rows_of(
        &client
            .query("SELECT tenantry.backend_identity()")
            .await
            .unwrap(),
    );
    let identity = identity[0][0].clone().unwrap();
    let value = guard::sign(&secrets.guard.current, &identity, &setup.id(index));
    client
        .query(&format!(
            "SELECT set_config('tenantry.tenant', '{value}', false)"
        ))
        .await
        .unwrap();
    client
}

/// Where a session at the shard itself is to be had, and how.
pub async fn direct_login(setup: &Setup, index: usize) -> (SocketAddr, Login) {
    let shard = setup.fleet.shard_of(setup.tenant(index)).await.unwrap();
    let address = &shard.shard().address;
    let target = format!("{}:{}", address.host, address.port);
    let login = Login::new(
        guard::role::APP,
        shard.secrets().passwords.app.expose(),
        &address.database,
    );
    let login = login.parameter("client_encoding", "UTF8");
    (target.parse().unwrap(), login)
}

/// Everything in one write; then as many answers as it has ReadyForQuery. `name` is for whoever reads of a failure.
pub async fn pipelined(
    client: &mut RawClient,
    name: &str,
    bytes: &[u8],
    ready: usize,
) -> Vec<Message> {
    client.send_bytes(bytes).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..ready {
        let limit = Duration::from_secs(10);
        match tokio::time::timeout(limit, client.until_ready()).await {
            Ok(messages) => seen.extend(messages.unwrap()),
            Err(_) => panic!("{name}: no answer after {:#?}", show(&seen)),
        }
    }
    seen
}

pub fn show(messages: &[Message]) -> Vec<String> {
    messages
        .iter()
        .map(|message| {
            let body = String::from_utf8_lossy(&message.body()[..message.body().len().min(300)]);
            format!("{} {}", char::from(message.tag), body.escape_debug())
        })
        .collect()
}

/// ParameterStatus is left out: the direct session tells its whole history, the router only what is
/// news to its client. Tests of settings look at them by name.
pub fn normalised(messages: Vec<String>) -> Vec<String> {
    messages
        .into_iter()
        .filter(|line| !line.starts_with("S "))
        .map(|line| {
            if line.starts_with("E ") || line.starts_with("N ") {
                error_essence(&line)
            } else {
                line
            }
        })
        .collect()
}

/// Severity, code and message; hints, positions and source lines are the router's own where the
/// router answers.
fn error_essence(line: &str) -> String {
    let fields: Vec<&str> = line[2..].split("\\0").collect();
    let wanted = |field: &&str| field.starts_with(['S', 'C', 'M']);
    let fields: Vec<&str> = fields.into_iter().filter(wanted).collect();
    format!("{} {}", &line[..1], fields.join(" "))
}
