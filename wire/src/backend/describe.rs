//! Shapes of rows and parameters.

use crate::{MessageError, frontend::Format, reader::Reader};

/// One column of a RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column<'a> {
    /// The column's name, in the client's encoding.
    pub name: &'a [u8],
    /// Oid of the table it comes from, or 0.
    pub table_oid: u32,
    /// Number of the table's attribute it comes from, or 0.
    pub attribute: i16,
    /// Oid of its type.
    pub type_oid: u32,
    /// Bytes of a value, negative for variable sizes (`pg_type.typlen`).
    pub type_len: i16,
    /// The type's modifier (`pg_attribute.atttypmod`), or -1.
    pub type_modifier: i32,
    /// How values travel; always text in a statement's description.
    pub format: Format,
}

impl<'a> Column<'a> {
    /// A column of type `text` that comes from no table.
    #[must_use]
    pub fn text(name: &'a str) -> Self {
        Self::of_type(name, 25, -1)
    }

    /// A column of type `bigint` that comes from no table.
    #[must_use]
    pub fn bigint(name: &'a str) -> Self {
        Self::of_type(name, 20, 8)
    }

    /// A column of another type that comes from no table: the type's oid and `typlen`.
    #[must_use]
    pub fn of_type(name: &'a str, type_oid: u32, type_len: i16) -> Self {
        Self {
            name: name.as_bytes(),
            table_oid: 0,
            attribute: 0,
            type_oid,
            type_len,
            type_modifier: -1,
            format: Format::Text,
        }
    }
}

/// The columns of a RowDescription.
///
/// # Errors
/// The body is malformed.
pub fn columns(body: &[u8]) -> Result<Vec<Column<'_>>, MessageError> {
    let mut reader = Reader::new(body);
    let count = reader.count()?;
    // Allocates no more than the body could hold: 19 bytes are the least a column takes.
    let mut columns = Vec::with_capacity(count.min(body.len() / 19));
    for _ in 0..count {
        columns.push(Column {
            name: reader.cstr()?,
            table_oid: reader.u32()?,
            attribute: reader.i16()?,
            type_oid: reader.u32()?,
            type_len: reader.i16()?,
            type_modifier: reader.i32()?,
            format: Format::from_code(reader.i16()?)?,
        });
    }
    reader.finish()?;
    Ok(columns)
}

/// The values of a DataRow; `None` is NULL.
///
/// # Errors
/// The body is malformed.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, MessageError> {
    let mut reader = Reader::new(body);
    let count = reader.count()?;
    let mut values = Vec::with_capacity(count.min(body.len() / 4));
    for _ in 0..count {
        values.push(reader.value()?);
    }
    reader.finish()?;
    Ok(values)
}

/// The type oids of a ParameterDescription.
///
/// # Errors
/// The body is malformed.
pub fn parameter_description(body: &[u8]) -> Result<Vec<u32>, MessageError> {
    let mut reader = Reader::new(body);
    let count = reader.count()?;
    let mut oids = Vec::with_capacity(count.min(body.len() / 4));
    for _ in 0..count {
        oids.push(reader.u32()?);
    }
    reader.finish()?;
    Ok(oids)
}
