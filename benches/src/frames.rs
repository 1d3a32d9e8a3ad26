//! Frames of each kind, as a link gives them: the offload header, then the frame.

use towpath_stack::Address;
use towpath_stack::build::{self, Checksum, EchoHeader, Envelope, Fragments, HEADER_MAX};
use towpath_stack::tcp::segment::{Flags, Options, Segment, Timestamps};
use towpath_stack::tcp::seq::SequenceNumber;
use towpath_stack::wire::arp::{ArpPacket, Operation};
use towpath_stack::wire::checksum::Sum;
use towpath_stack::wire::ethernet::MacAddress;
use towpath_stack::wire::ndp::NeighborAdvertisement;
use towpath_stack::wire::offload::Offload;

/// Payload of a full segment at MTU 1500, with timestamps.
pub const SEGMENT: usize = 1448;
/// Payload of the longest super-frame that Linux makes of such segments.
pub const SUPER_FRAME: usize = 45 * SEGMENT;

const GUEST_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 3]);
const GATEWAY_MAC: MacAddress = towpath::config::Network::GATEWAY_MAC;

/// A frame by its name.
pub struct Frame {
    /// What it is.
    pub name: &'static str,
    /// Offload header and frame.
    pub bytes: Vec<u8>,
}

/// One frame of each kind that guests send.
pub fn of_each_kind() -> Vec<Frame> {
    let (v4, v6) = (envelope(false), envelope(true));
    let data = segment(Flags::ACK | Flags::PSH, timestamps());
    let ack = segment(Flags::ACK, timestamps());
    let syn = segment(
        Flags::SYN,
        Options {
            mss: Some(1460),
            window_scale: Some(10),
            sack_permitted: true,
            ..timestamps()
        },
    );
    let frame = |name, bytes| Frame { name, bytes };
    vec![
        frame("arp", arp()),
        frame("ndp", neighbor_advertisement()),
        frame("tcp4 data", tcp(&v4, &data, SEGMENT)),
        frame("tcp6 data", tcp(&v6, &data, SEGMENT - 20)),
        frame("tcp4 data, full checksum", tcp_summed(&v4, &data, SEGMENT)),
        frame("tcp4 super-frame", tcp(&v4, &data, SUPER_FRAME)),
        frame("tcp4 ack", tcp(&v4, &ack, 0)),
        frame("tcp4 syn", tcp(&v4, &syn, 0)),
        frame("udp4", udp(&v4, 64)),
        frame("udp6", udp(&v6, 64)),
        frame("icmp4 echo", echo(&v4, 56)),
        frame("icmp4 fragment", fragment(&v4)),
    ]
}

/// A TCP segment, its checksum left to the link.
pub fn tcp(envelope: &Envelope, segment: &Segment, payload: usize) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let gso = (payload > SEGMENT).then_some(SEGMENT as u16);
    let (len, offload) = build::tcp(
        &mut header,
        envelope,
        segment,
        payload,
        gso,
        Checksum::Partial,
    );
    whole(&offload, &header[..len], payload)
}

/// A TCP segment with its checksum: the parser has to verify it.
fn tcp_summed(envelope: &Envelope, segment: &Segment, payload: usize) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let checksum = Checksum::Full(Sum::new().add(&vec![0; payload]));
    let (len, offload) = build::tcp(&mut header, envelope, segment, payload, None, checksum);
    whole(&offload, &header[..len], payload)
}

fn udp(envelope: &Envelope, payload: usize) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let (len, offload) = build::udp(
        &mut header,
        envelope,
        4000,
        4001,
        payload,
        None,
        Checksum::Partial,
    );
    whole(&offload, &header[..len], payload)
}

fn echo(envelope: &Envelope, payload: usize) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let sum = Sum::new().add(&vec![0; payload]);
    let len = build::icmp_echo(&mut header, envelope, &ECHO, payload, sum);
    whole(&Offload::NONE, &header[..len], payload)
}

/// The first fragment of a ping of 2000 bytes.
fn fragment(envelope: &Envelope) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let sum = Sum::new().add(&[0; 2000]);
    let mut fragments = Fragments::icmp_echo(envelope, 1, &ECHO, 2000, sum, 1500);
    let (len, range) = fragments.next(&mut header).expect("a first fragment");
    whole(&Offload::NONE, &header[..len], range.len())
}

fn arp() -> Vec<u8> {
    let packet = ArpPacket {
        operation: Operation::Request,
        sender_mac: GUEST_MAC,
        sender: [10, 0, 0, 3],
        target_mac: MacAddress([0; 6]),
        target: [10, 0, 0, 1],
    };
    let frame = build::arp(GUEST_MAC, MacAddress([0xff; 6]), &packet);
    whole(&Offload::NONE, frame.as_slice(), 0)
}

fn neighbor_advertisement() -> Vec<u8> {
    let envelope = Envelope {
        hop_limit: 255,
        ..envelope(true)
    };
    let advertisement = NeighborAdvertisement {
        router: false,
        solicited: true,
        overrides: true,
        target: *envelope.source.octets(),
        target_mac: Some(GUEST_MAC),
    };
    let frame = build::neighbor_advertisement(&envelope, &advertisement);
    whole(&Offload::NONE, frame.as_slice(), 0)
}

const ECHO: EchoHeader = EchoHeader {
    reply: false,
    identifier: 7,
    sequence: 1,
};

fn whole(offload: &Offload, header: &[u8], payload: usize) -> Vec<u8> {
    let mut bytes = offload.emit().to_vec();
    bytes.extend_from_slice(header);
    bytes.resize(bytes.len() + payload, 0);
    bytes
}

/// From the guest to a host on the internet.
pub fn envelope(v6: bool) -> Envelope {
    let address = |last| {
        if v6 {
            let mut octets = [0; 16];
            (octets[0], octets[1], octets[15]) = (0x20, 0x01, last);
            Address::v6(octets)
        } else {
            Address::v4([10, 0, 0, last])
        }
    };
    Envelope {
        source_mac: GUEST_MAC,
        target_mac: GATEWAY_MAC,
        source: address(3),
        target: address(200),
        hop_limit: 64,
        traffic_class: 0,
        identification: 0,
        dont_fragment: true,
    }
}

/// A segment from port 40000 to port 443.
pub fn segment(flags: Flags, options: Options) -> Segment {
    Segment {
        source_port: 40_000,
        target_port: 443,
        sequence: SequenceNumber(1000),
        acknowledgment: SequenceNumber(2000),
        flags,
        window: 1024,
        options,
        ..Segment::default()
    }
}

/// The options of all segments but SYNs on most connections.
pub fn timestamps() -> Options {
    Options {
        timestamps: Some(Timestamps {
            value: 1000,
            echo: 1000,
        }),
        ..Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towpath_stack::parse;

    #[test]
    fn each_kind_is_what_the_parser_takes() {
        for frame in of_each_kind() {
            let (offload, ethernet) = Offload::parse(&frame.bytes).unwrap();
            let parsed = parse::parse(ethernet, &offload);
            assert!(parsed.is_ok(), "{}: {:?}", frame.name, parsed.unwrap_err());
        }
    }
}
