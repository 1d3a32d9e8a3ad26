//! Bytes that came out of order, copied and bounded, until the gap before them is filled.
//!
//! `chunks` is sorted by sequence number and never overlaps. Segments are cut to the gaps between
//! chunks when they are added, so no byte is kept twice; one that continues a chunk is appended to
//! it. When the gap closes, chunks leave from the front, whole.
//!
//! Bounds: at most `out_of_order_max` bytes, each chunk counted with an overhead so that a guest
//! that sends single bytes gains nothing, and at most [`CHUNKS_MAX`] chunks. Appending may leave a
//! vector's capacity at up to twice its length.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::segment::SackBlocks;
use super::seq::SequenceNumber as Seq;

/// Chunks kept.
const CHUNKS_MAX: usize = 256;
/// Bytes that a chunk counts besides its own.
const CHUNK_OVERHEAD: u32 = 64;
/// A chunk that is longer is not appended to: what leaves is of a size that the engine likes.
const CHUNK_LEN_MAX: usize = 64 << 10;
/// Runs whose place in the order of arrival is remembered (RFC 2018 §4).
const RECENT: usize = 4;

#[derive(Debug)]
struct Chunk {
    start: Seq,
    bytes: Vec<u8>,
}

impl Chunk {
    fn end(&self) -> Seq {
        self.start + self.bytes.len() as u32
    }
}

/// The store of one connection.
#[derive(Debug)]
pub(super) struct Reassembly {
    chunks: VecDeque<Chunk>,
    /// Bytes counted against the bound.
    charged: u32,
    /// A sequence number in each of the runs that changed last, latest first.
    recent: [Option<Seq>; RECENT],
}

impl Reassembly {
    pub(super) const fn new() -> Self {
        Self {
            chunks: VecDeque::new(),
            charged: 0,
            recent: [None; RECENT],
        }
    }

