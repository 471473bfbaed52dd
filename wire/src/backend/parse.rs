//! Parsers of server messages that the router acts upon; everything else is forwarded unread.

use crate::{MessageError, frontend::Format, reader::Reader};

/// An authentication request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Authentication is complete.
    Ok,
    /// Asks for the password in clear text.
    CleartextPassword,
    /// Asks for the password hashed with MD5 and this salt.
    Md5Password([u8; 4]),
    /// Asks for one of these SASL mechanisms.
    Sasl(Vec<&'a [u8]>),
    /// The server's next message of a SASL exchange.
    SaslContinue(&'a [u8]),
    /// The server's last message of a SASL exchange.
    SaslFinal(&'a [u8]),
    /// A method that Tenantry never uses (Kerberos, GSSAPI, SSPI, ...): its number in the protocol.
    Unsupported(i32),
}

impl<'a> Authentication<'a> {
    /// Reads the body of an authentication message.
    ///
    /// # Errors
    /// The body is malformed or its kind does not exist.
    pub fn decode(body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        let request = match reader.i32()? {
            0 => Self::Ok,
            3 => Self::CleartextPassword,
            5 => {
                let salt = reader.bytes(4)?;
                let salt = salt.try_into().map_err(|_| MessageError::Truncated)?;
                Self::Md5Password(salt)
            }
            10 => Self::Sasl(mechanisms(&mut reader)?),
            11 => return Ok(Self::SaslContinue(reader.rest())),
            12 => return Ok(Self::SaslFinal(reader.rest())),
            kind @ (2 | 6..=9) => return Ok(Self::Unsupported(kind)),
            kind => return Err(MessageError::AuthenticationKind(kind)),
        };
        reader.finish()?;
        Ok(request)
    }
}

fn mechanisms<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, MessageError> {
    let mut names = Vec::new();
    loop {
        match reader.cstr()? {
            b"" => return Ok(names),
            name => names.push(name),
        }
    }
}

/// A setting that the server reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    /// The setting's name.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// Reads the body of a ParameterStatus.
///
/// # Errors
/// The body is malformed.
pub fn parameter_status(body: &[u8]) -> Result<ParameterStatus<'_>, MessageError> {
    let mut reader = Reader::new(body);
    let name = reader.cstr()?;
    let value = reader.cstr()?;
    reader.finish()?;
    Ok(ParameterStatus { name, value })
}

/// What a cancel request has to name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    /// Process id of the server process.
    pub pid: i32,
    /// Secret: four bytes in protocol 3.0, 4 to 256 in 3.2.
    pub key: &'a [u8],
}

/// Reads the body of a BackendKeyData.
///
/// # Errors
/// The body is malformed.
pub fn backend_key_data(body: &[u8]) -> Result<BackendKeyData<'_>, MessageError> {
    let mut reader = Reader::new(body);
    let pid = reader.i32()?;
    let key = reader.rest();
    match key.len() {
        0..4 => Err(MessageError::Truncated),
        4..=256 => Ok(BackendKeyData { pid, key }),
        _ => Err(MessageError::TrailingBytes),
    }
}

/// Where the session stands with respect to a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TxStatus {
    /// Outside a transaction block.
    Idle,
    /// In a transaction block.
    InTransaction,
    /// In a transaction block that failed: everything is refused until it ends.
    Failed,
}

impl TxStatus {
    /// The byte of ReadyForQuery.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// Reads the body of a ReadyForQuery.
///
/// # Errors
/// The body is malformed.
pub fn ready_for_query(body: &[u8]) -> Result<TxStatus, MessageError> {
    match body {
        b"I" => Ok(TxStatus::Idle),
        b"T" => Ok(TxStatus::InTransaction),
        b"E" => Ok(TxStatus::Failed),
        [other] => Err(MessageError::TransactionStatus(*other)),
        [] => Err(MessageError::Truncated),
        _ => Err(MessageError::TrailingBytes),
    }
}

/// Reads the body of a CommandComplete: the command tag, for example `INSERT 0 1`.
///
/// # Errors
/// The body is malformed.
pub fn command_complete(body: &[u8]) -> Result<&[u8], MessageError> {
    let mut reader = Reader::new(body);
    let command = reader.cstr()?;
    reader.finish()?;
    Ok(command)
}

/// An asynchronous notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification<'a> {
    /// Process id of the notifying session.
    pub pid: i32,
    /// The channel.
    pub channel: &'a [u8],
    /// The payload, empty if there is none.
    pub payload: &'a [u8],
}

/// Reads the body of a NotificationResponse.
///
/// # Errors
/// The body is malformed.
pub fn notification(body: &[u8]) -> Result<Notification<'_>, MessageError> {
    let mut reader = Reader::new(body);
    let notification = Notification {
        pid: reader.i32()?,
        channel: reader.cstr()?,
        payload: reader.cstr()?,
    };
    reader.finish()?;
    Ok(notification)
}

/// Formats of a COPY that starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyResponse {
    /// Format of the stream.
    pub overall: Format,
    /// Format of each column.
    pub columns: Vec<Format>,
}

/// Reads the body of a CopyInResponse, CopyOutResponse or CopyBothResponse.
///
/// # Errors
/// The body is malformed.
pub fn copy_response(body: &[u8]) -> Result<CopyResponse, MessageError> {
    let mut reader = Reader::new(body);
    let overall = Format::from_code(i16::from(reader.u8()?))?;
    let count = reader.count()?;
    let mut columns = Vec::with_capacity(count.min(body.len() / 2));
    for _ in 0..count {
        columns.push(Format::from_code(reader.i16()?)?);
    }
    reader.finish()?;
    Ok(CopyResponse { overall, columns })
}

/// Reads the body of a NegotiateProtocolVersion: the newest minor version of protocol 3 that the server speaks, and
/// the options it did not recognise.
///
/// # Errors
/// The body is malformed.
pub fn negotiate_protocol_version(body: &[u8]) -> Result<(u16, Vec<&[u8]>), MessageError> {
    let mut reader = Reader::new(body);
    let [_, _, high, low] = reader.u32()?.to_be_bytes();
    let count = reader.i32()?;
    let count = usize::try_from(count).map_err(|_| MessageError::NegativeLength(count))?;
    let mut options = Vec::with_capacity(count.min(body.len()));
    for _ in 0..count {
        options.push(reader.cstr()?);
    }
    reader.finish()?;
    Ok((u16::from_be_bytes([high, low]), options))
}
