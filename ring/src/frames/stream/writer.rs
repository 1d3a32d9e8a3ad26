//! [`FrameWriter`]: the queue of frames on their way to a stream.

use std::collections::VecDeque;

use super::{Framing, PREFIX_BYTES_MAX};
use crate::buffer::Slice;
use crate::driver::SEND_SLICES_MAX;
use crate::frames::parts::{FrameBounds, Parts};

/// A bounded queue of frames. See the module above.
///
/// It is drained so: give [`FrameWriter::batch`] to one send of a driver, and when that is done tell
/// [`FrameWriter::advance`] how many bytes were taken. Frames may be pushed in between.
#[derive(Debug)]
pub struct FrameWriter {
    framing: Framing,
    bounds: FrameBounds,
    parts: Parts,
    bytes: usize,
    /// The bytes that are left of each frame.
    frames: VecDeque<u32>,
}

impl FrameWriter {
    /// An empty queue.
    #[must_use]
    pub fn new(framing: Framing, bounds: FrameBounds) -> FrameWriter {
        FrameWriter {
            framing,
            bounds,
            parts: Parts::new(),
            bytes: 0,
            frames: VecDeque::new(),
        }
    }

    /// Queues a frame: `header` (copied) followed by `payload` (copied if small, else held). Whether there was
    /// room; if not, or if the frame is empty or longer than its prefix can say, nothing is queued.
    pub fn push(&mut self, header: &[u8], payload: &[Slice]) -> bool {
        let payload_bytes: usize = payload.iter().map(Slice::len).sum();
        let len = header.len() + payload_bytes;
        let bytes = self.framing.prefix_bytes() + len;
        if len == 0
            || self.frames.len() >= self.bounds.frames
            || bytes > self.bounds.bytes.saturating_sub(self.bytes)
        {
            return false;
        }
        let mut prefix = [0; PREFIX_BYTES_MAX];
        let Some(prefix) = self.framing.write(len, &mut prefix) else {
            return false;
        };
        self.parts.push(true, [prefix, header], payload);
        self.bytes += bytes;
        self.frames.push_back(bytes as u32);
        true
    }

    /// What the next send takes: at most [`SEND_SLICES_MAX`] slices. Empty only if nothing is queued.
    #[must_use]
    pub fn batch(&self) -> &[Slice] {
        let (row, _) = self.parts.slices.as_slices();
        &row[..row.len().min(SEND_SLICES_MAX)]
    }

    /// A copy of the first bytes that wait, at most `max` of them: what waits for room shall keep no pooled
    /// buffer.
    #[must_use]
    pub fn first(&self, max: usize) -> Slice {
        let first = self.parts.slices.front();
        first.map_or_else(Slice::empty, |slice| {
            Slice::from_vec(slice[..slice.len().min(max)].to_vec())
        })
    }

    /// Copies what lies in pooled buffers, because the link takes nothing. How many slices that were.
    pub fn leave_pool(&mut self) -> u64 {
        self.parts.leave_pool()
    }

