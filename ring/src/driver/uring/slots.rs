//! Operations in flight: values with stable addresses, named by an index.

/// A slab of boxes. A released value stays allocated and is used again, so that its vectors keep
/// their capacity: in the steady state nothing is allocated.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    live: bool,
    value: Box<T>,
}

impl<T: Default> Slots<T> {
    pub(super) fn new() -> Slots<T> {
        Slots {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// A value to fill, as its last user left it, and its index.
    pub(super) fn claim(&mut self) -> (u32, &mut T) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                live: false,
                value: Box::default(),
            });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        debug_assert!(!slot.live);
        slot.live = true;
        (index, &mut slot.value)
    }

    /// The value of a claimed index.
    pub(super) fn get(&mut self, index: u32) -> Option<&mut T> {
        self.slots
            .get_mut(index as usize)
            .filter(|slot| slot.live)
            .map(|slot| &mut *slot.value)
    }

    /// Makes the index free.
    pub(super) fn release(&mut self, index: u32) {
        match self.slots.get_mut(index as usize) {
            Some(slot) if slot.live => {
                slot.live = false;
                self.free.push(index);
            }
            _ => debug_assert!(false, "operation {index} was released twice"),
        }
    }

    /// How many are claimed.
    pub(super) fn live(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_address_while_others_come() {
        let mut slots = Slots::<Vec<u8>>::new();
        let (first, value) = slots.claim();
        value.push(7);
        let address = std::ptr::from_mut(value) as usize;
        for _ in 0..1000 {
            slots.claim();
        }
        assert_eq!(
            slots
                .get(first)
                .map(|value| std::ptr::from_mut(value) as usize),
            Some(address)
        );
        assert_eq!(slots.live(), 1001);
        slots.release(first);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.claim(), (first, &mut vec![7]));
    }
}
