//! Bytes that came out of order, copied and bounded, until the gap before them is filled.
//!
//! `chunks` is sorted by sequence number and never overlaps. Segments are cut to the gaps between
//! chunks when they are added, so no byte is kept twice; one that continues a chunk is appended to
//! it. When the gap closes, chunks leave from the front.
//!
//! **Overlaps.** Of bytes that come twice, the copy that is kept first stays, until a segment
//! closes the gap before it: that one is delivered as it came, from its own buffer, and what it
//! covers of the store is dropped. An honest guest sends the same bytes each time.
//!
//! **Bounds.** At most `out_of_order_max` bytes, each chunk counted with an overhead so that a guest
//! that sends single bytes gains nothing, and at most [`CHUNKS_MAX`] chunks. Appending may leave a
//! vector's capacity at up to twice its length. A place is found by bisection; what is linear in
//! the number of chunks is only moving the [`Chunk`]s behind one that is put in between.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::segment::SackBlocks;
use super::seq::SequenceNumber as Seq;

/// Chunks kept. Every second segment of a window of 512 segments may be missing.
const CHUNKS_MAX: usize = 256;
/// Bytes that a chunk counts besides its own: its place in the list, and the least that a heap
/// gives.
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

const _: () = assert!(size_of::<Chunk>() <= CHUNK_OVERHEAD as usize / 2);

