//! The receiving side: which segments are acceptable, what of them is new, what window is offered,
//! and when an ACK is due.
//!
//! `nxt` is the next byte wanted, `edge` the right edge of the window as far as it was ever offered;
//! everything up to it is taken, and it never moves left. `room` is how much the engine takes now,
//! counted from `nxt`; it shrinks with every byte delivered until the engine says anew. The window
//! field counts in units of the shift, rounded down, so that the guest may see the edge up to one
//! unit to the left of `edge` (RFC 7323 §2.4).
//!
//! ACKs: a second full segment, a gap, the filling of a gap, or a window that opened by much makes
//! one due at once, at most one for all segments of a batch. A lone segment waits for `delayed_ack`,
//! and so does the FIN of a guest that ends first: mostly the host's answer, or its own FIN, takes the
//! ACK along. But a lone segment that follows a run of them is no question of someone who waits for an
//! answer: as likely the ACK of the run was lost, and this is the probe of a guest that stands still
//! until it is answered (RFC 8985 §7).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem;
use core::ops::Range;
use core::time::Duration;

use super::config::Config;
use super::reassembly::Reassembly;
use super::segment::SackBlocks;
use super::seq::SequenceNumber as Seq;
use super::verdict::Dropped;
use crate::time::Instant;

/// Duplicate ACKs that wait at most; three are what a sender without SACK needs to see.
const DUPLICATES_MAX: u8 = 3;
/// A full segment until one was seen, in bytes.
const FULL_SEGMENT_DEFAULT: u16 = 536;
/// After this much silence the guest's clock may have wrapped (RFC 7323 §5.5).
const TIMESTAMP_VALID: Duration = Duration::from_secs(24 * 24 * 3600);

/// What became of a segment's payload and FIN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) deliver: Range<u32>,
    pub(super) reassembled: bool,
    /// The FIN is reached: all bytes before it are delivered.
    pub(super) finished: bool,
    pub(super) dropped: Option<Dropped>,
}

/// The receiving side of one connection.
#[derive(Debug)]
pub(super) struct Receiver {
    /// RCV.NXT.
    pub(super) nxt: Seq,
    edge: Seq,
    room: u32,
    /// Last.ACK.sent of RFC 7323 §4.3.
    last_ack: Seq,
    /// TS.Recent of RFC 7323 §4.3, and when it was taken.
    ts_recent: u32,
    ts_recent_at: Instant,
    /// Payload bytes, and the FIN, received in order since the last ACK was sent.
    unacked: u32,
    /// The last ACK was for more than two full segments.
    after_run: bool,
    /// The largest payload seen, up to the MSS: what counts as a full segment.
    full_segment: u16,
    /// Duplicate ACKs that are due.
    duplicates: u8,
    /// An ACK is due.
    pub(super) ack_now: bool,
    /// A gap opened, grew or closed since the last ACK was sent.
    disturbed: bool,
    /// Where the guest's FIN is, once seen.
    fin_at: Option<Seq>,
    /// Bytes that came again, to be told in the next ACK (RFC 2883).
    duplicate: Option<(Seq, Seq)>,
    store: Option<Box<Reassembly>>,
}

impl Receiver {
    /// `nxt` is the sequence number after the guest's SYN; anything before it is seen.
    pub(super) fn new(nxt: Seq, config: &Config) -> Self {
        Self {
            nxt,
            edge: nxt,
            room: config.window_max,
            last_ack: nxt,
            ts_recent: 0,
            ts_recent_at: Instant::ZERO,
            unacked: 0,
            after_run: false,
            full_segment: FULL_SEGMENT_DEFAULT,
            duplicates: 0,
            ack_now: false,
            disturbed: false,
            fin_at: None,
            duplicate: None,
            store: None,
        }
    }

    /// The guest's SYN came, as answer to ours, which offered [`syn_window`](Self::syn_window), or in
    /// the place of an earlier one.
    pub(super) fn synchronize(&mut self, nxt: Seq, config: &Config) {
        self.nxt = nxt;
        self.last_ack = nxt;
        self.edge = nxt;
        self.syn_window(config);
    }

    // Window

    pub(super) fn set_room(&mut self, bytes: u32) {
        self.room = bytes;
    }

