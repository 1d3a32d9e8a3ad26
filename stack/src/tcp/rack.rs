//! RACK: what was sent longer ago than something that arrived, and did not arrive itself, is lost
//! (RFC 8985 §6).
//!
//! The scoreboard compares the times; here is for how long a piece may be overtaken before it is
//! taken for lost: the reordering window. None until the link was seen to reorder and
//! enough arrived above the hole; else a quarter of the shortest round trip, and more, up to a
//! whole one, when the guest says that it got bytes twice (D-SACK, RFC 2883), because then patience
//! was too short.

use super::rtt::Rtt;
use super::seq::SequenceNumber as Seq;

/// Recoveries without D-SACK until the window is as small as at first (RFC 8985 §6.2).
const PERSISTENCE: u8 = 16;

/// The reordering window of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReorderWindow {
    /// RACK.reordering_seen.
    seen: bool,
    /// RACK.reo_wnd_mult, quarters of the shortest round trip.
    quarters: u8,
    /// RACK.reo_wnd_persist.
    recoveries: u8,
    /// RACK.dsack_round: until this is acknowledged, no further D-SACK widens the window.
    round: Option<Seq>,
}

impl ReorderWindow {
    pub(super) const NEW: Self = Self {
        seen: false,
        quarters: 1,
        recoveries: PERSISTENCE,
        round: None,
    };

    /// Something arrived after what was sent later.
    pub(super) fn on_reordering(&mut self) {
        self.seen = true;
    }

    /// The guest got bytes twice, and `una` is acknowledged of what was sent up to `nxt`.
    pub(super) fn on_duplicate(&mut self, una: Seq, nxt: Seq) {
        if self.round.is_none_or(|round| round.at_or_before(una)) {
            self.round = Some(nxt);
            self.quarters = self.quarters.saturating_add(1);
            self.recoveries = PERSISTENCE;
        }
    }

    /// A recovery is over.
    pub(super) fn on_recovered(&mut self) {
        self.round = None;
        self.recoveries = self.recoveries.saturating_sub(1);
        if self.recoveries == 0 {
            self.quarters = 1;
        }
    }

    /// How much longer than the newest that arrived a piece may be on its way, in ns. `certain`: a
    /// recovery is on, or enough arrived above the hole.
    pub(super) fn ns(&self, rtt: &Rtt, certain: bool) -> u64 {
        if !self.seen && certain {
            return 0;
        }
        (rtt.shortest_ns() / 4)
            .saturating_mul(u64::from(self.quarters))
            .min(rtt.smoothed_ns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn rtt() -> Rtt {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_nanos(4_000));
        rtt
    }

    #[test]
    fn without_reordering_there_is_no_window_once_it_is_certain() {
        let mut window = ReorderWindow::NEW;
        assert_eq!(window.ns(&rtt(), false), 1_000);
        assert_eq!(window.ns(&rtt(), true), 0);
        window.on_reordering();
        assert_eq!(window.ns(&rtt(), true), 1_000);
    }

    #[test]
    fn duplicates_widen_it_once_a_round_and_up_to_a_round_trip() {
        let mut window = ReorderWindow::NEW;
        window.on_reordering();
        window.on_duplicate(Seq(10), Seq(20));
        window.on_duplicate(Seq(19), Seq(30));
        assert_eq!(window.ns(&rtt(), true), 2_000);
        for i in 2..300 {
            window.on_duplicate(Seq(i * 10), Seq(i * 10 + 10));
        }
        assert_eq!(window.ns(&rtt(), true), 4_000);
        for _ in 0..PERSISTENCE {
            window.on_recovered();
        }
        assert_eq!(window.ns(&rtt(), true), 1_000);
    }
}
