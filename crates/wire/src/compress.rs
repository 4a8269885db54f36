//! LZW as in Go's `compress/lzw`: least significant bit first, 8 literal bits, codes of 9 to 12 bits, with an end code that
//! must be there.
//!
//! Output is not always bit for bit that of Go, as each clears its table at another moment; both read both.

use std::fmt;

use bytes::BytesMut;
use weezl::{BitOrder, LzwStatus, decode::Decoder, encode::Encoder};

/// Why bytes cannot be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// Another algorithm than LZW (0).
    #[error("its compression algorithm is {0}, and only 0 (LZW) is known")]
    Algorithm(u8),
    /// The end code is missing.
    #[error("its LZW data has no end: it was cut off")]
    Truncated,
    /// A code is not defined.
    #[error("its LZW data is damaged: it has an undefined code")]
    Code,
    /// The output exceeds the limit.
    #[error("it grows to more than {max} bytes, the limit")]
    TooLong {
        /// The limit.
        max: usize,
    },
}

/// Compresses `data`. Random bytes grow, by up to a half.
///
/// ```
/// use broadcast_wire::compress::{compress, decompress};
///
/// let data = [7; 1000];
/// let packed = compress(&data);
/// assert!(packed.len() < 100);
/// assert_eq!(decompress(&packed, 1000)?, data);
/// # Ok::<(), broadcast_wire::DecompressError>(())
/// ```
#[must_use]
pub fn compress(data: &[u8]) -> Vec<u8> {
    Encoder::new(BitOrder::Lsb, 8).encode(data).expect("every byte is a literal when there are 8 literal bits")
}

/// Undoes [`compress()`]. Ignores bytes behind the end code. Takes memory only as the output grows.
///
/// # Errors
///
/// `data` is no LZW, has no end code, or more than `max` bytes come out of it.
pub fn decompress(data: &[u8], max: usize) -> Result<Vec<u8>, DecompressError> {
    let mut out = BytesMut::new();
    let mut inflater = Inflater::new(max);
    let mut read = 0;
    while !inflater.is_done() {
        let slice = data.len().saturating_mul(4).clamp(64, 1 << 20).max(out.len());
        read += inflater.inflate(&data[read..], slice, &mut out)?;
    }
    Ok(out.into())
}

/// Undoes [`compress()`] slice by slice.
pub(super) struct Inflater {
    decoder: Decoder,
    written: usize,
    max: usize,
    done: bool,
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").field("written", &self.written).field("done", &self.done).finish_non_exhaustive()
    }
}

impl Inflater {
    /// An inflater that gives at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { decoder: Decoder::new(BitOrder::Lsb, 8), written: 0, max, done: false }
    }

    /// Whether it has read the end code.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// How many bytes it has given in all.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    /// Reads on from `data`, and appends up to `slice` bytes to `out`. Gives how many bytes of `data` it has read.
    ///
    /// # Errors
    ///
    /// See [`decompress`]. The inflater is then of no more use.
    pub(super) fn inflate(&mut self, data: &[u8], slice: usize, out: &mut BytesMut) -> Result<usize, DecompressError> {
        // One byte beyond `max`, so that an output of exactly `max` leaves room to meet the end code.
        let room = slice.min((self.max - self.written).saturating_add(1));
        let begin = out.len();
        out.resize(begin + room, 0);
        let (mut read, mut written) = (0, 0);
        while written < room && !self.done {
            let result = self.decoder.decode_bytes(&data[read..], &mut out[begin + written..]);
            read += result.consumed_in;
            written += result.consumed_out;
            match result.status {
                Err(_) => return Err(DecompressError::Code),
                Ok(LzwStatus::Done) => self.done = true,
                Ok(_) if result.consumed_in == 0 && result.consumed_out == 0 => {
                    return Err(DecompressError::Truncated);
                }
                Ok(_) => {}
            }
        }
        out.truncate(begin + written);
        self.written += written;
        if self.written > self.max { Err(DecompressError::TooLong { max: self.max }) } else { Ok(read) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 1_u32;
        let mut next = || {
            x = x.wrapping_mul(1_103_515_245).wrapping_add(12345);
            (x >> 16) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn the_end_code_is_required() {
        for cut in [&[][..], &[0x00, 0x83], &[0x00, 0x83, 0x04]] {
            assert_eq!(decompress(cut, 100), Err(DecompressError::Truncated), "{cut:02x?}");
        }
        assert_eq!(decompress(&[0x00, 0x83, 0x04, 0x04], 100).unwrap(), b"A");
    }

    #[test]
    fn bytes_behind_the_end_are_ignored() {
        assert_eq!(decompress(&[0x00, 0x83, 0x04, 0x04, 0xff, 0xff], 100).unwrap(), b"A");
    }

    #[test]
    fn a_damaged_code_is_an_error() {
        assert_eq!(decompress(&[0xff; 16], 100), Err(DecompressError::Code));
    }

    #[test]
    fn the_limit_is_exact() {
        for len in [0, 1, 63, 64, 65, 100_000] {
            let data = compress(&vec![0; len]);
            assert_eq!(decompress(&data, len).unwrap().len(), len);
            if len > 0 {
                assert_eq!(decompress(&data, len - 1), Err(DecompressError::TooLong { max: len - 1 }));
            }
        }
    }

    #[test]
    fn a_full_table_is_started_anew() {
        let data = noise(20_000);
        let packed = compress(&data);
        assert!(packed.len() > data.len());
        assert_eq!(decompress(&packed, data.len()).unwrap(), data);
        assert_eq!(compress(&[0; 100_000]).len(), 530, "Go's own length");
    }

    proptest! {
        #[test]
        fn round_trip(data in proptest::collection::vec(0_u8..4, 0..5000)) {
            prop_assert_eq!(decompress(&compress(&data), 5000).unwrap(), data);
        }

        #[test]
        fn no_input_panics(data in proptest::collection::vec(any::<u8>(), 0..300), max in 0_usize..10_000) {
            if let Ok(out) = decompress(&data, max) {
                prop_assert!(out.len() <= max);
            }
        }
    }
}
