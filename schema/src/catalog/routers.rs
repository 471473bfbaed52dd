//! Routers make themselves known: their number, and how far they have followed the catalog.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{Catalog, CatalogError};

/// A router's number, 1 to 1023: ten bits of the process id that clients see.
pub type RouterId = u16;

/// A router that registers.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRouter<'a> {
    /// A name of its own.
    pub name: &'a str,
    /// The number it would like to have: the one that its sessions' keys carry already.
    pub number: Option<RouterId>,
    /// Where its control channel listens.
    pub control_address: Option<&'a str>,
    /// Host and port at which other routers pass cancel requests on.
    pub peer_address: Option<&'a str>,
}

/// A router as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredRouter {
    /// The number.
    pub id: RouterId,
    /// The name it registered with.
    pub name: String,
    /// Where its control channel listens.
    pub control_address: Option<String>,
    /// Host and port at which other routers pass cancel requests on.
    pub peer_address: Option<String>,
    /// The last change it has applied.
    pub applied_seq: u64,
    /// When it last said so.
    pub heartbeat_at: Timestamp,
}

/// A router that was silent for so long has lost its number to a new one, should all be taken.
const NUMBER_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

impl Catalog {
    /// Registers a router under a name that is its own; the same name gets the same number again, and otherwise the
    /// one it asks for if that is free.
    pub async fn register_router(&self, router: NewRouter<'_>) -> Result<RouterId, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        transaction
            .batch_execute("LOCK TABLE tenantry.router IN SHARE ROW EXCLUSIVE MODE")
            .await?;
        let forget = "DELETE FROM tenantry.router WHERE name <> $1 AND heartbeat_at < now() - make_interval(secs => $2) \
                      AND (SELECT count(*) FROM tenantry.router) >= 1023";
        transaction
            .execute(forget, &[&router.name, &NUMBER_KEPT.as_secs_f64()])
            .await?;
        let upsert = "INSERT INTO tenantry.router AS r (id, name, control_address, peer_address) \
                      SELECT n.id, $1, $2, $3 FROM generate_series(1, 1023) AS n (id) \
                      WHERE NOT EXISTS (SELECT FROM tenantry.router t WHERE t.id = n.id AND t.name <> $1) \
                      ORDER BY NOT EXISTS (SELECT FROM tenantry.router t WHERE t.id = n.id), n.id IS DISTINCT FROM $4, n.id LIMIT 1 \
                      ON CONFLICT (name) DO UPDATE SET control_address = excluded.control_address, \
                          peer_address = excluded.peer_address, started_at = now(), heartbeat_at = now(), applied_seq = 0 \
                      RETURNING id";
        let wanted = router.number.and_then(|number| i16::try_from(number).ok());
        let row = transaction
            .query_opt(
                upsert,
                &[
                    &router.name,
                    &router.control_address,
                    &router.peer_address,
                    &wanted.map(i32::from),
                ],
            )
            .await?;
        transaction.commit().await?;
        let full = || CatalogError::Refused {
            message: "all 1023 router numbers are in use".to_owned(),
            hint: None,
        };
        let id: i16 = row.ok_or_else(full)?.get(0);
        Ok(id.unsigned_abs())
    }

    /// Says that the router lives and has applied all changes up to `applied_seq`. `false`: it is not registered
    /// (any more) and must register again.
    pub async fn heartbeat_router(
        &self,
        id: RouterId,
        applied_seq: u64,
    ) -> Result<bool, CatalogError> {
        let client = self.client().await?;
        let update =
            "UPDATE tenantry.router SET applied_seq = $2, heartbeat_at = now() WHERE id = $1";
        let applied = i64::try_from(applied_seq).unwrap_or(i64::MAX);
        Ok(client
            .execute(update, &[&i16::try_from(id).unwrap_or(i16::MAX), &applied])
            .await?
            > 0)
    }

    /// Removes a router that has ended in order.
    pub async fn unregister_router(&self, id: RouterId) -> Result<(), CatalogError> {
        let client = self.client().await?;
        client
            .execute(
                "DELETE FROM tenantry.router WHERE id = $1",
                &[&i16::try_from(id).unwrap_or(i16::MAX)],
            )
            .await?;
        Ok(())
    }

    /// The routers that have given a sign of life within this time, by the catalog's clock.
    pub async fn live_routers(
        &self,
        silence: Duration,
    ) -> Result<Vec<RegisteredRouter>, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT id, name, control_address, peer_address, applied_seq, heartbeat_at FROM tenantry.router \
                      WHERE heartbeat_at > clock_timestamp() - make_interval(secs => $1) ORDER BY id";
        let rows = client.query(select, &[&silence.as_secs_f64()]).await?;
        Ok(rows.iter().map(registered).collect())
    }

    /// All registered routers, dead ones included.
    pub async fn list_routers(&self) -> Result<Vec<RegisteredRouter>, CatalogError> {
        let client = self.client().await?;
        let select = "SELECT id, name, control_address, peer_address, applied_seq, heartbeat_at \
                      FROM tenantry.router ORDER BY id";
        let rows = client.query(select, &[]).await?;
        Ok(rows.iter().map(registered).collect())
    }
}

fn registered(row: &Row) -> RegisteredRouter {
    RegisteredRouter {
        id: row.get::<_, i16>(0).unsigned_abs(),
        name: row.get(1),
        control_address: row.get(2),
        peer_address: row.get(3),
        applied_seq: row.get::<_, i64>(4).unsigned_abs(),
        heartbeat_at: row.get(5),
    }
}
