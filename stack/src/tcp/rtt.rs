//! Round-trip time and retransmission timeout (RFC 6298).
//!
//! Samples come from one timed segment at a time (Karn: never from one that was retransmitted), in
//! the resolution of the caller's clock, or, while retransmissions forbid that, from the timestamps
//! option in milliseconds.

use core::time::Duration;

use super::config::Config;

/// Before the first sample (RFC 6298 §2.1).
const RTO_INITIAL: Duration = Duration::from_secs(1);
/// Before the first sample, when a SYN had to be retransmitted (RFC 6298 §5.7).
const RTO_AFTER_LOST_SYN: Duration = Duration::from_secs(3);
/// The clock granularity G of RFC 6298 §2: timers of the engine are not finer.
const GRANULARITY_NS: u64 = 1_000_000;
/// A sample longer than this is nonsense.
const SAMPLE_MAX: Duration = Duration::from_secs(600);

/// The estimator.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    /// Smoothed round-trip time; 0 before the first sample.
    srtt_ns: u64,
    rttvar_ns: u64,
    /// The shortest sample; 0 before the first.
    shortest_ns: u64,
    syn_was_lost: bool,
}

impl Rtt {
    /// Takes one sample (RFC 6298 §2.2, §2.3).
    pub(super) fn sample(&mut self, rtt: Duration) {
        let rtt_ns = rtt.min(SAMPLE_MAX).as_nanos() as u64;
        let rtt_ns = rtt_ns.max(1);
        self.shortest_ns = self.shortest_ns.min(rtt_ns);
        if self.srtt_ns == 0 {
            self.srtt_ns = rtt_ns;
            self.rttvar_ns = rtt_ns / 2;
            self.shortest_ns = rtt_ns;
        } else {
            let error_ns = self.srtt_ns.abs_diff(rtt_ns);
            self.rttvar_ns = self.rttvar_ns - self.rttvar_ns / 4 + error_ns / 4;
            self.srtt_ns = (self.srtt_ns - self.srtt_ns / 8 + rtt_ns / 8).max(1);
        }
    }

    /// The smoothed round-trip time in ns, 0 before the first sample.
    pub(super) fn smoothed_ns(&self) -> u64 {
        self.srtt_ns
    }

    /// The shortest round trip that there was, in ns; 0 before the first sample.
    pub(super) fn shortest_ns(&self) -> u64 {
        self.shortest_ns
    }

    /// After so long, in ns, an ACK that the guest does not delay should be here: two round trips
    /// (RFC 8985 §7.2), or as much as they vary; 0 before the first sample.
    pub(super) fn probe_timeout_ns(&self) -> u64 {
        self.srtt_ns + self.srtt_ns.max(4 * self.rttvar_ns)
    }

    /// A SYN or SYN-ACK had to be retransmitted (RFC 6298 §5.7).
    pub(super) fn on_lost_syn(&mut self) {
        self.syn_was_lost = true;
    }

    /// The smoothed round-trip time, once there was a sample.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        (self.srtt_ns != 0).then(|| Duration::from_nanos(self.srtt_ns))
    }

    /// The timeout after `backoff` expiries in a row (RFC 6298 §2.3–2.5, §5.5).
    pub(super) fn timeout(&self, config: &Config, backoff: u8) -> Duration {
        let base = if self.srtt_ns == 0 {
            if self.syn_was_lost {
                RTO_AFTER_LOST_SYN
            } else {
                RTO_INITIAL
            }
        } else {
            let variation_ns = self.rttvar_ns.saturating_mul(4).max(GRANULARITY_NS);
            Duration::from_nanos(self.srtt_ns.saturating_add(variation_ns))
        };
        let base = base.max(config.rto_min);
        base.saturating_mul(1u32 << backoff.min(20))
            .min(config.rto_max)
    }

    /// The timeout of a SYN: one second before backoff, whatever a retransmission did to
    /// [`timeout`](Self::timeout).
    pub(super) fn syn_timeout(config: &Config, backoff: u8) -> Duration {
        Self::default().timeout(config, backoff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn starts_with_one_second_and_three_after_a_lost_syn() {
        let config = Config::default();
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(&config, 0), ms(1000));
        rtt.on_lost_syn();
        assert_eq!(rtt.timeout(&config, 0), ms(3000));
        assert_eq!(Rtt::syn_timeout(&config, 1), ms(2000));
    }

    #[test]
    fn first_sample_sets_both_estimates() {
        let config = Config {
            rto_min: ms(1),
            ..Config::default()
        };
        let mut rtt = Rtt::default();
        rtt.sample(ms(100));
        assert_eq!(rtt.smoothed(), Some(ms(100)));
        // SRTT + 4 * SRTT / 2 (RFC 6298 §2.2).
        assert_eq!(rtt.timeout(&config, 0), ms(300));
    }

    #[test]
    fn steady_samples_bring_the_timeout_to_its_lower_bound() {
        let config = Config::default();
        let mut rtt = Rtt::default();
        for _ in 0..200 {
            rtt.sample(Duration::from_micros(80));
        }
        let smoothed = rtt.smoothed().unwrap();
        assert!(smoothed.abs_diff(Duration::from_micros(80)) < Duration::from_micros(1));
        assert_eq!(rtt.timeout(&config, 0), ms(200));
    }

    #[test]
    fn backs_off_by_doubling_up_to_the_bound() {
        let config = Config::default();
        let mut rtt = Rtt::default();
        rtt.sample(ms(10));
        assert_eq!(rtt.timeout(&config, 3), ms(1600));
        assert_eq!(rtt.timeout(&config, 255), config.rto_max);
    }

    #[test]
    fn absurd_samples_do_not_overflow() {
        let config = Config::default();
        let mut rtt = Rtt::default();
        for sample in [Duration::MAX, Duration::ZERO, Duration::MAX] {
            rtt.sample(sample);
            assert!(rtt.timeout(&config, 255) <= config.rto_max);
        }
    }
}
