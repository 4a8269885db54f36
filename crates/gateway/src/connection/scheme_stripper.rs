//! Strips schemes from hosts. Some clients send a URL where a host belongs: gRPC for Go, as etcd's client 3.4 uses it, sends
//! `http://HOST:PORT` in the pseudo-header `:authority` if it was given that. Go's servers do not check it, but `h2` refuses
//! the request. So the scheme is taken out before `h2` reads the head.
//!
//! A head is a block of HPACK (RFC 7541). This changes the literal value of `:authority` in it. Later heads that refer to an
//! earlier value then refer to the changed one, since the decoder keeps that in its table. There the entry is smaller than the
//! client thinks, so the decoder forgets no entry that the client still counts on. In Huffman's code, a scheme is the same bits
//! in each value: they can be cut off, and only lengths have to be decoded.
//!
//! A connection whose first head has no scheme to strip is passed through from then on.

use std::{
    io,
    task::{Context, Poll, ready},
};

use tokio::io::ReadBuf;

use super::PREFACE;

/// The length of a frame's header: three bytes of length, then type, flags and stream.
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
/// Flags of a head that has more than the block in it. Clients that need this do not set them.
const PADDED_OR_PRIORITY: u8 = 0x8 | 0x20;
/// The longest frame that `h2` reads.
const MAX_FRAME: usize = 16 << 10;
/// How many bytes are read at once.
const READ_BYTES: usize = 4 << 10;
/// The first length that does not fit into the seven bits of one byte.
const MULTI_BYTE_LENGTH: u8 = 0x7f;
/// The index of `:authority` in HPACK's static table.
const AUTHORITY_INDEX: usize = 1;

/// The bytes of a connection in HTTP/2, from its beginning.
pub(super) struct SchemeStripper {
    /// Bytes that came, and were not processed yet.
    input: Vec<u8>,
    /// Bytes to be read.
    output: Vec<u8>,
    /// How many bytes come until the next frame begins.
    bytes_left_in_frame: usize,
    /// Whether there may be more to strip.
    is_active: bool,
    has_stripped: bool,
}

impl SchemeStripper {
    pub(super) fn new() -> Self {
        Self {
            input: Vec::new(),
            output: Vec::new(),
            bytes_left_in_frame: PREFACE.len(),
            is_active: true,
            has_stripped: false,
        }
    }

    /// Reads as a stream does; `more` reads from the stream beneath.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        mut more: impl FnMut(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        while self.output.is_empty() {
            let mut chunk = [0; READ_BYTES];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(more(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                // The stream has ended, perhaps within a frame.
                self.is_active = false;
            }
            self.input.extend_from_slice(chunk.filled());
            self.process();
            if self.output.is_empty() && !self.is_active {
                return Poll::Ready(Ok(()));
            }
        }
        let count = self.output.len().min(buffer.remaining());
        buffer.put_slice(&self.output[..count]);
        if count < self.output.len() {
            self.output.drain(..count);
        } else {
            // Frees the buffer: the connection may live long.
            self.output = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether there is nothing more to strip, and all was read.
    pub(super) fn is_finished(&self) -> bool {
        !self.is_active && self.output.is_empty()
    }

    /// Processes what came, as far as frames are complete.
    fn process(&mut self) {
        let mut at = 0;
        while self.is_active {
            let rest = &self.input[at..];
            if self.bytes_left_in_frame > 0 {
                let count = self.bytes_left_in_frame.min(rest.len());
                self.output.extend_from_slice(&rest[..count]);
                self.bytes_left_in_frame -= count;
                at += count;
                if self.bytes_left_in_frame > 0 {
                    break;
                }
                continue;
            }
            let Some(&[high, middle, low, kind, flags, ..]) = rest.first_chunk::<FRAME_HEADER>() else { break };
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if kind != HEADERS || length > MAX_FRAME {
                self.bytes_left_in_frame = FRAME_HEADER + length;
                continue;
            }
            let Some(frame) = rest.get(..FRAME_HEADER + length) else { break };
            let (head, block) = frame.split_at(FRAME_HEADER);
            match strip_scheme(block).filter(|_| flags & PADDED_OR_PRIORITY == 0) {
                Some(block) => {
                    let length = u32::try_from(block.len()).expect("it is shorter than before").to_be_bytes();
                    self.output.extend_from_slice(&length[1..]);
                    self.output.extend_from_slice(&head[3..]);
                    self.output.extend_from_slice(&block);
                    self.has_stripped = true;
                }
                None => {
                    self.output.extend_from_slice(frame);
                    self.is_active = self.has_stripped;
                }
            }
            at += frame.len();
        }
        if self.is_active && at < self.input.len() {
            self.input.drain(..at);
        } else {
            self.output.extend_from_slice(&self.input[at..]);
            self.input = Vec::new();
        }
    }
}

/// What is read of a connection that comes in these pieces, and then ends.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn strip_all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut stripper = SchemeStripper::new();
    for piece in pieces {
        stripper.input.extend_from_slice(piece);
        stripper.process();
    }
    stripper.is_active = false;
    stripper.process();
    stripper.output
}