    /// The window field of a SYN or SYN-ACK, which is never scaled (RFC 7323 §2.2). One that is
    /// sent again offers no less than before (RFC 9293 §3.8.6).
    pub(super) fn syn_window(&mut self, config: &Config) -> u16 {
        let room = self.room.min(config.window_max);
        let window = room.max(self.offered()).min(u32::from(u16::MAX));
        self.edge = self.edge.max(self.nxt + window);
        window as u16
    }

    /// Bytes between `nxt` and the edge.
    pub(super) fn offered(&self) -> u32 {
        self.edge.since(self.nxt)
    }

    /// The window field of the segment that is about to be sent; the edge moves accordingly.
    pub(super) fn window(&mut self, config: &Config, scale: u8) -> u16 {
        let offered = self.offered();
        let room = self.room_max(config, scale);
        // Silly window avoidance (RFC 9293 §3.8.6.2.2): the edge moves by much or not at all.
        let step = u32::from(config.mss).min(config.window_max / 2);
        let window = if room >= offered.saturating_add(step) {
            room
        } else {
            offered
        };
        let field = (window >> scale).min(u32::from(u16::MAX));
        self.edge = self.edge.max(self.nxt + (field << scale));
        field as u16
    }

    /// Whether the window opened so far that the guest must be told. While more than half of the
    /// room is on offer, the guest has enough to send that an ACK will follow, and that one tells.
    pub(super) fn is_update_due(&self, config: &Config, scale: u8) -> bool {
        let offered = self.offered();
        let room = self.room_max(config, scale);
        let step = (2 * u32::from(config.mss))
            .min(config.window_max / 2)
            .max(1);
        room >= offered.saturating_add(step) && offered <= room / 2 && self.fin_at.is_none()
    }

    fn room_max(&self, config: &Config, scale: u8) -> u32 {
        self.room
            .min(config.window_max)
            .min(u32::from(u16::MAX) << scale)
    }

    // Timestamps

    /// The echo of what we send (TSecr).
    pub(super) fn ts_recent(&self) -> u32 {
        self.ts_recent
    }

    /// Takes the SYN's timestamp.
    pub(super) fn start_timestamps(&mut self, now: Instant, value: u32) {
        self.ts_recent = value;
        self.ts_recent_at = now;
    }

    /// PAWS (RFC 7323 §5.3 R1): whether a segment with this timestamp may be taken.
    pub(super) fn is_fresh(&self, now: Instant, value: u32) -> bool {
        !Seq(value).before(Seq(self.ts_recent)) || now.since(self.ts_recent_at) > TIMESTAMP_VALID
    }

    /// Remembers the timestamp to echo (RFC 7323 §4.3 step 2): only of a segment that covers what
    /// the last ACK asked for, so that a delayed ACK echoes the oldest.
    pub(super) fn note_timestamp(&mut self, now: Instant, value: u32, sequence: Seq) {
        if sequence.at_or_before(self.last_ack) && self.is_fresh(now, value) {
            self.start_timestamps(now, value);
        }
    }

    // Segments

    /// The acceptability test (RFC 9293 §3.10.7.4), two points more lenient: a segment without
    /// payload may lie on the right edge, since that is where a sender is that filled the window;
    /// and one with payload at `nxt` is acceptable to a zero window, where its payload is cut but
    /// its ACK counts. `len` counts the payload and a FIN.
    pub(super) fn is_acceptable(&self, sequence: Seq, len: u32) -> bool {
        if len == 0 {
            return self.nxt.at_or_before(sequence) && sequence.at_or_before(self.edge);
        }
        let starts_before_edge = sequence.before(self.edge) || sequence == self.nxt;
        starts_before_edge && self.nxt.before(sequence + len)
    }

    /// Whether a segment of `len` bytes at `sequence` takes the fast path: in order, within the
    /// window, and nothing kept that it must be put together with.
    pub(super) fn is_simple(&self, sequence: Seq, len: usize) -> bool {
        sequence == self.nxt
            && self.store.is_none()
            && self.fin_at.is_none()
            && len <= self.offered() as usize
    }

    /// Takes `len` bytes in order.
    pub(super) fn take_simple(&mut self, len: u32, full_max: u16) {
        self.nxt += len;
        self.room = self.room.saturating_sub(len);
        self.note_bytes(len, full_max);
    }

