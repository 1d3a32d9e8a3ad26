//! Lanes: a bounded queue from every core to every other.
//!
//! Each pair of cores has a queue of its own in each direction, so a slow core delays only what is
//! meant for it, and each queue has one producer and one consumer. A full lane hands the item back:
//! the sender drops and counts it, like a NIC queue. Waking the receiver is the sender's task, once a
//! batch ([`Driver::wake`](crate::Driver::wake)).

use std::cell::Cell;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

/// Makes lanes.
#[derive(Debug)]
pub struct Lanes;

impl Lanes {
    /// One [`LaneEnd`] per core, in order of the cores. Each pair of cores gets a queue of
    /// `capacity` items (at least 1) in each direction.
    #[must_use]
    pub fn mesh<T: Send>(cores: usize, capacity: usize) -> Vec<LaneEnd<T>> {
        // queues[from][to]
        let queues: Vec<Vec<Arc<ArrayQueue<T>>>> = (0..cores)
            .map(|_| {
                (0..cores)
                    .map(|_| Arc::new(ArrayQueue::new(capacity.max(1))))
                    .collect()
            })
            .collect();
        (0..cores)
            .map(|core| LaneEnd {
                outgoing: queues[core].clone(),
                incoming: queues.iter().map(|row| Arc::clone(&row[core])).collect(),
                next: Cell::new(0),
            })
            .collect()
    }
}

/// One core's end of all its lanes. Moves to its core's thread and stays there.
#[derive(Debug)]
pub struct LaneEnd<T> {
    outgoing: Vec<Arc<ArrayQueue<T>>>,
    incoming: Vec<Arc<ArrayQueue<T>>>,
    /// Where the next look for an item starts: the senders take turns.
    next: Cell<usize>,
}

impl<T: Send> LaneEnd<T> {
    /// Queues an item for core `to` (which may be this one).
    ///
    /// # Errors
    ///
    /// Gives the item back if that lane is full or there is no such core.
    pub fn send(&self, to: usize, item: T) -> Result<(), T> {
        match self.outgoing.get(to) {
            Some(queue) => queue.push(item),
            None => Err(item),
        }
    }

    /// How many items the lane to core `to` still takes.
    pub fn room(&self, to: usize) -> usize {
        let lane = self.outgoing.get(to);
        lane.map_or(0, |lane| lane.capacity() - lane.len())
    }

    /// The next item that some core sent here, with that core's number. Items of one sender come in
    /// the order in which they were sent; senders take turns.
    pub fn receive(&self) -> Option<(usize, T)> {
        let count = self.incoming.len();
        for step in 0..count {
            let from = (self.next.get() + step) % count;
            if let Some(item) = self.incoming[from].pop() {
                self.next.set((from + 1) % count);
                return Some((from, item));
            }
        }
        None
    }

    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.outgoing.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_lane_gives_the_item_back_and_the_others_go_on() {
        let ends = Lanes::mesh::<u32>(3, 2);
        assert_eq!(ends[0].room(1), 2);
        assert_eq!(ends[0].send(1, 10), Ok(()));
        assert_eq!(ends[0].room(1), 1);
        assert_eq!(ends[0].send(1, 11), Ok(()));
        assert_eq!(ends[0].send(1, 12), Err(12));
        assert_eq!(ends[2].send(1, 20), Ok(()));
        assert_eq!(ends[0].send(2, 30), Ok(()));
        assert_eq!(ends[0].send(3, 40), Err(40), "no such core");
        let got: Vec<_> = std::iter::from_fn(|| ends[1].receive()).collect();
        assert_eq!(got, [(0, 10), (2, 20), (0, 11)]);
        assert_eq!(ends[0].receive(), None);
    }

    #[test]
    fn items_cross_threads_in_order() {
        let mut ends = Lanes::mesh::<u32>(2, 16).into_iter();
        let (a, b) = (ends.next().unwrap(), ends.next().unwrap());
        let sender = std::thread::spawn(move || {
            for item in 0..1000 {
                let mut item = item;
                while let Err(back) = a.send(1, item) {
                    item = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < 1000 {
            match b.receive() {
                Some((0, item)) => {
                    assert_eq!(item, expected);
                    expected += 1;
                }
                Some(other) => panic!("unexpected {other:?}"),
                None => std::thread::yield_now(),
            }
        }
        sender.join().unwrap();
    }

    #[test]
    fn a_mesh_of_no_cores_is_empty() {
        assert!(Lanes::mesh::<u8>(0, 4).is_empty());
        let alone = Lanes::mesh::<u8>(1, 0);
        assert_eq!(alone[0].send(0, 1), Ok(()));
        assert_eq!(alone[0].send(0, 2), Err(2));
        assert_eq!(alone[0].receive(), Some((0, 1)));
    }
}
