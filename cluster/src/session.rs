//! Ways into a running server: connection parameters, URIs and sessions of the superuser.

use std::time::Duration;

use crate::error::ServerError;
use crate::server::Server;

pub(crate) const SUPERUSER: &str = "postgres";
const CONNECT_MAX: Duration = Duration::from_secs(10);

impl Server {
    /// Connection URI of the superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, self.superuser_password(), database)
    }

    /// Connection URI of any role.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        let [user, password, database] = [user, password, database].map(percent_encode);
        format!(
            "postgres://{user}:{password}@127.0.0.1:{}/{database}",
            self.port()
        )
    }

    /// Connection parameters of the superuser.
    #[must_use]
    pub fn config(&self, database: &str) -> tokio_postgres::Config {
        self.config_as(SUPERUSER, self.superuser_password(), database)
    }

    /// Connection parameters of any role.
    #[must_use]
    pub fn config_as(&self, user: &str, password: &str, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port())
            .user(user)
            .password(password)
            .dbname(database)
            .connect_timeout(CONNECT_MAX);
        config
    }

    /// A session of the superuser; a task of the current runtime drives it.
    ///
    /// # Errors
    /// [`ServerError::Session`].
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client, ServerError> {
        let (client, connection) = self.config(database).connect(tokio_postgres::NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a superuser's session ended");
            }
        });
        Ok(client)
    }

    /// Creates an empty database.
    ///
    /// # Errors
    /// [`ServerError::Session`].
    pub async fn create_database(&self, name: &str) -> Result<(), ServerError> {
        let client = self.connect("postgres").await?;
        client
            .batch_execute(&format!(
                "CREATE DATABASE \"{}\"",
                name.replace('"', "\"\"")
            ))
            .await?;
        Ok(())
    }
}

/// Escapes everything but unreserved characters (RFC 3986).
fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut encoded, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                let _ = write!(encoded, "%{byte:02X}");
            }
            encoded
        })
}

#[cfg(test)]
mod tests {
    use super::percent_encode;

    #[test]
    fn what_a_uri_gives_a_meaning_to_is_escaped() {
        assert_eq!(percent_encode("a-b_c.1~"), "a-b_c.1~");
        assert_eq!(percent_encode("p@ss:w/rd é"), "p%40ss%3Aw%2Frd%20%C3%A9");
    }
}
