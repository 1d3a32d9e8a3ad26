//! Bytes of one direction of a flow that wait to be taken: slices, in order.

use std::collections::VecDeque;

use smallvec::SmallVec;
use towpath_ring::buffer::Slice;

/// The most slices that one frame to the guest points to (what a driver takes).
pub(crate) const FRAME_SLICES: usize = towpath_ring::driver::FRAME_SLICES_MAX;

/// Waiting bytes. How many of them are in memory of their own, and not in pooled buffers, is told
/// by what each method returns: the core keeps that sum within its bound.
#[derive(Default)]
pub(crate) struct SliceQueue {
    slices: VecDeque<Slice>,
    bytes: u32,
}

impl SliceQueue {
    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The slices that wait.
    pub(crate) fn slices(&self) -> &VecDeque<Slice> {
        &self.slices
    }

    pub(crate) fn push(&mut self, slice: Slice) {
        self.bytes += slice.len() as u32;
        self.slices.push_back(slice);
    }

    /// Appends the bytes to the last slice if its buffer has room and no other holder. Returns the
    /// bytes of own memory that this took, or `None` if it could not be done.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Option<usize> {
        let last = self.slices.back_mut()?;
        if !last.try_append(bytes) {
            return None;
        }
        self.bytes += bytes.len() as u32;
        Some(if last.is_pooled() { 0 } else { bytes.len() })
    }

    /// Drops `bytes` from the front, at most all; returns how many were in own memory.
    pub(crate) fn trim(&mut self, bytes: u32) -> usize {
        let mut left = bytes.min(self.bytes) as usize;
        self.bytes -= left as u32;
        let mut owned = 0;
        while left > 0 {
            let Some(first) = self.slices.front_mut() else {
                break;
            };
            let n = left.min(first.len());
            if !first.is_pooled() {
                owned += n;
            }
            if n == first.len() {
                self.slices.pop_front();
            } else {
                first.advance(n);
            }
            left -= n;
        }
        owned
    }

    /// The bytes `start..end`, without copying them. More slices than a frame can point to are
    /// gathered into one copy (a host peer that sends in tiny pieces).
    pub(crate) fn range(&self, start: u32, end: u32) -> SmallVec<[Slice; 8]> {
        let (mut skip, mut left) = (start as usize, (end - start) as usize);
        let mut out = SmallVec::new();
        for slice in &self.slices {
            if left == 0 {
                break;
            }
            if skip >= slice.len() {
                skip -= slice.len();
                continue;
            }
            let n = left.min(slice.len() - skip);
            out.push(slice.sub(skip..skip + n));
            skip = 0;
            left -= n;
        }
        if out.len() > FRAME_SLICES {
            let whole = out
                .iter()
                .flat_map(|slice: &Slice| slice.bytes())
                .copied()
                .collect();
            out = SmallVec::from_iter([Slice::from_vec(whole)]);
        }
        out
    }

    /// Copies all that is in pooled buffers to own memory; returns how many slices, and bytes.
    pub(crate) fn leave_pool(&mut self) -> (u64, usize) {
        let (mut count, mut bytes) = (0, 0);
        for slice in self.slices.iter_mut().filter(|slice| slice.is_pooled()) {
            bytes += slice.len();
            count += 1;
            *slice = Slice::from_vec(slice.bytes().to_vec());
        }
        (count, bytes)
    }

    /// Drops everything; returns how many bytes were in own memory.
    pub(crate) fn clear(&mut self) -> usize {
        let owned = self.trim(self.bytes);
        self.slices = VecDeque::new();
        owned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(parts: &[&[u8]]) -> SliceQueue {
        let mut queue = SliceQueue::default();
        parts
            .iter()
            .for_each(|part| queue.push(Slice::from_vec(part.to_vec())));
        queue
    }

    fn bytes(slices: &[Slice]) -> Vec<u8> {
        slices
            .iter()
            .flat_map(|slice| slice.bytes())
            .copied()
            .collect()
    }

    #[test]
    fn ranges_cross_slices_and_share_them() {
        let queue = queue(&[b"abc", b"defg", b"h"]);
        assert_eq!(queue.bytes(), 8);
        for start in 0..=8 {
            for end in start..=8 {
                let whole = &b"abcdefgh"[start as usize..end as usize];
                assert_eq!(bytes(&queue.range(start, end)), whole, "{start}..{end}");
            }
        }
        assert_eq!(queue.range(1, 8).len(), 3);
    }

    #[test]
    fn trimming_tells_of_own_memory() {
        let mut queue = queue(&[b"abc", b"defg"]);
        assert_eq!(queue.trim(4), 4);
        assert_eq!(bytes(&queue.range(0, 3)), b"efg");
        assert_eq!(queue.bytes(), 3);
        queue.push(Slice::from_static(b"xyz"));
        assert_eq!(
            queue.clear(),
            if Slice::from_static(b"x").is_pooled() {
                3
            } else {
                6
            }
        );
        assert_eq!((queue.bytes(), queue.trim(1)), (0, 0));
    }

    #[test]
    fn many_small_pieces_become_one_slice_of_a_frame() {
        let pieces: Vec<[u8; 1]> = (0..100).map(|n| [n]).collect();
        let parts: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
        let queue = queue(&parts);
        let gathered = queue.range(10, 90);
        assert_eq!(gathered.len(), 1);
        assert_eq!(bytes(&gathered), (10..90).collect::<Vec<u8>>());
        assert_eq!(queue.range(0, FRAME_SLICES as u32).len(), FRAME_SLICES);
    }
}
