//! A recording: the frames of a pcap file, turned into the steps of a replay.
//!
//! A file holds frames as `AF_PACKET` shows them in the guest: super-frames of up to 64 KiB, TCP
//! and UDP checksums still to be completed, no offload header. The header is rebuilt from lengths
//! and the MTU, which the MSS of the guest's SYNs tells. Frames may have been cut when recorded; what
//! is missing is payload, which nobody looks at.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use pcap_parser::{Linktype, PcapCapture};
use towpath_stack::Address;
use towpath_stack::parse::{self, Body, Content, IpPacket, Packet, Transport};
use towpath_stack::tcp::segment::Segment;
use towpath_stack::tcp::seq::SequenceNumber;
use towpath_stack::wire::arp;
use towpath_stack::wire::ethernet::{HEADER_LEN as ETHERNET, MacAddress};
use towpath_stack::wire::offload::{ChecksumState, Offload};

use super::script::Script;

/// The longest frame that a link carries.
const FRAME_MAX: usize = 65_535 + ETHERNET;

/// What a replay plays.
#[derive(Debug)]
pub struct Recording {
    pub(super) steps: Vec<Step>,
    /// The connections that begin in the recording, in order.
    pub(super) connections: Vec<ConnectionKey>,
    /// How many UDP ports the guest used.
    pub(super) udp_ports: usize,
    /// The guest's IPv4 address, or one that no route leads to if it has none.
    pub(super) guest4: Ipv4Addr,
    pub(super) guest6: Ipv6Addr,
    pub(super) mtu: u16,
    /// The guest's frames that are left out: of connections that began before the recording.
    pub(super) left_out: u64,
    /// Payload bytes of TCP and UDP that the guest sent and got, each byte once.
    pub(super) payload_bytes: (u64, u64),
    /// Resets that the host's side sent.
    pub(super) resets: u64,
}

/// The addresses and ports of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConnectionKey {
    pub(super) guest: (Address, u16),
    pub(super) remote: (Address, u16),
}

/// Something that happens, and when in nanoseconds.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) at: u64,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// The guest sent a frame.
    Guest(GuestFrame),
    /// A connection's host side did something.
    Tcp { connection: usize, event: TcpEvent },
    /// A datagram for one of the guest's UDP ports.
    Datagram {
        port: usize,
        from: (Address, u16),
        len: usize,
    },
    /// An answer to a ping: its ICMP header, and how long it is with data.
    EchoReply {
        from: Address,
        header: [u8; 8],
        len: usize,
    },
    /// A frame that the engine sends by itself: it only ends a batch.
    Answer,
}

/// A frame as the link gives it.
#[derive(Debug)]
pub(super) struct GuestFrame {
    /// The offload header and as much of the frame as matters.
    pub(super) head: Box<[u8]>,
    /// Length of both in all.
    pub(super) len: usize,
    pub(super) flow: Flow,
}

/// Whose a frame is.
#[derive(Debug)]
pub(super) enum Flow {
    /// The SYN of a connection.
    Open { connection: usize },
    /// Any later segment: where in the frame stand what refers to our sequence numbers and clock, and
    /// the sequence number behind its payload, if it has one.
    Tcp {
        connection: usize,
        places: Places,
        payload_end: Option<SequenceNumber>,
    },
    /// A datagram from one of the guest's UDP ports.
    Udp { port: usize, to: (Address, u16) },
    /// Whatever needs no look.
    Other,
}

/// Offsets in a guest's frame.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    pub(super) acknowledgment: usize,
    /// The echo of our timestamp; 0 without.
    pub(super) echo: usize,
    /// SACK blocks, eight bytes each.
    pub(super) sack: (usize, usize),
}

/// What the host's side of a connection did.
#[derive(Clone, Copy, Debug)]
pub(super) enum TcpEvent {
    /// SYN-ACK: initial sequence number and timestamp of the recording.
    Accepted { initial: u32, timestamp: u32 },
    /// New bytes, and whether they are the last.
    Bytes { count: u64, last: bool },
    /// A reset.
    Reset,
}

/// Why a file can't be replayed.
#[derive(Debug, PartialEq, Eq)]
pub enum RecordingError {
    /// Not a pcap file, or one of a machine with the other byte order.
    Format,
    /// The link type is not ethernet.
    LinkType(i32),
    /// No frame tells who the guest is.
    NoGuest,
}