    /// Takes the first `bytes` bytes off the queue, which were sent. The last frame of them may be cut.
    pub fn advance(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.bytes, "more was sent than was queued");
        self.bytes -= bytes.min(self.bytes);
        let mut left = bytes;
        while let Some(slice) = self.parts.slices.front_mut() {
            if slice.len() > left {
                slice.advance(left);
                break;
            }
            left -= slice.len();
            self.parts.slices.pop_front();
        }
        let mut left = bytes as u32;
        while let Some(frame) = self.frames.front_mut() {
            if *frame > left {
                *frame -= left;
                break;
            }
            left -= *frame;
            self.frames.pop_front();
        }
        if self.parts.slices.is_empty() {
            // So that the next batches do not end where the ring does.
            self.parts.slices.clear();
        }
    }

    /// How many bytes wait, the lengths in front of the frames included.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.bytes
    }

    /// How many frames wait, one that was sent in part included.
    #[must_use]
    pub fn queued_frames(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::parts::COPIED_BYTES_MAX;

    const ROOMY: FrameBounds = FrameBounds {
        bytes: 1 << 20,
        frames: 1000,
    };

    fn slice(len: usize, byte: u8) -> Slice {
        Slice::from_vec(vec![byte; len])
    }

    fn bytes(writer: &FrameWriter) -> Vec<u8> {
        writer
            .parts
            .slices
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn golden_bytes_of_both_framings() {
        for (framing, golden) in [
            (Framing::Le16, &b"\x03\x00abc\x01\x00d"[..]),
            (Framing::Be32, &b"\x00\x00\x00\x03abc\x00\x00\x00\x01d"[..]),
        ] {
            let mut writer = FrameWriter::new(framing, ROOMY);
            assert!(writer.push(b"ab", &[slice(1, b'c')]));
            assert!(writer.push(b"", &[slice(1, b'd')]));
            assert_eq!(bytes(&writer), golden);
            assert_eq!(
                (writer.queued_bytes(), writer.queued_frames()),
                (golden.len(), 2)
            );
        }
    }

    #[test]
    fn small_frames_are_one_slice_and_a_large_payload_is_not_copied() {
        let mut writer = FrameWriter::new(Framing::Be32, ROOMY);
        for _ in 0..10 {
            assert!(writer.push(&[1; 54], &[]));
            assert!(writer.push(&[2; 54], &[slice(COPIED_BYTES_MAX, 3)]));
        }
        assert_eq!(writer.batch().len(), 1);
        let large = slice(COPIED_BYTES_MAX + 1, 4);
        let (three, more) = (slice(3, 6), slice(300, 7));
        assert!(writer.push(&[5; 54], &[large.clone(), three, more]));
        assert!(writer.push(&[8; 54], &[]));
        let lens: Vec<_> = writer.batch().iter().map(Slice::len).collect();
        let small = 20 * 58 + 10 * COPIED_BYTES_MAX + 58;
        assert_eq!(lens, [small, COPIED_BYTES_MAX + 1, 3 + 300 + 58]);
        assert_eq!(writer.batch()[1].bytes().as_ptr(), large.bytes().as_ptr());
    }

    #[test]
    fn what_is_too_much_is_refused_whole() {
        let bounds = FrameBounds {
            bytes: 100,
            frames: 3,
        };
        let mut writer = FrameWriter::new(Framing::Le16, bounds);
        assert!(!writer.push(&[0; 99], &[]));
        assert!(
            !writer.push(b"", &[Slice::empty()]),
            "an empty frame ends a link"
        );
        assert!(writer.push(&[0; 90], &[]));
        assert!(!writer.push(&[0; 7], &[]));
        assert!(writer.push(&[0; 6], &[]));
        assert_eq!((writer.queued_bytes(), writer.queued_frames()), (100, 2));
        writer.advance(92);
        assert!(writer.push(&[1; 1], &[]) && writer.push(&[1; 1], &[]));
        assert!(!writer.push(&[1; 1], &[]), "the fourth");
        let mut writer = FrameWriter::new(Framing::Le16, ROOMY);
        assert!(
            !writer.push(b"x", &[slice(0xffff, 0)]),
            "16 bits cannot say it"
        );
        assert!(writer.is_empty() && writer.batch().is_empty());
    }

    #[test]
    fn a_send_may_end_anywhere_and_frames_may_come_meanwhile() {
        let mut writer = FrameWriter::new(Framing::Le16, ROOMY);
        assert!(writer.push(b"abcd", &[]));
        let in_flight = writer.batch().to_vec();
        assert!(writer.push(b"e", &[]));
        assert_eq!(in_flight.concat(), b"\x04\x00abcd");
        writer.advance(3);
        assert_eq!((writer.queued_frames(), writer.queued_bytes()), (2, 6));
        assert_eq!(bytes(&writer), b"bcd\x01\x00e");
        drop(in_flight);
        writer.advance(3);
        assert_eq!(
            (writer.queued_frames(), bytes(&writer)),
            (1, b"\x01\x00e".to_vec())
        );
        writer.advance(3);
        assert!(writer.is_empty());
        assert_eq!(writer.queued_bytes(), 0);
    }

    #[test]
    fn a_batch_holds_64_frames_with_two_parts_of_payload_each() {
        let mut writer = FrameWriter::new(Framing::Be32, ROOMY);
        let part = slice(COPIED_BYTES_MAX + 1, 1);
        for _ in 0..65 {
            assert!(writer.push(&[0; 54], &[part.clone(), part.clone()]));
        }
        let batch: usize = writer.batch().iter().map(Slice::len).sum();
        assert_eq!(batch, 64 * (4 + 54 + 2 * part.len()));
    }
}
