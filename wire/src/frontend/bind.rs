//! The Bind message: the names the router maps, and the parameters it looks at only for its own statements.

use crate::{MessageError, reader::Reader};

/// How a value travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// As text, in the client's encoding.
    #[default]
    Text,
    /// In the type's binary form.
    Binary,
}

impl Format {
    /// The protocol's format code.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::Text => 0,
            Self::Binary => 1,
        }
    }

    pub(crate) fn from_code(code: i16) -> Result<Self, MessageError> {
        match code {
            0 => Ok(Self::Text),
            1 => Ok(Self::Binary),
            other => Err(MessageError::FormatCode(other)),
        }
    }
}

/// A Bind message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal, empty for the unnamed one.
    pub portal: &'a [u8],
    /// The statement, empty for the unnamed one.
    pub statement: &'a [u8],
    /// Everything after the names, as it travels: formats, parameters, result formats. Not checked.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the names in the body of a Bind. The rest is the server's to check, unless [`Self::parameters`] is asked.
    ///
    /// # Errors
    /// A name is not terminated.
    pub fn decode(body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        Ok(Self {
            portal: reader.cstr()?,
            statement: reader.cstr()?,
            rest: reader.rest(),
        })
    }

    /// The parameters in order.
    ///
    /// # Errors
    /// The format codes are malformed; each item is an error where a value is.
    pub fn parameters(&self) -> Result<Parameters<'a>, MessageError> {
        Parameters::read(self.rest)
    }

    /// The formats asked for the result's columns: none (all text), one for all, or one for each. Reads past all the
    /// parameters to find them.
    ///
    /// # Errors
    /// The message is malformed.
    pub fn result_formats(&self) -> Result<Vec<Format>, MessageError> {
        let mut parameters = self.parameters()?;
        parameters.by_ref().try_for_each(|value| value.map(drop))?;
        let mut reader = Reader::new(parameters.rest());
        let count = reader.count()?;
        let codes = reader.bytes(count * 2)?;
        reader.finish()?;
        let (codes, _) = codes.as_chunks::<2>();
        codes
            .iter()
            .map(|code| Format::from_code(i16::from_be_bytes(*code)))
            .collect()
    }
}

/// The names of a Bind of which only the beginning has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindHead<'a> {
    /// The portal, empty for the unnamed one.
    pub portal: &'a [u8],
    /// The statement, empty for the unnamed one.
    pub statement: &'a [u8],
    /// Bytes of the body that the names and their terminators take.
    pub len: usize,
}

impl<'a> BindHead<'a> {
    /// Reads the names, or `None` if `prefix` ends before they do: a message larger than the buffer can then be
    /// forwarded while it arrives.
    #[must_use]
    pub fn decode(prefix: &'a [u8]) -> Option<Self> {
        let bind = Bind::decode(prefix).ok()?;
        Some(Self {
            portal: bind.portal,
            statement: bind.statement,
            len: prefix.len() - bind.rest.len(),
        })
    }
}

/// The parameters of a Bind or a FunctionCall: format and value, `None` for NULL. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Parameters<'a> {
    formats: &'a [[u8; 2]],
    reader: Reader<'a>,
    count: usize,
    next: usize,
}

impl<'a> Parameters<'a> {
    /// Reads format codes and count from the front of `bytes`; the values are read as they are asked for.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes);
        let format_count = reader.count()?;
        let (formats, _) = reader.bytes(format_count * 2)?.as_chunks::<2>();
        let count = reader.count()?;
        if format_count > 1 && format_count != count {
            return Err(MessageError::FormatCount {
                formats: format_count,
                values: count,
            });
        }
        Ok(Self {
            formats,
            reader,
            count,
            next: 0,
        })
    }

    /// Bytes not read yet: what follows the parameters once all of them were.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }

    fn format(&self, index: usize) -> Result<Format, MessageError> {
        let code = match self.formats {
            [] => return Ok(Format::Text),
            [all] => all,
            each => each.get(index).ok_or(MessageError::Truncated)?,
        };
        Format::from_code(i16::from_be_bytes(*code))
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = Result<(Format, Option<&'a [u8]>), MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.count {
            return None;
        }
        let index = self.next;
        self.next += 1;
        let item = self
            .format(index)
            .and_then(|format| Ok((format, self.reader.value()?)));
        if item.is_err() {
            self.next = self.count;
        }
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.count - self.next))
    }
}