    /// Takes the payload and FIN of an acceptable segment. `full_max` is the payload of a full
    /// segment of the guest.
    pub(super) fn take(
        &mut self,
        config: &Config,
        sequence: Seq,
        payload: &[u8],
        fin: bool,
        full_max: u16,
    ) -> Taken {
        // What was not taken in time would now come after what follows it.
        while self.take_reassembled().is_some() {}
        let mut taken = Taken::default();
        let mut end = sequence + payload.len() as u32;
        let mut fin = fin;
        if let Some(fin_at) = self.fin_at
            && fin_at.before(end)
        {
            end = fin_at;
            taken.dropped = Some(Dropped::AfterFin);
        }
        if self.edge.before(end) {
            // RFC 9293 §3.10.7.4: only what is in the window. The FIN, which needs no memory, is
            // taken on the edge.
            end = self.edge;
            fin = false;
            self.ack_now = true;
            taken.dropped = Some(Dropped::BeyondWindow);
        }
        if fin {
            self.note_fin(end);
        }
        let start = sequence.max(self.nxt);
        self.note_duplicate(sequence, start.min(end));
        if start.before(end) {
            if start == self.nxt {
                taken.deliver = start.since(sequence)..end.since(sequence);
                taken.reassembled = self.advance(end, full_max);
            } else {
                self.keep(config, start, end, sequence, payload, &mut taken);
            }
        } else if !payload.is_empty() && taken.dropped.is_none() {
            self.ack_now = true;
            taken.dropped = Some(Dropped::Duplicate);
        } else if fin && self.fin_at != Some(self.nxt) {
            // A FIN alone, ahead of bytes that are missing.
            self.note_gap();
        }
        if self.fin_at == Some(self.nxt) {
            self.fin_at = None;
            self.nxt += 1;
            self.edge = self.edge.max(self.nxt);
            self.unacked = self.unacked.saturating_add(1);
            taken.finished = true;
        }
        taken
    }

    /// Bytes of memory that what is kept takes.
    pub(super) fn out_of_order_bytes(&self) -> u32 {
        self.store.as_ref().map_or(0, |store| store.charged())
    }

    /// The next chunk of bytes that had been kept and are in order now.
    pub(super) fn take_reassembled(&mut self) -> Option<Vec<u8>> {
        let store = self.store.as_mut()?;
        let bytes = store.take(self.nxt);
        if store.is_empty() {
            self.store = None;
        }
        bytes
    }

    /// Moves `nxt` to `end`, and on over what was kept. Returns whether kept bytes follow `end`
    /// now.
    fn advance(&mut self, end: Seq, full_max: u16) -> bool {
        let before = self.nxt;
        self.nxt = end;
        let mut reassembled = false;
        if let Some(store) = &mut self.store {
            let duplicate = store.drop_before(end);
            if store.first() == Some(end) {
                self.nxt = store.run_end(end);
                reassembled = true;
            }
            if store.is_empty() {
                self.store = None;
            }
            if let Some((left, right)) = duplicate {
                self.note_duplicate(left, right);
            }
            // RFC 5681 §4.2: the filling of a gap is acknowledged at once.
            self.ack_now = true;
            self.disturbed = true;
        }
        let len = self.nxt.since(before);
        self.room = self.room.saturating_sub(len);
        self.note_bytes(len, full_max);
        reassembled
    }

    /// Keeps `start..end` of a segment that leaves a gap before it.
    fn keep(
        &mut self,
        config: &Config,
        start: Seq,
        end: Seq,
        sequence: Seq,
        payload: &[u8],
        taken: &mut Taken,
    ) {
        self.note_gap();
        let piece = &payload[start.since(sequence) as usize..end.since(sequence) as usize];
        let store = self
            .store
            .get_or_insert_with(|| Box::new(Reassembly::new()));
        let kept = store.insert(start, piece, config.out_of_order_max);
        if store.is_empty() {
            self.store = None;
        }
        if !kept.complete {
            taken.dropped = Some(Dropped::OutOfOrderFull);
        } else if kept.duplicate == Some((start, end)) {
            taken.dropped = Some(Dropped::Duplicate);
        }
        if let Some((left, right)) = kept.duplicate {
            self.note_duplicate(left, right);
        }
    }

    fn note_fin(&mut self, at: Seq) {
        let beyond = self
            .store
            .as_ref()
            .is_some_and(|store| store.ends_after(at));
        // A FIN that contradicts what was seen is ignored.
        if self.fin_at.is_none() && !at.before(self.nxt) && !beyond {
            self.fin_at = Some(at);
        }
    }

    // ACKs

