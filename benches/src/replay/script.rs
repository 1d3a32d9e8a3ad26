//! The steps of a replay, from frame to frame of the recording.
//!
//! **Batches.** A guest goes on sending while the engine works, so the order in which frames were
//! recorded is not that in which the engine took them. Its acknowledgments tell: when it sent one it
//! had taken the frames that this covers, and of the rest nothing is known. So a guest's frame is
//! played before the first frame of the host's side that covers it; pure ACKs and datagrams, which
//! nothing covers, before the next frame of the host's side.
//!
//! **Bursts.** The host's bytes were at hand before the engine sent them, else no window was ever full.
//! So bytes that a connection's host side sent in a row can be read when the first of them was sent.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use towpath_stack::Address;
use towpath_stack::parse::{Body, Content, IpPacket, Packet, Transport};
use towpath_stack::tcp::segment::{Flags, Segment};
use towpath_stack::tcp::seq::SequenceNumber;
use towpath_stack::wire::ethernet::{HEADER_LEN as ETHERNET, MacAddress};
use towpath_stack::wire::offload::{self, ChecksumState, Gso, GsoKind, Offload};
use towpath_stack::wire::{icmpv4, icmpv6};

use super::recording::{
    ConnectionKey, Flow, Frame, GuestFrame, Places, Recording, Step, TcpEvent, What, is_opening,
    parse,
};

/// Bytes of the offload header in front of every frame.
const OFFLOAD: usize = offload::HEADER_LEN;
/// Bytes of a connection that follow each other within so many nanoseconds, with no news of the
/// guest's between them, were at hand together.
const BURST_PAUSE: u64 = 100_000_000;
/// Where the options of a TCP header begin.
const TCP_OPTIONS: usize = 20;

/// The recording while it is put together.
pub(super) struct Script {
    guest: MacAddress,
    recording: Recording,
    /// The latest connection of each key, and what is known of it.
    connections: HashMap<ConnectionKey, Known>,
    udp_ports: HashMap<(Address, u16), usize>,
    /// The guest's frames that the engine has perhaps not taken yet.
    waiting: VecDeque<Waiting>,
    /// When the first frame was recorded.
    origin: Option<u64>,
    whole: Vec<u8>,
}

/// A guest's frame, and what acknowledges it if anything does.
struct Waiting {
    step: Step,
    covered_by: Option<(usize, SequenceNumber)>,
}

/// How far a connection has come.
struct Known {
    index: usize,
    guest: Progress,
    /// `None` before the SYN-ACK.
    host: Option<Progress>,
    /// The step with which the host's present burst began, and when its last bytes were sent.
    burst: Option<(usize, u64)>,
}

/// The next sequence number that is new.
struct Progress(SequenceNumber);

impl Progress {
    /// How many bytes of a segment are new.
    fn take(&mut self, segment: &Segment, len: u32) -> u32 {
        let end = segment.sequence + len;
        // Behind its FIN a side sends no bytes, but its ACKs count the FIN.
        if len == 0 || !self.0.before(end) {
            return 0;
        }
        let new = end.since(self.0);
        self.0 = end;
        new
    }
}

impl Script {
    /// Of a guest with this MAC address on a link with this MTU.
    pub(super) fn new(guest: MacAddress, mtu: u16) -> Self {
        Self {
            guest,
            recording: Recording {
                steps: Vec::new(),
                connections: Vec::new(),
                udp_ports: 0,
                guest4: Ipv4Addr::new(192, 0, 2, 3),
                guest6: "fd74:6f77::3".parse().expect("an IPv6 address"),
                mtu,
                left_out: 0,
                payload_bytes: (0, 0),
                resets: 0,
            },
            connections: HashMap::new(),
            udp_ports: HashMap::new(),
            waiting: VecDeque::new(),
            origin: None,
            whole: Vec::new(),
        }
    }

    /// The recording, when there are no more frames.
    pub(super) fn end(mut self) -> Recording {
        self.take(self.waiting.len());
        self.recording
    }