/// The block without the scheme in the literal value of `:authority`; `None` if there is none, or the block cannot be read.
fn strip_scheme(block: &[u8]) -> Option<Vec<u8>> {
    let mut rest = block;
    while let Some(&first) = rest.first() {
        let name = match first {
            // A field that is in a table.
            0x80.. => {
                integer(&mut rest, 7)?;
                continue;
            }
            // A new size of the table.
            0x20..0x40 => {
                integer(&mut rest, 5)?;
                continue;
            }
            // A literal, which goes into the table or does not.
            0x40.. => integer(&mut rest, 6)?,
            _ => integer(&mut rest, 4)?,
        };
        if name == 0 {
            string(&mut rest)?;
        }
        let before = block.len() - rest.len();
        let (value, is_huffman) = string(&mut rest)?;
        if name != AUTHORITY_INDEX {
            continue;
        }
        // No real host is longer, and the new length must fit into one byte.
        if value.len() > usize::from(MULTI_BYTE_LENGTH) {
            return None;
        }
        let (value, huffman) = if is_huffman {
            (strip_huffman(value)?, 0x80)
        } else {
            let plain = value.strip_prefix(b"http://").or_else(|| value.strip_prefix(b"https://"))?;
            (plain.to_vec(), 0)
        };
        let length = u8::try_from(value.len()).ok().filter(|length| *length < MULTI_BYTE_LENGTH)?;
        return Some([&block[..before], &[huffman | length], &value, rest].concat());
    }
    None
}

/// An integer of HPACK; its first byte has so many bits for it (RFC 7541, section 5.1).
fn integer(rest: &mut &[u8], bits: u32) -> Option<usize> {
    let (&first, after) = rest.split_first()?;
    *rest = after;
    let most = (1 << bits) - 1;
    let mut value = usize::from(first) & most;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let (&next, after) = rest.split_first()?;
        *rest = after;
        value += usize::from(next & 0x7f) << shift;
        if next < 0x80 {
            return Some(value);
        }
    }
    None
}

/// A string of HPACK, and whether it is in Huffman's code (section 5.2).
fn string<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], bool)> {
    let is_huffman = rest.first()? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((text, is_huffman))
}

/// `http://` and `https://` in Huffman's code: how many bits, and which.
#[expect(clippy::unusual_byte_groupings, reason = "a group is a symbol")]
const HUFFMAN_SCHEMES: [(usize, u64); 2] = [
    (41, 0b100111_01001_01001_101011_1011100_011000_011000),
    (46, 0b100111_01001_01001_101011_01000_1011100_011000_011000),
];

/// The code (section 5.2 and appendix B) is canonical. For each length of a symbol: the first value of so many bits that is no
/// symbol, for the symbols that hosts have.
const HUFFMAN_LENGTHS: [(usize, u64); 8] =
    [(5, 0b01010), (6, 0b10_1110), (7, 0b111_1100), (8, 0xfe), (10, 0x3fd), (11, 0x7fd), (12, 0xffc), (13, 0x1ffe)];

/// So many bits from a position on. Behind the end come ones, as the code pads.
fn bits(bytes: &[u8], from: usize, count: usize) -> u64 {
    (from..from + count).fold(0, |bits, at| {
        let byte = bytes.get(at / 8).copied().unwrap_or(0xff);
        bits << 1 | u64::from(byte >> (7 - at % 8) & 1)
    })
}

