//! One pair of sessions that copies chunk after chunk.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, TryStreamExt as _};
use tenantry_wire::sql::quote_literal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::{Client, Transaction};

use super::pieces::{Chunk, Copied, Question};
use super::{CopyError, CopyJob, CopyProgress};
use crate::tables::{TenantTable, list};

/// The server sends a message per row; they travel on together.
const BUFFER: usize = 64 << 10;

pub(super) struct Worker {
    job: Arc<CopyJob>,
    source: Client,
    destination: Client,
    progress: Arc<watch::Sender<CopyProgress>>,
}

impl Worker {
    pub(super) fn new(
        job: Arc<CopyJob>,
        source: Client,
        destination: Client,
        progress: Arc<watch::Sender<CopyProgress>>,
    ) -> Self {
        Self {
            job,
            source,
            destination,
            progress,
        }
    }

    /// Copies until there is no chunk left.
    pub(super) async fn run(mut self, asking: mpsc::Sender<Question>) -> Result<(), CopyError> {
        let mut copied = None;
        loop {
            let (answer, answered) = oneshot::channel();
            let question = Question { copied, answer };
            // Nobody there to answer: the cutter failed, and tells why itself.
            if asking.send(question).await.is_err() {
                return Ok(());
            }
            let Ok(Some(chunk)) = answered.await else {
                return Ok(());
            };
            copied = Some(self.copy(&chunk).await?);
        }
    }

    async fn copy(&mut self, chunk: &Chunk) -> Result<Copied, CopyError> {
        let failed = destination_failed(&chunk.table);
        let transaction = self.destination.transaction().await.map_err(&failed)?;
        let (sent, taken) =
            pipe(&self.job, &self.source, &transaction, chunk, &self.progress).await?;
        if let Some(rows) = sent.rows.filter(|rows| *rows != taken) {
            return Err(CopyError::Short {
                table: chunk.table.relation(),
                sent: rows,
                taken,
            });
        }
        let copied = Copied {
            place: chunk.place,
            rows: taken,
            bytes: sent.bytes,
        };
        record(&self.job, &transaction, chunk, copied).await?;
        transaction.commit().await.map_err(&failed)?;
        self.progress.send_modify(|progress| {
            if let Some(table) = progress.tables.get_mut(chunk.place) {
                table.rows += taken;
                table.chunks += 1;
                if chunk.range.upto.is_none() {
                    table.chunks_total = u32::try_from(chunk.number + 1).ok();
                }
            }
        });
        Ok(copied)
    }
}

/// What came out of the source.
struct Sent {
    bytes: u64,
    /// Known in text, where a message is a row.
    rows: Option<u64>,
}

/// Moves a chunk's rows, and returns what was sent and how many rows the destination took.
async fn pipe(
    job: &CopyJob,
    source: &Client,
    destination: &Transaction<'_>,
    chunk: &Chunk,
    progress: &watch::Sender<CopyProgress>,
) -> Result<(Sent, u64), CopyError> {
    let table = &chunk.table;
    let at_source = |source| CopyError::Source {
        table: table.relation(),
        source,
    };
    let at_destination = destination_failed(table);
    let (out, into) = statements(job, chunk);
    let (rows, sink) = tokio::join!(
        async { source.copy_out(&out).await.map_err(at_source) },
        async {
            destination
                .copy_in::<_, Bytes>(&into)
                .await
                .map_err(&at_destination)
        },
    );
    let (mut rows, mut sink) = (pin!(rows?), pin!(sink?));
    let mut buffer = BytesMut::with_capacity(BUFFER + (BUFFER >> 2));
    let (mut bytes, mut messages) = (0, 0);
    loop {
        let message = rows.try_next().await.map_err(at_source)?;
        let is_end = message.is_none();
        if let Some(message) = message {
            messages += 1;
            buffer.extend_from_slice(&message);
        }
        if buffer.len() >= BUFFER || is_end && !buffer.is_empty() {
            let piece = buffer.split().freeze();
            let length = piece.len() as u64;
            job.throttle.take(length).await;
            sink.feed(piece).await.map_err(&at_destination)?;
            bytes += length;
            progress.send_modify(|progress| {
                if let Some(table) = progress.tables.get_mut(chunk.place) {
                    table.bytes += length;
                }
            });
            buffer.reserve(BUFFER + (BUFFER >> 2));
        }
        if is_end {
            break;
        }
    }
    let taken = sink.finish().await.map_err(&at_destination)?;
    let rows = (!table.binary()).then_some(messages);
    Ok((Sent { bytes, rows }, taken))
}

/// What the two servers are told.
fn statements(job: &CopyJob, chunk: &Chunk) -> (String, String) {
    let table = &chunk.table;
    let columns = list(table.written());
    let format = if table.binary() { "binary" } else { "text" };
    let out = format!(
        "COPY (SELECT {columns} FROM {} WHERE {}) TO STDOUT (FORMAT {format})",
        table.relation(),
        table.within(&job.tenant, &chunk.range),
    );
    let into = format!(
        "COPY {} ({columns}) FROM STDIN (FORMAT {format})",
        table.relation()
    );
    (out, into)
}

/// Writes the ledger's row, if the destination still imports the tenant for this move, and keeps it so until the commit.
async fn record(
    job: &CopyJob,
    destination: &Transaction<'_>,
    chunk: &Chunk,
    copied: Copied,
) -> Result<(), CopyError> {
    let insert = format!(
        "INSERT INTO tenantry.move_chunk (move_id, relation, chunk, upper_key, rows, bytes, snapshot_lsn) \
         SELECT o.move_id, $2, $3, $4, $5, $6, $7 FROM tenantry.owner o \
         WHERE o.tenant_id = {} AND o.move_id = $1 AND o.state = 'importing' FOR SHARE",
        quote_literal(&job.tenant)
    );
    let (rows, bytes) = (copied.rows.cast_signed(), copied.bytes.cast_signed());
    let written = destination
        .execute(
            &insert,
            &[
                &job.move_id,
                &chunk.table.relation(),
                &chunk.number,
                &chunk.range.upto,
                &rows,
                &bytes,
                &job.snapshot_lsn,
            ],
        )
        .await
        .map_err(destination_failed(&chunk.table))?;
    if written == 1 {
        return Ok(());
    }
    Err(CopyError::NotImporting {
        tenant: job.tenant.clone(),
        move_id: job.move_id,
    })
}

fn destination_failed(table: &TenantTable) -> impl Fn(tokio_postgres::Error) -> CopyError {
    let table = table.relation();
    move |source| CopyError::Destination {
        table: table.clone(),
        source,
    }
}
