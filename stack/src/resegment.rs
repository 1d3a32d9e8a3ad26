//! What lets a frame of one guest out of another guest's link, which may take less than the first.
//!
//! A guest whose link takes super-frames and unfinished checksums sends them to its neighbours too.
//! [`plan`] compares such a frame with the [`Abilities`] of the link that it shall leave by: either
//! it goes as it is, with an offload header that says what is known about it, or it is made into
//! [`Pieces`], complete packets of their own.
//!
//! A piece is the frame's own headers with new lengths, numbers and checksums, followed by a range
//! of its payload: IP options, extension headers, flow labels and TCP options stay as their sender
//! wrote them. Segmentation is that of network cards: sequence numbers go on, FIN and PSH are left
//! to the last segment and CWR to the first (RFC 3168 §6.1.2), IPv4 identifications count up.
//!
//! A frame that is longer than the link takes and does not say how it is to be cut comes from a
//! link without offload headers. If it is TCP, it is cut into segments as long as the link takes.
//! Whatever else does not fit is refused, as on any bridge: there is no address to send "packet too
//! big" from.
//!
//! An offload header can also name a checksum further inside, that of a packet in a tunnel. To
//! finish it changes two bytes at a place of the guest's choice. Headers have been judged by then,
//! so that place has to be behind all that was read.

mod unmarked;

use core::ops::Range;

use crate::Address;
use crate::parse::{Body, Content, Packet, Transport};
use crate::tcp::segment::Flags;
use crate::wire::checksum::Sum;
use crate::wire::offload::{ChecksumState, Gso, GsoKind, Offload};
use crate::wire::{ethernet, ipv6, protocol, tcp, udp};

pub use unmarked::unmarked;

/// Room in bytes for the headers of a piece: ethernet, the longest of IPv4 and TCP, or IPv6 with a
/// few extension headers, or a tunnel's.
pub const HEADERS_MAX: usize = 160;
/// Pieces of one frame, at most: segments of 64 bytes in 64 KiB. A frame must not cost its
/// receivers much more than it cost its sender.
pub const PIECES_MAX: usize = 1024;

/// Offsets of fields: in IPv4 headers,
const IPV4_TOTAL_LEN: usize = 2;
const IPV4_IDENTIFICATION: usize = 4;
const IPV4_CHECKSUM: usize = 10;
/// in IPv6 headers,
const IPV6_PAYLOAD_LEN: usize = 4;
/// in TCP headers,
const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const TCP_URGENT: usize = 18;
/// and in UDP headers.
const UDP_LEN: usize = 4;
const UDP_CHECKSUM: usize = 6;

/// What a link takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// TCP over IPv4 in super-frames.
    pub tso4: bool,
    /// TCP over IPv6 in super-frames.
    pub tso6: bool,
    /// UDP in super-frames.
    pub uso: bool,
    /// Checksums that are still to be finished.
    pub checksum: bool,
    /// Longest IP packet in bytes, super-frames excepted.
    pub mtu: u16,
}

/// How a frame goes out.
#[derive(Clone, Debug)]
pub enum Plan<'a> {
    /// As it is, with this offload header if the link has one.
    AsIs(Offload),
    /// In pieces, whose offload header is [`Offload::NONE`].
    Pieces(Pieces<'a>),
}

/// Why a frame can't go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is longer than the link takes, and can't be cut.
    TooBig,
    /// It would be cut into more than [`PIECES_MAX`] pieces.
    TooManyPieces,
    /// Its headers are longer than [`HEADERS_MAX`].
    LongHeaders,
    /// Its offload header speaks of another packet than there is, or wants what nobody here can do.
    BadOffload,
}

/// The pieces of a frame, in order.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    frame: &'a [u8],
    /// The bytes that are copied and changed: all headers, or all up to an unfinished checksum.
    headers_len: usize,
    work: Work,
    /// Payload bytes of each piece but the last.
    size: usize,
    /// The payload, as a range of the frame.
    payload: Range<usize>,
    count: usize,
    given: usize,
}

/// What is done to the headers of a piece.
#[derive(Clone, Debug)]
enum Work {
    /// They are made those of a segment or datagram.
    Cut(Layers),
    /// The checksum is finished, and nothing else.
    Finish(Unfinished),
}