    /// Takes the next frame of the file.
    pub(super) fn add(&mut self, frame: &Frame<'_>) {
        // A second of grace, so that no time before the first frame is below zero.
        let origin = *self.origin.get_or_insert(frame.at);
        let at = frame.at.saturating_sub(origin) + 1_000_000_000;
        let mut whole = std::mem::take(&mut self.whole);
        match parse(frame, &mut whole) {
            Some(packet) if packet.ethernet.source == self.guest => {
                match self.guest_frame(frame, &packet) {
                    Some((frame, covered_by)) => self.wait(at, frame, covered_by),
                    None => self.recording.left_out += 1,
                }
            }
            Some(packet) => {
                let what = self.host_frame(at, &packet);
                self.recording.steps.push(Step { at, what });
            }
            None if frame.bytes.get(6..12) == Some(&self.guest.0) => {
                self.wait(at, whole_frame(frame, &Offload::NONE, Flow::Other), None);
            }
            None => self.recording.steps.push(Step {
                at,
                what: What::Answer,
            }),
        }
        self.whole = whole;
    }

    fn wait(&mut self, at: u64, frame: GuestFrame, covered_by: Option<(usize, SequenceNumber)>) {
        let step = Step {
            at,
            what: What::Guest(frame),
        };
        self.waiting.push_back(Waiting { step, covered_by });
    }

    /// The engine has taken the first `n` frames that wait, and those behind that nothing covers.
    fn take(&mut self, mut n: usize) {
        n += self
            .waiting
            .iter()
            .skip(n)
            .take_while(|waiting| waiting.covered_by.is_none())
            .count();
        let taken = self.waiting.drain(..n).map(|waiting| waiting.step);
        self.recording.steps.extend(taken);
    }

    /// The engine acknowledged what a connection sent before `acknowledgment`.
    fn take_covered(&mut self, connection: usize, acknowledgment: SequenceNumber) {
        let last = self.waiting.iter().rposition(|waiting| {
            waiting
                .covered_by
                .is_some_and(|(of, end)| of == connection && end.at_or_before(acknowledgment))
        });
        self.take(last.map_or(0, |last| last + 1));
    }

    /// A frame of the guest's, unless its connection is not known.
    fn guest_frame(
        &mut self,
        frame: &Frame<'_>,
        packet: &Packet<'_>,
    ) -> Option<(GuestFrame, Option<(usize, SequenceNumber)>)> {
        let Body::Ip(ip) = &packet.body else {
            return Some((whole_frame(frame, &Offload::NONE, Flow::Other), None));
        };
        self.learn_address(ip.source);
        let untouched = |offload: &Offload, flow| Some((whole_frame(frame, offload, flow), None));
        match &ip.content {
            Content::Transport(Transport::Tcp { segment, payload }) => {
                self.guest_segment(frame, ip, segment, payload)
            }
            Content::Transport(Transport::Udp {
                source_port,
                target_port,
                payload,
            }) => {
                let next = self.udp_ports.len();
                let port = *self
                    .udp_ports
                    .entry((ip.source, *source_port))
                    .or_insert(next);
                self.recording.udp_ports = self.udp_ports.len();
                self.recording.payload_bytes.0 += u64::from(payload.end - payload.start);
                let to = (ip.target, *target_port);
                let offload =
                    self.offload(ip, frame.len, payload.start as usize, 6, GsoKind::UdpL4);
                untouched(&offload, Flow::Udp { port, to })
            }
            _ => {
                let checksum = if frame.bytes.len() < frame.len {
                    ChecksumState::Verified
                } else {
                    ChecksumState::Unverified
                };
                let offload = Offload {
                    checksum,
                    ..Offload::NONE
                };
                untouched(&offload, Flow::Other)
            }
        }
    }

