//! Connecting to PostgreSQL.

use tokio_postgres::{Client, Config, NoTls};

/// A session; a task of the current runtime drives it until the client is dropped.
pub(crate) async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a session ended");
        }
    });
    Ok(client)
}
