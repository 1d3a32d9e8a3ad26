//! The Internet checksum: a ones' complement sum of 16-bit big-endian words (RFC 1071).
//!
//! A ones' complement sum may be taken in any byte order, in any grouping and in words of any
//! width, and folded at the end (RFC 1071 §2). So the bytes are added as 32-bit words of the
//! machine's own order into eight 64-bit lanes, which compilers turn into vector code; no lane
//! can overflow below 128 GiB. A piece that starts at an odd offset has its sum's bytes swapped.

use crate::Address;

/// A running sum over the pieces of a packet, in packet order, each of any length and alignment.
///
/// ```
/// use towpath_stack::wire::checksum::Sum;
/// let whole = Sum::new().add(b"towpath").fold();
/// assert_eq!(whole, Sum::new().add(b"tow").add(b"path").fold());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Sum of words in native byte order; each addition is below 2¹⁶.
    total: u64,
    /// Whether an odd number of bytes was added.
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    pub const fn new() -> Self {
        Self {
            total: 0,
            odd: false,
        }
    }

    /// Adds the bytes that follow those added so far.
    #[must_use]
    #[expect(
        clippy::should_implement_trait,
        reason = "bytes have a place: a + b is not b + a"
    )]
    pub fn add(self, bytes: &[u8]) -> Self {
        self.add_native(sum_native(bytes), bytes.len() & 1 == 1)
    }

    /// Adds a field of 16 bits in host order, as the two bytes that it is on the wire.
    #[must_use]
    #[inline]
    pub fn add_field(self, field: u16) -> Self {
        self.add_native(field.to_be(), false)
    }

    /// Adds a sum that was begun by itself, as the sum of the bytes that follow.
    #[must_use]
    pub fn add_sum(self, following: Self) -> Self {
        self.add_native(fold_native(following.total), following.odd)
    }

    /// Adds the pseudo-header of TCP, UDP and ICMPv6: addresses, protocol and the length in bytes
    /// of the transport header with its payload (RFC 9293 §3.1, RFC 768, RFC 8200 §8.1). To be
    /// added where an even number of bytes has been added, best first.
    #[must_use]
    pub fn add_pseudo(
        self,
        source: Address,
        target: Address,
        protocol: u8,
        length_bytes: u32,
    ) -> Self {
        debug_assert!(!self.odd, "a pseudo-header has no odd offset");
        let addresses = address_words(&source) + address_words(&target);
        let length = length_bytes.to_be();
        let rest = u64::from(u16::from(protocol).to_be())
            + u64::from(length & 0xffff)
            + u64::from(length >> 16);
        Self {
            total: self.total.wrapping_add(addresses + rest),
            odd: self.odd,
        }
    }

    /// The sum as a 16-bit number in host order, not complemented. A packet whose checksum field is
    /// included sums up to `0xffff` when it is right.
    pub fn fold(self) -> u16 {
        u16::from_be(fold_native(self.total))
    }

    /// The value of the checksum field: the complement of the sum.
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether the bytes added, checksum field included, are intact.
    pub fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }

    fn add_native(self, word: u16, odd: bool) -> Self {
        let word = if self.odd { word.swap_bytes() } else { word };
        Self {
            total: self.total.wrapping_add(u64::from(word)),
            odd: self.odd ^ odd,
        }
    }
}

/// The sum of an address's words in native order: four bytes of IPv4, sixteen of IPv6.
fn address_words(address: &Address) -> u64 {
    let octets = address.octets();
    let (words, _) = octets.as_chunks::<4>();
    let word = |at: usize| u64::from(u32::from_ne_bytes(words[at]));
    if address.is_v4() {
        word(3)
    } else {
        word(0) + word(1) + word(2) + word(3)
    }
}

fn sum_native(bytes: &[u8]) -> u16 {
    const LANES: usize = 8;
    let (blocks, rest) = bytes.as_chunks::<{ LANES * 4 }>();
    let mut lanes = [0_u64; LANES];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total = lanes
        .iter()
        .fold(0_u64, |sum, lane| sum + u64::from(fold_native(*lane)));
    let (words, tail) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    // RFC 1071 §1: a last odd byte is padded with a zero byte.
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    fold_native(total + u64::from(u32::from_ne_bytes(last)))
}

