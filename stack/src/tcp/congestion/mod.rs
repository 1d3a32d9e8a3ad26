//! Congestion control: how many bytes may be in flight (RFC 5681).
//!
//! Slow start and the answer to a timeout are the same for all; how the window grows in congestion
//! avoidance, and what is left of it after a loss, is [`CongestionControl`]'s choice. This is
//! the one place that knows the algorithms; callers say what happened.
//!
//! Three things are not as on the Internet, because the link to a guest is memory, without a
//! queue that others share:
//!
//! - Slow start counts all acknowledged bytes (RFC 3465), not two segments per ACK: one ACK covers a
//!   whole super-frame here, and a burst hurts nobody. For the same reason it does not look for
//!   a rising delay to end early (HyStart++, RFC 9406): what the round trip of such a link shows
//!   is when the guest was scheduled.
//! - There is no restart from the initial window after idle (RFC 5681 §4.1). The window grows only
//!   while it is used (RFC 7661).
//! - **Loss up to [`Config::loss_tolerance`] is not taken for congestion.** What is lost on a link
//!   inside one machine is mostly lost for other reasons (a ring that was full for a moment, a
//!   link that is made lossy on purpose), and a window that shrinks for each loss is 12 segments
//!   at 1 % loss, whatever the link could carry. So bytes that arrive earn credit and lost
//!   bytes spend it; only when it is overdrawn is the loss congestion, and answered as the algorithm
//!   wants. A link that is really too full loses more than that and is obeyed; so are timeouts
//!   and marks (ECN), always. With a tolerance of 0 every loss counts, as the RFCs have it.

mod cubic;
mod reno;

use super::config::Config;
use crate::time::Instant;
use cubic::Cubic;
use reno::Reno;

/// Lower bound of the slow start threshold, in segments (RFC 5681 §3.1, equation 4).
const THRESHOLD_MIN_SEGMENTS: u32 = 2;
/// Larger windows than TCP can offer are no use.
const WINDOW_MAX: u32 = 1 << 30;
/// The most bytes that can be lost on credit: a few super-frames.
const CREDIT_MAX: i32 = 256 << 10;
/// Credit is counted in hundredths of a byte, for the tolerance is a percentage.
const HUNDREDTHS: i32 = 100;

/// The algorithm of congestion avoidance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CongestionControl {
    /// RFC 5681.
    Reno,
    /// RFC 9438.
    #[default]
    Cubic,
}

#[derive(Clone, Copy, Debug)]
enum Avoidance {
    Reno(Reno),
    Cubic(Cubic),
}

/// The congestion window, and all that determines it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Congestion {
    /// cwnd, in bytes.
    window: u32,
    /// ssthresh, in bytes.
    threshold: u32,
    /// Where the window is to be when fast recovery is over.
    target: u32,
    /// What may still be lost without being taken for congestion, in hundredths of a byte.
    credit: i32,
    avoidance: Avoidance,
}

impl Congestion {
    /// Before the handshake is done.
    pub(super) const fn new() -> Self {
        Self {
            window: 0,
            threshold: u32::MAX,
            target: 0,
            credit: 0,
            avoidance: Avoidance::Reno(Reno::NEW),
        }
    }

    /// The connection is established: the initial window (RFC 6928 §2), one segment when the SYN
    /// had been lost (RFC 5681 §3.1).
    pub(super) fn start(&mut self, config: &Config, mss: u32, syn_was_lost: bool) {
        let segments = if syn_was_lost {
            1
        } else {
            u32::from(config.initial_window.max(1))
        };
        self.window = mss * segments;
        self.avoidance = match config.congestion_control {
            CongestionControl::Reno => Avoidance::Reno(Reno::NEW),
            CongestionControl::Cubic => Avoidance::Cubic(Cubic::default()),
        };
    }

    /// Bytes that may be in flight.
    pub(super) const fn window(&self) -> u32 {
        self.window
    }

    /// Where fast recovery takes the window.
    pub(super) const fn target(&self) -> u32 {
        self.target
    }

