//! [`PacketWriter`]: the queue of frames on their way to a socket that carries each as a packet.

use std::collections::VecDeque;

use super::parts::{FrameBounds, Parts};
use crate::buffer::Slice;
use crate::driver::{PACKETS_MAX, SEND_SLICES_MAX};

/// A bounded queue of frames, each a packet.
///
/// It is drained so: give [`PacketWriter::batch`] to one
/// [`send_packets`](crate::Driver::send_packets), and when that is done tell [`PacketWriter::advance`] how
/// many packets were taken. Frames may be pushed in between.
#[derive(Debug)]
pub struct PacketWriter {
    bounds: FrameBounds,
    parts: Parts,
    packets: VecDeque<Packet>,
    bytes: usize,
}

#[derive(Debug)]
struct Packet {
    bytes: usize,
    slices: usize,
}

impl PacketWriter {
    /// An empty queue.
    #[must_use]
    pub fn new(bounds: FrameBounds) -> PacketWriter {
        PacketWriter {
            bounds,
            parts: Parts::new(),
            packets: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Queues a frame: `header` (copied) followed by `payload` (copied if small, else held). Whether there was
    /// room; if not, or if the frame is empty or of more slices than a packet takes, nothing is queued.
    pub fn push(&mut self, header: &[u8], payload: &[Slice]) -> bool {
        let bytes = header.len() + payload.iter().map(Slice::len).sum::<usize>();
        if bytes == 0
            || payload.len() >= SEND_SLICES_MAX
            || self.packets.len() >= self.bounds.frames
            || bytes > self.bounds.bytes.saturating_sub(self.bytes)
        {
            return false;
        }
        let before = self.parts.slices.len();
        self.parts.push(false, [&[], header], payload);
        let slices = self.parts.slices.len() - before;
        self.bytes += bytes;
        self.packets.push_back(Packet { bytes, slices });
        true
    }

    /// What the next send takes: at most [`PACKETS_MAX`] packets, listed in `room`. Empty only if nothing is
    /// queued.
    #[must_use]
    pub fn batch<'a, 'r>(
        &'a mut self,
        room: &'r mut [&'a [Slice]; PACKETS_MAX],
    ) -> &'r [&'a [Slice]] {
        // The row of slices is a ring; a packet must be in one piece.
        let mut row: &[Slice] = self.parts.slices.make_contiguous();
        let mut packets = 0;
        for (place, packet) in room.iter_mut().zip(&self.packets) {
            (*place, row) = row.split_at(packet.slices);
            packets += 1;
        }
        &room[..packets]
    }

    /// Copies what lies in pooled buffers, because the link takes nothing. How many slices that were.
    pub fn leave_pool(&mut self) -> u64 {
        self.parts.leave_pool()
    }

    /// Takes the first `packets` packets off the queue, which were sent, or are given up.
    pub fn advance(&mut self, packets: usize) {
        debug_assert!(packets <= self.packets.len(), "more than was queued");
        for packet in self.packets.drain(..packets.min(self.packets.len())) {
            self.bytes -= packet.bytes;
            self.parts.slices.drain(..packet.slices);
        }
        if self.packets.is_empty() {
            // So that it need not be put in one piece so soon.
            self.parts.slices.clear();
        }
    }

    /// How many bytes wait.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.bytes
    }

    /// How many frames wait.
    #[must_use]
    pub fn queued_frames(&self) -> usize {
        self.packets.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(writer: &mut PacketWriter) -> Vec<Vec<u8>> {
        let mut room = [&[][..]; PACKETS_MAX];
        let batch = writer.batch(&mut room);
        batch.iter().map(|packet| packet.concat()).collect()
    }

    #[test]
    fn packets_keep_their_ends_and_their_order() {
        let bounds = FrameBounds {
            bytes: 1 << 20,
            frames: 100,
        };
        let mut writer = PacketWriter::new(bounds);
        let large = Slice::from_vec(vec![7; 2000]);
        let (mut pushed, mut got) = (0u32, 0u32);
        // The queue goes round its memory many times.
        while got < 5000 {
            while pushed < got + 90 {
                let number = pushed.to_le_bytes();
                let large = vec![large.clone(); pushed as usize % 4];
                assert!(writer.push(&number, &large));
                pushed += 1;
            }
            let packets = batch(&mut writer);
            assert_eq!(packets.len(), PACKETS_MAX);
            for packet in &packets[..17] {
                assert_eq!(packet[..4], got.to_le_bytes());
                assert_eq!(packet.len(), 4 + got as usize % 4 * 2000);
                got += 1;
            }
            writer.advance(17);
            assert_eq!(writer.queued_frames() as u32, pushed - got);
        }
        writer.advance(writer.queued_frames());
        assert!(writer.is_empty() && batch(&mut writer).is_empty());
        assert_eq!(writer.queued_bytes(), 0);
    }

    #[test]
    fn what_is_too_much_is_refused_whole() {
        let bounds = FrameBounds {
            bytes: 100,
            frames: 2,
        };
        let mut writer = PacketWriter::new(bounds);
        assert!(!writer.push(&[0; 101], &[]) && !writer.push(&[], &[Slice::empty()]));
        assert!(!writer.push(b"x", &vec![Slice::empty(); SEND_SLICES_MAX]));
        assert!(writer.push(&[0; 99], &[]));
        assert!(!writer.push(&[0; 2], &[]));
        assert!(writer.push(&[], &[Slice::from_static(b"y")]));
        writer.advance(1);
        assert!(writer.push(&[0; 1], &[]) && !writer.push(&[0; 1], &[]));
        assert_eq!(batch(&mut writer), [b"y".to_vec(), vec![0]]);
        assert_eq!((writer.queued_bytes(), writer.queued_frames()), (2, 2));
    }
}
