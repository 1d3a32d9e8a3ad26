//! A guest's frames: its packets in front of a link, and those that the link gives it.

use towpath_ring::driver::LinkFeatures;
use towpath_stack::Address;
use towpath_stack::build::{self, Checksum, EchoHeader, Envelope, HEADER_MAX};
use towpath_stack::tcp::segment::Segment;
use towpath_stack::wire::arp::{ArpPacket, Operation};
use towpath_stack::wire::checksum::Sum;
use towpath_stack::wire::ethernet::MacAddress;
use towpath_stack::wire::offload::{HEADER_LEN as OFFLOAD, Offload};

/// Both ends of a flow: the guest's address first.
pub(crate) type Pair = (Address, Address);

/// What it takes to write a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    pub(crate) features: LinkFeatures,
    pub(crate) guest_mac: MacAddress,
    pub(crate) gateway_mac: MacAddress,
}

impl Writer {
    /// What is in front of each frame on this link.
    pub(crate) fn spared(&self) -> usize {
        if self.features.offload_header {
            OFFLOAD
        } else {
            0
        }
    }

    fn envelope(&self, (guest, remote): Pair) -> Envelope {
        Envelope {
            source_mac: self.guest_mac,
            target_mac: self.gateway_mac,
            source: guest,
            target: remote,
            hop_limit: 64,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
        }
    }

    fn checksum(&self, payload: &[u8]) -> Checksum {
        if self.features.checksum {
            Checksum::Partial
        } else {
            Checksum::Full(Sum::new().add(payload))
        }
    }

    pub(crate) fn tcp(
        &self,
        pair: Pair,
        segment: &Segment,
        payload: &[u8],
        gso_size: Option<u16>,
    ) -> Vec<u8> {
        let mut header = [0; HEADER_MAX];
        let (n, offload) = build::tcp(
            &mut header,
            &self.envelope(pair),
            segment,
            payload.len(),
            gso_size,
            self.checksum(payload),
        );
        self.frame(&offload, &header[..n], payload)
    }

    pub(crate) fn udp(&self, pair: Pair, source: u16, target: u16, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; HEADER_MAX];
        let (envelope, sum) = (self.envelope(pair), self.checksum(payload));
        let len = payload.len();
        let (n, offload) = build::udp(&mut header, &envelope, source, target, len, None, sum);
        self.frame(&offload, &header[..n], payload)
    }

    pub(crate) fn ping(
        &self,
        pair: Pair,
        identifier: u16,
        sequence: u16,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut header = [0; HEADER_MAX];
        let echo = EchoHeader {
            reply: false,
            identifier,
            sequence,
        };
        let sum = Sum::new().add(payload);
        let envelope = self.envelope(pair);
        let n = build::icmp_echo(&mut header, &envelope, &echo, payload.len(), sum);
        self.frame(&Offload::NONE, &header[..n], payload)
    }

    /// Asks for the gateway.
    pub(crate) fn arp(&self, guest: Address, gateway4: [u8; 4]) -> Vec<u8> {
        let request = ArpPacket {
            operation: Operation::Request,
            sender_mac: self.guest_mac,
            sender: guest.as_v4().unwrap_or_default(),
            target_mac: MacAddress([0; 6]),
            target: gateway4,
        };
        let frame = build::arp(self.guest_mac, MacAddress([0xff; 6]), &request);
        self.frame(&Offload::NONE, frame.as_slice(), &[])
    }

    /// A TCP packet whose checksum is open, with the headers of IP and ethernet in front; all of it by
    /// hand, for a guest that shares nothing with the engine.
    pub(crate) fn by_hand(&self, (guest, remote): Pair, mut packet: Vec<u8>) -> Vec<u8> {
        let (from, to): (Vec<u8>, Vec<u8>) = match (guest.as_v4(), remote.as_v4()) {
            (Some(from), Some(to)) => (from.to_vec(), to.to_vec()),
            _ => (guest.octets().to_vec(), remote.octets().to_vec()),
        };
        let length = packet.len() as u16;
        let pseudo = [&from[..], &to[..], &[0, 6], &length.to_be_bytes()].concat();
        let sum = ones_complement(&[&pseudo[..], &packet[..]].concat());
        packet[16..18].copy_from_slice(&sum);
        let mut frame = vec![0; self.spared()];
        frame.extend(self.gateway_mac.0);
        frame.extend(self.guest_mac.0);
        if from.len() == 4 {
            let total = (20 + length).to_be_bytes();
            let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0];
            header.extend(from);
            header.extend(to);
            let sum = ones_complement(&header);
            header[10..12].copy_from_slice(&sum);
            frame.extend([8, 0]);
            frame.extend(header);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([6, 64]);
            frame.extend(from);
            frame.extend(to);
        }
        frame.extend(packet);
        frame
    }

    fn frame(&self, offload: &Offload, header: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(OFFLOAD + header.len() + payload.len());
        if self.features.offload_header {
            frame.extend_from_slice(&offload.emit());
        }
        frame.extend_from_slice(header);
        frame.extend_from_slice(payload);
        frame
    }

    /// A frame of the link, taken apart; `None` if its offload header is broken.
    pub(crate) fn split<'a>(&self, frame: &'a [u8]) -> Option<(Offload, &'a [u8])> {
        if self.features.offload_header {
            Offload::parse(frame).ok()
        } else {
            Some((Offload::NONE, frame))
        }
    }
}

/// The Internet checksum (RFC 1071), the slow way.
fn ones_complement(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
