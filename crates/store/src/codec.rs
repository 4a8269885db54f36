//! The encoding of commands, outcomes and the records of snapshots.
//!
//! A number is a LEB128 varint; a string comes behind its length. Each value has exactly one encoding, so equal values have
//! equal bytes, and members can compare states by hash. Reading checks every length against what is there before it
//! allocates anything.

use bytes::Bytes;

use crate::limits::MAX_OPS;

/// Why bytes cannot be decoded.
///
/// ```
/// use broadcast_store::{CodecError, keys::KeysCommand};
///
/// assert_eq!(KeysCommand::decode(&[]), Err(CodecError::Cut));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end too early, or a length says more than there is.
    #[error("the bytes end too early, or a length in them is wrong")]
    Cut,
    /// A number is too large, or longer than it need be.
    #[error("a number is not encoded as numbers are")]
    Number,
    /// An unknown variant.
    #[error("{tag} is no {what} that is known here")]
    Tag {
        /// What was expected.
        what: &'static str,
        /// What was found.
        tag: u8,
    },
    /// A text that is not UTF-8.
    #[error("a name is not UTF-8")]
    Text,
    /// Bytes follow after the end.
    #[error("{bytes} bytes follow after the end")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// Transactions are nested too deep.
    #[error("transactions are nested deeper than {MAX_OPS}")]
    Nested,
    /// Values that contradict each other.
    #[error("{what}")]
    Contradiction {
        /// What contradicts what.
        what: &'static str,
    },
}

/// Appends values to bytes.
#[derive(Debug, Default)]
pub(crate) struct ByteWriter(Vec<u8>);

impl ByteWriter {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// Zigzag: small numbers of either sign are short.
    pub(crate) fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    pub(crate) fn flag(&mut self, flag: bool) {
        self.byte(u8::from(flag));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        for item in items {
            each(self, item);
        }
    }

    pub(crate) fn option<T>(&mut self, item: Option<&T>, each: impl FnOnce(&mut Self, &T)) {
        self.flag(item.is_some());
        if let Some(item) = item {
            each(self, item);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes values from bytes.
#[derive(Debug)]
pub(crate) struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, CodecError> {
        let (&first, rest) = self.0.split_first().ok_or(CodecError::Cut)?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn number(&mut self) -> Result<u64, CodecError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 || shift > 0 && byte == 0 {
                return Err(CodecError::Number);
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(CodecError::Number)
    }

    pub(crate) fn signed(&mut self) -> Result<i64, CodecError> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, CodecError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(CodecError::Tag { what: "flag", tag }),
        }
    }

    pub(crate) fn slice(&mut self) -> Result<&'a [u8], CodecError> {
        let len = usize::try_from(self.number()?).map_err(|_| CodecError::Cut)?;
        let (slice, rest) = self.0.split_at_checked(len).ok_or(CodecError::Cut)?;
        self.0 = rest;
        Ok(slice)
    }

    /// A copy, so that a short key does not keep the long entry that it came in.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, CodecError> {
        self.slice().map(Bytes::copy_from_slice)
    }

    pub(crate) fn text(&mut self) -> Result<String, CodecError> {
        let bytes = self.slice()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| CodecError::Text)
    }

    pub(crate) fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let len = self.number()?;
        // Every item takes at least a byte, so a longer list cannot be right.
        if len > self.0.len() as u64 {
            return Err(CodecError::Cut);
        }
        (0..len).map(|_| each(self)).collect()
    }

    pub(crate) fn option<T>(
        &mut self,
        each: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        if self.flag()? { each(self).map(Some) } else { Ok(None) }
    }

    /// The rest of the bytes.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Checks that no bytes are left.
    pub(crate) fn end(&self) -> Result<(), CodecError> {
        if self.0.is_empty() { Ok(()) } else { Err(CodecError::Trailing { bytes: self.0.len() }) }
    }
}