/// A checksum field that holds the sum of a pseudo-header.
///
/// It is either TCP's or UDP's own, or lies in what is payload to us: to finish it must not change
/// what was read from the headers.
#[derive(Clone, Copy, Debug)]
struct Unfinished {
    /// Where summing begins, to the end of the frame.
    start: usize,
    /// Where the field is.
    field: usize,
}

/// A packet of TCP or UDP.
#[derive(Clone, Debug)]
struct Layers {
    source: Address,
    target: Address,
    is_tcp: bool,
    /// Where in the frame the transport header begins.
    transport: usize,
    /// Where in the frame the payload is.
    payload: Range<usize>,
}

/// Decides how a frame goes out of a link. `packet` is what frame and `offload` were parsed into.
pub fn plan<'a>(
    packet: &Packet<'a>,
    offload: &Offload,
    abilities: &Abilities,
) -> Result<Plan<'a>, Refusal> {
    let unfinished = match offload.checksum {
        ChecksumState::Partial { start, offset } => {
            Some(Unfinished::of(packet, start, offset).ok_or(Refusal::BadOffload)?)
        }
        ChecksumState::Unverified | ChecksumState::Verified => None,
    };
    let packet_max = usize::from(abilities.mtu);
    if offload.gso.is_some() || packet.frame.len() > ethernet::HEADER_LEN + packet_max {
        return plan_super(packet, offload.gso, unfinished, abilities);
    }
    match unfinished {
        None => Ok(Plan::AsIs(Offload::NONE)),
        Some(_) if abilities.checksum => Ok(Plan::AsIs(Offload {
            checksum: offload.checksum,
            ..Offload::NONE
        })),
        Some(unfinished) => {
            let (work, payload) = match Layers::of(packet) {
                Some(layers) if layers.transport == unfinished.start => {
                    let payload = layers.payload.clone();
                    (Work::Cut(layers), payload)
                }
                _ => {
                    let payload = unfinished.field + 2..packet.frame.len();
                    (Work::Finish(unfinished), payload)
                }
            };
            Pieces::new(packet.frame, work, payload.len(), payload).map(Plan::Pieces)
        }
    }
}

/// Decides about a frame that is longer than one packet of the link.
fn plan_super<'a>(
    packet: &Packet<'a>,
    gso: Option<Gso>,
    unfinished: Option<Unfinished>,
    abilities: &Abilities,
) -> Result<Plan<'a>, Refusal> {
    let Some(layers) = Layers::of(packet) else {
        return Err(gso.map_or(Refusal::TooBig, |_| Refusal::BadOffload));
    };
    let kind = layers.kind();
    let is_partial = match unfinished {
        None => false,
        Some(unfinished) if unfinished.start == layers.transport => true,
        // One checksum inside can't be finished for many pieces.
        Some(_) => return Err(Refusal::BadOffload),
    };
    let frame_max = ethernet::HEADER_LEN + usize::from(abilities.mtu);
    let room = frame_max.saturating_sub(layers.payload.start);
    let size = match gso {
        Some(gso) if gso.kind != kind => return Err(Refusal::BadOffload),
        Some(gso) if layers.is_tcp => room.min(gso.size.into()),
        Some(gso) if usize::from(gso.size) <= room => gso.size.into(),
        None if layers.is_tcp => room,
        _ => return Err(Refusal::TooBig),
    };
    if size == 0 {
        return Err(Refusal::TooBig);
    }
    let link_takes = match kind {
        GsoKind::TcpV4 => abilities.tso4,
        GsoKind::TcpV6 => abilities.tso6,
        GsoKind::UdpL4 => abilities.uso,
        GsoKind::Ufo => false,
    };
    if is_partial && abilities.checksum && link_takes && layers.are_true(packet.frame) {
        return Ok(Plan::AsIs(layers.offload(size)));
    }
    let payload = layers.payload.clone();
    Pieces::new(packet.frame, Work::Cut(layers), size, payload).map(Plan::Pieces)
}