/// A string in Huffman's code, without the scheme at its beginning.
fn strip_huffman(text: &[u8]) -> Option<Vec<u8>> {
    let (from, _) = HUFFMAN_SCHEMES.into_iter().find(|(count, scheme)| bits(text, 0, *count) == *scheme)?;
    let (mut end, all) = (from, text.len() * 8);
    // The padding is less than a byte of ones.
    while all - end >= 8 || bits(text, end, 7) != 0x7f {
        let (length, _) = HUFFMAN_LENGTHS.into_iter().find(|(length, none)| bits(text, end, *length) < *none)?;
        end += length;
        if end > all {
            return None;
        }
    }
    Some(
        (from..end)
            .step_by(8)
            .map(|at| {
                let count = (end - at).min(8);
                let byte = bits(text, at, count) << (8 - count) | 0xff >> count;
                u8::try_from(byte & 0xff).expect("it has eight bits")
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `www.example.com`, of RFC 7541, appendix C.4.1.
    const HOST: &[u8] = b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";

    /// Bits as they are written, filled up with ones.
    fn huffman(bits: &str) -> Vec<u8> {
        let bits: Vec<u8> = bits.bytes().filter(|bit| *bit != b' ').map(|bit| bit - b'0').collect();
        bits.chunks(8).map(|byte| (0..8).fold(0, |sum, at| sum << 1 | byte.get(at).copied().unwrap_or(1))).collect()
    }

    fn with_scheme(host: &[u8], length: usize) -> Vec<u8> {
        let host: String = (0..length).map(|at| if bits(host, at, 1) == 1 { '1' } else { '0' }).collect();
        huffman(&format!("100111 01001 01001 101011 1011100 011000 011000{host}"))
    }

    #[test]
    fn a_scheme_is_cut_off_in_the_code() {
        // The host has 89 bits.
        assert_eq!(strip_huffman(&with_scheme(HOST, 89)).as_deref(), Some(HOST));
        assert_eq!(strip_huffman(HOST), None);
        // Each length of what is filled up: 0, 1 and 2 have five bits, and 1 ends with a one.
        for ones in 1..=16 {
            let host = "00001".repeat(ones);
            let url = huffman(&format!("100111 01001 01001 101011 01000 1011100 011000 011000{host}"));
            assert_eq!(strip_huffman(&url), Some(huffman(&host)), "{ones}");
        }
    }

    #[test]
    fn only_the_authority_changes() {
        let block = |value: &[u8]| {
            let size = 0x80 | u8::try_from(value.len()).expect("short");
            // POST, http, a path that is not coded, the authority, a new header, a size of the table.
            [&b"\x83\x86\x44\x04/a/b\x41"[..], &[size], value, b"\x40\x02te\x08trailers\x3f\xe1\x1f"].concat()
        };
        assert_eq!(strip_scheme(&block(&with_scheme(HOST, 89))), Some(block(HOST)));
        assert_eq!(strip_scheme(&block(HOST)), None);
        let path = [&b"\x83\x14"[..], &[16], b"https://[::1]:80", b"\x84"].concat();
        assert_eq!(strip_scheme(&path), None, "that is another header");
        let plain = |value: &str| [&b"\x83\x01"[..], &[value.len() as u8], value.as_bytes(), b"\x84"].concat();
        assert_eq!(strip_scheme(&plain("https://[::1]:80")), Some(plain("[::1]:80")));
        // Whatever is cut short is left as it is.
        let whole = block(&with_scheme(HOST, 89));
        assert!((0..27).all(|length| strip_scheme(&whole[..length]).is_none()));
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, 4, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn it_is_changed_however_it_comes() {
        let url = b"\x83\x41\x16http://www.example.com";
        let host = b"\x83\x41\x0fwww.example.com";
        let others = [PREFACE, &frame(4, b""), &frame(8, b"abcd")].concat();
        let sent = [&others[..], &frame(1, url), &frame(0, b"data"), &frame(1, b"\x83\xbe"), &frame(1, url)].concat();
        let read = [&others[..], &frame(1, host), &frame(0, b"data"), &frame(1, b"\x83\xbe"), &frame(1, host)].concat();
        for size in [1, 2, 7, 30, 1000] {
            assert_eq!(strip_all(sent.chunks(size)), read, "{size}");
        }
        let mut stripper = SchemeStripper::new();
        let plain = [&others[..], &frame(1, host), &frame(1, url), b"\0\0"].concat();
        stripper.input.extend_from_slice(&plain);
        stripper.process();
        assert!(stripper.output == plain && !stripper.is_active, "the first head decides");
        // Padding, a priority, and what is too long are left to h2.
        let long = frame(1, &[b'x'; MAX_FRAME + 1]);
        for (kind, flags) in [(1, 8), (1, 0x20), (9, 4)] {
            let mut other = frame(kind, url);
            other[4] |= flags;
            let mut stripper = SchemeStripper::new();
            let plain = [&others[..], &long, &other].concat();
            stripper.input.extend_from_slice(&plain);
            stripper.process();
            assert!(stripper.output == plain, "{kind} {flags}");
        }
    }
}