    fn guest_segment(
        &mut self,
        frame: &Frame<'_>,
        ip: &IpPacket<'_>,
        segment: &Segment,
        payload: &Range<u32>,
    ) -> Option<(GuestFrame, Option<(usize, SequenceNumber)>)> {
        let key = ConnectionKey {
            guest: (ip.source, segment.source_port),
            remote: (ip.target, segment.target_port),
        };
        let len = payload.end - payload.start;
        let flow = if is_opening(segment) {
            Flow::Open {
                connection: self.open(key, segment),
            }
        } else {
            let known = self.connections.get_mut(&key)?;
            // Before the SYN-ACK there is nothing that could be acknowledged.
            known.host.as_ref()?;
            let new = known.guest.take(segment, len);
            self.recording.payload_bytes.0 += u64::from(new);
            if new > 0 {
                known.burst = None;
            }
            Flow::Tcp {
                connection: known.index,
                places: places(
                    frame.bytes,
                    ETHERNET + ip.header_len,
                    payload.start as usize,
                ),
                payload_end: (len > 0).then(|| segment.sequence + len),
            }
        };
        let connection = self.connections.get(&key)?.index;
        let flags = segment.flags;
        let length = len + u32::from(flags.syn()) + u32::from(flags.fin());
        let covered_by =
            (length > 0 && !flags.rst()).then(|| (connection, segment.sequence + length));
        let kind = if ip.source.is_v4() {
            GsoKind::TcpV4
        } else {
            GsoKind::TcpV6
        };
        let headers = payload.start as usize;
        let offload = self.offload(ip, frame.len, headers, 16, kind);
        let bytes = &frame.bytes[..frame.bytes.len().min(headers)];
        Some((guest_frame(bytes, frame.len, &offload, flow), covered_by))
    }

    /// The connection that a SYN opens: another one than before if it is not that SYN once more.
    fn open(&mut self, key: ConnectionKey, syn: &Segment) -> usize {
        let next = self.recording.connections.len();
        let guest = Progress(syn.sequence + 1);
        match self.connections.get(&key) {
            Some(known) if known.guest.0 == guest.0 => return known.index,
            _ => {}
        }
        let known = Known {
            index: next,
            guest,
            host: None,
            burst: None,
        };
        self.connections.insert(key, known);
        self.recording.connections.push(key);
        next
    }

    /// The offload header as a TAP has it: the checksum is left open, and what is longer than the
    /// MTU is cut at it.
    fn offload(
        &self,
        ip: &IpPacket<'_>,
        len: usize,
        headers: usize,
        checksum_at: u16,
        kind: GsoKind,
    ) -> Offload {
        let piece = (ETHERNET + usize::from(self.recording.mtu)).saturating_sub(headers);
        Offload {
            checksum: ChecksumState::Partial {
                start: (ETHERNET + ip.header_len) as u16,
                offset: checksum_at,
            },
            gso: (piece > 0 && len - headers > piece).then_some(Gso {
                kind,
                size: piece as u16,
            }),
            hdr_len: headers as u16,
        }
    }

    fn learn_address(&mut self, source: Address) {
        match source.as_v4() {
            Some([0, 0, 0, 0]) => {}
            Some(octets) => self.recording.guest4 = octets.into(),
            None => {
                let address = Ipv6Addr::from(*source.octets());
                if !address.is_unicast_link_local() && !address.is_unspecified() {
                    self.recording.guest6 = address;
                }
            }
        }
    }

    fn host_frame(&mut self, at: u64, packet: &Packet<'_>) -> What {
        let ip = match &packet.body {
            Body::Ip(ip) => Some(ip),
            Body::Arp(_) => None,
        };
        let Some((ip, Content::Transport(transport))) = ip.map(|ip| (ip, &ip.content)) else {
            self.take(self.waiting.len());
            return What::Answer;
        };
        if !matches!(transport, Transport::Tcp { .. }) {
            self.take(self.waiting.len());
        }
        match transport {
            Transport::Tcp { segment, payload } => self
                .host_segment(at, ip, segment, payload.end - payload.start)
                .unwrap_or(What::Answer),
            Transport::Udp {
                source_port,
                target_port,
                payload,
            } => match self.udp_ports.get(&(ip.target, *target_port)) {
                Some(&port) => {
                    let len = payload.len();
                    self.recording.payload_bytes.1 += len as u64;
                    What::Datagram {
                        port,
                        from: (ip.source, *source_port),
                        len,
                    }
                }
                None => What::Answer,
            },
            Transport::IcmpV4(icmpv4::Message::EchoReply(_))
            | Transport::IcmpV6(icmpv6::Message::EchoReply(_)) => {
                match ip.bytes[ip.header_len..].first_chunk() {
                    Some(&header) => What::EchoReply {
                        from: ip.source,
                        header,
                        len: ip.bytes.len() - ip.header_len,
                    },
                    None => What::Answer,
                }
            }
            _ => What::Answer,
        }
    }

