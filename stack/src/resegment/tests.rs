//! Each piece is compared with the packet that etherparse makes of the headers that it has to have.

use super::*;
use crate::build::{self, EchoHeader, Envelope};
use crate::parse::parse;
use crate::wire::ethernet::MacAddress;
use etherparse::{
    Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetHeaders, PacketHeaders,
    TcpHeader, TransportHeader, UdpHeader,
};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 8];
const A4: [u8; 4] = [10, 1, 2, 3];
const B4: [u8; 4] = [10, 1, 2, 4];
const A6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
const B6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4];

const PLAIN: Abilities = Abilities {
    tso4: false,
    tso6: false,
    uso: false,
    checksum: false,
    mtu: 1500,
};
const ALL: Abilities = Abilities {
    tso4: true,
    tso6: true,
    uso: true,
    checksum: true,
    mtu: 1500,
};

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 256) as u8).collect()
}

/// The transport header of a test frame.
#[derive(Clone, Debug, PartialEq)]
enum Layer4 {
    Tcp(TcpHeader),
    Udp(UdpHeader),
}

impl Layer4 {
    fn number(&self) -> u8 {
        match self {
            Self::Tcp(_) => protocol::TCP,
            Self::Udp(_) => protocol::UDP,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Tcp(header) => header.header_len(),
            Self::Udp(_) => udp::HEADER_LEN,
        }
    }

    fn checksum_at(&self) -> usize {
        match self {
            Self::Tcp(_) => 16,
            Self::Udp(_) => 6,
        }
    }

    /// Its bytes with a checksum as etherparse sees it, for a payload.
    fn bytes(&mut self, v4: bool, payload: &[u8]) -> Vec<u8> {
        let v4 = v4.then(|| ipv4(self.number(), 0, 0));
        let v6 = ipv6(self.number(), 0);
        match self {
            Self::Tcp(header) => {
                header.checksum = match v4 {
                    Some(ip) => header.calc_checksum_ipv4(&ip, payload),
                    None => header.calc_checksum_ipv6(&v6, payload),
                }
                .unwrap();
                header.to_bytes().to_vec()
            }
            Self::Udp(header) => {
                header.length = (8 + payload.len()) as u16;
                header.checksum = match v4 {
                    Some(ip) => header.calc_checksum_ipv4(&ip, payload),
                    None => header.calc_checksum_ipv6(&v6, payload),
                }
                .unwrap();
                header.to_bytes().to_vec()
            }
        }
    }
}

fn ipv4(number: u8, identification: u16, len: usize) -> Ipv4Header {
    let mut header = Ipv4Header::new(len as u16, 61, IpNumber(number), A4, B4).unwrap();
    header.identification = identification;
    header.dont_fragment = true;
    header.dscp = 10.try_into().unwrap();
    header
}

fn ipv6(number: u8, len: usize) -> Ipv6Header {
    Ipv6Header {
        traffic_class: 0x28,
        flow_label: Ipv6FlowLabel::try_new(0xabcde).unwrap(),
        payload_length: len as u16,
        next_header: IpNumber(number),
        hop_limit: 61,
        source: A6,
        destination: B6,
    }
}

/// What etherparse makes of headers and payload.
fn frame(v4: bool, identification: u16, layer: &mut Layer4, payload: &[u8]) -> Vec<u8> {
    let ethernet = Ethernet2Header {
        source: GUEST,
        destination: OTHER,
        ether_type: if v4 {
            etherparse::EtherType::IPV4
        } else {
            etherparse::EtherType::IPV6
        },
    };
    let mut frame = ethernet.to_bytes().to_vec();
    let len = layer.len() + payload.len();
    if v4 {
        let mut ip = ipv4(layer.number(), identification, len);
        ip.header_checksum = ip.calc_header_checksum();
        frame.extend(ip.to_bytes());
    } else {
        frame.extend(ipv6(layer.number(), len).to_bytes());
    }
    frame.extend(layer.bytes(v4, payload));
    frame.extend(payload);
    frame
}

