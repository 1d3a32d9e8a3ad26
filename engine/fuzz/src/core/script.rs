//! The guest: frames made of the fuzzer's bytes, and what it knows of its connections.

use std::net::IpAddr;

use towpath::config::Network;
use towpath_stack::Address;
use towpath_stack::build::{self, Checksum, EchoHeader, Envelope, Fragments, HEADER_MAX};
use towpath_stack::parse::{self, Body, Content, IpPacket, Transport};
use towpath_stack::tcp::segment::{Ecn, Flags, Options, SackBlocks, Segment, Timestamps};
use towpath_stack::tcp::seq::SequenceNumber as Seq;
use towpath_stack::wire::arp::{ArpPacket, Operation};
use towpath_stack::wire::checksum::Sum;
use towpath_stack::wire::offload::{ChecksumState, Offload};

use crate::input::Input;

/// TCP flows that the guest may have: four of each IP version.
pub(super) const FLOWS: usize = 8;
/// The port of a flow's remote is this plus its number; the guest's is another such.
const REMOTE_PORT: u16 = 1000;
const GUEST_PORT: u16 = 40_000;
/// The longest payload of a frame.
const PAYLOAD_MAX: usize = 12_000;
const MTU: usize = 1500;

/// The guest's side of its connections.
pub(super) struct Guest {
    hosts: (Address, Address),
    gateways: (Address, Address),
    guests: (Address, Address),
    pub(super) flows: [Flow; FLOWS],
}

/// What the guest knows of a connection.
#[derive(Clone, Copy, Default)]
pub(super) struct Flow {
    /// What the guest sends next.
    next: Seq,
    /// The core's side, once it has answered the SYN.
    core: Option<CoreSide>,
}

#[derive(Clone, Copy)]
pub(super) struct CoreSide {
    /// Its initial sequence number.
    initial: Seq,
    /// Behind all that it has sent.
    sent: Seq,
    /// What it acknowledged last.
    acknowledged: Seq,
    /// Its clock.
    clock: u32,
    /// The first byte of the guest's.
    pub(super) start: Seq,
}

impl Flow {
    /// What is known of the core's side.
    pub(super) fn core(&self) -> Option<CoreSide> {
        self.core
    }
}

/// The guest's byte with this sequence number.
pub(super) fn guest_byte(at: Seq) -> u8 {
    (at.0 ^ at.0 >> 8 ^ at.0 >> 16) as u8
}

/// The host's byte at this place of its stream.
pub(super) fn host_byte(at: u32) -> u8 {
    (at ^ at >> 8 ^ 0x5a) as u8
}

/// The flow that a host socket which connects to this port belongs to.
pub(super) fn flow_of_port(port: u16) -> Option<usize> {
    let flow = usize::from(port.wrapping_sub(REMOTE_PORT));
    (flow < FLOWS).then_some(flow)
}

impl Guest {
    pub(super) fn new(network: &Network) -> Self {
        Self {
            hosts: (network.host4().into(), network.host6().into()),
            gateways: (network.gateway4().into(), network.gateway6().into()),
            guests: (network.guest4().into(), network.guest6().into()),
            flows: [Flow::default(); FLOWS],
        }
    }

    /// A frame, with the offload header in front when the link has one.
    pub(super) fn frame(&mut self, input: &mut Input<'_>, offload_header: bool) -> Vec<u8> {
        let (offload, mut frame) = match input.u8() {
            0..=159 => self.segment(input),
            160..=183 => self.syn(input),
            184..=207 => self.datagram(input),
            208..=219 => self.echo(input),
            220..=231 => self.fragment(input),
            232..=235 => (Offload::NONE, self.arp(input)),
            236..=239 => self.dhcp(input),
            _ => (Offload::NONE, input.bytes(2000).to_vec()),
        };
        // A spoiled byte, where a checksum tells: a partial one vouches for what is there.
        let has_checksum = offload.checksum == ChecksumState::Unverified;
        if input.u8() >= 240 && has_checksum && !frame.is_empty() {
            let at = usize::from(input.u8()) % frame.len();
            frame[at] ^= input.u8();
        }
        let mut bytes = Vec::new();
        if offload_header {
            bytes.extend(offload.emit());
        }
        bytes.append(&mut frame);
        bytes
    }

    fn envelope(&self, v6: bool, remote: u8, hop_limit: u8) -> Envelope {
        let pick = |(v4, six): (Address, Address)| if v6 { six } else { v4 };
        let target = match remote % 8 {
            0..=3 => pick(self.hosts),
            4 => pick(self.gateways),
            5 | 6 => pick((Address::v4([1, 1, 1, 1]), Address::v6([0x20; 16]))),
            _ => pick((Address::v4([224, 0, 0, 1]), Address::v6([0xff; 16]))),
        };
        Envelope {
            source_mac: Network::GUEST_MAC,
            target_mac: Network::GATEWAY_MAC,
            source: pick(self.guests),
            target,
            hop_limit: if hop_limit == 0 { 64 } else { hop_limit },
            traffic_class: 0,
            identification: 7,
            dont_fragment: true,
        }
    }