    fn host_segment(
        &mut self,
        at: u64,
        ip: &IpPacket<'_>,
        segment: &Segment,
        len: u32,
    ) -> Option<What> {
        let key = ConnectionKey {
            guest: (ip.target, segment.target_port),
            remote: (ip.source, segment.source_port),
        };
        let Segment {
            flags, sequence, ..
        } = *segment;
        self.recording.resets += u64::from(flags.rst());
        let connection = self.connections.get(&key)?.index;
        self.take_covered(connection, segment.acknowledgment);
        let known = self.connections.get_mut(&key)?;
        let event = if flags.rst() {
            TcpEvent::Reset
        } else if flags.contains(Flags::SYN | Flags::ACK) {
            if known.host.is_some() {
                return None;
            }
            known.host = Some(Progress(sequence + 1));
            TcpEvent::Accepted {
                initial: sequence.0,
                timestamp: segment.options.timestamps.map_or(0, |t| t.value),
            }
        } else {
            let host = known.host.as_mut()?;
            let new = u64::from(host.take(segment, len));
            // The FIN is the last that is new.
            let last = flags.fin() && sequence + len == host.0;
            host.0 += u32::from(last);
            self.recording.payload_bytes.1 += new;
            let count = self.join_burst(key, at, new);
            if count == 0 && !last {
                return None;
            }
            TcpEvent::Bytes { count, last }
        };
        Some(What::Tcp { connection, event })
    }

    /// Adds new bytes to the burst that they belong to. Returns those that begin one, at the step that
    /// comes next.
    fn join_burst(&mut self, key: ConnectionKey, at: u64, new: u64) -> u64 {
        let Some(known) = self.connections.get_mut(&key).filter(|_| new > 0) else {
            return 0;
        };
        let (step, sent) = known.burst.unwrap_or((self.recording.steps.len(), at));
        if at.saturating_sub(sent) < BURST_PAUSE
            && let Some(Step {
                what:
                    What::Tcp {
                        event: TcpEvent::Bytes { count, .. },
                        ..
                    },
                ..
            }) = self.recording.steps.get_mut(step)
        {
            *count += new;
            known.burst = Some((step, at));
            return 0;
        }
        known.burst = Some((self.recording.steps.len(), at));
        new
    }
}

/// A frame as the link gives it, from `bytes` of its beginning.
fn guest_frame(bytes: &[u8], len: usize, offload: &Offload, flow: Flow) -> GuestFrame {
    let mut head = offload.emit().to_vec();
    head.extend_from_slice(bytes);
    GuestFrame {
        head: head.into(),
        len: OFFLOAD + len,
        flow,
    }
}

fn whole_frame(frame: &Frame<'_>, offload: &Offload, flow: Flow) -> GuestFrame {
    guest_frame(frame.bytes, frame.len, offload, flow)
}

/// Where in a guest's frame, offload header included, stands what refers to us. `tcp` is the offset
/// of the TCP header in the frame without, `end` that of its payload.
fn places(frame: &[u8], tcp: usize, end: usize) -> Places {
    let mut places = Places {
        acknowledgment: OFFLOAD + tcp + 8,
        ..Places::default()
    };
    let mut at = tcp + TCP_OPTIONS;
    while at < end.min(frame.len()) {
        // RFC 9293 §3.1: kinds 0 and 1 are alone, others have their length behind them.
        let (kind, len) = match (frame[at], frame.get(at + 1)) {
            (0, _) => break,
            (1, _) => (1, 1),
            (kind, Some(&len)) if len >= 2 => (kind, usize::from(len)),
            _ => break,
        };
        if at + len > frame.len() {
            break;
        }
        match kind {
            5 => places.sack = (OFFLOAD + at + 2, OFFLOAD + at + len),
            8 => places.echo = OFFLOAD + at + 6,
            _ => {}
        }
        at += len;
    }
    places
}