    /// `left..right` was received before and came again (RFC 2883 §4). One ACK answers a whole
    /// batch and has place for one range: what continues the last one extends it, else the later
    /// is told, at once.
    pub(super) fn note_duplicate(&mut self, left: Seq, right: Seq) {
        if !left.before(right) {
            return;
        }
        self.ack_now = true;
        self.duplicate = match self.duplicate {
            Some((first, last)) if last == left => Some((first, right)),
            _ => Some((left, right)),
        };
    }

    /// RFC 5681 §4.2: a segment out of order is acknowledged at once.
    fn note_gap(&mut self) {
        self.duplicates = (self.duplicates + 1).min(DUPLICATES_MAX);
        self.disturbed = true;
    }

    fn note_bytes(&mut self, len: u32, full_max: u16) {
        let full = len.min(u32::from(full_max)) as u16;
        self.full_segment = self.full_segment.max(full).min(full_max.max(1));
        self.unacked = self.unacked.saturating_add(len);
        // RFC 9293 §3.8.6.3: at least every second full-sized segment.
        if self.after_run || self.unacked >= 2 * u32::from(self.full_segment) {
            self.ack_now = true;
        }
    }

    /// Whether received bytes wait for an ACK that is not due yet.
    pub(super) fn is_ack_delayed(&self) -> bool {
        self.unacked > 0 && !self.is_ack_due()
    }

    /// Whether an ACK is due, with data or without.
    pub(super) fn is_ack_due(&self) -> bool {
        self.ack_now || self.duplicates > 0
    }

    /// A segment with the present `nxt` as ACK is being sent. With SACK one ACK tells of all gaps;
    /// without, each duplicate counts, and only if it carries no data. Returns whether the guest may
    /// wait for this very ACK, because nothing more will come of it.
    pub(super) fn note_ack_sent(&mut self, with_data: bool, sack: bool) -> bool {
        if sack {
            self.duplicates = 0;
        } else if !with_data && self.last_ack == self.nxt {
            self.duplicates = self.duplicates.saturating_sub(1);
        }
        self.last_ack = self.nxt;
        self.after_run = self.unacked > 2 * u32::from(self.full_segment);
        self.unacked = 0;
        self.ack_now = false;
        self.duplicate = None;
        mem::take(&mut self.disturbed) || self.after_run
    }

    /// The SACK blocks of the segment that is about to be sent; mostly none.
    #[inline]
    pub(super) fn sack_blocks(&self, blocks_max: usize) -> SackBlocks {
        if self.store.is_none() && self.duplicate.is_none() {
            return SackBlocks::NONE;
        }
        self.blocks_to_tell(blocks_max)
    }