/// Makes the checksum of a frame unfinished, and says so.
fn unfinish(v4: bool, layer: &Layer4, frame: &mut [u8]) -> ChecksumState {
    let start = if v4 { 34 } else { 54 };
    let (source, target) = if v4 {
        (Address::v4(A4), Address::v4(B4))
    } else {
        (Address::v6(A6), Address::v6(B6))
    };
    let len = (frame.len() - start) as u32;
    let sum = Sum::new().add_pseudo(source, target, layer.number(), len);
    let offset = layer.checksum_at();
    put(frame, start + offset, sum.fold());
    ChecksumState::Partial {
        start: start as u16,
        offset: offset as u16,
    }
}

fn tcp() -> Layer4 {
    let mut header = TcpHeader::new(40_000, 443, 0xffff_fa00, 501);
    header.acknowledgment_number = 88;
    (header.ack, header.psh, header.fin) = (true, true, true);
    (header.cwr, header.ece) = (true, true);
    header
        .set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9])
        .unwrap();
    Layer4::Tcp(header)
}

fn udp() -> Layer4 {
    Layer4::Udp(UdpHeader::without_ipv4_checksum(5353, 53, 0).unwrap())
}

fn kind(v4: bool, layer: &Layer4) -> GsoKind {
    match layer {
        Layer4::Tcp(_) if v4 => GsoKind::TcpV4,
        Layer4::Tcp(_) => GsoKind::TcpV6,
        Layer4::Udp(_) => GsoKind::UdpL4,
    }
}

fn gso(kind: GsoKind, size: u16) -> Option<Gso> {
    Some(Gso { kind, size })
}

/// All pieces of a frame, whole.
fn pieces(frame: &[u8], offload: &Offload, abilities: &Abilities) -> Vec<Vec<u8>> {
    let packet = parse(frame, offload).unwrap();
    let Ok(Plan::Pieces(mut pieces)) = plan(&packet, offload, abilities) else {
        panic!("{:?}", plan(&packet, offload, abilities));
    };
    let mut all = Vec::new();
    let mut out = [0xee; HEADERS_MAX];
    let count = pieces.remaining();
    while let Some((len, range)) = pieces.next(&mut out) {
        all.push([&out[..len], &frame[range]].concat());
    }
    assert_eq!(all.len(), count);
    assert!(pieces.next(&mut out).is_none(), "no more after the last");
    all
}

fn planned(frame: &[u8], offload: &Offload, abilities: &Abilities) -> Result<Offload, Refusal> {
    let packet = parse(frame, offload).unwrap();
    match plan(&packet, offload, abilities)? {
        Plan::AsIs(offload) => Ok(offload),
        Plan::Pieces(pieces) => panic!("{pieces:?}"),
    }
}

/// What the `index`th of `count` pieces of a frame has to be.
fn expected(
    v4: bool,
    identification: u16,
    layer: &Layer4,
    payload: &[u8],
    size: usize,
    index: usize,
) -> Vec<u8> {
    let count = payload.len().div_ceil(size).max(1);
    let from = index * size;
    let part = &payload[from..payload.len().min(from + size)];
    let mut layer = layer.clone();
    if let Layer4::Tcp(header) = &mut layer {
        header.sequence_number = header.sequence_number.wrapping_add(from as u32);
        header.fin &= index + 1 == count;
        header.psh &= index + 1 == count;
        header.cwr &= index == 0;
        if index > 0 {
            header.urgent_pointer = header.urgent_pointer.saturating_sub(from as u16);
            header.urg &= header.urgent_pointer > 0;
        }
    }
    let identification = identification.wrapping_add(index as u16);
    frame(v4, identification, &mut layer, part)
}

