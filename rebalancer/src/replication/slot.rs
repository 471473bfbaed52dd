//! Slots seen from an ordinary session: what there is, and the end of them.

use std::time::Duration;

use tenantry_wire::replication::Lsn;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// Between attempts to drop a slot that somebody still holds.
const RETRY: Duration = Duration::from_millis(20);
/// After so long the holder is not ending.
const DROP_MAX: Duration = Duration::from_secs(20);

/// Why a slot could not be looked at or dropped.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The server refused, or the connection is lost.
    #[error("the server refused")]
    Sql(#[from] tokio_postgres::Error),
    /// Its walsender does not end.
    #[error("slot {name} is still in use after {DROP_MAX:?}")]
    InUse {
        /// The slot.
        name: String,
    },
}

/// A slot of the session's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// A walsender streams from it.
    pub active: bool,
    /// It ends with its connection.
    pub temporary: bool,
    /// The server has removed log that it needed: nothing can be read from it any more.
    pub lost: bool,
    /// From where on the server keeps its log for it.
    pub restart: Option<Lsn>,
    /// Where a stream without a position of its own would begin.
    pub confirmed: Option<Lsn>,
    /// Bytes of log that it holds back.
    pub retained_bytes: i64,
}

/// The slots of this database whose name matches a regular expression.
///
/// # Errors
/// The server refuses, or the connection is lost.
pub async fn slots(client: &Client, pattern: &str) -> Result<Vec<Slot>, SlotError> {
    let rows = client
        .query(include_str!("sql/slots.sql"), &[&pattern])
        .await?;
    let position = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    let slot = |row: &tokio_postgres::Row| -> Result<Slot, tokio_postgres::Error> {
        Ok(Slot {
            name: row.try_get(0)?,
            active: row.try_get(1)?,
            temporary: row.try_get(2)?,
            lost: row.try_get::<_, Option<&str>>(3)? == Some("lost"),
            restart: position(row.try_get(4)?),
            confirmed: position(row.try_get(5)?),
            retained_bytes: row.try_get(6)?,
        })
    };
    Ok(rows.iter().map(slot).collect::<Result<_, _>>()?)
}

/// Drops a slot; one that is not there is no error. Whoever streams from it is ended.
///
/// # Errors
/// The server refuses, the connection is lost, or the slot's holder does not end.
pub async fn drop(client: &Client, name: &str) -> Result<(), SlotError> {
    let deadline = Instant::now() + DROP_MAX;
    loop {
        let free = client
            .query_one(include_str!("sql/end_slot_user.sql"), &[&name])
            .await?;
        if free.try_get(0)? {
            match client
                .query(include_str!("sql/drop_slot.sql"), &[&name])
                .await
            {
                Ok(_) => return Ok(()),
                // Somebody else was quicker.
                Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => return Ok(()),
                Err(error) if error.code() != Some(&SqlState::OBJECT_IN_USE) => {
                    return Err(error.into());
                }
                Err(_in_use) => {}
            }
        }
        if Instant::now() > deadline {
            return Err(SlotError::InUse {
                name: name.to_owned(),
            });
        }
        sleep(RETRY).await;
    }
}