/// What became of a piece that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Whether all of it is in the store now; what finds no room is refused.
    pub(super) complete: bool,
    /// The first part of it that was in the store already, if any.
    pub(super) duplicate: Option<(Seq, Seq)>,
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

    /// Keeps what is new of `payload`, which starts at `start`.
    pub(super) fn insert(&mut self, start: Seq, payload: &[u8], bytes_max: u32) -> Kept {
        let end = start + payload.len() as u32;
        let mut kept = Kept {
            complete: true,
            duplicate: None,
        };
        let mut at = start;
        let mut index = self.ending_after(start);
        while at.before(end) {
            let next = self.chunks.get(index).map(|c| (c.start, c.end()));
            let gap_end = match next {
                Some((next_start, next_end)) if next_start.at_or_before(at) => {
                    let known_end = next_end.min(end);
                    match &mut kept.duplicate {
                        Some((_, right)) if *right == at => *right = known_end,
                        Some(_) => {}
                        none => *none = Some((at, known_end)),
                    }
                    at = known_end;
                    index += 1;
                    continue;
                }
                Some((next_start, _)) => next_start.min(end),
                None => end,
            };
            let piece = &payload[at.since(start) as usize..gap_end.since(start) as usize];
            match self.keep(index, at, piece, bytes_max) {
                Some(next_index) => index = next_index,
                None => kept.complete = false,
            }
            at = gap_end;
        }
        self.note_recent(start);
        kept
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

    /// Forgets what lies before `end`: it is delivered from a segment. Returns what of it was kept
    /// first, up to where it is interrupted.
    pub(super) fn drop_before(&mut self, end: Seq) -> Option<(Seq, Seq)> {
        let first = self.first().filter(|first| first.before(end))?;
        let duplicate = (first, self.run_end(first).min(end));
        while let Some(chunk) = self.chunks.front_mut()
            && chunk.start.before(end)
        {
            let covered = end.min(chunk.end()).since(chunk.start);
            if covered as usize == chunk.bytes.len() {
                self.pop();
            } else {
                chunk.bytes.drain(..covered as usize);
                chunk.start = end;
                self.charged -= covered;
            }
        }
        Some(duplicate)
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

    /// The runs after `received` for the SACK option, behind those that `blocks` has, up to
    /// `blocks_max` in all: the one that changed last first, then those before it (RFC 2018 §4).
    pub(super) fn add_sack_blocks(
        &self,
        blocks: &mut SackBlocks,
        received: Seq,
        blocks_max: usize,
    ) {
        let told = blocks.as_slice().len();
        for seq in self.recent.iter().flatten() {
            let Some((left, right)) = self.run_around(*seq) else {
                continue;
            };
            if blocks.as_slice().len() < blocks_max
                && received.before(left)
                && !blocks.as_slice()[told..].contains(&(left, right))
            {
                blocks.push(left, right);
            }
        }
    }

    /// The index of the first chunk that ends after `seq`.
    fn ending_after(&self, seq: Seq) -> usize {
        // What follows the last chunk is what comes most often.
        match self.chunks.back() {
            Some(last) if last.end().at_or_before(seq) => self.chunks.len(),
            Some(last) if last.start.at_or_before(seq) => self.chunks.len() - 1,
            _ => self.chunks.partition_point(|c| c.end().at_or_before(seq)),
        }
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

    /// The run of touching chunks that holds `seq`.
    fn run_around(&self, seq: Seq) -> Option<(Seq, Seq)> {
        let index = self.ending_after(seq);
        let chunk = self.chunks.get(index)?;
        if chunk.start.after(seq) {
            return None;
        }
        let (mut left, mut right) = (chunk.start, chunk.end());
        for chunk in self.chunks.range(..index).rev() {
            if chunk.end() != left {
                break;
            }
            left = chunk.start;
        }
        for chunk in self.chunks.range(index + 1..) {
            if chunk.start != right {
                break;
            }
            right = chunk.end();
        }
        Some((left, right))
    }

    fn note_recent(&mut self, seq: Seq) {
        let Some((left, right)) = self.run_around(seq) else {
            return;
        };
        // An older mark in the same run would be told twice: it gives its place.
        let same_run =
            |mark: &Option<Seq>| mark.is_some_and(|m| left.at_or_before(m) && m.before(right));
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
        let mut blocks = SackBlocks::NONE;
        store.add_sack_blocks(&mut blocks, Seq(received), max);
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
        let kept = store.insert(Seq(5), &[9; 30], ROOMY);
        assert!(kept.complete);
        assert_eq!(kept.duplicate, Some((Seq(10), Seq(15))));
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
        assert!(!store.insert(Seq(10), &[0; 100], 100).complete);
        assert!(store.is_empty());
        for i in 0..CHUNKS_MAX as u32 {
            assert!(store.insert(Seq(10 + 2 * i), &[0], ROOMY).complete);
        }
        assert!(!store.insert(Seq(9_000), &[0], ROOMY).complete);
        // What continues a chunk needs no new one.
        let behind = Seq(10 + 2 * CHUNKS_MAX as u32 - 1);
        assert!(store.insert(behind, &[0], ROOMY).complete);
        // Single bytes count for what they cost.
        assert_eq!(store.charged, CHUNKS_MAX as u32 * (1 + CHUNK_OVERHEAD) + 1);
    }

    #[test]
    fn a_duplicate_is_kept_once() {
        let mut store = Reassembly::new();
        store.insert(Seq(10), &[1; 10], ROOMY);
        let charged = store.charged;
        let kept = store.insert(Seq(12), &[7; 5], ROOMY);
        assert!(kept.complete);
        assert_eq!(kept.duplicate, Some((Seq(12), Seq(17))));
        assert_eq!(store.charged, charged);
        assert_eq!(store.take(Seq(20)), Some(vec![1; 10]));
    }

    #[test]
    fn what_a_segment_covers_is_dropped_to_the_byte() {
        let mut store = Reassembly::new();
        store.insert(Seq(10), &[1; 5], ROOMY);
        store.insert(Seq(20), &[2; 10], ROOMY);
        assert_eq!(store.drop_before(Seq(10)), None);
        assert_eq!(store.drop_before(Seq(24)), Some((Seq(10), Seq(15))));
        assert_eq!(store.first(), Some(Seq(24)));
        assert_eq!(store.take(Seq(30)), Some(vec![2; 6]));
        assert_eq!(store.charged, 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A piece comes, of which each byte has this value.
        Piece { start: u8, len: u8, value: u8 },
        /// What lies before is delivered, and what follows it without a gap as well.
        Advance(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1u8..200, 1u8..50, any::<u8>())
                .prop_map(|(start, len, value)| Step::Piece { start, len, value }),
            1 => (0u8..100).prop_map(Step::Advance),
        ]
    }

    proptest! {
        /// Against a list of single bytes of which the first copy stays.
        #[test]
        fn behaves_like_a_list_of_bytes(
            base in any::<u32>(),
            steps in prop::collection::vec(step(), 1..60),
            bytes_max in prop_oneof![Just(ROOMY), 100u32..2_000],
        ) {
            let origin = Seq(base);
            let mut store = Reassembly::new();
            let mut model = [None; 600];
            let mut received = 0;
            for step in steps {
                match step {
                    Step::Piece { start, len, value } => {
                        let (from, len) = (received + usize::from(start), usize::from(len));
                        let to = (from + len).min(model.len());
                        if from >= to {
                            continue;
                        }
                        let piece = vec![value; to - from];
                        let at = origin + from as u32;
                        let kept = store.insert(at, &piece, bytes_max);
                        prop_assert!(kept.complete || bytes_max < ROOMY);
                        let known = (from..to).find(|&i| model[i].is_some()).map(|left| {
                            let right = (left..to).find(|&i| model[i].is_none()).unwrap_or(to);
                            (origin + left as u32, origin + right as u32)
                        });
                        prop_assert_eq!(kept.duplicate, known);
                        for (i, byte) in model.iter_mut().enumerate().take(to).skip(from) {
                            let held = store.run_around(origin + i as u32).is_some();
                            prop_assert!(held || !kept.complete && byte.is_none());
                            if held {
                                byte.get_or_insert(value);
                            }
                        }
                    }
                    Step::Advance(by) => {
                        let end = (received + usize::from(by)).min(model.len());
                        store.drop_before(origin + end as u32);
                        let run = (end..model.len())
                            .find(|&i| model[i].is_none())
                            .unwrap_or(model.len());
                        let run_end = store.run_end(origin + end as u32);
                        prop_assert_eq!(run_end, origin + run as u32);
                        let mut taken = Vec::new();
                        while let Some(bytes) = store.take(run_end) {
                            taken.extend(bytes);
                        }
                        let expected: Vec<u8> = model[end..run].iter().flatten().copied().collect();
                        prop_assert_eq!(taken, expected);
                        model[..run].fill(None);
                        received = run;
                    }
                }
                prop_assert!(store.charged <= bytes_max && store.chunks.len() <= CHUNKS_MAX);
                let bytes: usize = store.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
                prop_assert_eq!(bytes, model.iter().flatten().count());
                let cost = bytes as u32 + store.chunks.len() as u32 * CHUNK_OVERHEAD;
                prop_assert_eq!(store.charged, cost);
                for &(left, right) in blocks(&store, base, 4).iter() {
                    let (left, right) = (left.wrapping_sub(base), right.wrapping_sub(base));
                    prop_assert!(model[left as usize..right as usize].iter().all(Option::is_some));
                    prop_assert!(model.get(right as usize).is_none_or(Option::is_none));
                }
            }
        }
    }
}
