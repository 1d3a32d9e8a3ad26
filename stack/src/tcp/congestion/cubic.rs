//! CUBIC (RFC 9438): after a loss the window comes back to where it was along a cubic curve, flat
//! there, and steeper again beyond; where Reno would be faster, it is as fast as Reno.
//!
//! ```text
//! window  ·                                  ·
//!         │                               ·
//!   w_max ┼─·            ·  ·  ·  ·  ·  ·          W(t) = C·(t − K)³ + w_max
//!         │ │      ·                               K: when W(t) is at w_max again
//!         │ │  ·
//!   β·    ┼ └·
//!         └─┴────────────┴──────────────────▶ t, since congestion avoidance began (the epoch)
//! ```
//!
//! All in whole numbers: bytes and milliseconds. C is 0.4 segments/s³, that is `mss · 4/10` bytes
//! over 10⁹ ms³. On a link whose round trip is far below a millisecond Reno is the faster
//! one nearly always, so that the resolution does not matter; where the curve does, a millisecond is
//! fine enough.

use crate::time::Instant;
/// β of RFC 9438 §4.6, in tenths: what is left of the window after a loss.
const BETA_TENTHS: u64 = 7;
/// C of RFC 9438 §5, in tenths of a segment per s³.
const C_TENTHS: u64 = 4;
/// α of RFC 9438 §4.3, 3·(1 − β)/(1 + β): how Reno grows when it is left β after a loss instead of
/// half, to be as fast on average.
const ALPHA: (u64, u64) = (9, 17);
/// Past this distance from K (35 minutes) the curve is above every window.
const DISTANCE_MAX_MS: u64 = 1 << 21;
/// No segment is larger.
const MSS_MAX: u32 = u16::MAX as u32;
/// Milliseconds³ in a second³.
const MS3: u64 = 1_000_000_000;

/// What CUBIC remembers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cubic {
    /// When this congestion avoidance began; none: with the next ACK.
    epoch: Option<Instant>,
    /// W_max: the window at the last loss, in bytes; 0 before the first.
    w_max: u32,
    /// cwnd_prior: the same without fast convergence.
    prior: u32,
    /// K.
    origin_ms: u32,
    /// W_est: what Reno's window would be, and the bytes that count for its next step.
    reno: u32,
    reno_credit: u32,
}

impl Cubic {
    /// The window after `acked` bytes more.
    pub(super) fn grow(
        &mut self,
        now: Instant,
        rtt_ns: u64,
        window: u32,
        acked: u32,
        mss: u32,
    ) -> u32 {
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => self.begin(now, window, mss),
        };
        self.grow_reno(window, acked, mss);
        let t_ms = now.since(epoch).as_millis() as u64;
        if self.curve(t_ms, mss) < self.reno {
            // RFC 9438 §4.3, the Reno-friendly region.
            return window.max(self.reno);
        }
        // RFC 9438 §4.2, §4.4, §4.5: what the curve says one round trip from now, at most half more.
        let target = self.curve(t_ms + rtt_ns / 1_000_000, mss);
        let target = target.clamp(window, window.saturating_add(window / 2));
        let step = u64::from(target - window) * u64::from(acked) / u64::from(window.max(1));
        window + step as u32
    }

    /// The slow start threshold after a loss with this window and that much in flight (RFC 9438
    /// §4.6), but for its lower bound.
    pub(super) fn reduce(&mut self, window: u32, flight: u32) -> u32 {
        self.prior = window;
        // RFC 9438 §4.7, fast convergence: a flow that lost before it was back makes room.
        self.w_max = if window < self.w_max {
            (u64::from(window) * (10 + BETA_TENTHS) / 20) as u32
        } else {
            window
        };
        self.pause();
        (u64::from(flight) * BETA_TENTHS / 10) as u32
    }

    /// The window is not used, or slow start is on: the curve goes on from here when it is used
    /// again (RFC 9438 §5.8).
    pub(super) fn pause(&mut self) {
        self.epoch = None;
    }

    fn begin(&mut self, now: Instant, window: u32, mss: u32) -> Instant {
        self.epoch = Some(now);
        self.reno = window;
        self.reno_credit = 0;
        // RFC 9438 §4.2 for K; §4.8: after slow start that met no loss the curve begins at its
        // plateau.
        self.w_max = self.w_max.max(window);
        let rise = u64::from(self.w_max - window);
        let cube = rise.saturating_mul(10 * MS3 / C_TENTHS) / u64::from(mss.max(1));
        self.origin_ms = cube_root(cube);
        now
    }

    fn grow_reno(&mut self, window: u32, acked: u32, mss: u32) {
        let (above, below) = if self.reno < self.prior {
            ALPHA
        } else {
            (1, 1)
        };
        let counted = u64::from(acked) * above / below;
        self.reno_credit = self.reno_credit.saturating_add(counted as u32);
        if self.reno_credit >= window {
            self.reno_credit -= window;
            self.reno = self.reno.saturating_add(mss);
        }
    }

    /// W_cubic(t) of RFC 9438 §4.2, in bytes.
    fn curve(&self, t_ms: u64, mss: u32) -> u32 {
        let origin_ms = u64::from(self.origin_ms);
        let distance_ms = t_ms.abs_diff(origin_ms).min(DISTANCE_MAX_MS - 1);
        // C·(t − K)³ in bytes. Divided in two steps, so that it fits 64 bits.
        let cube = distance_ms * distance_ms * distance_ms / (MS3 / 1_000);
        let bytes = cube * (u64::from(mss.min(MSS_MAX)) * C_TENTHS) / (10 * 1_000);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if t_ms < origin_ms {
            self.w_max.saturating_sub(bytes)
        } else {
            self.w_max.saturating_add(bytes)
        }
    }
}