    /// New data was acknowledged, and nothing holds the window back. `flight` is what was in flight
    /// before, `rtt_ns` the smoothed round trip.
    pub(super) fn on_ack(&mut self, now: Instant, rtt_ns: u64, acked: u32, mss: u32, flight: u32) {
        let mut acked = acked;
        if self.window < self.threshold {
            // RFC 7661 §4.3, in short: in slow start the window may be at most twice what is used.
            if flight < self.window / 2 {
                return;
            }
            // RFC 5681 §3.1: up to the threshold; what is over counts for congestion avoidance.
            let growth = acked.min(self.threshold - self.window);
            self.window = (self.window + growth).min(WINDOW_MAX);
            acked -= growth;
        } else if flight.saturating_add(mss) < self.window {
            if let Avoidance::Cubic(cubic) = &mut self.avoidance {
                cubic.pause();
            }
            return;
        }
        if self.window >= self.threshold && acked > 0 {
            let grown = match &mut self.avoidance {
                Avoidance::Reno(reno) => reno.grow(self.window, acked, mss),
                Avoidance::Cubic(cubic) => cubic.grow(now, rtt_ns, self.window, acked, mss),
            };
            self.window = grown.min(WINDOW_MAX);
        }
    }

    // The tolerance

    /// Bytes arrived, acknowledged or held: they earn credit.
    pub(super) fn earn(&mut self, config: &Config, delivered: u32) {
        // Within the cap before it is multiplied, so that nothing overflows.
        let delivered = delivered.min(CREDIT_MAX as u32) as i32;
        let earned = delivered * i32::from(config.loss_tolerance.min(100));
        self.credit = (self.credit + earned).min(CREDIT_MAX * HUNDREDTHS);
    }

    /// Bytes were lost: they spend it.
    pub(super) fn spend(&mut self, lost: u32) {
        let lost = lost.min(2 * CREDIT_MAX as u32) as i32;
        self.credit = (self.credit - lost * HUNDREDTHS).max(-CREDIT_MAX * HUNDREDTHS);
    }

    /// Whether more is lost than is tolerated, so that the loss is congestion.
    pub(super) const fn is_congested(&self) -> bool {
        self.credit < 0
    }

    // Reductions

    /// Fast recovery starts, for the window as it is.
    pub(super) fn on_recovery(&mut self) {
        self.target = self.window;
    }

    /// There is congestion, seen before a timeout (RFC 5681 §3.2 step 2; RFC 9438 §4.6). `flight`
    /// is what is in flight, lost or not.
    pub(super) fn reduce(&mut self, flight: u32, mss: u32) {
        self.set_threshold(flight, mss);
        self.target = self.threshold;
        self.window = self.threshold;
    }

    /// Fast recovery over-rides the window: without SACK it stands for segments that left the
    /// network as well (RFC 5681 §3.2), with SACK proportional rate reduction says (`prr.rs`).
    pub(super) fn set_window(&mut self, bytes: u32) {
        self.window = bytes.min(WINDOW_MAX);
    }

    /// Fast recovery is over (RFC 5681 §3.2 step 6).
    pub(super) fn on_recovered(&mut self) {
        self.window = self.target;
    }

    /// The retransmission timer expired (RFC 5681 §3.1). The threshold falls only on the `first`
    /// expiry for the same data.
    pub(super) fn on_timeout(&mut self, flight: u32, mss: u32, first: bool) {
        if first {
            self.set_threshold(flight, mss);
        }
        self.window = mss;
    }

    fn set_threshold(&mut self, flight: u32, mss: u32) {
        let threshold = match &mut self.avoidance {
            Avoidance::Reno(reno) => reno.reduce(flight),
            Avoidance::Cubic(cubic) => cubic.reduce(self.window, flight),
        };
        self.threshold = threshold.max(THRESHOLD_MIN_SEGMENTS * mss);
        // The debt is paid.
        self.credit = self.credit.max(0);
    }