    /// The envelope and ports of a flow.
    fn of_flow(&self, flow: usize, hop_limit: u8) -> (Envelope, u16, u16) {
        let v6 = flow % 2 == 1;
        let remote = if flow < 4 { 0 } else { 5 };
        let port = flow as u16;
        (
            self.envelope(v6, remote, hop_limit),
            GUEST_PORT + port,
            REMOTE_PORT + port,
        )
    }

    fn syn(&mut self, input: &mut Input<'_>) -> (Offload, Vec<u8>) {
        let flow = usize::from(input.u8()) % FLOWS;
        let shape = input.u8();
        let (envelope, source_port, target_port) =
            self.of_flow(flow, if shape & 0xc0 == 0xc0 { shape & 7 } else { 0 });
        let sequence = Seq(0u32.wrapping_sub(input.u16().into()));
        let options = Options {
            mss: (shape & 1 == 0).then(|| 100 + input.u16() % 1400),
            window_scale: (shape & 2 == 0).then_some(shape >> 3 & 7),
            sack_permitted: shape & 4 == 0,
            timestamps: (shape & 8 == 0).then_some(Timestamps { value: 77, echo: 0 }),
            sack: SackBlocks::NONE,
        };
        self.flows[flow].next = sequence + 1;
        let segment = Segment {
            source_port,
            target_port,
            sequence,
            flags: Flags::SYN,
            window: input.u16(),
            options,
            ..Segment::default()
        };
        tcp_frame(&envelope, &segment, &[], None)
    }

    fn segment(&mut self, input: &mut Input<'_>) -> (Offload, Vec<u8>) {
        let flow = usize::from(input.u8()) % FLOWS;
        let (mut envelope, source_port, target_port) = self.of_flow(flow, 0);
        let state = &mut self.flows[flow];
        let shape = input.u8();
        envelope.traffic_class = shape >> 6;
        let flags = match shape >> 4 {
            0..=9 => Flags::ACK,
            10 | 11 => Flags::ACK | Flags::FIN,
            12 => Flags::RST,
            13 => Flags::RST | Flags::ACK,
            _ => Flags(input.u8()),
        };
        let len = if flags.syn() {
            0
        } else {
            input.len(PAYLOAD_MAX)
        };
        let core = state.core.unwrap_or(CoreSide {
            initial: Seq(0),
            sent: Seq(0),
            acknowledged: state.next,
            clock: 0,
            start: state.next,
        });
        // As a guest goes on, sends again what was not acknowledged, or anywhere.
        let sequence = match shape & 3 {
            0..=1 => {
                let next = state.next;
                state.next = next + len as u32 + u32::from(flags.fin());
                next
            }
            2 => core.acknowledged,
            _ => core.acknowledged + input.distance() as u32,
        };
        let options = Options {
            timestamps: (shape & 4 == 0).then(|| Timestamps {
                value: 77 + u32::from(input.u8()),
                echo: core.clock,
            }),
            ..Options::default()
        };
        let segment = Segment {
            source_port,
            target_port,
            sequence,
            acknowledgment: core.sent + input.distance() as u32,
            flags,
            window: if shape & 8 == 0 {
                u16::MAX
            } else {
                input.u16()
            },
            urgent: 0,
            options,
            ecn: Ecn::default(),
        };
        let payload: Vec<u8> = (0..len as u32).map(|n| guest_byte(sequence + n)).collect();
        let gso = (len > 1400).then_some(1400);
        tcp_frame(&envelope, &segment, &payload, gso)
    }

    fn datagram(&self, input: &mut Input<'_>) -> (Offload, Vec<u8>) {
        let shape = input.u8();
        let envelope = self.envelope(shape & 1 == 1, shape >> 1, shape >> 4 & 3);
        let target = [53, 67, 5000, 5001][usize::from(shape >> 6)];
        let payload = vec![shape; input.len(PAYLOAD_MAX)];
        let gso = (payload.len() > 1000).then_some(1000);
        let mut out = [0; HEADER_MAX];
        let checksum = checksum(&payload, gso);
        let source = GUEST_PORT + u16::from(input.u8() % 4);
        let (len, offload) = build::udp(
            &mut out,
            &envelope,
            source,
            target,
            payload.len(),
            gso,
            checksum,
        );
        (offload, [&out[..len], &payload].concat())
    }

    fn echo(&self, input: &mut Input<'_>) -> (Offload, Vec<u8>) {
        let shape = input.u8();
        let envelope = self.envelope(shape & 1 == 1, shape >> 1, shape >> 4 & 3);
        let payload = vec![shape; input.len(1400)];
        let echo = EchoHeader {
            reply: shape & 0x80 != 0,
            identifier: u16::from(input.u8() % 4),
            sequence: input.u8().into(),
        };
        let mut out = [0; HEADER_MAX];
        let sum = Sum::new().add(&payload);
        let len = build::icmp_echo(&mut out, &envelope, &echo, payload.len(), sum);
        (Offload::NONE, [&out[..len], &payload].concat())
    }

