//! MessagePack in memberlist's dialect: what Go's go-msgpack emits, and all that it accepts.
//!
//! The functions `put_…` emit the old dialect, from before `str8` and `bin` existed. The decoder accepts any dialect: structs
//! as maps or arrays, unknown fields of any type, integers of any width. [`Decoder`] reads a value that is there as a whole;
//! `Scanner` finds where a value ends while its bytes are still arriving. Neither trusts a declared length. The format is at
//! <https://github.com/msgpack/msgpack/blob/master/spec.md>.
//!
//! ```
//! use broadcast_wire::msgpack::{Decoder, put_map, put_str, put_uint};
//!
//! let mut out = Vec::new();
//! put_map(&mut out, 2);
//! put_str(&mut out, b"Name");
//! put_str(&mut out, b"node1");
//! put_str(&mut out, b"Port");
//! put_uint(&mut out, 7946);
//!
//! let (input, mut name, mut port) = (out.into(), Default::default(), 0);
//! let mut decoder = Decoder::new(&input, 0..input.len(), "the example");
//! decoder.fields(&["Name", "Port"], |decoder, index| {
//!     match index {
//!         0 => name = decoder.str()?,
//!         _ => port = decoder.u16()?,
//!     }
//!     Ok(())
//! })?;
//! assert_eq!((&*name, port), (&b"node1"[..], 7946));
//! # Ok::<(), broadcast_wire::MsgpackError>(())
//! ```

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;

/// How deep arrays and maps can nest. The messages need two levels.
const DEPTH: usize = 16;

/// Why bytes are not the MessagePack that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MsgpackError {
    /// The bytes end within a value.
    #[error("it ends in the middle of a value")]
    Truncated,
    /// A value does not end within the limit for it.
    #[error("it is longer than the limit of {max} bytes")]
    TooLong {
        /// The limit.
        max: usize,
    },
    /// Arrays and maps nest too deeply.
    #[error("arrays and maps nest more than {DEPTH} deep")]
    TooDeep,
    /// A byte that begins no value.
    #[error("byte 0x{0:02x} does not begin a MessagePack value")]
    Marker(u8),
    /// A value has another type than its field.
    #[error("{field} is {found}, not {wanted}")]
    Type {
        /// The field.
        field: &'static str,
        /// The type it must have.
        wanted: &'static str,
        /// The type found.
        found: &'static str,
    },
    /// A number is outside its field's range.
    #[error("{field} is {found}, not within 0 and {max}")]
    Range {
        /// The field.
        field: &'static str,
        /// The number.
        found: i128,
        /// The largest allowed.
        max: u64,
    },
}

/// The first bytes of a value: its type, and its length or the value itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Nil,
    Bool(bool),
    Uint(u64),
    /// A negative integer.
    Int(i64),
    Float,
    /// Bytes or a string of this length.
    Raw(usize),
    Ext(usize),
    Array(u64),
    Map(u64),
}

impl Head {
    fn name(self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "a bool",
            Self::Uint(_) | Self::Int(_) => "an integer",
            Self::Float => "a float",
            Self::Raw(_) => "a string",
            Self::Ext(_) => "an extension",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
        }
    }

    /// Reads a head from the start of `input`. Gives it with its length in bytes, or `None` if there are too few bytes.
    fn read(input: &[u8]) -> Result<Option<(Self, usize)>, MsgpackError> {
        #[cfg(test)]
        HEADS_READ.with(|n| n.set(n.get() + 1));
        let Some((&marker, rest)) = input.split_first() else { return Ok(None) };
        /// The next `N` bytes; ends `read` when they are not there.
        macro_rules! be {
            ($type:ty) => {{
                const N: usize = size_of::<$type>();
                match rest.first_chunk::<N>() {
                    Some(bytes) => (<$type>::from_be_bytes(*bytes), 1 + N),
                    None => return Ok(None),
                }
            }};
        }
        macro_rules! uint {
            ($type:ty) => {{
                let (value, len) = be!($type);
                (Self::Uint(u64::from(value)), len)
            }};
        }
        macro_rules! int {
            ($type:ty) => {{
                let (value, len) = be!($type);
                (signed(i64::from(value)), len)
            }};
        }
        macro_rules! sized {
            ($head:ident, $size:ty, $type:ty) => {{
                let (value, len) = be!($type);
                (Self::$head(value as $size), len)
            }};
        }
        Ok(Some(match marker {
            0x00..=0x7f => (Self::Uint(u64::from(marker)), 1),
            0x80..=0x8f => (Self::Map(u64::from(marker & 0x0f)), 1),
            0x90..=0x9f => (Self::Array(u64::from(marker & 0x0f)), 1),
            0xa0..=0xbf => (Self::Raw(usize::from(marker & 0x1f)), 1),
            0xc0 => (Self::Nil, 1),
            0xc1 => return Err(MsgpackError::Marker(marker)),
            0xc2 | 0xc3 => (Self::Bool(marker == 0xc3), 1),
            0xc4 | 0xd9 => sized!(Raw, usize, u8),
            0xc5 | 0xda => sized!(Raw, usize, u16),
            0xc6 | 0xdb => sized!(Raw, usize, u32),
            0xc7 => ext(be!(u8)),
            0xc8 => ext(be!(u16)),
            0xc9 => ext(be!(u32)),
            0xca => (Self::Float, be!(u32).1),
            0xcb => (Self::Float, be!(u64).1),
            0xcc => uint!(u8),
            0xcd => uint!(u16),
            0xce => uint!(u32),
            0xcf => uint!(u64),
            0xd0 => int!(i8),
            0xd1 => int!(i16),
            0xd2 => int!(i32),
            0xd3 => int!(i64),
            0xd4..=0xd8 => ext((1_u32 << (marker - 0xd4), 1)),
            0xdc => sized!(Array, u64, u16),
            0xdd => sized!(Array, u64, u32),
            0xde => sized!(Map, u64, u16),
            0xdf => sized!(Map, u64, u32),
            0xe0..=0xff => (Self::Int(i64::from(marker as i8)), 1),
        }))
    }
}

