//! Proportional rate reduction (RFC 9937): while fast recovery lasts, each byte that arrives lets
//! less than a byte go, so that at its end as much is in flight as congestion control wants; or, when
//! losses took more than that, a segment more than arrived, until it is so much again.

/// One recovery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prr {
    /// Bytes in flight when it began (RecoverFS).
    flight: u32,
    /// Bytes that arrived since (prr_delivered).
    delivered: u32,
    /// Bytes that were sent since (prr_out).
    out: u32,
}

impl Prr {
    pub(super) fn new(flight: u32) -> Self {
        Self {
            flight: flight.max(1),
            delivered: 0,
            out: 0,
        }
    }

    pub(super) fn on_sent(&mut self, bytes: u32) {
        self.out = self.out.saturating_add(bytes);
    }

    /// An ACK told of `delivered` bytes, and `flying` are in flight now. Returns the congestion
    /// window, on the way to `target`. `safe`: it acknowledged something, and nothing more is lost
    /// (SafeACK).
    pub(super) fn on_delivered(
        &mut self,
        delivered: u32,
        safe: bool,
        flying: u32,
        target: u32,
        mss: u32,
    ) -> u32 {
        self.delivered = self.delivered.saturating_add(delivered);
        let room = if flying > target {
            let share = u64::from(self.delivered) * u64::from(target);
            let share = share.div_ceil(u64::from(self.flight)) as u32;
            share.saturating_sub(self.out)
        } else {
            let conserved = self.delivered.saturating_sub(self.out).max(delivered);
            let more = if safe { mss } else { 0 };
            conserved.saturating_add(more).min(target - flying)
        };
        // RFC 9937 §6.2: the first retransmission goes out whatever the balance.
        let room = if self.out == 0 { room.max(mss) } else { room };
        flying.saturating_add(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1_000;

    /// `lost` of 100 segments are lost; an ACK for each that arrives. What was in flight at the end
    /// of the round trip.
    fn round(lost: u32, target: u32) -> u32 {
        let mut prr = Prr::new(100 * MSS);
        let mut flying = (100 - lost) * MSS;
        for _ in 0..100 - lost {
            flying -= MSS;
            let window = prr.on_delivered(MSS, true, flying, target, MSS);
            let sent = (window - flying) / MSS * MSS;
            prr.on_sent(sent);
            flying += sent;
        }
        flying
    }

    #[test]
    fn a_round_trip_ends_at_the_target() {
        assert_eq!(round(1, 70 * MSS), 70 * MSS);
        assert_eq!(round(10, 70 * MSS), 70 * MSS);
        // Fewer than the target arrive: slow start makes up for it.
        assert_eq!(round(60, 70 * MSS), 70 * MSS);
    }

    #[test]
    fn the_first_goes_out_at_once() {
        let mut prr = Prr::new(100 * MSS);
        assert_eq!(
            prr.on_delivered(0, false, 99 * MSS, 50 * MSS, MSS),
            100 * MSS
        );
        prr.on_sent(MSS);
        assert_eq!(
            prr.on_delivered(MSS, false, 99 * MSS, 50 * MSS, MSS),
            99 * MSS
        );
    }

    #[test]
    fn nothing_overflows() {
        let mut prr = Prr::new(0);
        prr.on_sent(u32::MAX);
        prr.on_sent(u32::MAX);
        for _ in 0..2 {
            prr.on_delivered(u32::MAX, true, u32::MAX, u32::MAX, u32::MAX);
            prr.on_delivered(u32::MAX, true, u32::MAX, 1, u32::MAX);
        }
    }
}
