//! Frames from the guest: parsed, checked for who sent them, and handed to their flow.

use std::ops::Range;

use towpath_ring::buffer::Slice;
use towpath_ring::driver::Driver;
use towpath_stack::Address;
use towpath_stack::build::{IcmpError, may_report, may_report_between};
use towpath_stack::flow::{self, FlowKey, Protocol};
use towpath_stack::fragment::{Datagram, Outcome};
use towpath_stack::neighbor::Answer;
use towpath_stack::parse::{
    self, Body, Content, Drop as ParseDrop, Ethernet, Fragment, IpPacket, Packet, Transport,
};
use towpath_stack::resegment;
use towpath_stack::tcp::segment::{Ecn, Segment};
use towpath_stack::wire::ethernet::{self, MacAddress};
use towpath_stack::wire::icmpv4::{self, Echo};
use towpath_stack::wire::icmpv6;
use towpath_stack::wire::offload::{ChecksumState, GsoKind, Offload};

use super::egress::{Peer, QUOTE_MAX, Unreachable};
use super::switching::{Passing, What};
use super::{Core, LaneMessage};
use crate::counters::Counter;
use crate::host::echo::EchoInput;
use crate::host::tcp::TcpInput;
use crate::host::udp::UdpInput;
use crate::link::PortId;
use crate::policy::admission::Verdict;

/// A datagram put together from fragments, and who sent it.
pub(crate) struct Reassembled {
    port: PortId,
    mac: MacAddress,
    datagram: Datagram,
}

/// A transport packet and what was around it.
struct Arrival<'a> {
    /// The buffer, and how a range of the transport's payload maps into it.
    buffer: &'a Slice,
    base: usize,
    peer: Peer,
    hop_limit: u8,
    traffic_class: u8,
    /// Size of each datagram or segment in a super-frame, else 0.
    gso_size: u16,
    /// The transport packet from its header on.
    transport: Range<usize>,
    /// The start of the IP packet, as much as an ICMP error quotes; empty: none may be sent about it.
    quote: Slice,
}

impl Arrival<'_> {
    fn slice(&self, range: &Range<u32>) -> Slice {
        self.buffer
            .sub(self.base + range.start as usize..self.base + range.end as usize)
    }

    fn key(&self, protocol: Protocol, guest_port: u16, remote_port: Option<u16>) -> FlowKey {
        let Peer {
            port,
            guest,
            remote,
            ..
        } = self.peer;
        flow_key(port, protocol, (guest, guest_port), (remote, remote_port))
    }
}

/// The key of a flow. Without a remote port it is the guest's side alone: endpoint-independent.
pub(super) fn flow_key(
    port: PortId,
    protocol: Protocol,
    (guest_address, guest_port): (Address, u16),
    (remote, remote_port): (Address, Option<u16>),
) -> FlowKey {
    let remote_address = match (remote_port, guest_address.is_v4()) {
        (Some(_), _) => remote,
        (None, true) => Address::UNSPECIFIED_V4,
        (None, false) => Address::UNSPECIFIED_V6,
    };
    FlowKey {
        guest: port.0,
        protocol,
        guest_address,
        remote_address,
        guest_port,
        remote_port: remote_port.unwrap_or(0),
    }
}

/// Parses a frame. If its checksum does not hold that may be because a guest left it to a network card, and
/// what carried the frame here (libkrun) dropped the header that says so.
fn understood(ethernet: &[u8], offload: Offload) -> Result<(Packet<'_>, Offload), ParseDrop> {
    match parse::parse(ethernet, &offload) {
        Ok(packet) => Ok((packet, offload)),
        Err(reason @ ParseDrop::BadTransportChecksum) if offload == Offload::NONE => {
            let offload = resegment::unmarked(ethernet).ok_or(reason)?;
            Ok((parse::parse(ethernet, &offload)?, offload))
        }
        Err(reason) => Err(reason),
    }
}

