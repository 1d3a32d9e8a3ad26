//! What always holds of a connection (see [the module](super)), as a check for whoever drives one
//! through more than a person would think of: tests, simulations, fuzzers.

use core::time::Duration;

use super::connection::Connection;
use super::seq::SequenceNumber as Seq;
use super::verdict::State;
use crate::time::Instant;

/// The longest that anything waits: a connection's silence before keepalive, with a margin.
const DEADLINE_MAX: Duration = Duration::from_secs(3 * 3600);

/// Looks after one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Invariants {
    /// The right edge of the receive window as it was.
    edge: Option<Seq>,
}

impl Invariants {
    /// Looks at the connection when nothing more is to be transmitted at `now`. `unacknowledged` is
    /// how many bytes the engine holds for the guest.
    ///
    /// # Errors
    ///
    /// What does not hold.
    pub fn check(
        &mut self,
        connection: &Connection,
        now: Instant,
        unacknowledged: u32,
    ) -> Result<(), &'static str> {
        let send = &connection.send;
        if !(send.una.at_or_before(send.nxt) && send.nxt.at_or_before(send.max)) {
            return Err("una ≤ nxt ≤ max");
        }
        let state = connection.state();
        if state > State::SynReceived {
            let edge = connection.receive.nxt + connection.receive.offered();
            if self.edge.is_some_and(|before| !before.at_or_before(edge)) {
                return Err("the right edge of the receive window moved left");
            }
            self.edge = Some(edge);
        }
        let Some(at) = connection.poll_at() else {
            let in_flight = connection.send_unacknowledged() > 0 || unacknowledged > 0;
            let open = state > State::SynReceived && state != State::Closed;
            return if open && in_flight {
                Err("bytes wait for the guest without a deadline")
            } else {
                Ok(())
            };
        };
        if at.since(now) > DEADLINE_MAX {
            return Err("a deadline is too far");
        }
        Ok(())
    }
}
