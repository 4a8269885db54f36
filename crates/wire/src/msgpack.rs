//! MessagePack as memberlist speaks it: what Go's go-msgpack emits, and all that it accepts.
//!
//! Emitted is the old dialect, before `str8` and `bin` existed. Accepted is any dialect: structs as
//! maps or arrays, unknown fields of any type, integers of any width. [`Decoder`] reads a value that
//! is there as a whole; `Scanner` finds where a value ends while its bytes are still arriving.
//! Neither trusts a declared length. Format: <https://github.com/msgpack/msgpack/blob/master/spec.md>.

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;

/// How deep arrays and maps may nest. The messages themselves need two levels.
const DEPTH: usize = 16;

/// Why bytes are not the MessagePack wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
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
    /// A byte begins no value.
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

/// What the first bytes of a value say about it.
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

    /// Reads a head from the start of `input`, and its length in bytes, the number's own included.
    /// `None` when there are too few bytes.
    fn read(input: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
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
            0xc1 => return Err(Malformed::Marker(marker)),
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

/// An extension's type byte counts as part of its content.
fn ext<N: Into<u32>>((len, head): (N, usize)) -> (Head, usize) {
    (Head::Ext((len.into() as usize).saturating_add(1)), head)
}

#[cfg(test)]
thread_local! {
    /// The work done by this thread, so that tests can tell linear from quadratic without a clock.
    pub(super) static HEADS_READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Finds the end of a value that arrives in pieces. Every byte is looked at once: the place reached,
/// and what is still open there, is kept between calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Scanner {
    /// Up to where the value is understood; may lie behind what has arrived.
    pos: usize,
    /// How many values each open array or map still lacks, the innermost last.
    open: Vec<u64>,
    begun: bool,
}

impl Scanner {
    /// The value's length once it is complete. `input` starts where the value does and has only
    /// grown since the last call.
    pub(super) fn advance(&mut self, input: &[u8], max: usize) -> Result<Option<usize>, Malformed> {
        loop {
            if self.pos > max {
                return Err(Malformed::TooLong { max });
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
            // Every value takes a byte at least.
            if children > max.saturating_sub(self.pos) as u64 {
                return Err(Malformed::TooLong { max });
            }
            if children > 0 {
                if self.open.len() == DEPTH {
                    return Err(Malformed::TooDeep);
                }
                self.open.push(children);
            }
            while self.open.last() == Some(&0) {
                self.open.pop();
            }
        }
    }
}

/// Reads values from a range of `input`.
#[derive(Debug)]
pub struct Decoder<'a> {
    input: &'a Bytes,
    at: Range<usize>,
    /// What is being read, for errors.
    field: &'static str,
}

impl<'a> Decoder<'a> {
    /// A decoder of `input[at]`; `at` lies within `input`. `what` stands for the whole, in errors.
    pub fn new(input: &'a Bytes, at: Range<usize>, what: &'static str) -> Self {
        debug_assert!(at.start <= at.end && at.end <= input.len());
        Self { input, at, field: what }
    }

    fn head(&mut self) -> Result<Head, Malformed> {
        let (head, len) = Head::read(&self.input[self.at.clone()])?.ok_or(Malformed::Truncated)?;
        self.at.start += len;
        Ok(head)
    }

    fn take(&mut self, len: usize) -> Result<Range<usize>, Malformed> {
        if len > self.at.len() {
            return Err(Malformed::Truncated);
        }
        let start = self.at.start;
        self.at.start += len;
        Ok(start..self.at.start)
    }

    fn skip(&mut self) -> Result<(), Malformed> {
        let len = Scanner::default().advance(&self.input[self.at.clone()], usize::MAX)?;
        self.at.start += len.ok_or(Malformed::Truncated)?;
        Ok(())
    }

    fn wrong<T>(&self, wanted: &'static str, found: Head) -> Result<T, Malformed> {
        Err(Malformed::Type { field: self.field, wanted, found: found.name() })
    }

    /// Reads a struct whose fields, in declaration order, are `names`. `set` is called with the
    /// index of each field that is there, in the order found and again for duplicates, and reads its
    /// value. Nil stands for a struct without fields.
    pub fn fields(
        &mut self,
        names: &[&'static str],
        mut set: impl FnMut(&mut Self, usize) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        match self.head()? {
            Head::Nil => {}
            Head::Map(len) => {
                for _ in 0..len {
                    let key = match self.head()? {
                        Head::Raw(len) => self.take(len)?,
                        other => {
                            return Err(Malformed::Type { field: "a key", wanted: "a string", found: other.name() });
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

    /// An integer from 0 to `max`. Nil is 0.
    pub fn uint(&mut self, max: u64) -> Result<u64, Malformed> {
        let found = match self.head()? {
            Head::Nil => 0,
            Head::Uint(value) if value <= max => return Ok(value),
            Head::Uint(value) => i128::from(value),
            Head::Int(value) => i128::from(value),
            other => return self.wrong("an integer", other),
        };
        if found == 0 { Ok(0) } else { Err(Malformed::Range { field: self.field, found, max }) }
    }

    /// A 32-bit unsigned integer. Nil is 0.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(self.uint(u64::from(u32::MAX))? as u32)
    }

    /// A 16-bit unsigned integer. Nil is 0.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(self.uint(u64::from(u16::MAX))? as u16)
    }

    /// A 64-bit unsigned integer. Nil is 0.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.uint(u64::MAX)
    }

    /// How many values follow that belong to an array. Nil is an empty one.
    pub fn array(&mut self) -> Result<u64, Malformed> {
        match self.head()? {
            Head::Nil => Ok(0),
            Head::Array(len) => Ok(len),
            other => self.wrong("an array", other),
        }
    }

    /// How many pairs of values follow that belong to a map. Nil is an empty one.
    pub fn map(&mut self) -> Result<u64, Malformed> {
        match self.head()? {
            Head::Nil => Ok(0),
            Head::Map(len) => Ok(len),
            other => self.wrong("a map", other),
        }
    }

    /// Passes over a value of any type.
    pub fn pass(&mut self) -> Result<(), Malformed> {
        self.skip()
    }

    /// How far it has read, from the start of the input.
    pub fn position(&self) -> usize {
        self.at.start
    }

    /// A bool. Nil is false; 0 and 1 are bools too.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.head()? {
            Head::Bool(value) => Ok(value),
            Head::Nil | Head::Uint(0) => Ok(false),
            Head::Uint(1) => Ok(true),
            other => self.wrong("a bool", other),
        }
    }

    /// A string: any bytes. A slice of the input. Nil is empty.
    pub fn str(&mut self) -> Result<Bytes, Malformed> {
        match self.head()? {
            Head::Nil => Ok(Bytes::new()),
            Head::Raw(len) => Ok(self.input.slice(self.take(len)?)),
            other => self.wrong("a string", other),
        }
    }

    /// Bytes. A slice of the input, unless they come as an array of integers. Nil is empty.
    pub fn bytes(&mut self) -> Result<Bytes, Malformed> {
        Ok(match self.look()? {
            Cow::Borrowed(bytes) => self.input.slice_ref(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        })
    }

    /// The same, to be looked at only.
    pub fn look(&mut self) -> Result<Cow<'a, [u8]>, Malformed> {
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

/// The head of a map of `len` fields. The caller appends the fields in the order of their keys.
pub fn put_map(out: &mut Vec<u8>, len: u8) {
    debug_assert!(len < 16, "the messages have fewer than 16 fields");
    out.push(0x80 | len);
}

/// The head of a map of any size.
pub fn put_large_map(out: &mut Vec<u8>, len: usize) {
    put_head(out, len, 0x80, 0xde);
}

/// The head of an array.
pub fn put_array(out: &mut Vec<u8>, len: usize) {
    put_head(out, len, 0x90, 0xdc);
}

/// The head of a container: `small` with the length in it, or `large`, which has a 16-bit one, or the type
/// after that, which has a 32-bit one.
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

/// A string, and a field's key.
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

/// A byte field: as a string; nil when empty, as Go sends what was never set.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() { out.push(0xc0) } else { put_str(out, bytes) }
}

/// A field that is unsigned in Go, in the fewest bytes.
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

/// As [`put_uint`], of 64 bits.
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    match u32::try_from(value) {
        Ok(small) => put_uint(out, small),
        Err(_) => {
            out.push(0xcf);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// A field that is an `int` in Go: a length or a state. Go's encoder has it signed, with no 8-bit form.
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

/// A bool.
pub fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(0xc2 | u8::from(value));
}
