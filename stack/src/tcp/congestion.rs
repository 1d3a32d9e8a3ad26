//! Congestion control: how many bytes may be in flight (RFC 5681).
//!
//! Slow start and congestion avoidance count acknowledged bytes (RFC 3465). Slow start counts all of
//! them, not two segments per ACK: one ACK covers a whole super-frame here, and the link to a guest
//! has no queue of others that a burst could hurt. For the same reason there is no restart from the
//! initial window after idle (RFC 5681 §4.1). The window grows only while it is used (RFC 7661).
//!
//! This is the one place that knows the algorithm; callers say what happened.

/// Lower bound of the slow start threshold, in segments (RFC 5681 §3.1, equation 4).
const THRESHOLD_MIN_SEGMENTS: u32 = 2;
/// Larger windows than TCP can offer are no use.
const WINDOW_MAX: u32 = 1 << 30;

/// Reno's state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Congestion {
    /// cwnd, in bytes.
    window: u32,
    /// ssthresh, in bytes.
    threshold: u32,
    /// Bytes acknowledged in congestion avoidance since the window last grew.
    credit: u32,
}

impl Congestion {
    /// Before the handshake is done.
    pub(super) const fn new() -> Self {
        Self {
            window: 0,
            threshold: u32::MAX,
            credit: 0,
        }
    }

    /// The connection is established: the initial window (RFC 6928 §2), one segment when the SYN
    /// had been lost (RFC 5681 §3.1).
    pub(super) fn start(&mut self, mss: u32, segments: u8, syn_was_lost: bool) {
        let segments = if syn_was_lost {
            1
        } else {
            u32::from(segments.max(1))
        };
        self.window = mss * segments;
    }

    /// Bytes that may be in flight.
    pub(super) const fn window(&self) -> u32 {
        self.window
    }

    /// New data was acknowledged, outside fast recovery. `flight` is what was in flight before.
    pub(super) fn on_ack(&mut self, acked: u32, mss: u32, flight: u32) {
        if self.window < self.threshold {
            // RFC 7661 §4.3, in short: in slow start the window may be at most twice what is used.
            if flight < self.window / 2 {
                return;
            }
            // RFC 5681 §3.1: up to the threshold; what is over counts for congestion avoidance.
            let growth = acked.min(self.threshold - self.window);
            self.window = (self.window + growth).min(WINDOW_MAX);
            self.credit = acked - growth;
        } else {
            if flight.saturating_add(mss) < self.window {
                return;
            }
            self.credit = self.credit.saturating_add(acked);
        }
        if self.window >= self.threshold && self.credit >= self.window {
            // RFC 3465 §2.1: one segment per window of acknowledged bytes.
            self.credit -= self.window;
            self.window = (self.window + mss).min(WINDOW_MAX);
        }
    }

    /// Fast recovery starts (RFC 5681 §3.2 step 2, RFC 6675 §5 step 4.2).
    pub(super) fn on_loss(&mut self, flight: u32, mss: u32) {
        self.threshold = (flight / 2).max(THRESHOLD_MIN_SEGMENTS * mss);
        self.window = self.threshold;
        self.credit = 0;
    }

    /// Without SACK, the window stands for segments that left the network as well
    /// (RFC 5681 §3.2 steps 3 and 4).
    pub(super) fn inflate(&mut self, bytes: u32) {
        self.window = self.window.saturating_add(bytes).min(WINDOW_MAX);
    }

    /// Without SACK, a partial ACK takes back what it covers, less one segment
    /// (RFC 6582 §3.2 step 3).
    pub(super) fn deflate(&mut self, acked: u32, mss: u32) {
        let credit = if acked >= mss { mss } else { 0 };
        self.window = (self.window.saturating_sub(acked) + credit).max(mss);
    }

    /// Fast recovery is over (RFC 5681 §3.2 step 6).
    pub(super) fn on_recovered(&mut self) {
        self.window = self.threshold;
    }

    /// The retransmission timer expired (RFC 5681 §3.1). The threshold falls only on the `first`
    /// expiry for the same data.
    pub(super) fn on_timeout(&mut self, flight: u32, mss: u32, first: bool) {
        if first {
            self.threshold = (flight / 2).max(THRESHOLD_MIN_SEGMENTS * mss);
        }
        self.window = mss;
        self.credit = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    fn started() -> Congestion {
        let mut congestion = Congestion::new();
        congestion.start(MSS, 10, false);
        congestion
    }

    #[test]
    fn slow_start_counts_every_byte_of_a_super_frame() {
        let mut congestion = started();
        assert_eq!(congestion.window(), 10_000);
        congestion.on_ack(10_000, MSS, 10_000);
        assert_eq!(congestion.window(), 20_000);
    }

    #[test]
    fn a_lost_syn_starts_with_one_segment() {
        let mut congestion = Congestion::new();
        congestion.start(MSS, 10, true);
        assert_eq!(congestion.window(), MSS);
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut congestion = started();
        congestion.on_ack(100, MSS, 100);
        assert_eq!(congestion.window(), 10_000);
    }

    #[test]
    fn avoidance_adds_one_segment_per_window() {
        let mut congestion = started();
        congestion.on_loss(20_000, MSS);
        assert_eq!(congestion.window(), 10_000);
        for _ in 0..9 {
            congestion.on_ack(MSS, MSS, 10_000);
            assert_eq!(congestion.window(), 10_000);
        }
        for _ in 0..11 {
            congestion.on_ack(MSS, MSS, 11_000);
            assert_eq!(congestion.window(), 11_000);
        }
        congestion.on_ack(MSS, MSS, 11_000);
        assert_eq!(congestion.window(), 12_000);
    }

    #[test]
    fn timeout_falls_to_one_segment_and_keeps_the_threshold_when_it_repeats() {
        let mut congestion = started();
        congestion.on_timeout(8_000, MSS, true);
        assert_eq!(congestion.window(), MSS);
        congestion.on_timeout(MSS, MSS, false);
        // Slow start up to half of what was in flight at the first expiry, then avoidance.
        for _ in 0..3 {
            congestion.on_ack(congestion.window(), MSS, congestion.window());
        }
        assert_eq!(congestion.window(), 4_000 + MSS);
    }

    #[test]
    fn deflation_never_goes_below_a_segment() {
        let mut congestion = started();
        congestion.deflate(u32::MAX, MSS);
        assert_eq!(congestion.window(), MSS);
    }
}