    /// Bytes counted against the bound: what is kept, and its overhead.
    pub(super) fn charged(&self) -> u32 {
        self.charged
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Keeps what is new of `payload`, which starts at `start`. Returns whether all of it is now
    /// kept; what finds no room is refused.
    pub(super) fn insert(&mut self, start: Seq, payload: &[u8], bytes_max: u32) -> bool {
        let end = start + payload.len() as u32;
        let mut at = start;
        let mut complete = true;
        // The first chunk that ends after the segment's start.
        let mut index = self
            .chunks
            .iter()
            .take_while(|c| c.end().at_or_before(start))
            .count();
        while at.before(end) {
            let next = self.chunks.get(index).map(|c| (c.start, c.end()));
            let gap_end = match next {
                Some((next_start, next_end)) if next_start.at_or_before(at) => {
                    at = at.max(next_end);
                    index += 1;
                    continue;
                }
                Some((next_start, _)) => next_start.min(end),
                None => end,
            };
            let piece = &payload[at.since(start) as usize..gap_end.since(start) as usize];
            match self.keep(index, at, piece, bytes_max) {
                Some(next_index) => index = next_index,
                None => complete = false,
            }
            at = gap_end;
        }
        if complete || self.contains(start) {
            self.note_recent(start);
        }
        complete
    }

    /// The first byte kept, if any.
    pub(super) fn first(&self) -> Option<Seq> {
        self.chunks.front().map(|chunk| chunk.start)
    }

    /// Whether a byte at or after `seq` is kept.
    pub(super) fn ends_after(&self, seq: Seq) -> bool {
        self.chunks
            .back()
            .is_some_and(|chunk| chunk.end().after(seq))
    }

    /// Forgets what lies wholly before `end`: it is delivered from a segment.
    pub(super) fn drop_covered(&mut self, end: Seq) {
        while let Some(chunk) = self.chunks.front()
            && chunk.end().at_or_before(end)
        {
            self.pop();
        }
    }

    /// The end of the run of chunks that begins at `start`.
    pub(super) fn run_end(&self, start: Seq) -> Seq {
        let mut end = start;
        for chunk in &self.chunks {
            if chunk.start != end {
                break;
            }
            end = chunk.end();
        }
        end
    }

    /// Takes the first chunk if it ends at or before `received`.
    pub(super) fn take(&mut self, received: Seq) -> Option<Vec<u8>> {
        let ready = self.chunks.front()?.end().at_or_before(received);
        if ready { self.pop() } else { None }
    }

    /// The runs after `received` for the SACK option: the one that changed last first, then
    /// those before it (RFC 2018 §4).
    pub(super) fn sack_blocks(&self, received: Seq, blocks_max: usize) -> SackBlocks {
        let mut blocks = SackBlocks::NONE;
        for seq in self.recent.iter().flatten() {
            let Some((left, right)) = self.run_around(*seq) else {
                continue;
            };
            if blocks.as_slice().len() < blocks_max
                && received.before(left)
                && !blocks.as_slice().contains(&(left, right))
            {
                blocks.push(left, right);
            }
        }
        blocks
    }

    /// Puts `piece` at `index`, or to the end of the chunk before. Returns the index of the chunk
    /// after it, or `None` when there is no room.
    fn keep(&mut self, index: usize, start: Seq, piece: &[u8], bytes_max: u32) -> Option<usize> {
        let len = piece.len() as u32;
        let before = index.checked_sub(1).and_then(|i| self.chunks.get_mut(i));
        if let Some(chunk) = before
            && chunk.end() == start
            && chunk.bytes.len() + piece.len() <= CHUNK_LEN_MAX
        {
            let charged = self
                .charged
                .checked_add(len)
                .filter(|&sum| sum <= bytes_max)?;
            chunk.bytes.extend_from_slice(piece);
            self.charged = charged;
            return Some(index);
        }
        let charge = len.saturating_add(CHUNK_OVERHEAD);
        let charged = self
            .charged
            .checked_add(charge)
            .filter(|&sum| sum <= bytes_max)?;
        if self.chunks.len() >= CHUNKS_MAX {
            return None;
        }
        self.chunks.insert(
            index,
            Chunk {
                start,
                bytes: piece.to_vec(),
            },
        );
        self.charged = charged;
        Some(index + 1)
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let chunk = self.chunks.pop_front()?;
        let charge = (chunk.bytes.len() as u32).saturating_add(CHUNK_OVERHEAD);
        self.charged = self.charged.saturating_sub(charge);
        Some(chunk.bytes)
    }

    fn contains(&self, seq: Seq) -> bool {
        self.chunks
            .iter()
            .any(|c| c.start.at_or_before(seq) && seq.before(c.end()))
    }

    /// The run of touching chunks that holds `seq`.
    fn run_around(&self, seq: Seq) -> Option<(Seq, Seq)> {
        let mut run: Option<(Seq, Seq)> = None;
        for chunk in &self.chunks {
            run = match run {
                Some((left, right)) if right == chunk.start => Some((left, chunk.end())),
                Some((left, right)) if left.at_or_before(seq) && seq.before(right) => break,
                _ => Some((chunk.start, chunk.end())),
            };
        }
        run.filter(|&(left, right)| left.at_or_before(seq) && seq.before(right))
    }

    fn note_recent(&mut self, seq: Seq) {
        // An older mark in the same run would be told twice: it gives its place.
        let run = self.run_around(seq);
        let same_run = |mark: &Option<Seq>| mark.is_some_and(|m| self.run_around(m) == run);
        let place = self.recent.iter().position(same_run).unwrap_or(RECENT - 1);
        self.recent[..=place].rotate_right(1);
        self.recent[0] = Some(seq);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use proptest::prelude::*;

    use super::*;

    const ROOMY: u32 = 1 << 20;

    fn blocks(store: &Reassembly, received: u32, max: usize) -> Vec<(u32, u32)> {
        let blocks = store.sack_blocks(Seq(received), max);
        blocks.as_slice().iter().map(|&(l, r)| (l.0, r.0)).collect()
    }

    #[test]
    fn the_run_that_changed_last_comes_first() {
        // RFC 2018 §4.
        let mut store = Reassembly::new();
        store.insert(Seq(100), &[1; 10], ROOMY);
        store.insert(Seq(200), &[2; 10], ROOMY);
        store.insert(Seq(300), &[3; 10], ROOMY);
        assert_eq!(blocks(&store, 0, 4), [(300, 310), (200, 210), (100, 110)]);
        store.insert(Seq(110), &[1; 10], ROOMY);
        assert_eq!(blocks(&store, 0, 4), [(100, 120), (300, 310), (200, 210)]);
        assert_eq!(blocks(&store, 0, 2), [(100, 120), (300, 310)]);
    }

    #[test]
    fn a_segment_over_several_gaps_fills_them_all() {
        let mut store = Reassembly::new();
        store.insert(Seq(10), &[1; 5], ROOMY);
        store.insert(Seq(20), &[2; 5], ROOMY);
        assert!(store.insert(Seq(5), &[9; 30], ROOMY));
        assert_eq!(store.run_end(Seq(5)), Seq(35));
        let mut all = Vec::new();
        while let Some(bytes) = store.take(Seq(35)) {
            all.extend(bytes);
        }
        assert_eq!(
            all,
            [vec![9; 5], vec![1; 5], vec![9; 5], vec![2; 5], vec![9; 10]].concat()
        );
        assert!(store.is_empty());
        assert_eq!(store.charged, 0);
    }

    #[test]
    fn memory_is_bounded_in_bytes_and_in_chunks() {
        let mut store = Reassembly::new();
        assert!(!store.insert(Seq(10), &[0; 100], 100));
        assert!(store.is_empty());
        for i in 0..CHUNKS_MAX as u32 {
            assert!(store.insert(Seq(10 + 2 * i), &[0], ROOMY));
        }
        assert!(!store.insert(Seq(9_000), &[0], ROOMY));
        // What continues a chunk needs no new one.
        assert!(store.insert(Seq(10 + 2 * CHUNKS_MAX as u32 - 1), &[0], ROOMY));
    }

    #[test]
    fn a_duplicate_is_kept_once() {
        let mut store = Reassembly::new();
        store.insert(Seq(10), &[1; 10], ROOMY);
        let charged = store.charged;
        assert!(store.insert(Seq(12), &[7; 5], ROOMY));
        assert_eq!(store.charged, charged);
        assert_eq!(store.take(Seq(20)), Some(vec![1; 10]));
    }

    proptest! {
        /// Whatever order pieces of a stream come in, what leaves is the stream.
        #[test]
        fn what_leaves_is_the_stream(
            base in any::<u32>(),
            pieces in prop::collection::vec((1usize..500, 1usize..120), 1..60),
        ) {
            let stream: Vec<u8> = (0..700).map(|i| (i * 7 % 251) as u8).collect();
            let origin = Seq(base);
            let mut store = Reassembly::new();
            for &(start, len) in &pieces {
                prop_assert!(store.insert(origin + start as u32, &stream[start..start + len], ROOMY));
            }
            let blocks = store.sack_blocks(origin, 4);
            for &(left, right) in blocks.as_slice() {
                prop_assert!(left.before(right));
            }
            while let Some(first) = store.first() {
                let end = store.run_end(first);
                let mut at = first;
                while let Some(bytes) = store.take(end) {
                    let offset = at.since(origin) as usize;
                    prop_assert_eq!(&bytes[..], &stream[offset..offset + bytes.len()]);
                    at += bytes.len() as u32;
                }
                prop_assert_eq!(at, end);
            }
            prop_assert_eq!(store.charged, 0);
        }
    }
}
