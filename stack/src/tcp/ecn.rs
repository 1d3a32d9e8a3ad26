//! Explicit congestion notification (RFC 3168): a router marks a packet instead of dropping it.
//!
//! **Agreeing.** A guest that asks in its SYN (ECE and CWR) is answered by ECE in the SYN-ACK, if
//! [`Config::ecn`](super::Config::ecn) says so; we never ask. One SYN of the guest that does not ask
//! ends it.
//!
//! **As receiver.** After a payload that came marked (CE), every ACK carries ECE until the guest
//! says by CWR that it slowed down. A marked super-frame counts as one mark, as it would have been
//! answered by one ECE.
//!
//! **As sender.** New data says that it may be marked (ECT(0)); retransmissions, window probes and
//! segments without payload do not (§6.1.4–6.1.6). An ECE of the guest slows the sender down, and CWR
//! on the next new data tells it. Until that is acknowledged the guest repeats itself, so further ECEs
//! tell nothing. The segment with CWR travels alone: a link that cuts a super-frame might put it on
//! each piece.
//!
//! Marks are rare; a segment with CE, ECE or CWR takes the slow path.

use core::mem;

use super::config::Config;
use super::segment::Flags;
use super::seq::SequenceNumber as Seq;

/// The notification's state in one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notification {
    /// Both ends understand it.
    pub(super) agreed: bool,
    /// A mark came, and the guest has not said that it knows.
    pub(super) echo_due: bool,
    /// We slowed down, and have not said so.
    pub(super) reduced: bool,
    /// The end of the segment that said so, until it is acknowledged.
    told_until: Option<Seq>,
}

impl Notification {
    /// From the SYN that begins a connection (RFC 3168 §6.1.1).
    pub(super) fn asked(config: &Config, flags: Flags) -> Self {
        Self {
            agreed: config.ecn && asks(flags),
            ..Self::default()
        }
    }

    /// The guest's SYN came again. Whoever received one that does not ask must not use it
    /// (RFC 3168 §6.1.1).
    pub(super) fn on_repeated_syn(&mut self, flags: Flags) {
        self.agreed &= asks(flags);
    }

    /// Whether ECE on an ACK, which moved SND.UNA to `una`, tells of congestion that was not
    /// answered yet.
    pub(super) fn is_news(&mut self, flags: Flags, una: Seq) -> bool {
        if self.told_until.is_some_and(|end| end.at_or_before(una)) {
            self.told_until = None;
        }
        flags.contains(Flags::ECE) && !self.reduced && self.told_until.is_none()
    }

    /// New data that ends at `end` is being sent. What it adds to the flags.
    pub(super) fn data_flags(&mut self, end: Seq) -> Flags {
        if !mem::take(&mut self.reduced) {
            return Flags(0);
        }
        self.told_until = Some(end);
        Flags::CWR
    }

    /// What it adds to the flags of a SYN-ACK.
    pub(super) fn syn_ack_flags(self) -> Flags {
        if self.agreed { Flags::ECE } else { Flags(0) }
    }

    /// What it adds to the flags of every other segment with ACK.
    pub(super) fn ack_flags(self) -> Flags {
        if self.echo_due { Flags::ECE } else { Flags(0) }
    }
}

fn asks(flags: Flags) -> bool {
    flags.contains(Flags::ECE | Flags::CWR)
}