impl fmt::Display for RecordingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => write!(
                f,
                "not a pcap file of this machine's byte order (tcpdump -w writes them; pcapng is not read)"
            ),
            Self::LinkType(n) => write!(
                f,
                "the link type is {n}, not 1 (ethernet): record on the guest's TAP"
            ),
            Self::NoGuest => write!(
                f,
                "no ARP request and no SYN, so there is no telling who the guest is: begin the \
                 recording before the connections"
            ),
        }
    }
}

impl std::error::Error for RecordingError {}

impl Recording {
    /// Reads a pcap file.
    ///
    /// # Errors
    ///
    /// When it is none, or not one of a guest's ethernet. A last record that is cut short is left out.
    pub fn read(file: &[u8]) -> Result<Self, RecordingError> {
        let capture = PcapCapture::from_file(file).map_err(|_| RecordingError::Format)?;
        if capture.header.is_bigendian() || capture.header.is_modified_format() {
            return Err(RecordingError::Format);
        }
        if capture.header.network != Linktype::ETHERNET {
            return Err(RecordingError::LinkType(capture.header.network.0));
        }
        let fraction = if capture.header.is_nanosecond_precision() {
            1
        } else {
            1000
        };
        let frames: Vec<_> = capture
            .blocks
            .iter()
            .filter(|block| (block.origlen as usize).max(block.data.len()) <= FRAME_MAX)
            .map(|block| Frame {
                at: u64::from(block.ts_sec) * 1_000_000_000 + u64::from(block.ts_usec) * fraction,
                bytes: block.data,
                len: (block.origlen as usize).max(block.data.len()),
            })
            .collect();
        let guest = frames
            .iter()
            .find_map(guest_of)
            .ok_or(RecordingError::NoGuest)?;
        let mtu = frames.iter().filter_map(mtu_of).max().unwrap_or(1500);
        let mut script = Script::new(guest, mtu);
        for frame in &frames {
            script.add(frame);
        }
        Ok(script.end())
    }
}

/// A frame of the file.
pub(super) struct Frame<'a> {
    /// Nanoseconds.
    pub(super) at: u64,
    /// As much as was recorded.
    pub(super) bytes: &'a [u8],
    /// Its length before it was cut.
    pub(super) len: usize,
}

/// Parses a frame whose checksum says nothing.
pub(super) fn parse<'a>(frame: &Frame<'_>, whole: &'a mut Vec<u8>) -> Option<Packet<'a>> {
    whole.clear();
    whole.extend_from_slice(frame.bytes);
    whole.resize(frame.len, 0);
    let trusted = Offload {
        checksum: ChecksumState::Verified,
        ..Offload::NONE
    };
    parse::parse(whole, &trusted).ok()
}

/// The sender, if the frame is one that guests send first.
fn guest_of(frame: &Frame<'_>) -> Option<MacAddress> {
    let mut whole = Vec::new();
    let packet = parse(frame, &mut whole)?;
    let first = match &packet.body {
        Body::Arp(arp) => arp.operation == arp::Operation::Request,
        Body::Ip(ip) => segment_of(ip).is_some_and(is_opening),
    };
    first.then_some(packet.ethernet.source)
}

/// The MTU that a SYN's MSS stands for (RFC 9293 §3.7.1).
fn mtu_of(frame: &Frame<'_>) -> Option<u16> {
    let mut whole = Vec::new();
    let packet = parse(frame, &mut whole)?;
    let Body::Ip(ip) = &packet.body else {
        return None;
    };
    let segment = segment_of(ip)?;
    let headers = if ip.source.is_v4() { 40 } else { 60 };
    let mtu = segment.options.mss?.checked_add(headers)?;
    (is_opening(segment) && mtu >= 1280).then_some(mtu)
}

/// Whether a segment asks for a connection.
pub(super) fn is_opening(segment: &Segment) -> bool {
    segment.flags.syn() && !segment.flags.ack()
}

fn segment_of<'a>(ip: &'a IpPacket<'_>) -> Option<&'a Segment> {
    match &ip.content {
        Content::Transport(Transport::Tcp { segment, .. }) => Some(segment),
        _ => None,
    }
}
