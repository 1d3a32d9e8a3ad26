//! A frame as a link with offload header gives it, through the parser and what answers it.

use std::ops::Range;

use towpath_stack::build::{self, Envelope, IcmpError};
use towpath_stack::parse::{self, Body, Content, Fragment, IpPacket, Packet, Transport};
use towpath_stack::wire::offload::{ChecksumState, Offload};
use towpath_stack::wire::{ethernet, icmpv4, icmpv6};

use crate::wire::mend_ipv4;

/// See the module.
pub fn run(data: &[u8]) {
    let Ok((offload, frame)) = Offload::parse(data) else {
        return;
    };
    let mut frame = frame.to_vec();
    if let Some(packet) = frame.get_mut(ethernet::HEADER_LEN..) {
        mend_ipv4(packet);
    }
    if let Ok(packet) = parse::parse(&frame, &offload) {
        check(&packet);
    }
}

fn check(packet: &Packet<'_>) {
    let Body::Ip(ip) = &packet.body else {
        return;
    };
    assert_eq!(ip.source.is_v4(), ip.target.is_v4());
    assert!(ip.header_len <= ip.bytes.len());
    assert!(ip.bytes.len() + ethernet::HEADER_LEN <= packet.frame.len());
    match &ip.content {
        Content::Fragment(fragment) => check_fragment(ip, fragment),
        Content::Transport(transport) => {
            check_ranges(transport, packet.frame.len());
            // What is read behind the IP headers alone is the same.
            let bytes = &ip.bytes[ip.header_len..];
            let verified = ChecksumState::Verified;
            let again = parse::parse_transport(ip.source, ip.target, ip.protocol, bytes, verified);
            let again = again.expect("its headers were read before");
            check_ranges(&again, bytes.len());
        }
    }
    if build::may_report(ip) {
        check_report(packet, ip);
    }
}

fn check_fragment(ip: &IpPacket<'_>, fragment: &Fragment<'_>) {
    let len = fragment.payload.len();
    assert!(len > 0 && usize::from(fragment.offset) + len <= 65_535);
    assert!(fragment.offset.is_multiple_of(8));
    assert!(!fragment.more || len.is_multiple_of(8));
    // Those of a packet with extension headers begin with one.
    let verified = ChecksumState::Verified;
    let (protocol, bytes) = (fragment.protocol, fragment.payload);
    if let Ok(transport) = parse::parse_transport(ip.source, ip.target, protocol, bytes, verified) {
        check_ranges(&transport, len);
    }
}

fn check_ranges(transport: &Transport, end: usize) {
    let inside = |range: &Range<u32>| range.start <= range.end && range.end as usize <= end;
    let ok = match transport {
        Transport::Tcp { payload, .. }
        | Transport::Udp { payload, .. }
        | Transport::Other { payload, .. } => inside(payload),
        Transport::IcmpV4(message) => match message {
            icmpv4::Message::EchoRequest(echo) | icmpv4::Message::EchoReply(echo) => {
                inside(&echo.payload)
            }
            icmpv4::Message::Error(report) => inside(&report.quote),
            icmpv4::Message::Other { .. } => true,
        },
        Transport::IcmpV6(message) => match message {
            icmpv6::Message::EchoRequest(echo) | icmpv6::Message::EchoReply(echo) => {
                inside(&echo.payload)
            }
            icmpv6::Message::Error(report) => inside(&report.quote),
            icmpv6::Message::Ndp(_) | icmpv6::Message::Other { .. } => true,
        },
    };
    assert!(ok, "{transport:?} is not inside {end} bytes");
}

/// An error about the packet can be read, and none is sent about that error.
fn check_report(packet: &Packet<'_>, ip: &IpPacket<'_>) {
    let mut out = [0; build::ERROR_MAX];
    let envelope = Envelope {
        source_mac: packet.ethernet.target,
        target_mac: packet.ethernet.source,
        source: ip.target,
        target: ip.source,
        hop_limit: 64,
        traffic_class: 0,
        identification: 0,
        dont_fragment: true,
    };
    let unreachable = if ip.source.is_v4() { 3 } else { 1 };
    let error = IcmpError {
        kind: unreachable,
        code: 1,
        parameter: 0,
    };
    let len = build::icmp_error(&mut out, &envelope, &error, ip.bytes);
    match parse::parse(&out[..len], &Offload::NONE) {
        Ok(Packet {
            body: Body::Ip(report),
            ..
        }) => {
            assert_eq!((report.source, report.target), (ip.target, ip.source));
            assert!(!build::may_report(&report));
        }
        other => panic!("our own error is not read: {other:?}"),
    }
}