#[test]
fn golden_bytes_of_a_super_frame() {
    let mut super_frame = vec![
        2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 7, 8, 0, // ethernet
        0x45, 0, 0, 45, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 1, 2, 3, 10, 1, 2, 4, // IPv4
        0, 80, 0x1f, 0x90, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 1, // ports, numbers
        0x50, 0x99, 1, 0, 0, 0, 0, 0, // CWR, PSH, FIN
        b'a', b'b', b'c', b'd', b'e',
    ];
    let checksum = Sum::new().add(&super_frame[14..34]).checksum();
    put(&mut super_frame, 24, checksum);
    let offload = Offload {
        checksum: ChecksumState::Partial {
            start: 34,
            offset: 16,
        },
        gso: gso(GsoKind::TcpV4, 3),
        hdr_len: 54,
    };
    let pieces = pieces(&super_frame, &offload, &PLAIN);
    let first = [
        2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 7, 8, 0, // ethernet
        0x45, 0, 0, 43, 0xff, 0xff, 0x40, 0, 64, 6, 0x22, 0xc5, 10, 1, 2, 3, 10, 1, 2, 4, 0, 80,
        0x1f, 0x90, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 1, // ports, numbers
        0x50, 0x90, 1, 0, 0xb2, 0x06, 0, 0, // CWR
        b'a', b'b', b'c',
    ];
    let second = [
        2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 7, 8, 0, // ethernet
        0x45, 0, 0, 42, 0, 0, 0x40, 0, 64, 6, 0x22, 0xc6, 10, 1, 2, 3, 10, 1, 2, 4, // wrapped
        0, 80, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 1, // wrapped as well
        0x50, 0x19, 1, 0, 0x12, 0x7a, 0, 0, // PSH, FIN
        b'd', b'e',
    ];
    assert_eq!(pieces, [&first[..], &second[..]]);
}

/// Both IP versions and both protocols.
fn cases() -> [(bool, Layer4); 4] {
    [(true, tcp()), (false, tcp()), (true, udp()), (false, udp())]
}

#[test]
fn super_frames_are_cut_for_links_that_take_none() {
    for (v4, mut layer) in cases() {
        let payload = bytes(40_000);
        let mut super_frame = frame(v4, 0xfffe, &mut layer, &payload);
        let checksum = unfinish(v4, &layer, &mut super_frame);
        let offload = Offload {
            checksum,
            gso: gso(kind(v4, &layer), 1400),
            hdr_len: 0,
        };
        let none_takes = [
            PLAIN,
            Abilities {
                checksum: true,
                ..PLAIN
            },
            Abilities {
                checksum: false,
                ..ALL
            },
        ];
        for abilities in none_takes {
            let pieces = pieces(&super_frame, &offload, &abilities);
            assert_eq!(pieces.len(), 29);
            for (index, piece) in pieces.iter().enumerate() {
                let expected = expected(v4, 0xfffe, &layer, &payload, 1400, index);
                assert_eq!(*piece, expected, "{v4} {layer:?} {index}");
            }
        }
    }
}

#[test]
fn super_frames_stay_whole_for_links_that_take_them() {
    for (v4, mut layer) in cases() {
        let mut super_frame = frame(v4, 0, &mut layer, &bytes(40_000));
        let checksum = unfinish(v4, &layer, &mut super_frame);
        let offload = Offload {
            checksum,
            gso: gso(kind(v4, &layer), 1400),
            hdr_len: 7,
        };
        let said = Offload {
            hdr_len: if v4 { 34 } else { 54 } + layer.len() as u16,
            ..offload
        };
        assert_eq!(planned(&super_frame, &offload, &ALL), Ok(said));
        let lacking = match kind(v4, &layer) {
            GsoKind::TcpV4 => Abilities { tso4: false, ..ALL },
            GsoKind::TcpV6 => Abilities { tso6: false, ..ALL },
            _ => Abilities { uso: false, ..ALL },
        };
        assert_eq!(pieces(&super_frame, &offload, &lacking).len(), 29);
        // A checksum that is complete already is not what such a link completes.
        let full = frame(v4, 0, &mut layer, &bytes(40_000));
        let complete = Offload {
            checksum: ChecksumState::Unverified,
            ..offload
        };
        assert_eq!(pieces(&full, &complete, &ALL).len(), 29);
        // A length field that says less than there is would have its receiver cut the rest off.
        let (field, len) = if v4 { (16, 40) } else { (18, 20) };
        put(&mut super_frame, field, len + layer.len() as u16);
        if v4 {
            put(&mut super_frame, 24, 0);
            let sum = Sum::new().add(&super_frame[14..34]).checksum();
            put(&mut super_frame, 24, sum);
        }
        assert_eq!(pieces(&super_frame, &offload, &ALL).len(), 29);
    }
}

#[test]
fn checksums_are_finished_for_links_that_do_not_take_them() {
    for (v4, mut layer) in cases() {
        for len in [0, 1, 1000] {
            let full = frame(v4, 1, &mut layer, &bytes(len));
            let mut partial = full.clone();
            let checksum = unfinish(v4, &layer, &mut partial);
            let offload = Offload {
                checksum,
                ..Offload::NONE
            };
            assert_eq!(pieces(&partial, &offload, &PLAIN), [full]);
            assert_eq!(planned(&partial, &offload, &ALL), Ok(offload));
        }
    }
}

