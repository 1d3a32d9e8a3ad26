//! Damage as it happens on a wire, where no frame has an offload header.
//!
//! A frame whose checksum was left to the other side of the link is believed, whatever is in it. So
//! before it is damaged its checksum is completed, which the offload header says how to do, and the
//! header is cleared: it is now a frame that was received from a wire, and the receiver has to look.
//! A super-frame becomes one packet that is longer than the MTU.
//!
//! Only bytes that a checksum covers are flipped: those from where the offload header's checksum
//! begins, else those behind the ethernet header. Of other protocols than IP nothing is flipped or
//! cut; ARP has no checksum of its own and leaves that to the ethernet's, which would drop the frame.

use super::fate::Damage;
use crate::frames::tap::OFFLOAD_HEADER_BYTES;

/// virtio-net: the checksum from `csum_start` on is to be completed.
const NEEDS_CHECKSUM: u8 = 1;
const ETHERNET_HEADER_BYTES: usize = 14;
/// IPv4 and IPv6.
const ETHERTYPES: [[u8; 2]; 2] = [[0x08, 0x00], [0x86, 0xdd]];

/// Damages a frame. Says whether it did.
pub(super) fn damage(frame: &mut Vec<u8>, offload_header: bool, damage: &Damage) -> bool {
    let start = if offload_header {
        OFFLOAD_HEADER_BYTES
    } else {
        0
    };
    let packet = start + ETHERNET_HEADER_BYTES;
    let is_ip = frame
        .get(packet - 2..packet)
        .is_some_and(|ethertype| ETHERTYPES.iter().any(|ip| ip == ethertype));
    if !is_ip {
        return false;
    }
    let covered = if offload_header {
        complete(frame)
    } else {
        None
    };
    if damage.flipped {
        damage.flip(frame, covered.unwrap_or(packet));
    }
    if damage.cut {
        damage.cut(frame, packet);
    }
    true
}

/// Completes the checksum and clears the offload header. Returns where the checksum begins, if one
/// was left to do.
fn complete(frame: &mut [u8]) -> Option<usize> {
    let word = |at: usize| usize::from(u16::from_ne_bytes([frame[at], frame[at + 1]]));
    let needed = frame[0] & NEEDS_CHECKSUM != 0;
    let start = OFFLOAD_HEADER_BYTES + word(6);
    let field = start + word(8);
    frame[..OFFLOAD_HEADER_BYTES].fill(0);
    if !needed || field + 2 > frame.len() {
        return None;
    }
    // The field holds the sum of the pseudo-header (virtio 1.3 §5.1.6.2). All bits set stands for zero,
    // which in UDP means that there is no checksum.
    let sum = match !ones_complement_sum(&frame[start..]) {
        0 => u16::MAX,
        sum => sum,
    };
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    Some(start)
}

/// RFC 1071 §1.
fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut sum: u64 = words
        .iter()
        .map(|word| u64::from(u16::from_be_bytes(*word)))
        .sum();
    sum += rest.first().map_or(0, |&last| u64::from(last) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::faulty::{Fates, FaultPlan};

    /// An ethernet header of IPv4, ten bytes of something, and a "transport": checksum first.
    fn frame(offload: &[u8], seed: u16) -> Vec<u8> {
        let mut frame = offload.to_vec();
        frame.extend([2; 12]);
        frame.extend(ETHERTYPES[0]);
        frame.extend([9; 10]);
        frame.extend(seed.to_be_bytes());
        frame.extend(b"what the transport carries, an odd number of bytes.");
        frame
    }

    fn needs_checksum() -> Vec<u8> {
        let mut header = vec![NEEDS_CHECKSUM, 1];
        for word in [54u16, 1448, 24, 0] {
            header.extend(word.to_ne_bytes());
        }
        header
    }

    fn damages(text: &str) -> impl Iterator<Item = Damage> {
        let plan: FaultPlan = text.parse().unwrap();
        let mut fates = Fates::up(&plan);
        std::iter::from_fn(move || Some(fates.draw())).filter_map(|fate| fate.damage)
    }

    #[test]
    fn a_checksum_that_was_left_to_others_is_completed() {
        for pseudo in [0, 1, 0x1234, 0xffff] {
            let mut frame = frame(&needs_checksum(), pseudo);
            let pseudo_header = ones_complement_sum(&pseudo.to_be_bytes());
            assert_eq!(complete(&mut frame), Some(34));
            assert_eq!(frame[..10], [0; 10], "nothing is left to do");
            // RFC 1071: with the checksum in place, all that it covers sums up to all ones.
            let payload = ones_complement_sum(&frame[36..]);
            let written = u16::from_be_bytes([frame[34], frame[35]]);
            let halves = [
                pseudo_header.to_be_bytes(),
                payload.to_be_bytes(),
                written.to_be_bytes(),
            ];
            assert_eq!(
                ones_complement_sum(halves.as_flattened()),
                0xffff,
                "{pseudo:#x}"
            );
        }
    }

    #[test]
    fn a_flipped_bit_shows_in_the_checksum() {
        for damage in damages("corrupt=50%").take(1000) {
            let mut damaged = frame(&needs_checksum(), 0x1234);
            let mut whole = damaged.clone();
            assert!(super::damage(&mut damaged, true, &damage));
            complete(&mut whole);
            assert_eq!(damaged[..34], whole[..34]);
            assert_eq!(damaged.len(), whole.len());
            assert_ne!(
                ones_complement_sum(&damaged[34..]),
                ones_complement_sum(&whole[34..])
            );
        }
    }

    #[test]
    fn a_cut_frame_keeps_its_ethernet_header() {
        for offload in [true, false] {
            for damage in damages("truncate=50%").take(1000) {
                let header = if offload {
                    needs_checksum()
                } else {
                    Vec::new()
                };
                let whole = frame(&header, 0);
                let mut cut = whole.clone();
                assert!(super::damage(&mut cut, offload, &damage));
                assert!((header.len() + 14..whole.len()).contains(&cut.len()));
            }
        }
    }

    #[test]
    fn what_has_no_checksum_of_its_own_is_spared() {
        let damage_of = damages("corrupt=100%,truncate=100%").next().unwrap();
        let mut arp = frame(&[], 0);
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        let whole = arp.clone();
        assert!(!damage(&mut arp, false, &damage_of));
        assert_eq!(arp, whole);
        assert!(!damage(&mut vec![0; 5], false, &damage_of));
        assert!(!damage(&mut vec![0; 20], true, &damage_of));
    }

    #[test]
    fn an_offload_header_that_is_wrong_does_no_harm() {
        let damage_of = damages("corrupt=100%").next().unwrap();
        for (start, offset) in [(0xffff, 0xffff), (80, 0), (86, 16)] {
            let mut header = needs_checksum();
            header[6..8].copy_from_slice(&u16::to_ne_bytes(start));
            header[8..10].copy_from_slice(&u16::to_ne_bytes(offset));
            let mut frame = frame(&header, 0);
            assert!(damage(&mut frame, true, &damage_of));
        }
    }
}
