//! What a guest sends beside connections: UDP to who echoes it and to where nobody is, pings, and ARP.

use towpath_ring::driver::sim::Random;
use towpath_stack::Address;
use towpath_stack::parse::{Body, Content, IpPacket, Packet, Transport};
use towpath_stack::wire::arp::Operation;
use towpath_stack::wire::{icmpv4, icmpv6};

use super::frame::Writer;
use crate::app::fill;

/// The UDP port that everything is echoed from, and one where nobody is.
pub(crate) const ECHO_PORT: u16 = 7;
pub(crate) const CLOSED_PORT: u16 = 9;
/// The first of the ports and of the ping ids that the guest uses.
const FIRST_PORT: u16 = 5_000;
const FIRST_ID: u16 = 70;
/// Bytes of each payload that say which one it is.
const NUMBER: usize = 4;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Echo,
    Closed,
    Ping,
    Arp,
}

/// One packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatagramPlan {
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    pub(crate) v4: bool,
    pub(crate) len: usize,
    /// Which of a few ports or ids it is sent from.
    pub(crate) from: u16,
}

impl DatagramPlan {
    pub(crate) fn draw(random: &mut Random, begins_at: u64, mtu: u16) -> DatagramPlan {
        let kinds = [Kind::Echo, Kind::Echo, Kind::Closed, Kind::Ping, Kind::Arp];
        let most = u64::from(mtu) - 48;
        DatagramPlan {
            at: begins_at + random.below(3_000_000_000),
            kind: random.pick(&kinds),
            v4: random.chance(5_000),
            len: NUMBER + random.below(random.clone().pick(&[100, 600, most]) - 4) as usize,
            from: random.below(3) as u16,
        }
    }
}

/// All of them, in order of time, and what came of each.
#[derive(Default)]
pub(crate) struct Datagrams {
    plans: Vec<DatagramPlan>,
    next: usize,
    /// How often each was answered.
    pub(crate) answered: Vec<u32>,
    /// Packets of a kind that nobody sends: IPv6 has no checksum over the field that says the kind.
    pub(crate) unexpected: u32,
}

impl Datagrams {
    pub(crate) fn new(mut plans: Vec<DatagramPlan>) -> Datagrams {
        plans.sort_by_key(|plan| plan.at);
        Datagrams {
            answered: vec![0; plans.len()],
            next: 0,
            unexpected: 0,
            plans,
        }
    }

    pub(crate) fn plans(&self) -> &[DatagramPlan] {
        &self.plans
    }

    pub(crate) fn next_at(&self) -> Option<u64> {
        self.plans.get(self.next).map(|plan| plan.at)
    }

    /// The next that is due, as a frame.
    pub(crate) fn take(
        &mut self,
        now: u64,
        writer: &Writer,
        addresses: &[Address; 2],
        gateway4: [u8; 4],
    ) -> Option<Vec<u8>> {
        let number = self.next;
        let plan = *self.plans.get(number).filter(|plan| plan.at <= now)?;
        self.next += 1;
        let guest = addresses[usize::from(!plan.v4)];
        let remote = match plan.v4 {
            true => Address::v4([198, 51, 100, 1]),
            false => Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
        };
        let (pair, payload) = ((guest, remote), payload(number, plan.len));
        Some(match plan.kind {
            Kind::Echo => writer.udp(pair, FIRST_PORT + plan.from, ECHO_PORT, &payload),
            Kind::Closed => writer.udp(pair, FIRST_PORT + plan.from, CLOSED_PORT, &payload),
            Kind::Ping => writer.ping(pair, FIRST_ID + plan.from, number as u16, &payload),
            Kind::Arp => writer.arp(addresses[0], gateway4),
        })
    }

    /// Something came that is no TCP. An error is a broken promise of the engine's.
    pub(crate) fn on_packet(&mut self, packet: &Packet<'_>) -> Result<(), String> {
        let ip = match &packet.body {
            Body::Ip(ip) => ip,
            // Another guest's question is none of this one's business.
            Body::Arp(arp) if arp.operation == Operation::Request => return Ok(()),
            Body::Arp(_) => return self.on_arp(),
        };
        let Content::Transport(transport) = &ip.content else {
            self.unexpected += 1;
            return Ok(());
        };
        match transport {
            Transport::Udp { payload, .. } => {
                // A super-frame has several, each of which says how long it is.
                let mut rest = packet.slice(payload);
                while !rest.is_empty() {
                    let len = self.on_answer(rest, &[Kind::Echo])?;
                    rest = &rest[len..];
                }
                Ok(())
            }
            Transport::IcmpV4(icmpv4::Message::EchoReply(echo))
            | Transport::IcmpV6(icmpv6::Message::EchoReply(echo)) => {
                let bytes = packet.slice(&echo.payload);
                self.on_answer(bytes, &[Kind::Ping]).map(|_| ())
            }
            Transport::IcmpV4(icmpv4::Message::Error(report))
            | Transport::IcmpV6(icmpv6::Message::Error(report)) => {
                self.on_error(ip, packet.slice(&report.quote))
            }
            _ => {
                self.unexpected += 1;
                Ok(())
            }
        }
    }

    fn on_arp(&mut self) -> Result<(), String> {
        let asked = self.plans[..self.next].iter().zip(&mut self.answered);
        let mut asked = asked.filter(|(plan, count)| plan.kind == Kind::Arp && **count == 0);
        if let Some((_, count)) = asked.next() {
            *count += 1;
        }
        Ok(())
    }

    /// An answer begins with the number of what it answers. Returns its length.
    fn on_answer(&mut self, bytes: &[u8], kinds: &[Kind]) -> Result<usize, String> {
        let number = bytes.first_chunk().copied().map(u32::from_be_bytes);
        let number = number.ok_or("an answer without number")? as usize;
        let sent = self.plans[..self.next].get(number);
        let plan = sent.filter(|plan| kinds.contains(&plan.kind));
        let plan = plan.ok_or_else(|| format!("an answer to {number}, which was not asked"))?;
        if bytes.get(..plan.len) != Some(&payload(number, plan.len)) {
            return Err(format!("the answer to {number} arrived changed"));
        }
        self.answered[number] += 1;
        Ok(plan.len)
    }

    fn on_error(&mut self, ip: &IpPacket<'_>, quote: &[u8]) -> Result<(), String> {
        let header = if ip.source.is_v4() { 20 } else { 40 };
        let protocol = quote.get(if header == 20 { 9 } else { 6 });
        if protocol != Some(&17) {
            return Ok(());
        }
        let bytes = quote.get(header + 8..).unwrap_or_default();
        let number = bytes.first_chunk().copied().map(u32::from_be_bytes);
        let number = number.ok_or("an error that quotes nothing")? as usize;
        let sent = self.plans[..self.next].get(number);
        let plan = sent.ok_or_else(|| format!("an error about {number}, which was not sent"))?;
        let whole = payload(number, plan.len);
        if !whole.starts_with(bytes) {
            return Err(format!("the error about {number} quotes something else"));
        }
        self.answered[number] += u32::from(plan.kind == Kind::Closed);
        Ok(())
    }
}

fn payload(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(number as u64, 0, &mut bytes);
    bytes[..NUMBER].copy_from_slice(&(number as u32).to_be_bytes());
    bytes
}