#[test]
fn complete_packets_pass_as_they_are() {
    for (v4, mut layer) in cases() {
        let full = frame(v4, 1, &mut layer, &bytes(1000));
        for checksum in [ChecksumState::Unverified, ChecksumState::Verified] {
            let offload = Offload {
                checksum,
                ..Offload::NONE
            };
            for abilities in [PLAIN, ALL] {
                let planned = planned(&full, &offload, &abilities);
                assert_eq!(planned, Ok(Offload::NONE));
            }
        }
    }
}

/// What libkrun sends: longer than the link's MTU, the checksum unfinished, and not a word of it.
#[test]
fn tcp_that_is_too_long_is_cut_as_the_link_takes_it() {
    for v4 in [true, false] {
        let mut layer = tcp();
        let payload = bytes(20_000);
        let full = frame(v4, 9, &mut layer, &payload);
        let mut partial = full.clone();
        let checksum = unfinish(v4, &layer, &mut partial);
        let unfinished = Offload {
            checksum,
            ..Offload::NONE
        };
        let size = 1500 - layer.len() - if v4 { 20 } else { 40 };
        for (frame, offload) in [(&partial, unfinished), (&full, Offload::NONE)] {
            for (index, piece) in pieces(frame, &offload, &PLAIN).iter().enumerate() {
                assert_eq!(*piece, expected(v4, 9, &layer, &payload, size, index));
                assert!(piece.len() <= 1514);
            }
        }
        let whole = planned(&partial, &unfinished, &ALL).unwrap();
        assert_eq!(whole.gso, gso(kind(v4, &layer), size as u16));
        assert_eq!(whole.checksum, checksum);
    }
}

#[test]
fn an_unfinished_checksum_is_known_by_what_it_holds() {
    for (v4, mut layer) in cases() {
        for len in [0, 1, 20_000] {
            let full = frame(v4, 9, &mut layer, &bytes(len));
            assert_eq!(unmarked(&full), None);
            let mut partial = full.clone();
            let checksum = unfinish(v4, &layer, &mut partial);
            assert!(parse(&partial, &Offload::NONE).is_err());
            let expected = Offload {
                checksum,
                ..Offload::NONE
            };
            assert_eq!(unmarked(&partial), Some(expected));
            assert!(parse(&partial, &expected).is_ok());
            let at = if v4 { 34 } else { 54 } + layer.checksum_at();
            partial[at] ^= 1;
            assert_eq!(unmarked(&partial), None, "damaged");
        }
    }
    assert_eq!(unmarked(&[0; 60]), None);
}

#[test]
fn segments_are_no_longer_than_the_link_takes() {
    let mut layer = tcp();
    let mut super_frame = frame(true, 0, &mut layer, &bytes(30_000));
    let offload = Offload {
        checksum: unfinish(true, &layer, &mut super_frame),
        gso: gso(GsoKind::TcpV4, 8_000),
        hdr_len: 0,
    };
    let longest = pieces(&super_frame, &offload, &PLAIN)
        .iter()
        .map(Vec::len)
        .max();
    assert_eq!(longest, Some(1514));
    let whole = planned(&super_frame, &offload, &ALL).unwrap();
    assert_eq!(whole.gso, gso(GsoKind::TcpV4, 1448));
}

