//! The fields of ErrorResponse and NoticeResponse.
//!
//! PostgreSQL documentation, "Error and Notice Message Fields". Fields this crate does not know are kept, so that
//! an error survives being read and sent again.

use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::{MessageError, put, reader::Reader, sqlstate};

/// How severe an error or notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// DEBUG
    Debug,
    /// LOG
    Log,
    /// INFO
    Info,
    /// NOTICE
    Notice,
    /// WARNING
    Warning,
    /// The statement failed.
    Error,
    /// The session ends.
    Fatal,
    /// All sessions of the server end.
    Panic,
}

impl Severity {
    /// The untranslated name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Log => "LOG",
            Self::Info => "INFO",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        [
            Self::Debug,
            Self::Log,
            Self::Info,
            Self::Notice,
            Self::Warning,
            Self::Error,
            Self::Fatal,
            Self::Panic,
        ]
        .into_iter()
        .find(|severity| severity.name().as_bytes() == name)
    }
}

/// An error or notice. Texts that are not UTF-8 are read with replacement characters: what is forwarded is the
/// message as it came, this is for deciding and logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFields {
    /// Severity (`V`, or `S` when a server sends no `V`).
    pub severity: Severity,
    /// Severity as the server words it in its language (`S`).
    pub localised_severity: Option<String>,
    /// SQLSTATE (`C`).
    pub code: String,
    /// Primary message (`M`).
    pub message: String,
    /// Detail (`D`).
    pub detail: Option<String>,
    /// Hint (`H`).
    pub hint: Option<String>,
    /// Position in the query, in characters from 1 (`P`).
    pub position: Option<String>,
    /// Context, a line for each level (`W`).
    pub context: Option<String>,
    /// Source file (`F`).
    pub file: Option<String>,
    /// Source line (`L`).
    pub line: Option<String>,
    /// Source routine; Tenantry's stable error name (`R`).
    pub routine: Option<String>,
    /// All other fields in the order they came: internal position and query, names of schema, table, column, type
    /// and constraint, and whatever later versions add.
    pub others: Vec<(u8, String)>,
}

impl ErrorFields {
    /// An error or notice of any severity.
    #[must_use]
    pub fn new(severity: Severity, code: &str, message: impl Into<String>) -> Self {
        Self {
            severity,
            localised_severity: None,
            code: code.to_owned(),
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            context: None,
            file: None,
            line: None,
            routine: None,
            others: Vec::new(),
        }
    }

    /// An ERROR.
    #[must_use]
    pub fn error(code: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    /// A FATAL error: the connection is closed after it.
    #[must_use]
    pub fn fatal(code: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Fatal, code, message)
    }

    /// Adds the detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the routine, which carries Tenantry's stable name of the error.
    #[must_use]
    pub fn with_routine(mut self, routine: impl Into<String>) -> Self {
        self.routine = Some(routine.into());
        self
    }

    /// Reads the body of an ErrorResponse or NoticeResponse.
    ///
    /// # Errors
    /// The body is malformed. Absent fields are no error: the code is then `XX000`.
    pub fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let mut fields = Self::new(Severity::Error, sqlstate::INTERNAL_ERROR, "");
        let mut unlocalised = None;
        for field in RawFields::new(body) {
            let (kind, value) = field?;
            if kind == b'V' {
                unlocalised = Severity::from_name(value);
                continue;
            }
            let value = String::from_utf8_lossy(value).into_owned();
            match kind {
                b'S' => fields.localised_severity = Some(value),
                b'C' => fields.code = value,
                b'M' => fields.message = value,
                b'D' => fields.detail = Some(value),
                b'H' => fields.hint = Some(value),
                b'P' => fields.position = Some(value),
                b'W' => fields.context = Some(value),
                b'F' => fields.file = Some(value),
                b'L' => fields.line = Some(value),
                b'R' => fields.routine = Some(value),
                _ => fields.others.push((kind, value)),
            }
        }
        let localised = fields.localised_severity.as_deref();
        let named = || localised.and_then(|name| Severity::from_name(name.as_bytes()));
        fields.severity = unlocalised.or_else(named).unwrap_or(Severity::Error);
        Ok(fields)
    }

    pub(super) fn write(&self, out: &mut BytesMut) {
        let name = self.severity.name();
        write_field(out, b'S', self.localised_severity.as_deref().or(Some(name)));
        write_field(out, b'V', Some(name));
        write_field(out, b'C', Some(&self.code));
        write_field(out, b'M', Some(&self.message));
        write_field(out, b'D', self.detail.as_deref());
        write_field(out, b'H', self.hint.as_deref());
        write_field(out, b'P', self.position.as_deref());
        write_field(out, b'W', self.context.as_deref());
        for (kind, value) in &self.others {
            write_field(out, *kind, Some(value));
        }
        write_field(out, b'F', self.file.as_deref());
        write_field(out, b'L', self.line.as_deref());
        write_field(out, b'R', self.routine.as_deref());
        out.put_u8(0);
    }
}

fn write_field(out: &mut BytesMut, kind: u8, value: Option<&str>) {
    if let Some(value) = value {
        out.put_u8(kind);
        put::cstr(out, value);
    }
}

impl fmt::Display for ErrorFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} ({})",
            self.severity.name(),
            self.message,
            self.code
        )?;
        if let Some(detail) = &self.detail {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ErrorFields {}

/// The SQLSTATE in the body of an ErrorResponse, without reading the rest of it.
#[must_use]
pub fn error_code(body: &[u8]) -> Option<&[u8]> {
    RawFields::new(body)
        .map_while(Result::ok)
        .find_map(|(kind, value)| (kind == b'C').then_some(value))
}

/// Iterates over (kind, value) and ends at the terminator, or after the first error.
struct RawFields<'a> {
    reader: Option<Reader<'a>>,
}

impl<'a> RawFields<'a> {
    fn new(body: &'a [u8]) -> Self {
        Self {
            reader: Some(Reader::new(body)),
        }
    }
}

impl<'a> Iterator for RawFields<'a> {
    type Item = Result<(u8, &'a [u8]), MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = self.reader.take()?;
        let field = reader.u8().and_then(|kind| match kind {
            0 => reader.finish().map(|()| None),
            kind => reader.cstr().map(|value| Some((kind, value))),
        });
        if let Ok(Some(_)) = field {
            self.reader = Some(reader);
        }
        field.transpose()
    }
}