/// The largest number whose cube is not above `cube`.
fn cube_root(cube: u64) -> u32 {
    let mut root = 0u64;
    for bit in (0..21).rev() {
        let more = root | 1 << bit;
        if more * more * more <= cube {
            root = more;
        }
    }
    root as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1_000;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    /// Acknowledges a window every 100 ms until `end_ms`, and returns the windows.
    fn windows(cubic: &mut Cubic, mut window: u32, end_ms: u64) -> alloc::vec::Vec<u32> {
        let rtt_ns = 100_000_000;
        (0..=end_ms / 100)
            .map(|i| {
                window = cubic.grow(at(i * 100), rtt_ns, window, window, MSS);
                window
            })
            .collect()
    }

    #[test]
    fn cube_roots() {
        for (cube, root) in [(0, 0), (1, 1), (7, 1), (8, 2), (26, 2), (1 << 60, 1 << 20)] {
            assert_eq!(cube_root(cube), root);
        }
        assert_eq!(cube_root(u64::MAX), (1 << 21) - 1);
    }

    #[test]
    fn the_window_is_back_after_k_and_goes_on() {
        // RFC 9438 §4.2: K = cbrt((w_max − cwnd) / C) seconds; 300 segments of 1000: 9.08 s.
        let mut cubic = Cubic::default();
        let window = cubic.reduce(1_000 * MSS, 1_000 * MSS);
        assert_eq!(window, 700 * MSS);
        let windows = windows(&mut cubic, window, 14_000);
        assert_eq!(cubic.origin_ms, 9_085);
        // Concave before K: most of the way soon. At t = 4.5 s it wants w_max − 0.4·4.585³ = 961.
        assert!(
            (955 * MSS..970 * MSS).contains(&windows[45]),
            "{}",
            windows[45]
        );
        let at_k = windows[91];
        assert!((995 * MSS..1_005 * MSS).contains(&at_k), "{at_k}");
        // Convex behind it: at t = 14 s w_max + 0.4·4.915³ = 1047.
        assert!(
            (1_040 * MSS..1_055 * MSS).contains(&windows[140]),
            "{}",
            windows[140]
        );
        assert!(windows.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn a_short_round_trip_makes_it_as_fast_as_reno() {
        // RFC 9438 §4.3: with a round trip of 50 µs the curve stands still.
        let mut cubic = Cubic::default();
        let mut window = cubic.reduce(20 * MSS, 20 * MSS);
        assert_eq!(window, 14 * MSS);
        let rtt_ns = 50_000;
        for round in 0..100 {
            let now = Instant::from_nanos(1_000_000_000 + round * 50_000);
            window = cubic.grow(now, rtt_ns, window, window, MSS);
        }
        // 9/17 of a segment a round up to 20, then one a round.
        let slow = 6 * 17 / 9;
        let expected = 20 + (100 - slow);
        assert!(
            (window / MSS).abs_diff(expected) <= 2,
            "{window} {expected}"
        );
    }

    #[test]
    fn fast_convergence_gives_way() {
        // RFC 9438 §4.7.
        let mut cubic = Cubic::default();
        cubic.reduce(1_000 * MSS, 1_000 * MSS);
        assert_eq!(cubic.w_max, 1_000 * MSS);
        cubic.reduce(800 * MSS, 800 * MSS);
        assert_eq!(cubic.w_max, 680 * MSS);
        cubic.reduce(900 * MSS, 900 * MSS);
        assert_eq!(cubic.w_max, 900 * MSS);
    }

    #[test]
    fn time_without_use_does_not_count() {
        // RFC 9438 §5.8.
        let mut cubic = Cubic::default();
        let window = cubic.reduce(1_000 * MSS, 1_000 * MSS);
        let before = *windows(&mut cubic, window, 2_000).last().unwrap();
        cubic.pause();
        let rtt_ns = 100_000_000;
        let after = cubic.grow(at(60_000), rtt_ns, before, before, MSS);
        assert!(after - before < 20 * MSS, "{before} {after}");
    }

    #[test]
    fn nothing_overflows() {
        let mut cubic = Cubic::default();
        for window in [1, MSS, 1 << 30, u32::MAX] {
            cubic.reduce(window, u32::MAX);
            for ms in [0, 1, 1 << 40] {
                let rtt_ns = u64::MAX;
                let grown = cubic.grow(at(ms), rtt_ns, window.min(1 << 30), u32::MAX, 65_535);
                assert!(grown >= window.min(1 << 30));
            }
        }
    }
}