#[test]
fn what_can_not_be_cut_is_refused() {
    let long = frame(true, 0, &mut udp(), &bytes(1_473));
    assert_eq!(planned(&long, &Offload::NONE, &ALL), Err(Refusal::TooBig));
    let e = Envelope {
        source_mac: MacAddress(GUEST),
        target_mac: MacAddress(OTHER),
        source: Address::v4(A4),
        target: Address::v4(B4),
        hop_limit: 64,
        traffic_class: 0,
        identification: 0,
        dont_fragment: false,
    };
    let echo = EchoHeader {
        reply: false,
        identifier: 1,
        sequence: 2,
    };
    let mut out = [0; build::HEADER_MAX];
    let payload = bytes(1_473);
    let sum = Sum::new().add(&payload);
    let len = build::icmp_echo(&mut out, &e, &echo, payload.len(), sum);
    let ping = [&out[..len], &payload].concat();
    assert_eq!(planned(&ping, &Offload::NONE, &ALL), Err(Refusal::TooBig));
    let padded = [frame(true, 0, &mut udp(), &[]), vec![0; 1500]].concat();
    assert_eq!(planned(&padded, &Offload::NONE, &ALL), Err(Refusal::TooBig));

    let mut layer = udp();
    let mut super_frame = frame(true, 0, &mut layer, &bytes(3_000));
    let checksum = unfinish(true, &layer, &mut super_frame);
    let with = |gso| Offload {
        checksum,
        gso,
        hdr_len: 0,
    };
    let datagrams = with(gso(GsoKind::UdpL4, 1_473));
    assert_eq!(
        planned(&super_frame, &datagrams, &ALL),
        Err(Refusal::TooBig)
    );
    for kind in [GsoKind::Ufo, GsoKind::TcpV4, GsoKind::TcpV6] {
        let other = with(gso(kind, 1_000));
        assert_eq!(
            planned(&super_frame, &other, &ALL),
            Err(Refusal::BadOffload)
        );
    }
    let tiny = with(gso(GsoKind::UdpL4, 2));
    assert_eq!(
        planned(&super_frame, &tiny, &PLAIN),
        Err(Refusal::TooManyPieces)
    );
    let narrow = Abilities { mtu: 40, ..PLAIN };
    let mut segments = frame(true, 0, &mut tcp(), &bytes(100));
    let offload = Offload {
        checksum: unfinish(true, &tcp(), &mut segments),
        gso: gso(GsoKind::TcpV4, 10),
        hdr_len: 0,
    };
    assert_eq!(planned(&segments, &offload, &narrow), Err(Refusal::TooBig));
}

#[test]
fn long_headers_are_kept_and_too_long_ones_are_refused() {
    // Destination options of 8 bytes each, and once as long as they may be.
    for (options, fits) in [(&[0_u8, 0][..], true), (&[0, 20], false)] {
        let mut layer = tcp();
        let payload = bytes(3_000);
        let plain = frame(false, 0, &mut layer, &payload);
        let mut extensions = Vec::new();
        for (n, &units) in options.iter().enumerate() {
            let next = if n + 1 == options.len() { 6 } else { 60 };
            let len = usize::from(units) * 8 + 8;
            extensions.extend([next, units, 1, (len - 4) as u8]);
            extensions.resize(extensions.len() + len - 4, 0);
        }
        let mut super_frame = [&plain[..54], &extensions, &plain[54..]].concat();
        super_frame[20] = protocol::DESTINATION_OPTIONS;
        let len = super_frame.len() - 54;
        put(&mut super_frame, 18, len as u16);
        let offload = Offload {
            checksum: ChecksumState::Partial {
                start: (54 + extensions.len()) as u16,
                offset: 16,
            },
            gso: gso(GsoKind::TcpV6, 1000),
            hdr_len: 0,
        };
        if !fits {
            let refused = planned(&super_frame, &offload, &PLAIN);
            assert_eq!(refused, Err(Refusal::LongHeaders));
            assert!(planned(&super_frame, &offload, &ALL).is_ok());
            continue;
        }
        let pieces = pieces(&super_frame, &offload, &PLAIN);
        assert_eq!(pieces.len(), 3);
        for piece in pieces {
            assert_eq!(piece[54..54 + extensions.len()], extensions);
            assert!(parse(&piece, &Offload::NONE).is_ok());
        }
    }
}

/// A packet in a UDP tunnel without checksum: the unfinished one is inside.
#[test]
fn checksums_in_tunnels_are_finished_too() {
    for v4 in [true, false] {
        let full = frame(v4, 1, &mut tcp(), &bytes(500));
        let mut partial = full.clone();
        let ChecksumState::Partial { start, offset } = unfinish(v4, &tcp(), &mut partial) else {
            panic!("partial");
        };
        let tunnel = |inner: &[u8]| {
            let mut outer = frame(true, 1, &mut udp(), inner);
            put(&mut outer, 34 + 6, 0);
            outer
        };
        let offload = Offload {
            checksum: ChecksumState::Partial {
                start: start + 42,
                offset,
            },
            ..Offload::NONE
        };
        assert_eq!(pieces(&tunnel(&partial), &offload, &PLAIN), [tunnel(&full)]);
        assert_eq!(planned(&tunnel(&partial), &offload, &ALL), Ok(offload));
    }
}