impl<D: Driver> Core<D> {
    /// One frame as the link of `port` gave it. `may_move` is false for frames that came over a lane: a
    /// frame moves once.
    pub(crate) fn on_frame(&mut self, port: PortId, frame: Slice, may_move: bool) {
        if may_move {
            self.counters.bump(Counter::FramesIn);
        }
        if self.is_draining() {
            // Not acknowledged, so the guest knows that it has not arrived.
            return self.counters.bump(Counter::DroppedAtEnd);
        }
        let bytes = frame.bytes();
        let Some(state) = self.egress.ports.get(port) else {
            // It was on its way when the guest was let go.
            return;
        };
        let wide = state.wide;
        let (offload, ethernet) = if state.features.offload_header {
            match Offload::parse(bytes) {
                Ok(split) => split,
                Err(_) => return self.counters.bump(Counter::DroppedOffload),
            }
        } else {
            (Offload::NONE, bytes)
        };
        let ethernet_at = bytes.len() - ethernet.len();
        let (packet, offload) = match understood(ethernet, offload) {
            Ok(understood) => understood,
            Err(reason) => {
                let unread = reason == ParseDrop::UnknownEtherType && !wide;
                if !unread || self.switch_unread(port, &frame, ethernet_at, &offload) {
                    self.counters.parse_drop(reason);
                }
                return;
            }
        };
        let Ethernet {
            source: mac,
            target: station,
        } = packet.ethernet;
        let ours = if wide {
            // A bridge that has not learnt a station's place sends its frames everywhere.
            let ours = station == self.egress.gateway_mac() || station.is_multicast();
            if !ours {
                self.counters.bump(Counter::DroppedStation);
            }
            ours
        } else {
            self.switch(&Passing {
                port,
                frame: &frame,
                ethernet_at,
                offload: &offload,
                ethernet: packet.ethernet,
                content: What::Read(&packet),
            })
        };
        if !ours {
            return;
        }
        let ip = match &packet.body {
            Body::Ip(ip) => ip,
            Body::Arp(arp) => {
                let answer = self.neighbors.on_arp(arp);
                return self.on_neighbor_answer(port, &answer);
            }
        };
        match &ip.content {
            Content::Fragment(_) if station.is_multicast() => {
                self.counters.bump(Counter::DroppedMulticast);
            }
            Content::Fragment(fragment) => self.on_fragment(port, mac, ip, fragment),
            Content::Transport(Transport::IcmpV6(icmpv6::Message::Ndp(message))) => {
                let answer = self.neighbors.on_ndp(&packet.ethernet, ip, message);
                self.on_neighbor_answer(port, &answer);
            }
            Content::Transport(transport) => {
                let base = bytes.len() - ethernet.len();
                let packet_at = base + ethernet::HEADER_LEN;
                let packet = packet_at..packet_at + ip.bytes.len();
                // RFC 1122 §3.2.2, RFC 4443 §2.4e: nor about what was sent to all stations.
                let quotable = if may_report(ip) && !station.is_multicast() {
                    QUOTE_MAX
                } else {
                    0
                };
                let arrival = Arrival {
                    buffer: &frame,
                    base,
                    peer: Peer {
                        port,
                        mac,
                        guest: ip.source,
                        remote: ip.target,
                    },
                    hop_limit: ip.hop_limit,
                    traffic_class: ip.traffic_class,
                    gso_size: match offload.gso {
                        Some(gso) if gso.kind == GsoKind::UdpL4 => gso.size,
                        _ => 0,
                    },
                    transport: packet_at + ip.header_len..packet.end,
                    quote: frame.sub(packet.start..packet.end.min(packet.start + quotable)),
                };
                if let Some(owner) = self.on_transport(&arrival, transport, may_move) {
                    drop(arrival);
                    let frame = frame.into_parcel();
                    self.hand_over(owner, LaneMessage::Frame { port, frame });
                }
            }
        }
    }

