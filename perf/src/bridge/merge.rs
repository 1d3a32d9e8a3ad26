//! Frames of one flow that come back to back, merged into a super-frame for the guest's kernel, as
//! receive offloads do (like the kernel's own GRO). Frames are merged only when taking the super-frame
//! apart again gives the same frames, and when their checksums are right: for a super-frame nobody
//! verifies them any more.

use std::io::IoSlice;
use std::ops::Range;

use super::packet::{Layout, VirtioHeader};

/// Payload of one super-frame, at most: with its headers it is below 64 KiB.
const PAYLOAD_MAX: usize = 65_535 - 40 - 60;
/// Pieces of one, at most: a write takes 1024 parts.
const PIECES_MAX: usize = 512;
/// TCP's flags with which a segment may be merged: ACK and PSH.
const ACK: u8 = 0x10;
const PUSH: u8 = 0x08;

/// Frames that are merged until one comes that does not fit.
#[derive(Debug, Default)]
pub(super) struct Run {
    layout: Option<Layout>,
    /// The first frame, up to its payload.
    headers: Vec<u8>,
    /// The payloads, where they stand in the buffer that the frames are in.
    payloads: Vec<Range<usize>>,
    /// All bytes of them.
    length: usize,
    /// The last one was shorter, or was to be pushed on.
    is_full: bool,
}

impl Run {
    /// Adds the frame that stands there in `buffer`, if it continues the run or begins one.
    pub(super) fn add(&mut self, buffer: &[u8], at: &Range<usize>) -> bool {
        let frame = &buffer[at.clone()];
        let Some(layout) = mergeable(frame) else {
            return false;
        };
        if !self.payloads.is_empty() && !self.is_continued_by(frame, layout) {
            return false;
        }
        if !layout.has_right_checksum(frame) {
            return false;
        }
        if self.payloads.is_empty() {
            self.layout = Some(layout);
            self.headers.clear();
            self.headers.extend_from_slice(&frame[..layout.payload]);
        }
        let payload = at.start + layout.payload..at.start + layout.end;
        let size = self.payloads.first().map_or(payload.len(), Range::len);
        self.is_full = payload.len() < size;
        if layout.is_tcp && frame[layout.transport + 13] & PUSH != 0 {
            self.headers[layout.transport + 13] |= PUSH;
            self.is_full = true;
        }
        self.length += payload.len();
        self.payloads.push(payload);
        true
    }

    fn is_continued_by(&self, frame: &[u8], layout: Layout) -> bool {
        let size = self.payloads.first().map_or(0, Range::len);
        let payload = layout.end - layout.payload;
        let fits = !self.is_full
            && self.payloads.len() < PIECES_MAX
            && self.length + payload <= PAYLOAD_MAX
            && payload <= size;
        let is_alike = self.layout.is_some_and(|own| {
            (own.is_ipv4, own.is_tcp, own.payload)
                == (layout.is_ipv4, layout.is_tcp, layout.payload)
        });
        if !fits || !is_alike {
            return false;
        }
        let same = |range: Range<usize>| frame[range.clone()] == self.headers[range];
        // All but lengths, and IPv4's identification and checksum.
        let network = if layout.is_ipv4 {
            same(0..16) && same(20..24) && same(26..34)
        } else {
            same(0..18) && same(20..54)
        };
        let ports = layout.transport..layout.transport + 4;
        network && same(ports) && (!layout.is_tcp || self.is_next_segment(frame, layout))
    }

    /// The sequence number goes on; acknowledgment, flags, window, and options are the same.
    fn is_next_segment(&self, frame: &[u8], layout: Layout) -> bool {
        let (own, other) = (
            &self.headers[layout.transport..],
            &frame[layout.transport..],
        );
        let sequence = |tcp: &[u8]| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let options = 20..layout.payload - layout.transport;
        sequence(other) == sequence(own).wrapping_add(self.length as u32)
            && own[8..13] == other[8..13]
            && (own[13] | PUSH) == (other[13] | PUSH)
            && own[14..16] == other[14..16]
            && own[options.clone()] == other[options]
    }

    /// Writes what there is, as one super-frame behind its header, and begins anew.
    pub(super) fn finish(
        &mut self,
        buffer: &[u8],
        write: impl FnOnce(&[IoSlice<'_>]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let Some(layout) = self.layout.take() else {
            return Ok(());
        };
        let offload = self.complete(layout).write();
        let ends = [IoSlice::new(&offload), IoSlice::new(&self.headers)];
        let payloads = self
            .payloads
            .iter()
            .map(|range| IoSlice::new(&buffer[range.clone()]));
        let outcome = write(&ends.into_iter().chain(payloads).collect::<Vec<_>>());
        self.payloads.clear();
        self.length = 0;
        self.is_full = false;
        outcome
    }

    /// Completes the headers of what is there, and says how it is to be taken.
    fn complete(&mut self, layout: Layout) -> VirtioHeader {
        if self.payloads.len() == 1 {
            return VirtioHeader {
                flags: VirtioHeader::CHECKSUM_IS_RIGHT,
                ..VirtioHeader::default()
            };
        }
        layout.set_length(&mut self.headers, self.length);
        layout.set_partial_checksum(&mut self.headers, self.length);
        VirtioHeader {
            flags: VirtioHeader::NEEDS_CHECKSUM,
            kind: match (layout.is_tcp, layout.is_ipv4) {
                (true, true) => VirtioHeader::TCPV4,
                (true, false) => VirtioHeader::TCPV6,
                (false, _) => VirtioHeader::UDP,
            },
            header_length: layout.payload as u16,
            size: self.payloads[0].len() as u16,
            checksum_start: layout.transport as u16,
            checksum_offset: layout.checksum_offset() as u16,
        }
    }
}

/// A frame with payload that says nothing but that.
fn mergeable(frame: &[u8]) -> Option<Layout> {
    let layout = Layout::of(frame)?;
    let is_plain = !layout.is_tcp || frame[layout.transport + 13] & !PUSH == ACK;
    (is_plain && layout.payload < layout.end).then_some(layout)
}
