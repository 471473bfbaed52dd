//! `COPY … TO STDOUT (FORMAT binary)`, read row by row without a copy of the fields.
//!
//! Format: PostgreSQL documentation, COPY, "Binary Format". The server sends one row per message, the first with the
//! file header before it, and a trailer of -1.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{CopyOutStream, Transaction};
use uuid::Uuid;

use super::CatalogError;
use crate::shard::ShardId;
use crate::tenant::{TenantId, TenantKey};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// The rows of one COPY.
pub(super) struct CopyRows {
    stream: Pin<Box<CopyOutStream>>,
    key: TenantKey,
    started: bool,
    ended: bool,
}

impl CopyRows {
    pub(super) async fn start(
        transaction: &Transaction<'_>,
        key: TenantKey,
        copy: &str,
    ) -> Result<Self, CatalogError> {
        let stream = Box::pin(transaction.copy_out(copy).await?);
        Ok(Self {
            stream,
            key,
            started: false,
            ended: false,
        })
    }

    /// The next row; `None` after the trailer. A stream that ends without one is an error, not a short answer.
    pub(super) async fn next(&mut self) -> Result<Option<CopyRow>, CatalogError> {
        loop {
            let Some(chunk) = self.stream.next().await else {
                return if self.ended {
                    Ok(None)
                } else {
                    Err(CatalogError::Copy("it ends without a trailer"))
                };
            };
            let mut row = CopyRow {
                bytes: chunk?,
                at: 0,
                key: self.key,
            };
            if !self.started {
                row.skip_header()?;
                self.started = true;
            }
            if row.at == row.bytes.len() {
                continue;
            }
            if i16::from_be_bytes(row.array()?) >= 0 {
                return Ok(Some(row));
            }
            self.ended = true;
        }
    }
}

/// One row; its fields are read in order.
pub(super) struct CopyRow {
    bytes: Bytes,
    at: usize,
    key: TenantKey,
}

impl CopyRow {
    fn skip_header(&mut self) -> Result<(), CatalogError> {
        if self.take(SIGNATURE.len())? != SIGNATURE {
            return Err(CatalogError::Copy("the signature is missing"));
        }
        let _flags: [u8; 4] = self.array()?;
        let extension = u32::from_be_bytes(self.array()?) as usize;
        self.take(extension).map(drop)
    }

    fn take(&mut self, length: usize) -> Result<&[u8], CatalogError> {
        let end = self
            .at
            .checked_add(length)
            .filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(CatalogError::Copy("a field is cut short"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CatalogError> {
        self.take(N)?
            .try_into()
            .map_err(|_| CatalogError::Copy("a field has another length than its type"))
    }

    fn optional(&mut self) -> Result<Option<&[u8]>, CatalogError> {
        match usize::try_from(i32::from_be_bytes(self.array()?)) {
            Ok(length) => self.take(length).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn required(&mut self) -> Result<&[u8], CatalogError> {
        self.optional()?
            .ok_or(CatalogError::Copy("a field that has a value is null"))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], CatalogError> {
        self.required()?
            .try_into()
            .map_err(|_| CatalogError::Copy("a field has another length than its type"))
    }

    pub(super) fn tenant(&mut self) -> Result<TenantId, CatalogError> {
        Ok(match self.key {
            TenantKey::Bigint => TenantId::from_bigint(i64::from_be_bytes(self.fixed()?))?,
            TenantKey::Uuid => TenantId::from_uuid(Uuid::from_bytes(self.fixed()?))?,
        })
    }

    pub(super) fn shard(&mut self) -> Result<ShardId, CatalogError> {
        let number = u16::from_be_bytes(self.fixed()?);
        ShardId::new(number).map_err(|cause| CatalogError::row("shard", number.to_string(), cause))
    }

    pub(super) fn int8(&mut self) -> Result<i64, CatalogError> {
        self.fixed().map(i64::from_be_bytes)
    }

    pub(super) fn boolean(&mut self) -> Result<bool, CatalogError> {
        self.fixed::<1>().map(|[byte]| byte != 0)
    }

    pub(super) fn timestamp(&mut self) -> Result<Option<Timestamp>, CatalogError> {
        let Some(raw) = self.optional()? else {
            return Ok(None);
        };
        let value = Timestamp::from_sql(&Type::TIMESTAMPTZ, raw);
        value
            .map(Some)
            .map_err(|_| CatalogError::Copy("a timestamp is out of range"))
    }

    /// A text field's place, to be read with [`CopyRow::text`] once all fields were passed.
    pub(super) fn text_span(&mut self) -> Result<Option<Span>, CatalogError> {
        let length = self.optional()?.map(<[u8]>::len);
        Ok(length.map(|length| Span {
            start: self.at - length,
            end: self.at,
        }))
    }

    pub(super) fn text(&self, span: Option<Span>) -> Result<&str, CatalogError> {
        let span = span.ok_or(CatalogError::Copy("a field that has a value is null"))?;
        let raw = self.bytes.get(span.start..span.end).unwrap_or_default();
        std::str::from_utf8(raw).map_err(|_| CatalogError::Copy("a text is not UTF-8"))
    }
}

/// Where in its row a text is.
#[derive(Clone, Copy)]
pub(super) struct Span {
    start: usize,
    end: usize,
}