impl<'a> Pieces<'a> {
    fn new(
        frame: &'a [u8],
        work: Work,
        size: usize,
        payload: Range<usize>,
    ) -> Result<Self, Refusal> {
        let headers_len = payload.start;
        let count = payload.len().div_ceil(size.max(1)).max(1);
        if headers_len > HEADERS_MAX {
            return Err(Refusal::LongHeaders);
        }
        if count > PIECES_MAX {
            return Err(Refusal::TooManyPieces);
        }
        Ok(Self {
            frame,
            headers_len,
            work,
            size,
            payload,
            count,
            given: 0,
        })
    }

    /// Number of pieces that are left.
    pub fn remaining(&self) -> usize {
        self.count - self.given
    }

    /// Writes the headers of the next piece; returns their length in bytes and the range of the
    /// frame that follows them, `None` after the last.
    pub fn next(&mut self, out: &mut [u8; HEADERS_MAX]) -> Option<(usize, Range<usize>)> {
        if self.given == self.count {
            return None;
        }
        let index = self.given;
        self.given += 1;
        let from = self.payload.start + index * self.size;
        let payload = from..self.payload.end.min(from + self.size);
        let headers = out.get_mut(..self.headers_len)?;
        headers.copy_from_slice(self.frame.get(..self.headers_len)?);
        let bytes = self.frame.get(payload.clone())?;
        match &self.work {
            Work::Cut(layers) => layers.rewrite(headers, bytes, index, self),
            Work::Finish(unfinished) => unfinished.finish(headers, bytes),
        }
        Some((self.headers_len, payload))
    }
}

impl Unfinished {
    /// What an offload header says about a packet, if that can be.
    fn of(packet: &Packet<'_>, start: u16, offset: u16) -> Option<Self> {
        let (start, offset) = (usize::from(start), usize::from(offset));
        let Body::Ip(ip) = &packet.body else {
            return None;
        };
        let Content::Transport(transport) = &ip.content else {
            return None;
        };
        let header = ethernet::HEADER_LEN + ip.header_len;
        let own = start == header;
        let possible = match transport {
            Transport::Tcp { .. } => own && offset == tcp::CHECKSUM_OFFSET,
            // Inside a tunnel, if that has no checksum of its own: it would not hold afterwards.
            Transport::Udp { payload, .. } => {
                let without = get(packet.frame, header + UDP_CHECKSUM) == 0;
                (own && offset == UDP_CHECKSUM) || (without && start >= payload.start as usize)
            }
            Transport::Other { payload, .. } => start >= payload.start as usize,
            Transport::IcmpV4(_) | Transport::IcmpV6(_) => false,
        };
        let field = start + offset;
        (possible && field + 2 <= packet.frame.len()).then_some(Self { start, field })
    }

    /// Finishes it; the field is the end of `headers`.
    fn finish(self, headers: &mut [u8], payload: &[u8]) {
        let sum = Sum::new().add(headers.get(self.start..).unwrap_or(&[]));
        // Zero is the same number as all ones, and says "no checksum" in UDP (RFC 768).
        let checksum = udp::checksum_field(sum.add(payload).checksum());
        put(headers, self.field, checksum);
    }
}

impl Layers {
    fn of(packet: &Packet<'_>) -> Option<Self> {
        let Body::Ip(ip) = &packet.body else {
            return None;
        };
        let (is_tcp, payload) = match &ip.content {
            Content::Transport(Transport::Tcp { payload, .. }) => (true, payload),
            Content::Transport(Transport::Udp { payload, .. }) => (false, payload),
            Content::Transport(_) | Content::Fragment(_) => return None,
        };
        Some(Self {
            source: ip.source,
            target: ip.target,
            is_tcp,
            transport: ethernet::HEADER_LEN + ip.header_len,
            payload: payload.start as usize..payload.end as usize,
        })
    }

    fn kind(&self) -> GsoKind {
        match (self.is_tcp, self.source.is_v4()) {
            (true, true) => GsoKind::TcpV4,
            (true, false) => GsoKind::TcpV6,
            (false, _) => GsoKind::UdpL4,
        }
    }