fn signed(value: i64) -> Head {
    u64::try_from(value).map_or(Head::Int(value), Head::Uint)
}

/// The head of an extension, whose type byte counts as part of its content.
fn ext<N: Into<u32>>((len, head): (N, usize)) -> (Head, usize) {
    (Head::Ext((len.into() as usize).saturating_add(1)), head)
}

#[cfg(test)]
thread_local! {
    /// The work done by this thread, so that tests can tell linear from quadratic without a clock.
    pub(super) static HEADS_READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Finds the end of a value that arrives in pieces. It looks at each byte only once: between calls, it keeps its position and
/// the arrays and maps that are open there.
#[derive(Clone, Debug, Default)]
pub(super) struct Scanner {
    /// Up to where the value was scanned. May lie behind what has arrived.
    pos: usize,
    /// How many values each open array or map still lacks, the innermost last.
    open: Vec<u64>,
    begun: bool,
}

impl Scanner {
    /// Gives the value's length once it is complete. `input` starts with the value, and has only grown since the last call.
    pub(super) fn advance(&mut self, input: &[u8], max: usize) -> Result<Option<usize>, MsgpackError> {
        loop {
            if self.pos > max {
                return Err(MsgpackError::TooLong { max });
            }
            if self.begun && self.open.is_empty() {
                return Ok((self.pos <= input.len()).then_some(self.pos));
            }
            let Some(rest) = input.get(self.pos..) else { return Ok(None) };
            let Some((head, len)) = Head::read(rest)? else { return Ok(None) };
            self.begun = true;
            self.pos += len;
            if let Some(left) = self.open.last_mut() {
                *left -= 1;
            }
            let children = match head {
                Head::Raw(len) | Head::Ext(len) => {
                    self.pos = self.pos.saturating_add(len);
                    0
                }
                Head::Array(len) => len,
                Head::Map(len) => 2 * len,
                Head::Nil | Head::Bool(_) | Head::Uint(_) | Head::Int(_) | Head::Float => 0,
            };
            // Every value takes at least a byte.
            if children > max.saturating_sub(self.pos) as u64 {
                return Err(MsgpackError::TooLong { max });
            }
            if children > 0 {
                if self.open.len() == DEPTH {
                    return Err(MsgpackError::TooDeep);
                }
                self.open.push(children);
            }
            while self.open.last() == Some(&0) {
                self.open.pop();
            }
        }
    }
}

/// Reads values from a range of bytes. The [module](self) has an example.
#[derive(Debug)]
pub struct Decoder<'a> {
    input: &'a Bytes,
    at: Range<usize>,
    /// The field that is being read, for errors.
    field: &'static str,
}

impl<'a> Decoder<'a> {
    /// A decoder of `input[at]`, where `at` lies within `input`. Errors name the whole value `what`.
    pub fn new(input: &'a Bytes, at: Range<usize>, what: &'static str) -> Self {
        debug_assert!(at.start <= at.end && at.end <= input.len());
        Self { input, at, field: what }
    }

