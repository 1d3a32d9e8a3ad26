//! Guests whose hello is not complete.
//!
//! A stranger costs a descriptor and a task, and says nothing for as long as it likes within its time. So
//! there are at most so many, and the oldest makes room for the new one: who keeps places by being silent
//! loses them, while an honest guest, which says its hello at once, is rarely the oldest.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// All strangers.
pub(super) struct Strangers {
    limit: usize,
    waiting: Mutex<Waiting>,
}

/// Strangers by age; each is told by the end of its channel that its place is gone.
#[derive(Default)]
struct Waiting {
    last: u64,
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A stranger's place; given back when dropped.
pub(super) struct Place<'a> {
    strangers: &'a Strangers,
    number: u64,
    gone: oneshot::Receiver<()>,
}

impl Strangers {
    /// None, and at most `limit`.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            waiting: Mutex::default(),
        }
    }

    /// A place for one more, if it must be that of the oldest.
    pub(super) fn enter(&self) -> Place<'_> {
        let mut waiting = self.lock();
        if waiting.by_age.len() >= self.limit {
            waiting.by_age.pop_first();
        }
        waiting.last += 1;
        let number = waiting.last;
        let (place, gone) = oneshot::channel();
        waiting.by_age.insert(number, place);
        Place {
            strangers: self,
            number,
            gone,
        }
    }

    /// Whoever panicked, each change is one step.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Waits until another needs the place.
    pub(super) async fn lost(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.gone).await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.strangers.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_lost(place: &mut Place<'_>) -> bool {
        place.lost().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_makes_room() {
        let strangers = Strangers::new(2);
        let mut first = strangers.enter();
        let second = strangers.enter();
        assert!(!is_lost(&mut first));
        drop(second);
        let mut third = strangers.enter();
        assert!(!is_lost(&mut first), "there was a place");
        let mut fourth = strangers.enter();
        assert!(is_lost(&mut first));
        assert!(!is_lost(&mut third));
        drop(first);
        let _fifth = strangers.enter();
        assert!(is_lost(&mut third));
        assert!(!is_lost(&mut fourth));
        assert_eq!(strangers.lock().by_age.len(), 2);
    }
}
