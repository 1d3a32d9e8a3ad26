//! Deadlines of flows: a binary heap with lazy deletion.
//!
//! A flow's deadline mostly moves later (every segment restarts the retransmission timer), so the
//! heap is touched only when a deadline comes *earlier* than the entry that is already there. An
//! entry that fires too early finds the flow's real deadline and is put back. Nothing is ever
//! searched for or removed in place, and a flow has one live entry; entries that were overtaken by
//! an earlier one are recognised by their time and ignored.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use towpath_stack::Instant;

use super::token::FlowId;

/// The deadlines of one core.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, FlowId)>>,
}

/// What a flow remembers of its place in the heap: when its live entry fires, if it has one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Armed(Option<Instant>);

impl Timers {
    /// Makes sure that `flow` hears at `deadline` or before.
    pub(crate) fn arm(&mut self, flow: FlowId, armed: &mut Armed, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        if armed.0.is_none_or(|at| deadline < at) {
            armed.0 = Some(deadline);
            self.heap.push(Reverse((deadline, flow)));
        }
    }

    /// How many entries there are, overtaken ones included.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// When the next entry fires.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the next entry that is due. The caller confirms it with [`Armed::fired`].
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, FlowId)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

impl Armed {
    /// Whether the entry for `at` is the live one; it is spent by this call.
    pub(crate) fn fired(&mut self, at: Instant) -> bool {
        let live = self.0 == Some(at);
        if live {
            self.0 = None;
        }
        live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: FlowId = FlowId::tcp(1);
    const B: FlowId = FlowId::tcp(2);

    fn at(nanos: u64) -> Option<Instant> {
        Some(Instant::from_nanos(nanos))
    }

    #[test]
    fn later_deadlines_cost_nothing_and_earlier_ones_win() {
        let (mut timers, mut a, mut b) = (Timers::default(), Armed::default(), Armed::default());
        timers.arm(A, &mut a, at(100));
        timers.arm(A, &mut a, at(200));
        assert_eq!(timers.heap.len(), 1);
        timers.arm(B, &mut b, at(150));
        timers.arm(B, &mut b, at(50));
        assert_eq!(timers.next(), at(50));
        assert_eq!(timers.pop_due(Instant::from_nanos(49)), None);

        let (when, flow) = timers.pop_due(Instant::from_nanos(300)).unwrap();
        assert_eq!(flow, B);
        assert!(b.fired(when));
        let (when, flow) = timers.pop_due(Instant::from_nanos(300)).unwrap();
        assert_eq!(flow, A);
        assert!(a.fired(when));
        // B's overtaken entry is still there and is not live.
        let (when, flow) = timers.pop_due(Instant::from_nanos(300)).unwrap();
        assert_eq!(flow, B);
        assert!(!b.fired(when));
        assert_eq!(timers.pop_due(Instant::from_nanos(300)), None);
    }
}