    /// Whether the headers of a super-frame say its true length. The parser does not ask for it,
    /// but receivers believe it.
    fn are_true(&self, frame: &[u8]) -> bool {
        let len = frame.len() - ethernet::HEADER_LEN;
        let packet = frame.get(ethernet::HEADER_LEN..).unwrap_or(&[]);
        let said = if self.source.is_v4() {
            get(packet, IPV4_TOTAL_LEN)
        } else {
            get(packet, IPV6_PAYLOAD_LEN) + ipv6::HEADER_LEN
        };
        said == len && self.payload.end == frame.len()
    }

    /// What is to be known about it as a super-frame whose checksum is unfinished.
    fn offload(&self, size: usize) -> Offload {
        let offset = if self.is_tcp {
            tcp::CHECKSUM_OFFSET
        } else {
            UDP_CHECKSUM
        };
        Offload {
            checksum: ChecksumState::Partial {
                start: self.transport as u16,
                offset: offset as u16,
            },
            gso: Some(Gso {
                kind: self.kind(),
                size: size as u16,
            }),
            hdr_len: self.payload.start as u16,
        }
    }

    /// Makes the frame's headers those of its `index`th piece.
    fn rewrite(&self, headers: &mut [u8], payload: &[u8], index: usize, pieces: &Pieces<'_>) {
        let packet_len = headers.len() - ethernet::HEADER_LEN + payload.len();
        let (before, transport) = headers.split_at_mut(self.transport);
        put_ip(&mut before[ethernet::HEADER_LEN..], packet_len, index);
        let len = transport.len() + payload.len();
        let (number, field) = if self.is_tcp {
            put_tcp(transport, index, pieces);
            (protocol::TCP, tcp::CHECKSUM_OFFSET)
        } else {
            put(transport, UDP_LEN, len as u16);
            (protocol::UDP, UDP_CHECKSUM)
        };
        put(transport, field, 0);
        let sum = Sum::new()
            .add_pseudo(self.source, self.target, number, len as u32)
            .add(transport)
            .add(payload);
        let checksum = if self.is_tcp {
            sum.checksum()
        } else {
            udp::checksum_field(sum.checksum())
        };
        put(transport, field, checksum);
    }
}

/// Finishes the IP headers of the `index`th piece, whose packet has `len` bytes.
fn put_ip(headers: &mut [u8], len: usize, index: usize) {
    if headers.first().is_some_and(|version| version >> 4 == 6) {
        return put(headers, IPV6_PAYLOAD_LEN, (len - ipv6::HEADER_LEN) as u16);
    }
    let identification = get(headers, IPV4_IDENTIFICATION) + index;
    put(headers, IPV4_TOTAL_LEN, len as u16);
    put(headers, IPV4_IDENTIFICATION, identification as u16);
    put(headers, IPV4_CHECKSUM, 0);
    let checksum = Sum::new().add(headers).checksum();
    put(headers, IPV4_CHECKSUM, checksum);
}

/// Finishes the TCP header of the `index`th piece, but for its checksum.
fn put_tcp(header: &mut [u8], index: usize, pieces: &Pieces<'_>) {
    let offset = index * pieces.size;
    let mut cleared = Flags::default();
    if index + 1 < pieces.count {
        cleared = cleared | Flags::FIN | Flags::PSH;
    }
    if index > 0 {
        cleared = cleared | Flags::CWR;
        // RFC 9293 §3.1: the urgent pointer counts from the segment's own sequence number.
        let urgent = get(header, TCP_URGENT).saturating_sub(offset);
        put(header, TCP_URGENT, urgent as u16);
        if urgent == 0 {
            cleared = cleared | Flags::URG;
        }
    }
    if let Some(flags) = header.get_mut(TCP_FLAGS) {
        *flags &= !cleared.0;
    }
    if let Some(field) = header.get_mut(TCP_SEQUENCE..TCP_SEQUENCE + 4)
        && let Some(sequence) = field.first_chunk().copied()
    {
        let sequence = u32::from_be_bytes(sequence).wrapping_add(offset as u32);
        field.copy_from_slice(&sequence.to_be_bytes());
    }
}

/// Writes a field of two bytes.
#[inline]
fn put(header: &mut [u8], at: usize, value: u16) {
    if let Some(field) = header.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// Reads a field of two bytes.
#[inline]
fn get(header: &[u8], at: usize) -> usize {
    let field = header.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |&field| usize::from(u16::from_be_bytes(field)))
}

#[cfg(test)]
mod tests;