    fn head(&mut self) -> Result<Head, MsgpackError> {
        let (head, len) = Head::read(&self.input[self.at.clone()])?.ok_or(MsgpackError::Truncated)?;
        self.at.start += len;
        Ok(head)
    }

    fn take(&mut self, len: usize) -> Result<Range<usize>, MsgpackError> {
        if len > self.at.len() {
            return Err(MsgpackError::Truncated);
        }
        let start = self.at.start;
        self.at.start += len;
        Ok(start..self.at.start)
    }

    /// Skips a value of any type.
    ///
    /// # Errors
    ///
    /// It ends too early, nests too deeply, or is no value.
    pub fn skip(&mut self) -> Result<(), MsgpackError> {
        let len = Scanner::default().advance(&self.input[self.at.clone()], usize::MAX)?;
        self.at.start += len.ok_or(MsgpackError::Truncated)?;
        Ok(())
    }

    fn wrong<T>(&self, wanted: &'static str, found: Head) -> Result<T, MsgpackError> {
        Err(MsgpackError::Type { field: self.field, wanted, found: found.name() })
    }

    /// Reads a struct with the fields `names`, in the order of their declaration. Calls `set` with the index of each field
    /// that is there, in the order found, again for duplicates; it reads the value. Nil is a struct without fields.
    ///
    /// # Errors
    ///
    /// The value is no struct, ends too early, or `set` fails.
    pub fn fields(
        &mut self,
        names: &[&'static str],
        mut set: impl FnMut(&mut Self, usize) -> Result<(), MsgpackError>,
    ) -> Result<(), MsgpackError> {
        match self.head()? {
            Head::Nil => {}
            Head::Map(len) => {
                for _ in 0..len {
                    let key = match self.head()? {
                        Head::Raw(len) => self.take(len)?,
                        other => {
                            return Err(MsgpackError::Type { field: "a key", wanted: "a string", found: other.name() });
                        }
                    };
                    let key = &self.input[key];
                    match names.iter().position(|name| name.as_bytes() == key) {
                        Some(index) => {
                            self.field = names[index];
                            set(self, index)?;
                        }
                        None => self.skip()?,
                    }
                }
            }
            Head::Array(len) => {
                for index in 0..len {
                    match usize::try_from(index).ok().filter(|index| *index < names.len()) {
                        Some(index) => {
                            self.field = names[index];
                            set(self, index)?;
                        }
                        None => self.skip()?,
                    }
                }
            }
            other => return self.wrong("a struct", other),
        }
        Ok(())
    }

    /// Reads an integer from 0 to `max`. Nil is 0.
    ///
    /// # Errors
    ///
    /// The value is no integer, or out of this range.
    pub fn uint(&mut self, max: u64) -> Result<u64, MsgpackError> {
        let found = match self.head()? {
            Head::Nil => 0,
            Head::Uint(value) if value <= max => return Ok(value),
            Head::Uint(value) => i128::from(value),
            Head::Int(value) => i128::from(value),
            other => return self.wrong("an integer", other),
        };
        if found == 0 { Ok(0) } else { Err(MsgpackError::Range { field: self.field, found, max }) }
    }

    /// Reads a 32-bit unsigned integer: see [`uint`](Self::uint).
    pub fn u32(&mut self) -> Result<u32, MsgpackError> {
        Ok(self.uint(u64::from(u32::MAX))? as u32)
    }

    /// Reads a 16-bit unsigned integer: see [`uint`](Self::uint).
    pub fn u16(&mut self) -> Result<u16, MsgpackError> {
        Ok(self.uint(u64::from(u16::MAX))? as u16)
    }

    /// Reads a 64-bit unsigned integer: see [`uint`](Self::uint).
    pub fn u64(&mut self) -> Result<u64, MsgpackError> {
        self.uint(u64::MAX)
    }

    /// Reads the head of an array: how many values follow. Nil is an empty one.
    ///
    /// # Errors
    ///
    /// The value is no array.
    pub fn array(&mut self) -> Result<u64, MsgpackError> {
        match self.head()? {
            Head::Nil => Ok(0),
            Head::Array(len) => Ok(len),
            other => self.wrong("an array", other),
        }
    }

    /// Reads the head of a map: how many pairs of values follow. Nil is an empty one.
    ///
    /// # Errors
    ///
    /// The value is no map.
    pub fn map(&mut self) -> Result<u64, MsgpackError> {
        match self.head()? {
            Head::Nil => Ok(0),
            Head::Map(len) => Ok(len),
            other => self.wrong("a map", other),
        }
    }

    /// The position up to which it has read, from the start of the input.
    pub fn position(&self) -> usize {
        self.at.start
    }

    /// Reads a bool. Nil is false; 0 and 1 are bools, too.
    ///
    /// # Errors
    ///
    /// The value is no bool.
    pub fn bool(&mut self) -> Result<bool, MsgpackError> {
        match self.head()? {
            Head::Bool(value) => Ok(value),
            Head::Nil | Head::Uint(0) => Ok(false),
            Head::Uint(1) => Ok(true),
            other => self.wrong("a bool", other),
        }
    }

    /// Reads a string, which can be any bytes, as a slice of the input. Nil is empty.
    ///
    /// # Errors
    ///
    /// The value is no string.
    pub fn str(&mut self) -> Result<Bytes, MsgpackError> {
        match self.head()? {
            Head::Nil => Ok(Bytes::new()),
            Head::Raw(len) => Ok(self.input.slice(self.take(len)?)),
            other => self.wrong("a string", other),
        }
    }

    /// Reads bytes, as a slice of the input unless they come as an array of integers. Nil is empty.
    ///
    /// # Errors
    ///
    /// The value is neither.
    pub fn bytes(&mut self) -> Result<Bytes, MsgpackError> {
        Ok(match self.bytes_cow()? {
            Cow::Borrowed(bytes) => self.input.slice_ref(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        })
    }

    /// Reads bytes like [`bytes`](Self::bytes), but borrows them.
    ///
    /// # Errors
    ///
    /// See [`bytes`](Self::bytes).
    pub fn bytes_cow(&mut self) -> Result<Cow<'a, [u8]>, MsgpackError> {
        match self.head()? {
            Head::Nil => Ok(Cow::default()),
            Head::Raw(len) => Ok(Cow::Borrowed(&self.input[self.take(len)?])),
            Head::Array(len) => {
                let mut bytes = Vec::new();
                for _ in 0..len {
                    bytes.push(self.uint(u64::from(u8::MAX))? as u8);
                }
                Ok(Cow::Owned(bytes))
            }
            other => self.wrong("bytes", other),
        }
    }
}

/// Appends the head of a map of `len` fields, less than 16. The caller appends the fields, in the order of their keys, as in
/// the example of the [module](self).
pub fn put_map(out: &mut Vec<u8>, len: u8) {
    debug_assert!(len < 16, "the messages have fewer than 16 fields");
    out.push(0x80 | len);
}

/// Appends the head of a map of any size. See [`put_map`].
pub fn put_large_map(out: &mut Vec<u8>, len: usize) {
    put_head(out, len, 0x80, 0xde);
}

/// Appends the head of an array. The caller appends the values.
pub fn put_array(out: &mut Vec<u8>, len: usize) {
    put_head(out, len, 0x90, 0xdc);
}

/// Appends the head of a container: `small` with the length in it, or `large` with a 16-bit length, or the type after `large`
/// with a 32-bit one.
fn put_head(out: &mut Vec<u8>, len: usize, small: u8, large: u8) {
    match len {
        0..16 => out.push(small | len as u8),
        16..0x1_0000 => {
            out.push(large);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(large + 1);
            // Limits keep everything far below 2^32 values.
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }
}

/// Appends a string, or a field's key. See [`put_map`].
pub fn put_str(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        len @ 0..32 => out.push(0xa0 | len as u8),
        len @ 32..0x1_0000 => {
            out.push(0xda);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0xdb);
            // Limits keep everything far below 4 GiB.
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

/// Appends bytes: as a string, or nil if they are empty, as Go sends what was never set. See [`put_map`].
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() { out.push(0xc0) } else { put_str(out, bytes) }
}

/// Appends a number that is unsigned in Go, in the fewest bytes. See [`put_map`].
pub fn put_uint(out: &mut Vec<u8>, value: u32) {
    match value {
        0..0x80 => out.push(value as u8),
        0x80..0x100 => out.extend_from_slice(&[0xcc, value as u8]),
        0x100..0x1_0000 => {
            out.push(0xcd);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        _ => {
            out.push(0xce);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// Appends a 64-bit number that is unsigned in Go. See [`put_map`].
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    match u32::try_from(value) {
        Ok(small) => put_uint(out, small),
        Err(_) => {
            out.push(0xcf);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// Appends a number that is an `int` in Go: a length or a state. Go's encoder has it signed, with no 8-bit form. See
/// [`put_map`].
pub fn put_int(out: &mut Vec<u8>, value: u64) {
    match value {
        0..0x80 => out.push(value as u8),
        0x80..0x8000 => {
            out.push(0xd1);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x8000..0x8000_0000 => {
            out.push(0xd2);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// Appends a bool. See [`put_map`].
pub fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(0xc2 | u8::from(value));
}