    /// A datagram that was put together from fragments, here or by the core that read them.
    pub(crate) fn on_reassembled(&mut self, reassembled: Reassembled, may_move: bool) {
        let datagram = &reassembled.datagram;
        let parsed = parse::parse_transport(
            datagram.source,
            datagram.target,
            datagram.protocol,
            &datagram.payload,
            ChecksumState::Unverified,
        );
        let transport = match parsed {
            Ok(transport) => transport,
            Err(reason) => return self.counters.parse_drop(reason),
        };
        let mut quote = datagram.first_header.clone();
        quote.extend(
            datagram
                .payload
                .iter()
                .take(QUOTE_MAX.saturating_sub(quote.len())),
        );
        let buffer = Slice::from_vec(datagram.payload.clone());
        let arrival = Arrival {
            buffer: &buffer,
            base: 0,
            peer: Peer {
                port: reassembled.port,
                mac: reassembled.mac,
                guest: datagram.source,
                remote: datagram.target,
            },
            hop_limit: datagram.hop_limit,
            traffic_class: datagram.traffic_class,
            gso_size: 0,
            transport: 0..buffer.len(),
            quote: Slice::from_vec(quote),
        };
        if let Some(owner) = self.on_transport(&arrival, &transport, may_move) {
            self.hand_over(owner, LaneMessage::Reassembled(Box::new(reassembled)));
        }
    }

    /// Hands a transport packet to its flow. Answers with the core that owns it when that is
    /// another one and the packet may still move.
    fn on_transport(
        &mut self,
        arrival: &Arrival<'_>,
        transport: &Transport,
        may_move: bool,
    ) -> Option<usize> {
        let source = arrival.peer.guest;
        let unspecified = source == Address::UNSPECIFIED_V4 || source == Address::UNSPECIFIED_V6;
        // An unspecified source is a guest without address: it may ask DHCP and discover
        // neighbours, which look at it themselves.
        if !unspecified && !self.admission.may_speak(source) {
            self.counters.bump(Counter::DroppedSource);
            return None;
        }
        match transport {
            Transport::Tcp { segment, payload } if !unspecified => {
                let key = arrival.key(
                    Protocol::Tcp,
                    segment.source_port,
                    Some(segment.target_port),
                );
                let hash = flow::hash(&key);
                if may_move && let Some(owner) = self.other_owner(arrival.peer.port, hash) {
                    return Some(owner);
                }
                self.on_tcp(TcpInput {
                    key,
                    hash,
                    peer: arrival.peer,
                    segment: Segment {
                        ecn: Ecn::of(arrival.traffic_class),
                        ..*segment
                    },
                    frame: arrival.buffer,
                    payload_at: arrival.base + payload.start as usize,
                    payload_len: payload.len(),
                    hop_limit: arrival.hop_limit,
                    quote: arrival.quote.bytes(),
                });
            }
            Transport::Udp {
                source_port,
                target_port,
                payload,
            } => {
                // Asked only where it matters: who has an address is judged when its flow begins.
                let to_dhcp =
                    || self.admission.judge(arrival.peer.remote, *target_port) == Verdict::Dhcp;
                if unspecified && !to_dhcp() {
                    self.counters.bump(Counter::DroppedSource);
                    return None;
                }
                self.note_small_message();
                let key = arrival.key(Protocol::Udp, *source_port, None);
                let hash = flow::hash(&key);
                if may_move && let Some(owner) = self.other_owner(arrival.peer.port, hash) {
                    return Some(owner);
                }
                self.on_udp(UdpInput {
                    key,
                    hash,
                    peer: arrival.peer,
                    target_port: *target_port,
                    payload: arrival.slice(payload),
                    gso_size: arrival.gso_size,
                    hop_limit: arrival.hop_limit,
                    quote: arrival.quote.clone(),
                });
            }
            Transport::IcmpV4(icmpv4::Message::EchoRequest(echo))
            | Transport::IcmpV6(icmpv6::Message::EchoRequest(echo))
                if !unspecified =>
            {
                return self.on_echo_request(arrival, echo, may_move);
            }
            Transport::IcmpV4(icmpv4::Message::Error(report))
            | Transport::IcmpV6(icmpv6::Message::Error(report))
                if !unspecified =>
            {
                let quoted = arrival.slice(&report.quote);
                let port = arrival.peer.port;
                return self.on_report(port, report, quoted.bytes(), may_move);
            }
            Transport::Tcp { .. } | Transport::IcmpV4(_) | Transport::IcmpV6(_) => {
                self.counters.bump(Counter::DroppedIcmp);
            }
            Transport::Other { .. } => {
                self.counters.bump(Counter::DroppedProtocol);
                self.report_unreachable(arrival.peer, arrival.quote.bytes(), Unreachable::Protocol);
            }
        }
        None
    }

