//! The internet checksum (RFC 1071).
//!
//! Sums are of little-endian words: what order the bytes of a word are added in does not matter as
//! long as the result is stored in the same order (RFC 1071 §2 B).

/// A sum of 16-bit words that has not been folded yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes; all parts of one sum but the last have an even length.
    pub(super) fn add(self, bytes: &[u8]) -> Sum {
        let (blocks, rest) = bytes.as_chunks::<16>();
        // Four sums at a time, of 32 bits each, which cannot run over: it's what processors add at once.
        let mut lanes = [0_u64; 4];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
                *lane += u64::from(u32::from_le_bytes(*word));
            }
        }
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        for (lane, word) in lanes.iter_mut().zip(last.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_le_bytes(*word));
        }
        Sum(lanes.iter().fold(self.0, |sum, lane| sum + lane))
    }

    /// Adds a number as it stands in a header.
    pub(super) fn add_number(self, number: u16) -> Sum {
        Sum(self.0 + u64::from(u16::from_le_bytes(number.to_be_bytes())))
    }

    /// The folded sum as it stands in a header: what offloads want in the place of a checksum that is
    /// still to be completed.
    pub(super) fn partial(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_le_bytes()
    }

    /// The checksum as it stands in a header.
    pub(super) fn checksum(self) -> [u8; 2] {
        self.partial().map(|byte| !byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_sum_of_the_rfc() {
        // RFC 1071 §3.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().add(&bytes).partial(), [0xdd, 0xf2]);
        assert_eq!(Sum::default().add_number(0xddf2).checksum(), [0x22, 0x0d]);
    }

    proptest! {
        #[test]
        fn like_word_by_word(bytes in proptest::collection::vec(any::<u8>(), 0..3000), cut: usize) {
            let mut slow = 0_u64;
            for word in bytes.chunks(2) {
                slow += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
            }
            while slow > 0xffff {
                slow = (slow & 0xffff) + (slow >> 16);
            }
            let cut = (cut % (bytes.len() + 1)) & !1;
            let sum = Sum::default().add(&bytes[..cut]).add(&bytes[cut..]);
            prop_assert_eq!(u16::from_be_bytes(sum.partial()), slow as u16);
        }
    }
}