    /// First what came twice (RFC 2883 §4), once; then what is kept, of which the run around it comes
    /// first by itself, since it changed last.
    #[inline(never)]
    fn blocks_to_tell(&self, blocks_max: usize) -> SackBlocks {
        let mut blocks = SackBlocks::NONE;
        if blocks_max == 0 {
            return blocks;
        }
        if let Some((left, right)) = self.duplicate {
            blocks.push(left, right);
        }
        if let Some(store) = &self.store {
            store.add_sack_blocks(&mut blocks, self.nxt, blocks_max);
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use proptest::prelude::*;

    use super::*;

    const FULL: u16 = 100;

    fn config() -> Config {
        Config {
            mss: 100,
            window_max: 1000,
            ..Config::default()
        }
    }

    /// A receiver at sequence number 1000 that offers 1000 bytes.
    fn receiver() -> Receiver {
        let mut receiver = Receiver::new(Seq(1000), &config());
        receiver.window(&config(), 0);
        receiver
    }

    fn take(receiver: &mut Receiver, sequence: u32, payload: &[u8], fin: bool) -> Taken {
        receiver.take(&config(), Seq(sequence), payload, fin, FULL)
    }

    #[test]
    fn acceptability_follows_the_table() {
        // RFC 9293 §3.10.7.4.
        let mut r = receiver();
        assert!(r.is_acceptable(Seq(1000), 0));
        assert!(r.is_acceptable(Seq(1999), 1));
        assert!(r.is_acceptable(Seq(2000), 0));
        assert!(!r.is_acceptable(Seq(2000), 1));
        assert!(!r.is_acceptable(Seq(999), 0));
        assert!(!r.is_acceptable(Seq(999), 1));
        assert!(r.is_acceptable(Seq(999), 2));
        r.edge = r.nxt;
        assert!(r.is_acceptable(Seq(1000), 0));
        assert!(r.is_acceptable(Seq(1000), 5));
        assert!(!r.is_acceptable(Seq(1001), 0));
    }

    #[test]
    fn a_syn_ack_that_is_sent_again_offers_no_less() {
        let config = Config::default();
        let mut receiver = Receiver::new(Seq(1), &config);
        assert_eq!(receiver.syn_window(&config), u16::MAX);
        receiver.set_room(1000);
        assert_eq!(receiver.syn_window(&config), u16::MAX);
    }

    #[test]
    fn old_bytes_are_trimmed_and_duplicates_told() {
        let mut r = receiver();
        assert_eq!(take(&mut r, 1000, &[0; 50], false).deliver, 0..50);
        assert_eq!(take(&mut r, 1020, &[0; 50], false).deliver, 30..50);
        let again = take(&mut r, 1000, &[0; 70], false);
        assert_eq!(again.dropped, Some(Dropped::Duplicate));
        assert!(again.deliver.is_empty() && r.ack_now);
    }

    #[test]
    fn bytes_beyond_the_window_are_cut_with_their_fin() {
        let mut r = receiver();
        let taken = take(&mut r, 1000, &[0; 1200], true);
        assert_eq!((taken.deliver, taken.finished), (0..1000, false));
        assert_eq!(taken.dropped, Some(Dropped::BeyondWindow));
        // A FIN on the edge needs no memory.
        assert!(take(&mut r, 2000, &[], true).finished);
        assert_eq!(r.nxt, Seq(2001));
        assert_eq!(r.offered(), 0);
    }

    #[test]
    fn a_gap_is_filled_and_the_fin_waits_for_it() {
        let mut r = receiver();
        let taken = take(&mut r, 1100, &[2; 100], true);
        assert_eq!(taken, Taken::default());
        assert_eq!(r.sack_blocks(4).as_slice(), &[(Seq(1100), Seq(1200))]);
        // The segment that fills the gap overlaps what is kept, and is delivered whole.
        let taken = take(&mut r, 1000, &[1; 150], false);
        assert_eq!(taken.deliver, 0..150);
        assert!(taken.reassembled && taken.finished);
        assert_eq!(r.take_reassembled(), Some(vec![2; 50]));
        assert_eq!(r.take_reassembled(), None);
        assert!(r.store.is_none());
        assert_eq!(r.nxt, Seq(1201));
    }

    #[test]
    fn a_segment_that_covers_what_is_kept_replaces_it() {
        let mut r = receiver();
        take(&mut r, 1100, &[2; 50], false);
        let taken = take(&mut r, 1000, &[1; 200], false);
        assert_eq!((taken.deliver, taken.reassembled), (0..200, false));
        assert!(r.store.is_none());
    }

    #[test]
    fn a_fin_before_bytes_that_were_seen_is_ignored() {
        let mut r = receiver();
        take(&mut r, 1100, &[2; 100], false);
        take(&mut r, 1050, &[], true);
        let taken = take(&mut r, 1000, &[1; 100], false);
        assert!(taken.reassembled && !taken.finished);
        assert_eq!(r.nxt, Seq(1200));
    }

    #[test]
    fn the_edge_never_moves_left() {
        let mut r = receiver();
        r.set_room(0);
        assert_eq!(r.window(&config(), 0), 1000);
        take(&mut r, 1000, &[0; 300], false);
        assert_eq!(r.window(&config(), 0), 700);
        assert_eq!(r.edge, Seq(2000));
        // Rounded down in the field, but what was offered is still taken (RFC 7323 §2.4).
        assert_eq!(r.window(&config(), 8), 2);
        assert_eq!(r.offered(), 700);
    }

    #[test]
    fn the_window_opens_by_a_segment_or_not_at_all() {
        // RFC 9293 §3.8.6.2.2.
        let mut r = receiver();
        take(&mut r, 1000, &[0; 1000], false);
        r.set_room(99);
        assert_eq!(r.window(&config(), 0), 0);
        assert!(!r.is_update_due(&config(), 0));
        r.set_room(100);
        assert!(!r.is_update_due(&config(), 0));
        assert_eq!(r.window(&config(), 0), 100);
        r.set_room(300);
        assert!(r.is_update_due(&config(), 0));
        r.set_room(150);
        assert!(!r.is_update_due(&config(), 0));
    }

    #[test]
    fn every_second_full_segment_is_acknowledged() {
        // RFC 9293 §3.8.6.3.
        let mut r = receiver();
        r.full_segment = 1;
        take(&mut r, 1000, &[0; 100], false);
        r.note_ack_sent(false, true);
        take(&mut r, 1100, &[0; 100], false);
        assert!(r.is_ack_delayed());
        take(&mut r, 1200, &[0; 100], false);
        assert!(r.is_ack_due());
        r.note_ack_sent(false, true);
        // One super-frame of two segments.
        take(&mut r, 1300, &[0; 200], false);
        assert!(r.is_ack_due());
    }

    #[test]
    fn a_lone_segment_after_a_run_is_acknowledged_at_once() {
        let mut r = receiver();
        r.full_segment = 1;
        take(&mut r, 1000, &[0; 300], false);
        r.note_ack_sent(false, true);
        take(&mut r, 1300, &[0; 100], false);
        assert!(r.is_ack_due(), "the ACK of the run may have been lost");
        r.note_ack_sent(false, true);
        take(&mut r, 1400, &[0; 100], false);
        assert!(r.is_ack_delayed(), "after a lone one it may wait again");
    }

    #[test]
    fn without_sack_up_to_three_duplicates_are_sent() {
        let mut r = receiver();
        for i in 0..5 {
            take(&mut r, 1100 + 10 * i, &[0; 10], false);
        }
        for _ in 0..3 {
            assert!(r.is_ack_due());
            r.note_ack_sent(false, false);
        }
        assert!(!r.is_ack_due());
    }

    #[test]
    fn timestamps_echo_the_oldest_unacknowledged_and_reject_older() {
        // RFC 7323 §4.3 and §5.3.
        let mut r = receiver();
        let now = Instant::from_nanos(1);
        r.start_timestamps(now, 50);
        r.note_timestamp(now, 60, Seq(1000));
        take(&mut r, 1000, &[0; 10], false);
        r.note_timestamp(now, 70, Seq(1010));
        assert_eq!(r.ts_recent(), 60);
        assert!(!r.is_fresh(now, 59));
        assert!(r.is_fresh(now, 60));
        assert!(r.is_fresh(now + TIMESTAMP_VALID + Duration::from_secs(1), 59));
    }

    /// Where the model's stream ends, from the receiver's first sequence number.
    const STREAM: usize = 900;

    proptest! {
        /// Against one byte at a time: whatever comes, each byte is delivered once, in order, the
        /// copy that the rules of the store say; and the FIN after the last.
        #[test]
        fn delivers_what_a_list_of_bytes_would(
            base in any::<u32>(),
            segments in prop::collection::vec((0usize..STREAM, 0usize..120, any::<u8>()), 1..80),
            near in prop::collection::vec(any::<bool>(), 80),
            rooms in prop::collection::vec(0u32..1500, 80),
        ) {
            let config = config();
            let mut r = Receiver::new(Seq(base), &config);
            r.window(&config, 0);
            let mut kept = [None; STREAM];
            let mut received = 0;
            let mut finished = false;
            for (i, &(start, len, value)) in segments.iter().enumerate() {
                r.set_room(rooms[i]);
                r.window(&config, 0);
                let start = if near[i] { received.min(start) } else { start };
                let end = (start + len).min(STREAM);
                let fin = end == STREAM;
                let edge = r.edge.since(Seq(base)) as usize;
                let sequence = Seq(base) + start as u32;
                let total = (end - start) as u32 + u32::from(fin);
                if total == 0 || finished || !r.is_acceptable(sequence, total) {
                    continue;
                }
                let taken = r.take(&config, sequence, &vec![value; end - start], fin, FULL);
                let mut got = vec![value; taken.deliver.len()];
                while let Some(bytes) = r.take_reassembled() {
                    prop_assert!(taken.reassembled);
                    got.extend(bytes);
                }

                let mut expected = Vec::new();
                let to = end.min(edge);
                if start <= received {
                    expected.extend((received..to).map(|_| value));
                    received = received.max(to);
                    while let Some(&Some(byte)) = kept.get(received) {
                        expected.push(byte);
                        received += 1;
                    }
                } else {
                    for byte in kept.iter_mut().take(to).skip(start) {
                        byte.get_or_insert(value);
                    }
                }
                prop_assert_eq!(got, expected);
                finished = taken.finished;
                let next = Seq(base) + received as u32 + u32::from(finished);
                prop_assert_eq!(r.nxt, next);
                prop_assert!(r.nxt.at_or_before(r.edge));
            }
            prop_assert!(!finished || received == STREAM);
        }
    }
}
