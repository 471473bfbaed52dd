//! A bounds-checked cursor over one message body.
//!
//! Every parser of this crate reads through it, so that a wrong length is an error and never an index out of range.

use crate::MessageError;

/// Invariant: `rest` is the part of the body that no field has claimed yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], MessageError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(MessageError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(MessageError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, MessageError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn i16(&mut self) -> Result<i16, MessageError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// A count of things. PostgreSQL reads counts as unsigned 16 bits.
    pub(crate) fn count(&mut self) -> Result<usize, MessageError> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, MessageError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, MessageError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, MessageError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, MessageError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// A string up to its zero byte, which is consumed and not returned.
    pub(crate) fn cstr(&mut self) -> Result<&'a [u8], MessageError> {
        let end = memchr::memchr(0, self.rest).ok_or(MessageError::UnterminatedString)?;
        let (text, tail) = self.rest.split_at(end);
        self.rest = tail.get(1..).unwrap_or_default();
        Ok(text)
    }

    /// A value with its 32-bit length; -1 is NULL.
    pub(crate) fn value(&mut self) -> Result<Option<&'a [u8]>, MessageError> {
        let len = self.i32()?;
        if len == -1 {
            return Ok(None);
        }
        let len = usize::try_from(len).map_err(|_| MessageError::NegativeLength(len))?;
        self.bytes(len).map(Some)
    }

    pub(crate) fn finish(self) -> Result<(), MessageError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(MessageError::TrailingBytes)
        }
    }
}