    /// What was taken for congestion was none: `before` is as it was then (RFC 4015 §3.2).
    pub(super) fn undo(&mut self, before: &Self) {
        *self = Self {
            window: self.window.max(before.window),
            target: before.window,
            ..*before
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;
    const RTT_NS: u64 = 50_000;

    fn started(congestion_control: CongestionControl) -> Congestion {
        let config = Config {
            congestion_control,
            ..Config::default()
        };
        let mut congestion = Congestion::new();
        congestion.start(&config, MSS, false);
        congestion
    }

    fn reno() -> Congestion {
        started(CongestionControl::Reno)
    }

    fn ack(congestion: &mut Congestion, acked: u32, flight: u32) {
        congestion.on_ack(Instant::ZERO, RTT_NS, acked, MSS, flight);
    }

    #[test]
    fn slow_start_counts_every_byte_of_a_super_frame() {
        let mut congestion = started(CongestionControl::Cubic);
        assert_eq!(congestion.window(), 10_000);
        ack(&mut congestion, 10_000, 10_000);
        assert_eq!(congestion.window(), 20_000);
    }

    #[test]
    fn a_lost_syn_starts_with_one_segment() {
        let mut congestion = Congestion::new();
        congestion.start(&Config::default(), MSS, true);
        assert_eq!(congestion.window(), MSS);
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut congestion = reno();
        ack(&mut congestion, 100, 100);
        assert_eq!(congestion.window(), 10_000);
    }

    #[test]
    fn reno_adds_one_segment_per_window() {
        let mut congestion = reno();
        congestion.reduce(20_000, MSS);
        assert_eq!(congestion.window(), 10_000);
        for _ in 0..9 {
            ack(&mut congestion, MSS, 10_000);
            assert_eq!(congestion.window(), 10_000);
        }
        for _ in 0..11 {
            ack(&mut congestion, MSS, 11_000);
            assert_eq!(congestion.window(), 11_000);
        }
        ack(&mut congestion, MSS, 11_000);
        assert_eq!(congestion.window(), 12_000);
    }

    #[test]
    fn cubic_keeps_seven_tenths() {
        // RFC 9438 §4.6.
        let mut congestion = started(CongestionControl::Cubic);
        congestion.reduce(10_000, MSS);
        assert_eq!(congestion.window(), 7_000);
        congestion.reduce(100, MSS);
        assert_eq!(congestion.window(), 2_000);
    }

    #[test]
    fn timeout_falls_to_one_segment_and_keeps_the_threshold_when_it_repeats() {
        let mut congestion = reno();
        congestion.on_timeout(8_000, MSS, true);
        assert_eq!(congestion.window(), MSS);
        congestion.on_timeout(MSS, MSS, false);
        // Slow start up to half of what was in flight at the first expiry, then avoidance.
        for _ in 0..3 {
            let window = congestion.window();
            ack(&mut congestion, window, window);
        }
        assert_eq!(congestion.window(), 4_000 + MSS);
    }

    #[test]
    fn loss_counts_once_it_is_more_than_is_tolerated() {
        let config = Config {
            loss_tolerance: 2,
            ..Config::default()
        };
        let mut congestion = reno();
        congestion.spend(1);
        assert!(congestion.is_congested());
        congestion.reduce(10_000, MSS);
        congestion.earn(&config, 100_000);
        congestion.spend(2_000);
        assert!(!congestion.is_congested());
        congestion.spend(1);
        assert!(congestion.is_congested());
        // However long all went well, a loss of much is congestion.
        for _ in 0..1_000 {
            congestion.earn(&config, u32::MAX);
        }
        congestion.spend(CREDIT_MAX as u32);
        assert!(!congestion.is_congested());
        congestion.spend(u32::MAX);
        assert!(congestion.is_congested());
    }

    #[test]
    fn what_was_no_congestion_is_undone() {
        let mut congestion = started(CongestionControl::Cubic);
        ack(&mut congestion, 10_000, 10_000);
        let before = congestion;
        congestion.on_timeout(20_000, MSS, true);
        congestion.undo(&before);
        assert_eq!(congestion.window(), 20_000);
        assert_eq!(congestion.threshold, u32::MAX);
    }
}