/// Folds the carries of a sum of 16-bit (or 32-bit) words back in.
const fn fold_native(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// The definition, word by word.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    #[test]
    fn rfc_1071_example() {
        // RFC 1071 §3: the bytes sum up to 0xddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().add(&bytes).fold(), 0xddf2);
        assert_eq!(Sum::new().add(&bytes).checksum(), 0x220d);
    }

    #[test]
    fn all_ones_keep_their_carries() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(Sum::new().add(&bytes).fold(), plain(&bytes));
        assert_eq!(Sum::new().add(&bytes[..65_534]).fold(), 0xffff);
        assert_eq!(Sum::new().fold(), 0);
    }

    #[test]
    fn fields_count_as_their_bytes() {
        let fields = Sum::new().add_field(0x1234).add_field(0xfffe).add_field(3);
        assert_eq!(
            fields.fold(),
            Sum::new().add(&[0x12, 0x34, 0xff, 0xfe, 0, 3]).fold()
        );
        let behind_odd = Sum::new().add(&[9]).add_field(0x1234).fold();
        assert_eq!(behind_odd, Sum::new().add(&[9, 0x12, 0x34]).fold());
    }

    #[test]
    fn pseudo_header_is_the_sum_of_its_bytes() {
        let (a, b) = (
            Address::v4([10, 1, 2, 3]),
            Address::v4([192, 168, 255, 254]),
        );
        let bytes = [10, 1, 2, 3, 192, 168, 255, 254, 0, 17, 0x12, 0x34];
        assert_eq!(
            Sum::new().add_pseudo(a, b, 17, 0x1234).fold(),
            plain(&bytes)
        );

        let (a, b) = (Address::v6([0xfd; 16]), Address::v6([0x3e; 16]));
        let mut bytes = Vec::from([0xfd; 16]);
        bytes.extend([0x3e; 16]);
        bytes.extend([0, 1, 0x23, 0x45, 0, 0, 0, 6]);
        assert_eq!(
            Sum::new().add_pseudo(a, b, 6, 0x1_2345).fold(),
            plain(&bytes)
        );
    }

    proptest! {
        #[test]
        fn pieces_sum_like_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(0_usize..300, 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let (mut sum, mut joined, mut from) = (Sum::new(), Sum::new(), 0);
            for cut in cuts.into_iter().chain([bytes.len()]) {
                sum = sum.add(&bytes[from..cut]);
                joined = joined.add_sum(Sum::new().add(&bytes[from..cut]));
                from = cut;
            }
            prop_assert_eq!(sum.fold(), plain(&bytes));
            prop_assert_eq!(joined.fold(), plain(&bytes));
        }

        /// Lanes, blocks and tails of every length; and bytes that carry as often as they can.
        #[test]
        fn long_pieces_sum_like_words(
            len in 0_usize..2000, ones in any::<bool>(), seed in any::<u8>(), cut in 0_usize..2000,
        ) {
            let byte = |n: usize| if ones { 0xff } else { (n * 31) as u8 ^ seed };
            let bytes: Vec<_> = (0..len).map(byte).collect();
            let (front, back) = bytes.split_at(cut.min(len));
            let sum = Sum::new().add(front).add(back);
            prop_assert_eq!(sum.fold(), plain(&bytes));
            let joined = Sum::new().add(front).add_sum(Sum::new().add(back));
            prop_assert_eq!(joined.fold(), plain(&bytes));
        }

        /// The field that is computed makes the whole sum up, wherever it stands at an even place.
        #[test]
        fn a_field_makes_it_valid(
            mut bytes in prop::collection::vec(any::<u8>(), 2..200), place in 0_usize..100,
        ) {
            let place = place * 2 % (bytes.len() & !1);
            bytes[place..place + 2].fill(0);
            let field = Sum::new().add(&bytes).checksum();
            bytes[place..place + 2].copy_from_slice(&field.to_be_bytes());
            prop_assert!(Sum::new().add(&bytes).is_valid());
            // RFC 1071 §1: any single bit that flips is seen.
            bytes[place] ^= 0x10;
            prop_assert!(!Sum::new().add(&bytes).is_valid());
        }

        #[test]
        fn any_pseudo_header_is_the_sum_of_its_bytes(
            a in any::<[u8; 16]>(), b in any::<[u8; 16]>(), v4 in any::<bool>(),
            protocol in any::<u8>(), len in any::<u32>(),
        ) {
            let (source, target, bytes) = if v4 {
                let (a, b) = ([a[0], a[1], a[2], a[3]], [b[0], b[1], b[2], b[3]]);
                let rest = [0, protocol, (len >> 8) as u8, len as u8];
                (Address::v4(a), Address::v4(b), [&a[..], &b, &rest].concat())
            } else {
                let rest = [0, 0, 0, protocol];
                let len = len.to_be_bytes();
                (Address::v6(a), Address::v6(b), [&a[..], &b, &len, &rest].concat())
            };
            let len = if v4 { len & 0xffff } else { len };
            let sum = Sum::new().add_pseudo(source, target, protocol, len);
            prop_assert_eq!(sum.fold(), plain(&bytes));
        }
    }
}
