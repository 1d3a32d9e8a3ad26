//! What a connection is told on every call: limits and times, the same for all connections of a link.

use core::time::Duration;

use super::congestion::CongestionControl;

/// Limits and times of TCP connections. Passed by reference on every call, so that a connection
/// keeps no copy; it may change between calls, except `mss` and `window_scale`, which are said to
/// the guest in the SYN and must stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The largest payload that we can receive in a segment without options, in bytes: the link's
    /// MTU minus 40 (IPv4) or 60 (IPv6) (RFC 9293 §3.7.1).
    pub mss: u16,
    /// The largest receive window that is ever offered, in bytes.
    pub window_max: u32,
    /// Our window shift count, 0..=14 (larger values act as 14) (RFC 7323 §2).
    pub window_scale: u8,
    /// Bytes kept per connection for segments that came out of order; more is refused.
    pub out_of_order_max: u32,
    /// Lower bound of the retransmission timeout.
    pub rto_min: Duration,
    /// Upper bound of the retransmission timeout, backoff included.
    pub rto_max: Duration,
    /// Retransmissions of a SYN or SYN-ACK before giving up.
    pub syn_retries: u8,
    /// Retransmissions of the same data, or unanswered window probes, before giving up
    /// (R2 of RFC 1122 §4.2.3.5).
    pub retries: u8,
    /// How long an ACK may wait for company, less than 500 ms (RFC 9293 §3.8.6.3).
    pub delayed_ack: Duration,
    /// Silence of the guest before the first keepalive probe (RFC 1122 §4.2.3.6); zero: no
    /// keepalive.
    pub keepalive_idle: Duration,
    /// Time between unanswered keepalive probes.
    pub keepalive_interval: Duration,
    /// Unanswered keepalive probes before giving up.
    pub keepalive_probes: u8,
    /// How long a connection rests in TIME-WAIT (2 MSL of RFC 9293 §3.4.2).
    pub time_wait: Duration,
    /// How long the guest may stay without sending a byte after it acknowledged our FIN
    /// (FIN-WAIT-2). A guest that lives may use its half of the connection for long, and one that
    /// died is found by keepalive, so this is generous.
    pub fin_wait_2: Duration,
    /// Initial congestion window, in segments (RFC 6928: 10).
    pub initial_window: u8,
    /// Whether a guest that asks for congestion notification gets it (RFC 3168).
    pub ecn: bool,
    /// How the congestion window grows and shrinks.
    pub congestion_control: CongestionControl,
    /// Lost bytes, in percent of those that arrive, that are not taken for congestion: on a link
    /// inside one machine loss mostly has other reasons. 0: every loss counts, as on the Internet.
    pub loss_tolerance: u8,
}

impl Default for Config {
    /// For an IPv4 link with MTU 1500.
    fn default() -> Self {
        Self {
            mss: 1460,
            window_max: 4 << 20,
            window_scale: 8,
            out_of_order_max: 512 << 10,
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(60),
            syn_retries: 5,
            retries: 15,
            delayed_ack: Duration::from_millis(40),
            keepalive_idle: Duration::from_secs(2 * 3600 + 4 * 60),
            keepalive_interval: Duration::from_secs(75),
            keepalive_probes: 9,
            time_wait: Duration::from_secs(60),
            fin_wait_2: Duration::from_secs(2 * 3600 + 4 * 60),
            initial_window: 10,
            ecn: true,
            congestion_control: CongestionControl::Cubic,
            loss_tolerance: 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_keep_the_bounds_of_the_rfc() {
        let config = Config::default();
        // RFC 9293 §3.8.6.3, MUST-40.
        assert!(config.delayed_ack < Duration::from_millis(500));
        // RFC 9293 §3.8.4, MUST-28, and RFC 5382 REQ-5.
        assert!(config.keepalive_idle >= Duration::from_secs(2 * 3600 + 4 * 60));
        // RFC 9293 §3.8.3, SHLD-11: R2 is at least 100 s.
        let waits = (0..=u32::from(config.retries))
            .map(|attempt| (config.rto_min * (1 << attempt)).min(config.rto_max));
        assert!(waits.sum::<Duration>() >= Duration::from_secs(100));
    }
}
