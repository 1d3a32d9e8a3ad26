//! The parsers of single headers: the first byte says which, the rest is its input.

use towpath_stack::tcp::segment::{Options, SackBlocks, Segment};
use towpath_stack::wire::arp::ArpPacket;
use towpath_stack::wire::checksum::Sum;
use towpath_stack::wire::ethernet::{self, MacAddress};
use towpath_stack::wire::ndp::{self, Message};
use towpath_stack::wire::offload::Offload;
use towpath_stack::wire::{icmpv4, icmpv6, ipv4, ipv6, tcp, udp};

use crate::input::Input;

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let parsers = [
        ethernet, arp, offload, ipv4, ipv6, extensions, tcp, udp, icmpv4, icmpv6, ndp, mac_text,
    ];
    let parser = usize::from(input.u8()) % parsers.len();
    parsers[parser](input.rest());
}

fn ethernet(bytes: &[u8]) {
    if let Some((_, rest)) = ethernet::Header::parse(bytes) {
        assert_eq!(rest.len(), bytes.len() - ethernet::HEADER_LEN);
    }
}

fn arp(bytes: &[u8]) {
    if let Ok(packet) = ArpPacket::parse(bytes) {
        assert_eq!(ArpPacket::parse(&packet.emit()), Ok(packet));
    }
}

fn offload(bytes: &[u8]) {
    if let Ok((offload, frame)) = Offload::parse(bytes) {
        let mut again = offload.emit().to_vec();
        again.extend_from_slice(frame);
        assert_eq!(Offload::parse(&again), Ok((offload, frame)));
    }
}

fn ipv4(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    mend_ipv4(&mut bytes);
    if let Ok((header, header_len)) = ipv4::Header::parse(&bytes) {
        assert!((ipv4::HEADER_LEN..=60).contains(&header_len) && header_len <= bytes.len());
        assert!(header.fragment_offset().is_multiple_of(8));
    }
}

/// Makes the header checksum right, which a fuzzer does not find.
pub(crate) fn mend_ipv4(packet: &mut [u8]) {
    let header_len = packet
        .first()
        .map_or(0, |first| usize::from(first & 0xf) * 4);
    let Some(header) = packet
        .get_mut(..header_len)
        .filter(|header| header.len() >= 20)
    else {
        return;
    };
    header[10..12].fill(0);
    let checksum = Sum::new().add(header).checksum();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn ipv6(bytes: &[u8]) {
    if let Ok(header) = ipv6::Header::parse(bytes) {
        assert!(bytes.len() >= ipv6::HEADER_LEN);
        assert_eq!(
            header.payload_len(),
            u16::from_be_bytes([bytes[4], bytes[5]])
        );
    }
}

fn extensions(bytes: &[u8]) {
    let [protocol, first, bytes @ ..] = bytes else {
        return;
    };
    if let Ok(walk) = ipv6::walk_extensions(*protocol, bytes, first & 1 == 1) {
        assert!(walk.offset <= bytes.len() && walk.offset.is_multiple_of(8));
        if let Some(fragment) = walk.fragment {
            let payload = bytes.len() - walk.offset;
            assert!(payload > 0 && usize::from(fragment.offset) + payload <= 65_535);
            assert!(fragment.offset.is_multiple_of(8));
            assert!(!fragment.more || payload.is_multiple_of(8));
        }
    }
}

fn tcp(bytes: &[u8]) {
    let Ok((segment, header_len)) = tcp::parse(bytes) else {
        return;
    };
    assert!((20..=60).contains(&header_len) && header_len <= bytes.len());
    let mut out = [0; 60];
    let emitted = tcp::emit(&segment, &mut out);
    let (again, again_len) = tcp::parse(&out[..emitted]).expect("what was written is read");
    assert_eq!(again_len, emitted);
    // SACK blocks that find no room are left out, the last first.
    let kept = again.options.sack.as_slice();
    assert_eq!(kept, &segment.options.sack.as_slice()[..kept.len()]);
    assert_eq!(without_sack(again), without_sack(segment));
}

fn without_sack(segment: Segment) -> Segment {
    let options = Options {
        sack: SackBlocks::NONE,
        ..segment.options
    };
    Segment { options, ..segment }
}

fn udp(bytes: &[u8]) {
    if let Ok((_, len)) = udp::Header::parse(bytes) {
        assert!(len <= bytes.len());
    }
}

fn icmpv4(bytes: &[u8]) {
    match icmpv4::Message::parse(bytes, 0..bytes.len() as u32) {
        Ok(icmpv4::Message::EchoRequest(echo) | icmpv4::Message::EchoReply(echo)) => {
            assert_eq!(echo.payload, 8..bytes.len() as u32);
        }
        Ok(icmpv4::Message::Error(report)) => assert_eq!(report.quote, 8..bytes.len() as u32),
        _ => {}
    }
}

fn icmpv6(bytes: &[u8]) {
    match icmpv6::Message::parse(bytes, 0..bytes.len() as u32) {
        Ok(icmpv6::Message::EchoRequest(echo) | icmpv6::Message::EchoReply(echo)) => {
            assert_eq!(echo.payload, 8..bytes.len() as u32);
        }
        Ok(icmpv6::Message::Error(report)) => assert_eq!(report.quote, 8..bytes.len() as u32),
        _ => {}
    }
}

fn ndp(bytes: &[u8]) {
    match Message::parse(bytes) {
        Some(Message::NeighborAdvertisement(read)) => {
            let mut out = [0; ndp::NEIGHBOR_ADVERTISEMENT_LEN];
            let len = read.emit(&mut out);
            let again = Message::parse(&out[..len]);
            assert_eq!(again, Some(Message::NeighborAdvertisement(read)));
        }
        Some(Message::RouterAdvertisement(read)) => {
            let mut out = [0; ndp::ROUTER_ADVERTISEMENT_MAX];
            let len = read.emit(&mut out);
            let again = Message::parse(&out[..len]);
            assert_eq!(again, Some(Message::RouterAdvertisement(read)));
        }
        _ => {}
    }
}

fn mac_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(mac) = text.parse::<MacAddress>() {
        assert_eq!(mac.to_string().parse::<MacAddress>().ok(), Some(mac));
    }
}
