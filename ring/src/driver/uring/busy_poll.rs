//! Busy polling: a short look for what comes next before the thread goes to sleep.
//!
//! # Theory of operation
//!
//! A lone request and its answer wake four sleeping threads (server, client, and this one twice). Where
//! they wake each other across the processors of a virtual machine, the waker's interrupt costs it 10 µs
//! and the idle processor starts 15 µs later, so that 70 to 120 µs are spent around 18 µs of work. Who is
//! still awake need not be woken: with deferred task work the kernel then only sets a mark in the
//! submission queue, which is read here without a system call.
//!
//! It is done only where it is worth it and takes nothing from others:
//!
//! - **Not in bulk**: where many bytes flow, a fuller batch is what helps.
//! - **A budget**: looks that found nothing are paid from a budget that grows by a small share of the time
//!   that passes. Looks that found something took the time that the wake-up would have taken.
//! - **Giving way**: between two glances the thread yields its processor to whoever waits for it (often the
//!   very program whose answer it looks for). If it gets it back late, others are busy there: then it
//!   sleeps at once for a while, and for twice as long if it happens again soon. (With two busy threads on
//!   two processors, yielding cost up to 4 ms at p99, and sleeping is quick there: 12 µs a round trip,
//!   since the kernel then keeps all of it on one processor.)

use super::Uring;
use crate::driver::Completion;
use crate::driver::kernel::clock;

/// One part in this many of the time that passes may be spent on looks that find nothing.
const BUDGET_SHARE: u64 = 16;
/// The most that a burst after a silence may spend on looks that find nothing, in ns.
const BUDGET_MAX: u64 = 1_000_000;
/// A processor that comes back later than this, in ns, is wanted by others. Above what a short turn of
/// another thread takes, below a scheduler's slice (0.7 to 3 ms).
const LATE: u64 = 200_000;
/// For how long the thread then goes to sleep at once, in ns: the first time, and at most.
const GIVE_WAY_MIN: u64 = 50_000_000;
const GIVE_WAY_MAX: u64 = 3_200_000_000;
/// Late again before this many times as long has passed is soon.
const SOON: u64 = 16;
/// More bytes than this in the last batches are bulk.
const FEW_BYTES: usize = 16 << 10;

/// When and for how long to look.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// The longest look in ns; 0: never look.
    longest: u64,
    /// What looks that find nothing may still cost, in ns, as of `refilled`.
    budget: u64,
    refilled: u64,
    /// Until then others need the processor.
    sleepy_until: u64,
    /// How long that last was.
    give_way: u64,
    /// Bytes of the last batches, each counting a quarter less than the one after it.
    recent_bytes: usize,
}

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Found,
    Nothing,
    Late,
}

impl BusyPoll {
    pub(super) fn new(longest_ns: u64) -> BusyPoll {
        BusyPoll {
            longest: longest_ns,
            budget: BUDGET_MAX,
            refilled: 0,
            sleepy_until: 0,
            give_way: 0,
            recent_bytes: 0,
        }
    }

    /// Takes note of a batch.
    pub(super) fn saw(&mut self, batch: &[Completion]) {
        if self.longest == 0 {
            return;
        }
        let bytes: usize = batch.iter().map(Completion::bytes).sum();
        self.recent_bytes = self.recent_bytes - self.recent_bytes / 4 + bytes;
    }

    /// Whether a look is worth it at `now`.
    pub(super) fn pays(&mut self, now: u64) -> bool {
        if self.longest == 0 || self.recent_bytes > FEW_BYTES || now < self.sleepy_until {
            return false;
        }
        let refill = now.saturating_sub(self.refilled) / BUDGET_SHARE;
        self.budget = BUDGET_MAX.min(self.budget + refill);
        self.refilled = now;
        self.budget >= self.longest
    }

    fn account(&mut self, look: Look, started: u64, ended: u64) {
        match look {
            Look::Found => {}
            Look::Nothing => self.budget = self.budget.saturating_sub(ended - started),
            Look::Late => self.give_way(ended),
        }
    }

    fn give_way(&mut self, now: u64) {
        let soon = now < self.sleepy_until + SOON * self.give_way;
        self.give_way = if soon {
            (self.give_way * 2).min(GIVE_WAY_MAX)
        } else {
            GIVE_WAY_MIN
        };
        self.sleepy_until = now + self.give_way;
    }
}

impl Uring {
    /// Looks for deferred work until there is some, the deadline comes or it was long enough. Whether
    /// there is some, which the next `enter` carries out.
    pub(super) fn look(&mut self, deadline: Option<u64>) -> bool {
        let started = clock();
        let until = (started + self.busy_poll.longest).min(deadline.unwrap_or(u64::MAX));
        let queue = self.ring.submission();
        let mut now = started;
        let look = loop {
            if queue.taskrun() {
                break Look::Found;
            }
            if now >= until {
                break Look::Nothing;
            }
            rustix::thread::sched_yield();
            let back = clock();
            let away = back - std::mem::replace(&mut now, back);
            if away > LATE {
                break Look::Late;
            }
        };
        drop(queue);
        self.busy_poll.account(look, started, now);
        self.counters.looks += 1;
        self.counters.looks_found += u64::from(look == Look::Found);
        look == Look::Found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Slice;

    fn batch(bytes: usize) -> [Completion; 1] {
        let data = Slice::from_vec(vec![0; bytes]);
        [Completion::Received { token: 0, data }]
    }

    #[test]
    fn zero_is_never() {
        assert!(!BusyPoll::new(0).pays(1));
    }

    #[test]
    fn bulk_is_no_time_to_look_and_it_passes() {
        let mut poll = BusyPoll::new(50_000);
        assert!(poll.pays(1));
        poll.saw(&batch(FEW_BYTES + 1));
        assert!(!poll.pays(2));
        for _ in 0..4 {
            poll.saw(&batch(100));
        }
        assert!(poll.pays(3));
    }

    #[test]
    fn looks_that_find_nothing_are_bounded_by_their_share_of_time() {
        let mut poll = BusyPoll::new(50_000);
        let (mut now, mut wasted) = (0, 0);
        while now < 1_000_000_000 {
            now += 60_000;
            if poll.pays(now) {
                poll.account(Look::Nothing, now - 50_000, now);
                wasted += 50_000;
            }
        }
        let bound = now / BUDGET_SHARE + BUDGET_MAX + 50_000;
        assert!(wasted <= bound, "{wasted} of {bound}");
        assert!(wasted > now / BUDGET_SHARE / 2, "{wasted} is hardly any");
    }

    #[test]
    fn looks_that_find_something_cost_nothing() {
        let mut poll = BusyPoll::new(50_000);
        for n in 1..100_000 {
            assert!(poll.pays(n * 30_000));
            poll.account(Look::Found, n * 30_000, n * 30_000 + 25_000);
        }
    }

    #[test]
    fn a_busy_processor_is_left_to_others_and_longer_if_it_stays_busy() {
        let mut poll = BusyPoll::new(50_000);
        let mut now = 1_000_000_000;
        for give_way in [1, 2, 4, 8, 16, 32, 64, 64].map(|times| times * GIVE_WAY_MIN) {
            poll.account(Look::Late, now - LATE, now);
            assert!(!poll.pays(now + give_way - 1));
            assert!(poll.pays(now + give_way));
            now += give_way + 20_000_000;
        }
        now += SOON * GIVE_WAY_MAX;
        poll.account(Look::Late, now - LATE, now);
        assert!(poll.pays(now + GIVE_WAY_MIN), "it was quiet for long");
    }
}
