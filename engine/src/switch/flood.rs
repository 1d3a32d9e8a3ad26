//! How much of one port is copied to all others.

use std::time::Duration;

use towpath_stack::Instant;

/// Flooded frames of one port per second in the long run. A guest that looks for its neighbours
/// sends a few; a download by multicast or to a station that nobody has heard is bounded to
/// 12 Mbit/s, times the number of ports.
const FRAMES_PER_S: u64 = 1_000;
/// Frames that may come at once: what a machine that boots announces and asks for.
const BURST: u64 = 256;
/// Bytes that count as one frame; longer frames count as several.
const FRAME_BYTES: usize = 1_514;

/// Nanoseconds that one frame takes of the limit.
const INTERVAL_NS: u64 = Duration::from_secs(1).as_nanos() as u64 / FRAMES_PER_S;

/// A token bucket, kept as the time at which it would be full again.
#[derive(Debug, Default)]
pub(crate) struct FloodLimit {
    full_at: Instant,
}

impl FloodLimit {
    /// Whether a frame of so many bytes may be sent to all ports now.
    pub(crate) fn permits(&mut self, now: Instant, frame_bytes: usize) -> bool {
        let cost = frame_bytes.div_ceil(FRAME_BYTES).max(1) as u64;
        let full_at = self
            .full_at
            .max(now)
            .after_nanos(cost.saturating_mul(INTERVAL_NS));
        let permitted = full_at.since(now) <= Duration::from_nanos(BURST * INTERVAL_NS);
        if permitted {
            self.full_at = full_at;
        }
        permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at_ms(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    /// How many of `tries` frames pass at one moment.
    fn passed(limit: &mut FloodLimit, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| limit.permits(now, 60)).count()
    }

    #[test]
    fn a_burst_passes_and_then_one_frame_each_millisecond() {
        let mut limit = FloodLimit::default();
        assert_eq!(passed(&mut limit, at_ms(5), 1_000), 256);
        assert_eq!(passed(&mut limit, at_ms(5), 1), 0);
        assert_eq!(passed(&mut limit, at_ms(6), 5), 1);
        assert_eq!(passed(&mut limit, at_ms(106), 500), 100);
        assert_eq!(passed(&mut limit, at_ms(100_000), 1_000), 256, "no more");
    }

    #[test]
    fn long_frames_count_as_what_they_are_cut_into() {
        let mut limit = FloodLimit::default();
        assert!(limit.permits(at_ms(1), 1_514));
        assert!(limit.permits(at_ms(1), 1_515));
        assert_eq!(passed(&mut limit, at_ms(1), 1_000), 256 - 3);
        let mut limit = FloodLimit::default();
        let whole = (0..100).filter(|_| limit.permits(at_ms(1), 65_553)).count();
        assert_eq!(whole, 256 / 44);
    }

    proptest! {
        /// Against a bucket that counts tokens in nanoseconds.
        #[test]
        fn as_a_plain_bucket(
            steps in prop::collection::vec((0_u64..3_000_000, 0_usize..5_000), 1..600),
        ) {
            let mut limit = FloodLimit::default();
            let full = BURST * INTERVAL_NS;
            let (mut tokens, mut now) = (full, Instant::ZERO);
            for (after, bytes) in steps {
                now = now.after_nanos(after);
                tokens = full.min(tokens + after);
                let cost = bytes.div_ceil(FRAME_BYTES).max(1) as u64 * INTERVAL_NS;
                let expected = tokens >= cost;
                if expected {
                    tokens -= cost;
                }
                prop_assert_eq!(limit.permits(now, bytes), expected);
            }
        }
    }
}