    fn on_echo_request(
        &mut self,
        arrival: &Arrival<'_>,
        echo: &Echo,
        may_move: bool,
    ) -> Option<usize> {
        self.note_small_message();
        let key = arrival.key(Protocol::Icmp, echo.identifier, None);
        let hash = flow::hash(&key);
        if may_move && let Some(owner) = self.other_owner(arrival.peer.port, hash) {
            return Some(owner);
        }
        self.on_echo(EchoInput {
            key,
            hash,
            peer: arrival.peer,
            message: arrival.buffer.sub(arrival.transport.clone()),
            hop_limit: arrival.hop_limit,
            quote: arrival.quote.clone(),
        });
        None
    }

    fn on_fragment(
        &mut self,
        port: PortId,
        mac: MacAddress,
        ip: &IpPacket<'_>,
        fragment: &Fragment<'_>,
    ) {
        if !self.admission.may_speak(ip.source) {
            return self.counters.bump(Counter::DroppedSource);
        }
        if self.admission.judge(ip.target, 0) == Verdict::Ignore {
            return self.counters.bump(Counter::DroppedMulticast);
        }
        match self.reassembler.add(self.now, port.0, ip, fragment) {
            Outcome::Pending => {}
            Outcome::Complete(datagram) => {
                self.counters.bump(Counter::Reassembled);
                let reassembled = Reassembled {
                    port,
                    mac,
                    datagram,
                };
                self.on_reassembled(reassembled, true);
            }
            Outcome::Dropped(_) => self.counters.bump(Counter::DroppedFragment),
        }
    }

    fn on_neighbor_answer(&mut self, port: PortId, answer: &Answer) {
        if let Some((address, mac)) = answer.learned
            && self.admission.may_speak(address)
            && let Some(port) = self.egress.ports.get_mut(port)
        {
            port.remember_mac(address, mac);
        }
        if let Some(reply) = &answer.reply {
            self.egress.frame(&mut self.driver, port, reply.as_slice());
            self.counters.bump(Counter::FramesOut);
        }
    }

    /// Gives up datagrams whose fragments did not all come in time, and says so to the guest.
    pub(crate) fn expire_fragments(&mut self) {
        let Self {
            reassembler,
            egress,
            driver,
            counters,
            now,
            ..
        } = self;
        reassembler.expire(*now, |expired| {
            counters.bump(Counter::DroppedFragment);
            let Some(packet) = expired.first_header else {
                return;
            };
            // RFC 792, RFC 4443 §3.3: fragment reassembly time exceeded.
            let (kind, code) = if expired.source.is_v4() {
                (11, 1)
            } else {
                (3, 1)
            };
            let error = IcmpError {
                kind,
                code,
                parameter: 0,
            };
            if may_report_between(&expired.source, &expired.target)
                && let Some(mac) = egress
                    .ports
                    .get(PortId(expired.guest))
                    .and_then(|port| port.mac_of(&expired.source))
            {
                let peer = Peer {
                    port: PortId(expired.guest),
                    mac,
                    guest: expired.source,
                    remote: expired.target,
                };
                egress.icmp_error(driver, *now, &peer, None, &error, packet);
            }
        });
    }
}
