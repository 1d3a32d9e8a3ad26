//! Where things stand in a frame that carries TCP or UDP, and the header that a TAP with offloads has
//! in front of each frame.

use super::checksum::Sum;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Bytes of an Ethernet header; frames with a tag are left alone.
const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Bytes of the header in front of a frame (virtio 1.2 §5.1.6, without the number of buffers).
pub(super) const VIRTIO_BYTES: usize = 10;

/// That header, in the machine's byte order as Linux has it on a TAP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct VirtioHeader {
    /// [`VirtioHeader::NEEDS_CHECKSUM`] or [`VirtioHeader::CHECKSUM_IS_RIGHT`].
    pub(super) flags: u8,
    /// What the frame is to be cut into.
    pub(super) kind: u8,
    /// Bytes of headers; a hint.
    pub(super) header_length: u16,
    /// Bytes of payload in each piece.
    pub(super) size: u16,
    /// Where the transport's header begins, and its checksum in it.
    pub(super) checksum_start: u16,
    pub(super) checksum_offset: u16,
}

impl VirtioHeader {
    pub(super) const NEEDS_CHECKSUM: u8 = 1;
    pub(super) const CHECKSUM_IS_RIGHT: u8 = 2;
    pub(super) const TCPV4: u8 = 1;
    pub(super) const TCPV6: u8 = 4;
    pub(super) const UDP: u8 = 5;
    /// Beside one of these: the first piece alone has the congestion window's flag.
    const ECN: u8 = 0x80;

    pub(super) fn read(bytes: [u8; VIRTIO_BYTES]) -> VirtioHeader {
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        VirtioHeader {
            flags: bytes[0],
            kind: bytes[1] & !Self::ECN,
            header_length: number(2),
            size: number(4),
            checksum_start: number(6),
            checksum_offset: number(8),
        }
    }

    pub(super) fn write(self) -> [u8; VIRTIO_BYTES] {
        let mut bytes = [self.flags, self.kind, 0, 0, 0, 0, 0, 0, 0, 0];
        let numbers = [
            self.header_length,
            self.size,
            self.checksum_start,
            self.checksum_offset,
        ];
        for (place, number) in bytes[2..].as_chunks_mut().0.iter_mut().zip(numbers) {
            *place = number.to_ne_bytes();
        }
        bytes
    }
}

/// Where things stand in a frame with TCP or UDP in a packet that is no fragment and has no options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) is_ipv4: bool,
    pub(super) is_tcp: bool,
    /// Where the transport's header begins.
    pub(super) transport: usize,
    /// Where the payload begins.
    pub(super) payload: usize,
    /// Where it ends: short frames are padded.
    pub(super) end: usize,
}

impl Layout {
    /// Of a whole frame, or of one that is longer than its own lengths can say.
    pub(super) fn of(frame: &[u8]) -> Option<Layout> {
        let packet = frame.get(ETHERNET..)?;
        let ethertype = [frame[12], frame[13]];
        let number = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        let (is_ipv4, header, protocol, length) = match ethertype {
            ETHERTYPE_IPV4 if packet.len() >= 20 => {
                let is_whole = packet[0] == 0x45 && number(6) & 0x3fff == 0;
                (true, 20, is_whole.then_some(packet[9])?, number(2))
            }
            ETHERTYPE_IPV6 if packet.len() >= 40 => (false, 40, packet[6], 40 + number(4)),
            _ => return None,
        };
        let transport = ETHERNET + header;
        let payload = match protocol {
            TCP => transport + usize::from(*frame.get(transport + 12)? >> 4) * 4,
            UDP => transport + 8,
            _ => return None,
        };
        let end = ETHERNET + length;
        (payload <= end && end <= frame.len()).then_some(Layout {
            is_ipv4,
            is_tcp: protocol == TCP,
            transport,
            payload,
            end,
        })
    }

    /// Where the checksum stands in the transport's header.
    pub(super) fn checksum_offset(self) -> usize {
        if self.is_tcp { 16 } else { 6 }
    }

    /// Where the checksum stands in the frame.
    fn checksum_at(self) -> usize {
        self.transport + self.checksum_offset()
    }

    /// Writes the lengths of a packet whose payload has this many bytes, and IPv4's checksum.
    pub(super) fn set_length(self, headers: &mut [u8], payload: usize) {
        let transport = (self.payload - self.transport + payload) as u16;
        if !self.is_tcp {
            headers[self.transport + 4..][..2].copy_from_slice(&transport.to_be_bytes());
        }
        let ip = &mut headers[ETHERNET..];
        if self.is_ipv4 {
            ip[2..4].copy_from_slice(&(20 + transport).to_be_bytes());
            ip[10..12].fill(0);
            let checksum = Sum::default().add(&ip[..20]).checksum();
            ip[10..12].copy_from_slice(&checksum);
        } else {
            ip[4..6].copy_from_slice(&transport.to_be_bytes());
        }
    }

    /// The sum over the addresses, the protocol and the length.
    fn pseudo(self, headers: &[u8], payload: usize) -> Sum {
        let addresses = if self.is_ipv4 { 12..20 } else { 8..40 };
        let protocol = if self.is_tcp { TCP } else { UDP };
        Sum::default()
            .add(&headers[ETHERNET..][addresses])
            .add_number(protocol.into())
            .add_number((self.payload - self.transport + payload) as u16)
    }

    /// Writes what offloads want in the place of the checksum.
    pub(super) fn set_partial_checksum(self, headers: &mut [u8], payload: usize) {
        let partial = self.pseudo(headers, payload).partial();
        headers[self.checksum_at()..][..2].copy_from_slice(&partial);
    }

    /// Writes the checksum of a frame that ends with this many bytes of payload.
    pub(super) fn set_checksum(self, frame: &mut [u8], payload: usize) {
        let pseudo = self.pseudo(frame, payload);
        frame[self.checksum_at()..][..2].fill(0);
        let mut checksum = pseudo.add(&frame[self.transport..]).checksum();
        if !self.is_tcp && checksum == [0; 2] {
            // RFC 768: zero says that there is none.
            checksum = [0xff; 2];
        }
        frame[self.checksum_at()..][..2].copy_from_slice(&checksum);
    }

    /// Whether the checksum is there and right.
    pub(super) fn has_right_checksum(self, frame: &[u8]) -> bool {
        let pseudo = self.pseudo(frame, self.end - self.payload);
        let sum = pseudo.add(&frame[self.transport..self.end]);
        let is_there = self.is_tcp || frame[self.checksum_at()..][..2] != [0; 2];
        is_there && sum.checksum() == [0; 2]
    }
}
