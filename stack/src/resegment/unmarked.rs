//! Unfinished checksums that nobody speaks of.

use crate::parse::{Body, Content, Transport, parse};
use crate::wire::checksum::Sum;
use crate::wire::offload::{ChecksumState, Offload};
use crate::wire::{ethernet, protocol, tcp};

use super::{UDP_CHECKSUM, get};

/// What an offload header would say about a frame whose transport checksum does not hold, if that
/// is because its sender left it unfinished.
///
/// Some hypervisors let their guests use offloads and strip the header that says so from the frames
/// that they send on. An unfinished field holds the sum of the pseudo-header (virtio 1.2
/// §5.1.6.2). One that holds it by chance is trusted or finished then, which is no harm: a frame
/// that never left its machine is not damaged.
pub fn unmarked(frame: &[u8]) -> Option<Offload> {
    let vouched = Offload {
        checksum: ChecksumState::Verified,
        ..Offload::NONE
    };
    let packet = parse(frame, &vouched).ok()?;
    let Body::Ip(ip) = &packet.body else {
        return None;
    };
    let (number, offset) = match &ip.content {
        Content::Transport(Transport::Tcp { .. }) => (protocol::TCP, tcp::CHECKSUM_OFFSET),
        Content::Transport(Transport::Udp { .. }) => (protocol::UDP, UDP_CHECKSUM),
        Content::Transport(_) | Content::Fragment(_) => return None,
    };
    let len = ip.bytes.len() - ip.header_len;
    let pseudo = Sum::new().add_pseudo(ip.source, ip.target, number, len as u32);
    let start = ethernet::HEADER_LEN + ip.header_len;
    let unfinished = get(frame, start + offset) == usize::from(pseudo.fold());
    unfinished.then_some(Offload {
        checksum: ChecksumState::Partial {
            start: start as u16,
            offset: offset as u16,
        },
        ..Offload::NONE
    })
}