#[test]
fn finishing_a_checksum_changes_no_header_that_was_read() {
    let neighbor = [
        136, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4,
    ];
    let mut advertisement = frame(false, 0, &mut udp(), &neighbor[8..]);
    advertisement[20] = protocol::ICMPV6;
    advertisement[54..].copy_from_slice(&neighbor);
    let (source, target) = (Address::v6(A6), Address::v6(B6));
    let sum = Sum::new()
        .add_pseudo(source, target, protocol::ICMPV6, 24)
        .add(&neighbor);
    put(&mut advertisement, 56, sum.checksum());
    let datagram = frame(true, 0, &mut udp(), &bytes(100));
    let mut bare = datagram.clone();
    put(&mut bare, 34 + UDP_CHECKSUM, 0);
    let segment = frame(true, 0, &mut tcp(), &bytes(100));
    let cases = [
        // Ports, addresses, lengths.
        (&datagram, 34, 0),
        (&datagram, 34, 2),
        (&datagram, 34, 4),
        (&datagram, 26, 0),
        (&datagram, 14, 12),
        (&datagram, 0, 40),
        (&datagram, 41, 1),
        (&segment, 34, 2),
        (&segment, 34, 13),
        (&segment, 40, 10),
        // What a neighbour advertisement tells about whom.
        (&advertisement, 54, 8),
        (&advertisement, 62, 0),
        // Inside of what has a checksum of its own.
        (&datagram, 42, 4),
        (&segment, 74, 4),
        // Behind the end.
        (&bare, 140, 1),
    ];
    for (frame, start, offset) in cases {
        let offload = Offload {
            checksum: ChecksumState::Partial { start, offset },
            ..Offload::NONE
        };
        for abilities in [PLAIN, ALL] {
            let refused = planned(frame, &offload, &abilities);
            assert_eq!(refused, Err(Refusal::BadOffload), "{start} {offset}");
        }
    }
    let inside = Offload {
        checksum: ChecksumState::Partial {
            start: 140,
            offset: 0,
        },
        ..Offload::NONE
    };
    assert_eq!(planned(&bare, &inside, &ALL), Ok(inside));
}

fn any_layer() -> impl Strategy<Value = Layer4> {
    let tcp = (
        any::<(u16, u16, u32, u32, u16, u16)>(),
        any::<u8>(),
        prop::collection::vec(any::<u8>(), 0..=10),
    );
    let tcp = tcp.prop_map(
        |((source, target, sequence, acknowledgment, window, urgent), flags, options)| {
            let mut header = TcpHeader::new(source, target, sequence, window);
            header.acknowledgment_number = acknowledgment;
            header.urgent_pointer = urgent;
            let flag = |bit: u8| flags & bit != 0;
            (header.fin, header.syn, header.rst, header.psh) = (flag(1), flag(2), flag(4), flag(8));
            (header.ack, header.urg, header.ece, header.cwr) =
                (flag(16), flag(32), flag(64), flag(128));
            let options: Vec<u8> = options.iter().flat_map(|n| [*n; 4]).collect();
            header.set_options_raw(&options).unwrap();
            Layer4::Tcp(header)
        },
    );
    let udp = any::<(u16, u16)>().prop_map(|(source, target)| {
        Layer4::Udp(UdpHeader::without_ipv4_checksum(source, target, 0).unwrap())
    });
    prop_oneof![3 => tcp, 1 => udp]
}

/// Often what fits one of the frames.
fn any_offload() -> impl Strategy<Value = Offload> {
    let starts = prop::sample::select(vec![34_u16, 34, 54, 54, 0, 26, 62, 74, 100, 1_000]);
    let offsets = prop::sample::select(vec![16_u16, 16, 6, 6, 0, 2, 20, 100]);
    let checksum = prop_oneof![
        1 => Just(ChecksumState::Unverified),
        1 => Just(ChecksumState::Verified),
        6 => (starts, offsets).prop_map(|(start, offset)| ChecksumState::Partial { start, offset }),
    ];
    let kinds = [GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::UdpL4, GsoKind::Ufo];
    let gso = (prop::sample::select(kinds.to_vec()), 1_u16..3_000)
        .prop_map(|(kind, size)| Gso { kind, size });
    (checksum, prop::option::of(gso), any::<u16>()).prop_map(|(checksum, gso, hdr_len)| Offload {
        checksum,
        gso,
        hdr_len,
    })
}

