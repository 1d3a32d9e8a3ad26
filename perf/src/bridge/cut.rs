//! Super-frames of the guest's kernel, cut into frames of the MTU with whole checksums, as a virtual
//! machine's kernel cuts them for a device without offloads.

use super::framing::Framing;
use super::packet::{Layout, VirtioHeader};

/// Bytes of the headers that are repeated, at most: Ethernet, IPv6 and a TCP header with all options.
const HEADERS_MAX: usize = 14 + 40 + 60;
/// Flags of TCP that only the last piece has: FIN and PSH.
const LAST_ONLY: u8 = 0x01 | 0x08;
/// The one that only the first has: CWR.
const FIRST_ONLY: u8 = 0x80;

/// Bytes that the pieces of one super-frame take more than itself, at most: so many pieces cannot
/// come of 64 KiB with any usual MTU.
pub(super) const GROWTH_MAX: usize = 64 << 10;

/// Turns the frame of `length` bytes, which stands in `room` behind the place for its length, into
/// frames that are each behind their length, at the same place. Returns how many bytes they take
/// together, or `None` if it is nothing that a TAP gives.
///
/// The pieces are moved from the last to the first: each goes towards the end, so that none overwrites
/// another.
pub(super) fn cut(
    framing: Framing,
    offload: VirtioHeader,
    room: &mut [u8],
    length: usize,
) -> Option<usize> {
    let prefix = framing.prefix_bytes();
    if offload.kind == 0 {
        if offload.flags & VirtioHeader::NEEDS_CHECKSUM != 0 {
            complete(offload, &mut room[prefix..prefix + length])?;
        }
        framing.write_length(length, room);
        return Some(prefix + length);
    }
    let layout = super_layout(offload, &room[prefix..prefix + length])?;
    let size = usize::from(offload.size).max(1);
    let mut headers = [0; HEADERS_MAX];
    let headers = headers.get_mut(..layout.payload)?;
    headers.copy_from_slice(&room[prefix..][..layout.payload]);
    let stride = prefix + layout.payload + size;
    let pieces = (length - layout.payload).div_ceil(size).max(1);
    for index in (0..pieces).rev() {
        let from = prefix + layout.payload + index * size;
        let payload = size.min(prefix + length - from);
        let frame = index * stride + prefix;
        room.copy_within(from..from + payload, frame + layout.payload);
        let place = &mut room[index * stride..frame + layout.payload + payload];
        framing.write_length(layout.payload + payload, place);
        let frame = &mut place[prefix..];
        frame[..layout.payload].copy_from_slice(headers);
        number(layout, frame, index, index * size, index + 1 == pieces);
        layout.set_length(frame, payload);
        layout.set_checksum(frame, payload);
    }
    Some(pieces * (prefix + layout.payload) + length - layout.payload)
}

/// Where things stand in a super-frame. Its lengths may be too small to say how long it is.
fn super_layout(offload: VirtioHeader, frame: &[u8]) -> Option<Layout> {
    let transport = usize::from(offload.checksum_start);
    let is_tcp = match offload.kind {
        VirtioHeader::TCPV4 | VirtioHeader::TCPV6 => true,
        VirtioHeader::UDP => false,
        _ => return None,
    };
    let header = if is_tcp {
        usize::from(*frame.get(transport + 12)? >> 4) * 4
    } else {
        8
    };
    let payload = transport + header;
    (payload <= frame.len()).then_some(Layout {
        is_ipv4: frame[14] >> 4 == 4,
        is_tcp,
        transport,
        payload,
        end: frame.len(),
    })
}

/// Counts on what the pieces have in turn: IPv4's identification, TCP's sequence number and flags.
fn number(layout: Layout, frame: &mut [u8], index: usize, offset: usize, is_last: bool) {
    if layout.is_ipv4 {
        let id = u16::from_be_bytes([frame[18], frame[19]]).wrapping_add(index as u16);
        frame[18..20].copy_from_slice(&id.to_be_bytes());
    }
    if layout.is_tcp {
        let tcp = &mut frame[layout.transport..];
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let sequence = sequence.wrapping_add(offset as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if !is_last {
            tcp[13] &= !LAST_ONLY;
        }
        if index > 0 {
            tcp[13] &= !FIRST_ONLY;
        }
    }
}

/// Completes a checksum of which the sum over the pseudo-header is there.
fn complete(offload: VirtioHeader, frame: &mut [u8]) -> Option<()> {
    let start = usize::from(offload.checksum_start);
    let at = start + usize::from(offload.checksum_offset);
    let checksum = super::checksum::Sum::default()
        .add(frame.get(start..)?)
        .checksum();
    // Of two ways to write zero, the one that UDP does not take for "none".
    let checksum = if checksum == [0; 2] {
        [0xff; 2]
    } else {
        checksum
    };
    frame.get_mut(at..at + 2)?.copy_from_slice(&checksum);
    Some(())
}
