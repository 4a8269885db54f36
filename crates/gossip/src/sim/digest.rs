//! A hash of everything that happens in a run, to compare two runs.

/// Odd, with its bits well mixed (wyhash's first secret).
const MULTIPLIER: u64 = 0xa076_1d64_78bd_642f;

/// Hashes eight bytes at a time: multiplies, then folds the upper half in. Not for hostile input.
#[derive(Clone, Debug)]
pub(super) struct Digest(u64);

impl Digest {
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The digest of some bytes alone.
    pub(super) fn of(parts: &[&[u8]]) -> u64 {
        let mut digest = Self::new();
        for part in parts {
            digest.add_bytes(part);
        }
        digest.finish()
    }

    pub(super) fn add(&mut self, words: &[u64]) {
        for word in words {
            let product = u128::from(self.0 ^ word) * u128::from(MULTIPLIER);
            self.0 = (product as u64).rotate_left(29).wrapping_add((product >> 64) as u64 ^ MULTIPLIER);
        }
    }

    pub(super) fn add_bytes(&mut self, bytes: &[u8]) {
        self.add(&[bytes.len() as u64]);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.add(&[u64::from_le_bytes(chunk.try_into().expect("the chunk has eight bytes"))]);
        }
        let mut last = [0; 8];
        last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.add(&[u64::from_le_bytes(last)]);
    }

    pub(super) fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_differs_shows() {
        let digests = [
            Digest::of(&[]),
            Digest::of(&[b""]),
            Digest::of(&[b"a"]),
            Digest::of(&[b"a\0"]),
            Digest::of(&[b"a", b""]),
            Digest::of(&[b"12345678a"]),
            Digest::of(&[b"a12345678"]),
        ];
        let different: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(different.len(), digests.len());
        assert_eq!(Digest::of(&[b"same"]), Digest::of(&[b"same"]));
    }
}