proptest! {
    #[test]
    fn pieces_are_what_etherparse_makes_of_them(
        v4 in any::<bool>(),
        mut layer in any_layer(),
        identification in any::<u16>(),
        len in 0_usize..20_000,
        size in 64_u16..1400,
    ) {
        let payload = bytes(len);
        let mut super_frame = frame(v4, identification, &mut layer, &payload);
        let checksum = unfinish(v4, &layer, &mut super_frame);
        let offload = Offload { checksum, gso: gso(kind(v4, &layer), size), hdr_len: 0 };
        let mut whole = Vec::<u8>::new();
        for (index, piece) in pieces(&super_frame, &offload, &PLAIN).iter().enumerate() {
            let size = size.into();
            let expected = expected(v4, identification, &layer, &payload, size, index);
            prop_assert_eq!(piece, &expected);
            let read = PacketHeaders::from_ethernet_slice(piece).unwrap();
            match (&read.net, v4) {
                (Some(NetHeaders::Ipv4(ip, _)), true) => {
                    prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                }
                (Some(NetHeaders::Ipv6(..)), false) => {}
                other => panic!("{other:?}"),
            }
            let is_tcp = matches!(read.transport, Some(TransportHeader::Tcp(_)));
            prop_assert_eq!(is_tcp, matches!(layer, Layer4::Tcp(_)));
            // Our own parser verifies the checksum.
            let packet = parse(piece, &Offload::NONE).unwrap();
            let Body::Ip(ip) = &packet.body else { panic!("IP") };
            let Content::Transport(
                Transport::Tcp { payload, .. } | Transport::Udp { payload, .. }
            ) = &ip.content else {
                panic!("{ip:?}");
            };
            whole.extend(packet.slice(payload));
        }
        prop_assert_eq!(whole, payload);
    }

    /// Whatever a guest says about its frames, what goes out is no longer than the link takes, and
    /// the payload is all there.
    #[test]
    fn any_offload_header_is_followed_or_refused(
        v4 in any::<bool>(),
        mut layer in any_layer(),
        len in 0_usize..6_000,
        changes in prop::collection::vec((0_usize..80, any::<u8>()), 0..3),
        offload in any_offload(),
        takes in any::<(bool, bool, bool, bool)>(),
        mtu in 0_u16..3_000,
    ) {
        let mut bytes = [offload.emit().to_vec(), frame(v4, 1, &mut layer, &bytes(len))].concat();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(10 + at) {
                *byte = value;
            }
        }
        let Ok((offload, frame)) = Offload::parse(&bytes) else { return Ok(()) };
        let Ok(packet) = parse(frame, &offload) else { return Ok(()) };
        let (tso4, tso6, uso, checksum) = takes;
        let abilities = Abilities { tso4, tso6, uso, checksum, mtu };
        let frame_max = 14 + usize::from(mtu);
        match plan(&packet, &offload, &abilities) {
            Err(_) => {}
            Ok(Plan::AsIs(said)) => {
                prop_assert!(said.gso.is_some() || frame.len() <= frame_max);
                let unfinished = matches!(said.checksum, ChecksumState::Partial { .. });
                prop_assert!(checksum || !unfinished);
                // What a guest says that it has verified, its receiver verifies again.
                let mut read = said;
                if offload.checksum == ChecksumState::Verified {
                    read.checksum = offload.checksum;
                }
                prop_assert_eq!(parse(frame, &read).map(|again| again.body), Ok(packet.body));
            }
            Ok(Plan::Pieces(mut pieces)) => {
                let mut out = [0xee; HEADERS_MAX];
                let mut next = None;
                while let Some((len, range)) = pieces.next(&mut out) {
                    prop_assert!(len + range.len() <= frame_max);
                    prop_assert_eq!(range.start, next.unwrap_or(range.start));
                    next = Some(range.end);
                    let piece = [&out[..len], &frame[range]].concat();
                    prop_assert_eq!(parse(&piece, &Offload::NONE).err(), None);
                }
                prop_assert!(next.is_some());
            }
        }
    }
}
