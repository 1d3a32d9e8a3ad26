//! Flows: what names one, its hash, and which core owns it.
//!
//! The hash is Toeplitz's as network cards compute it for receive-side scaling, over source and
//! destination address, source and destination port, with the key `0x6d5a` repeated. Because the
//! key repeats after 16 bits, so does the hash's window on it: swapping source and destination
//! changes nothing, and the sum over all input bits is the sum over the input folded to 16 bits.
//! Both directions of a flow therefore land on the same core.

use crate::Address;

/// Sixteen bits of the key, which go on for ever.
const KEY: u16 = 0x6d5a;

/// Entries of an indirection table, a power of two.
pub const INDIRECTION_ENTRIES: usize = 128;

/// What a flow speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP: one connection.
    Tcp,
    /// UDP: one mapping of a guest's address and port.
    Udp,
    /// ICMP or ICMPv6 echo: one identifier of a guest's address.
    Icmp,
}

/// The name of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Whose it is: isolated guests may use the same addresses.
    pub guest: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Address on the guest's side.
    pub guest_address: Address,
    /// Address on the other side; unspecified, of the guest's IP version, where a mapping serves
    /// all remotes (RFC 4787 §4.1).
    pub remote_address: Address,
    /// Port on the guest's side; the identifier of echoes.
    pub guest_port: u16,
    /// Port on the other side; 0 where there is none.
    pub remote_port: u16,
}

/// The Toeplitz hash of a flow's addresses and ports; guest and protocol are not in it.
#[inline]
pub fn hash(key: &FlowKey) -> u32 {
    toeplitz(
        &key.guest_address,
        &key.remote_address,
        key.guest_port,
        key.remote_port,
    )
}

/// The Toeplitz hash of two addresses and ports, the same in both directions. Of IPv4 addresses the
/// four bytes are hashed.
#[inline]
pub fn toeplitz(source: &Address, target: &Address, source_port: u16, target_port: u16) -> u32 {
    let folded = fold(source) ^ fold(target) ^ source_port ^ target_port;
    // Bit i of the input, counted from the first on the wire, adds the key rotated left by i.
    // Seen from the key: each of its bits adds the input, in reverse, rotated to its place.
    let reversed = folded.reverse_bits();
    let mut half = 0;
    let mut bit = 0;
    while bit < 16 {
        if KEY & 1 << bit != 0 {
            half ^= reversed.rotate_left(bit);
        }
        bit += 1;
    }
    u32::from(half) << 16 | u32::from(half)
}

/// All 16-bit words of an address, XORed.
#[inline]
fn fold(address: &Address) -> u16 {
    let value = u128::from_be_bytes(*address.octets());
    let value = (value >> 64) as u64 ^ value as u64;
    let value = (value >> 32) as u32 ^ value as u32;
    let folded = (value >> 16) as u16 ^ value as u16;
    // The mapped form's `ffff` is not part of an IPv4 address.
    if address.is_v4() {
        folded ^ 0xffff
    } else {
        folded
    }
}

/// Which core owns a flow: the low bits of its hash choose an entry, as in a network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndirectionTable([u8; INDIRECTION_ENTRIES]);

impl IndirectionTable {
    /// All cores in turn; `cores` is 1..=256, and 0 is taken as 1.
    pub fn even(cores: usize) -> Self {
        let cores = cores.clamp(1, 256);
        Self(core::array::from_fn(|entry| (entry % cores) as u8))
    }

    /// The core that owns flows of this hash.
    #[inline]
    pub const fn owner(&self, hash: u32) -> usize {
        self.0[hash as usize % INDIRECTION_ENTRIES] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// The definition: for each set bit of the input, the 32 bits of the key from there on.
    fn plain(input: &[u8], key: &[u8]) -> u32 {
        let mut hash = 0;
        for bit in 0..input.len() * 8 {
            if input[bit / 8] & 0x80 >> (bit % 8) != 0 {
                let mut window = 0;
                for place in bit..bit + 32 {
                    window = window << 1 | u32::from(key[place / 8] >> (7 - place % 8) & 1);
                }
                hash ^= window;
            }
        }
        hash
    }

    fn symmetric_key() -> Vec<u8> {
        KEY.to_be_bytes().repeat(20)
    }

    fn input(source: &Address, target: &Address, source_port: u16, target_port: u16) -> Vec<u8> {
        let skip = if source.is_v4() { 12 } else { 0 };
        let mut input = Vec::from(&source.octets()[skip..]);
        input.extend(&target.octets()[skip..]);
        input.extend(source_port.to_be_bytes());
        input.extend(target_port.to_be_bytes());
        input
    }

    #[test]
    fn reference_agrees_with_the_published_vectors() {
        // "Verifying the RSS hash calculation": 66.9.149.187:2794 to 161.142.100.80:1766.
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let (a, b) = (
            Address::v4([66, 9, 149, 187]),
            Address::v4([161, 142, 100, 80]),
        );
        assert_eq!(plain(&input(&a, &b, 2794, 1766), &key), 0x51cc_c178);
    }

    #[test]
    fn tables_are_even() {
        for cores in 1..=8 {
            let table = IndirectionTable::even(cores);
            let mut owned = [0; 8];
            for hash in 0..128 {
                owned[table.owner(hash)] += 1;
            }
            let (least, most) = (128 / cores, 128_usize.div_ceil(cores));
            assert!(
                owned[..cores].iter().all(|n| (least..=most).contains(n)),
                "{owned:?}"
            );
            assert_eq!(table.owner(5), table.owner(5 + 128));
        }
        assert_eq!(IndirectionTable::even(0), IndirectionTable::even(1));
    }

    #[test]
    fn ports_spread_over_cores() {
        let (a, b) = (Address::v4([10, 0, 2, 3]), Address::v4([1, 1, 1, 1]));
        let table = IndirectionTable::even(4);
        let mut owned = [0; 4];
        for port in 0..4096 {
            owned[table.owner(toeplitz(&a, &b, port, 443))] += 1;
        }
        assert!(owned.iter().all(|n| (900..=1150).contains(n)), "{owned:?}");
    }

    fn any_address() -> impl Strategy<Value = Address> {
        any::<[u8; 16]>().prop_map(Address::v6)
    }

    proptest! {
        #[test]
        fn equals_the_reference_v6(
            a in any_address(), b in any_address(), p in any::<u16>(), q in any::<u16>(),
        ) {
            prop_assert_eq!(toeplitz(&a, &b, p, q), plain(&input(&a, &b, p, q), &symmetric_key()));
            prop_assert_eq!(toeplitz(&a, &b, p, q), toeplitz(&b, &a, q, p));
        }

        #[test]
        fn equals_the_reference_v4(
            a in any::<[u8; 4]>(), b in any::<[u8; 4]>(), p in any::<u16>(), q in any::<u16>(),
        ) {
            let (a, b) = (Address::v4(a), Address::v4(b));
            prop_assert_eq!(toeplitz(&a, &b, p, q), plain(&input(&a, &b, p, q), &symmetric_key()));
            prop_assert_eq!(toeplitz(&a, &b, p, q), toeplitz(&b, &a, q, p));
        }
    }
}