    /// One of the fragments of a datagram.
    fn fragment(&self, input: &mut Input<'_>) -> (Offload, Vec<u8>) {
        let shape = input.u8();
        let envelope = self.envelope(shape & 1 == 1, shape >> 1, 0);
        let payload = vec![shape; 1500 + usize::from(input.u8()) * 16];
        let sum = Sum::new().add(&payload);
        let id = u32::from(shape >> 5);
        let mut fragments =
            Fragments::udp(&envelope, id, GUEST_PORT, 5000, payload.len(), sum, MTU);
        let mut out = [0; HEADER_MAX];
        let mut frame = Vec::new();
        let which = usize::from(input.u8()) % fragments.remaining();
        for _ in 0..=which {
            if let Some((len, range)) = fragments.next(&mut out) {
                frame = [&out[..len], &payload[range]].concat();
            }
        }
        (Offload::NONE, frame)
    }

    fn arp(&self, input: &mut Input<'_>) -> Vec<u8> {
        let shape = input.u8();
        let address = |number: u8| [10, 0, 2, number];
        let packet = ArpPacket {
            operation: if shape & 1 == 0 {
                Operation::Request
            } else {
                Operation::Reply
            },
            sender_mac: Network::GUEST_MAC,
            sender: address(shape >> 1 & 7),
            target_mac: Network::GATEWAY_MAC,
            target: address(shape >> 5),
        };
        let frame = build::arp(Network::GUEST_MAC, Network::GATEWAY_MAC, &packet);
        frame.as_slice().to_vec()
    }

    /// From a guest that has no address yet.
    fn dhcp(&self, input: &mut Input<'_>) -> (Offload, Vec<u8>) {
        let mut envelope = self.envelope(false, 0, 64);
        envelope.source = Address::UNSPECIFIED_V4;
        envelope.target = Address::v4([255; 4]);
        let payload = input.bytes(600);
        let mut out = [0; HEADER_MAX];
        let checksum = checksum(payload, None);
        let (len, offload) = build::udp(&mut out, &envelope, 68, 67, payload.len(), None, checksum);
        (offload, [&out[..len], payload].concat())
    }

    // The core's frames

    /// Reads a frame that the core wrote. `offload_header` as for [`frame`](Self::frame).
    pub(super) fn read(&mut self, bytes: &[u8], offload_header: bool) {
        let (offload, frame) = if offload_header {
            Offload::parse(bytes).expect("the core's offload header can be read")
        } else {
            (Offload::NONE, bytes)
        };
        let packet = parse::parse(frame, &offload).expect("the core's frames can be read");
        let Body::Ip(ip) = &packet.body else {
            return;
        };
        self.check_size(ip, &offload);
        if let Content::Transport(Transport::Tcp { segment, payload }) = &ip.content {
            self.learn(segment, packet.slice(payload));
        }
    }

    /// A frame fits the link, or says how it is cut.
    fn check_size(&self, ip: &IpPacket<'_>, offload: &Offload) {
        assert!(
            ip.bytes.len() <= MTU || offload.gso.is_some(),
            "{} bytes",
            ip.bytes.len()
        );
        if let Some(gso) = offload.gso {
            assert!(gso.size > 0 && usize::from(gso.size) < MTU);
        }
        assert!(!matches!(ip.target.ip(), IpAddr::V4(ip) if ip.is_loopback()));
    }

    fn learn(&mut self, segment: &Segment, payload: &[u8]) {
        let Some(index) = flow_of_port(segment.source_port) else {
            return;
        };
        assert_eq!(segment.target_port, GUEST_PORT + index as u16);
        let flow = &mut self.flows[index];
        let flags = segment.flags;
        if flags.rst() {
            return;
        }
        if flags.syn() {
            assert!(flags.ack(), "the core opens no connections");
            flow.core = Some(CoreSide {
                initial: segment.sequence,
                sent: segment.sequence + 1,
                acknowledged: segment.acknowledgment,
                clock: 0,
                start: segment.acknowledgment,
            });
        }
        let core = flow.core.as_mut().expect("a SYN-ACK comes first");
        let place = segment.sequence.since(core.initial + 1);
        for (n, byte) in (0u32..).zip(payload) {
            assert_eq!(
                *byte,
                host_byte(place.wrapping_add(n)),
                "the host's byte {place} + {n}"
            );
        }
        let end = segment.sequence + payload.len() as u32 + u32::from(flags.fin());
        core.sent = core.sent.max(end);
        core.acknowledged = segment.acknowledgment;
        core.clock = segment
            .options
            .timestamps
            .map_or(0, |timestamps| timestamps.value);
    }
}

fn checksum(payload: &[u8], gso: Option<u16>) -> Checksum {
    match gso {
        Some(_) => Checksum::Partial,
        None => Checksum::Full(Sum::new().add(payload)),
    }
}

fn tcp_frame(
    envelope: &Envelope,
    segment: &Segment,
    payload: &[u8],
    gso: Option<u16>,
) -> (Offload, Vec<u8>) {
    let mut out = [0; HEADER_MAX];
    let checksum = checksum(payload, gso);
    let (len, offload) = build::tcp(&mut out, envelope, segment, payload.len(), gso, checksum);
    (offload, [&out[..len], payload].concat())
}
