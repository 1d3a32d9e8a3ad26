//! A guest's frames: its packets in front of a link, and those that the link gives it.

use towpath_ring::driver::LinkFeatures;
use towpath_stack::Address;
use towpath_stack::build::{self, Checksum, Envelope, HEADER_MAX};
use towpath_stack::tcp::segment::Segment;
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
