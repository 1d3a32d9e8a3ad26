//! The byte stream of a verified transfer: a function of the seed and the offset, so that a
//! receiver can check any piece of it at any place, and a byte that is lost, doubled or moved shows
//! at once.

/// Bytes compared at a time; small enough to stay in the first-level cache.
const BLOCK_BYTES: usize = 4096;

/// A seeded stream of bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pattern {
    seed: u64,
}

impl Pattern {
    /// The stream of this seed.
    pub(crate) fn new(seed: u64) -> Pattern {
        Pattern { seed }
    }

    /// Writes the stream's bytes from `offset` on into `bytes`.
    pub(crate) fn fill(self, offset: u64, bytes: &mut [u8]) {
        let skipped = (offset % 8) as usize;
        let mut index = offset / 8;
        let head = bytes.len().min((8 - skipped) % 8);
        let (first, rest) = bytes.split_at_mut(head);
        if head > 0 {
            first.copy_from_slice(&self.word(index)[skipped..skipped + head]);
            index += 1;
        }
        for chunk in rest.chunks_mut(8) {
            chunk.copy_from_slice(&self.word(index)[..chunk.len()]);
            index += 1;
        }
    }

    /// The offset in the stream of the first byte of `bytes` that is not what stands at `offset`
    /// on.
    pub(crate) fn mismatch(self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut expected = [0; BLOCK_BYTES];
        let mut at = offset;
        for block in bytes.chunks(BLOCK_BYTES) {
            let expected = &mut expected[..block.len()];
            self.fill(at, expected);
            if block != expected {
                let same = block
                    .iter()
                    .zip(expected)
                    .take_while(|(got, want)| got == want)
                    .count();
                return Some(at + same as u64);
            }
            at += block.len() as u64;
        }
        None
    }

    /// The 8 bytes at offset `index * 8`: the output function of splitmix64 over a counter.
    fn word(self, index: u64) -> [u8; 8] {
        let mut z = self
            .seed
            .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_word_is_that_of_splitmix64() {
        let mut bytes = [0; 8];
        Pattern::new(0).fill(0, &mut bytes);
        assert_eq!(u64::from_le_bytes(bytes), 0xe220_a839_7b1d_cdaf);
    }

    proptest! {
        #[test]
        fn any_piece_is_part_of_the_whole(seed: u64, offset in 0u64..300, len in 0usize..300) {
            let mut whole = vec![0; 600];
            Pattern::new(seed).fill(0, &mut whole);
            let mut piece = vec![0; len];
            Pattern::new(seed).fill(offset, &mut piece);
            prop_assert_eq!(&piece[..], &whole[offset as usize..offset as usize + len]);
        }

        #[test]
        fn a_changed_byte_is_found(
            offset in 0u64..100,
            len in 1usize..10_000,
            pick: usize,
            flip in 1u8..,
        ) {
            let pattern = Pattern::new(3);
            let mut bytes = vec![0; len];
            pattern.fill(offset, &mut bytes);
            prop_assert_eq!(pattern.mismatch(offset, &bytes), None);
            let at = pick % len;
            bytes[at] ^= flip;
            prop_assert_eq!(pattern.mismatch(offset, &bytes), Some(offset + at as u64));
        }
    }

    #[test]
    fn a_moved_block_is_found() {
        let pattern = Pattern::new(9);
        let mut bytes = vec![0; 8192];
        pattern.fill(65_536, &mut bytes);
        assert_eq!(pattern.mismatch(65_536 + 4096, &bytes), Some(65_536 + 4096));
    }
}
