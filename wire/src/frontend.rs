//! Messages a client sends: parsers for the router as a server, builders for the router as a client.
//!
//! Parsers take a message's body and borrow from it. Names and texts are bytes: the client's encoding decides what
//! they mean, and a router that only maps and forwards them has no need to know.

mod bind;
mod build;

pub use bind::{Bind, BindHead, Format, Parameters};
pub use build::{
    put_bind, put_bind_head, put_bind_renamed, put_cancel_request, put_close, put_copy_data,
    put_copy_done, put_copy_fail, put_describe, put_execute, put_flush, put_gssenc_request,
    put_parse, put_parse_raw, put_password, put_query, put_sasl_initial, put_sasl_response,
    put_ssl_request, put_startup, put_sync, put_terminate,
};

use crate::{MessageError, reader::Reader};

/// A Parse message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name, empty for the unnamed one.
    pub name: &'a [u8],
    /// The statement.
    pub text: &'a [u8],
    /// The parameters' type oids as they travel: four bytes each, without the count. Usable as part of a key.
    pub param_types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads the body of a Parse.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        let name = reader.cstr()?;
        let text = reader.cstr()?;
        let count = reader.count()?;
        let param_types = reader.bytes(count * 4)?;
        reader.finish()?;
        Ok(Self {
            name,
            text,
            param_types,
        })
    }

    /// The parameters' type oids; 0 leaves the type to the server.
    pub fn type_oids(&self) -> impl Iterator<Item = u32> + 'a {
        let (oids, _) = self.param_types.as_chunks::<4>();
        oids.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// Whether Describe or Close means a statement or a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

impl TargetKind {
    /// The byte that travels.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Statement => b'S',
            Self::Portal => b'P',
        }
    }
}

/// What a Describe or Close message names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Statement or portal.
    pub kind: TargetKind,
    /// Its name, empty for the unnamed one.
    pub name: &'a [u8],
}

impl<'a> Target<'a> {
    /// Reads the body of a Describe or a Close.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        let kind = match reader.u8()? {
            b'S' => TargetKind::Statement,
            b'P' => TargetKind::Portal,
            other => return Err(MessageError::TargetKind(other)),
        };
        let name = reader.cstr()?;
        reader.finish()?;
        Ok(Self { kind, name })
    }
}

/// A Describe message.
pub type Describe<'a> = Target<'a>;
/// A Close message.
pub type Close<'a> = Target<'a>;

/// An Execute message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The portal, empty for the unnamed one.
    pub portal: &'a [u8],
    /// Most rows to return; zero or less means all.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    /// Reads the body of an Execute.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        let portal = reader.cstr()?;
        let max_rows = reader.i32()?;
        reader.finish()?;
        Ok(Self { portal, max_rows })
    }
}

/// Reads the body of a simple Query: its text.
///
/// # Errors
/// The body is malformed.
pub fn query_text(body: &[u8]) -> Result<&[u8], MessageError> {
    only_string(body)
}

/// Reads the body of a CopyFail: the client's reason.
///
/// # Errors
/// The body is malformed.
pub fn copy_fail(body: &[u8]) -> Result<&[u8], MessageError> {
    only_string(body)
}

/// Reads the body of a PasswordMessage.
///
/// # Errors
/// The body is malformed.
pub fn password(body: &[u8]) -> Result<&[u8], MessageError> {
    only_string(body)
}

fn only_string(body: &[u8]) -> Result<&[u8], MessageError> {
    let mut reader = Reader::new(body);
    let text = reader.cstr()?;
    reader.finish()?;
    Ok(text)
}

/// A FunctionCall message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionCall<'a> {
    /// Oid of the function.
    pub function: u32,
    /// Its arguments, `None` for NULL.
    pub arguments: Vec<(Format, Option<&'a [u8]>)>,
    /// Format of the result.
    pub result: Format,
}

/// Reads the body of a FunctionCall.
///
/// # Errors
/// The body is malformed.
pub fn function_call(body: &[u8]) -> Result<FunctionCall<'_>, MessageError> {
    let mut reader = Reader::new(body);
    let function = reader.u32()?;
    let mut parameters = Parameters::read(reader.rest())?;
    let arguments = parameters.by_ref().collect::<Result<Vec<_>, _>>()?;
    let mut reader = Reader::new(parameters.rest());
    let result = Format::from_code(reader.i16()?)?;
    reader.finish()?;
    Ok(FunctionCall {
        function,
        arguments,
        result,
    })
}

/// A SASLInitialResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    /// The mechanism the client chose.
    pub mechanism: &'a [u8],
    /// Its first message, unless it waits for the server to speak first.
    pub response: Option<&'a [u8]>,
}

/// Reads the body of a SASLInitialResponse. (A SASLResponse is all data: its body is the response.)
///
/// # Errors
/// The body is malformed.
pub fn sasl_initial(body: &[u8]) -> Result<SaslInitial<'_>, MessageError> {
    let mut reader = Reader::new(body);
    let mechanism = reader.cstr()?;
    let response = reader.value()?;
    reader.finish()?;
    Ok(SaslInitial {
        mechanism,
        response,
    })
}

#[cfg(test)]
mod tests;
