//! Deadlines of one connection: five points in time, each on or off.
//!
//! One deadline can mean different things in different states, never two at once:
//!
//! | field | means |
//! |---|---|
//! | `retransmit` | SYN, data or FIN is unacknowledged: RTO (RFC 6298 §5). Nothing is in flight but something waits for the window: the persist timer (RFC 9293 §3.8.6.1) |
//! | `loss` | something is missing: how long it may still be on its way (RFC 8985 §6.3), or what was sent again. All is in flight: the tail loss probe (RFC 8985 §7.2) |
//! | `ack` | an ACK waits for company (RFC 9293 §3.8.6.3) |
//! | `keepalive` | the guest's silence is to be looked at (RFC 1122 §4.2.3.6) |
//! | `wait` | the end of TIME-WAIT, or of patience in FIN-WAIT-2 |

use crate::time::Instant;

/// A point in time, or off. Half as large as an `Option<Instant>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// Never due.
    pub(super) const OFF: Self = Self(Instant::from_nanos(u64::MAX));

    pub(super) const fn at(instant: Instant) -> Self {
        Self(instant)
    }

    pub(super) fn is_on(self) -> bool {
        self != Self::OFF
    }

    pub(super) fn is_due(self, now: Instant) -> bool {
        self.is_on() && self.0 <= now
    }
}

/// The deadlines of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timers {
    pub(super) retransmit: Deadline,
    pub(super) loss: Deadline,
    pub(super) ack: Deadline,
    pub(super) keepalive: Deadline,
    pub(super) wait: Deadline,
}

impl Timers {
    pub(super) const OFF: Self = Self {
        retransmit: Deadline::OFF,
        loss: Deadline::OFF,
        ack: Deadline::OFF,
        keepalive: Deadline::OFF,
        wait: Deadline::OFF,
    };

    /// The earliest deadline that is on.
    pub(super) fn next(&self) -> Option<Instant> {
        let Self {
            retransmit,
            loss,
            ack,
            keepalive,
            wait,
        } = *self;
        let earliest = retransmit
            .0
            .min(loss.0)
            .min(ack.0)
            .min(keepalive.0)
            .min(wait.0);
        Deadline(earliest).is_on().then_some(earliest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_is_the_earliest_that_is_on() {
        let mut timers = Timers::OFF;
        assert_eq!(timers.next(), None);
        timers.keepalive = Deadline::at(Instant::from_nanos(7));
        timers.ack = Deadline::at(Instant::from_nanos(5));
        assert_eq!(timers.next(), Some(Instant::from_nanos(5)));
        timers.ack = Deadline::OFF;
        assert_eq!(timers.next(), Some(Instant::from_nanos(7)));
    }

    #[test]
    fn due_includes_the_very_instant_and_off_is_never_due() {
        let deadline = Deadline::at(Instant::from_nanos(5));
        assert!(!deadline.is_due(Instant::from_nanos(4)));
        assert!(deadline.is_due(Instant::from_nanos(5)));
        assert!(!Deadline::OFF.is_due(Instant::from_nanos(u64::MAX)));
    }
}
