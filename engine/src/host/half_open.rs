//! TCP connections that are not open yet: the host side is being connected, or the guest has not
//! acknowledged our SYN-ACK.
//!
//! A SYN costs the guest nothing, not even an address of its own, and us a host socket that connects.
//! So there are at most so many of these at a time, and at most half of that for one address of the
//! guest: who floods from its own address leaves room to others. When a bound is reached the oldest
//! makes room for the new one. An honest connect is the oldest only when the flood is faster than the
//! bound divided by the time that the host's peer takes to answer, while those of a flood to
//! where nobody answers all come to be the oldest.

use std::collections::{BTreeMap, HashMap};

use towpath_stack::Address;

/// Names a half-open flow; later ones are larger.
pub(crate) type Ticket = u64;

/// The half-open flows of a core, by age.
pub(crate) struct HalfOpen {
    limit: usize,
    last: Ticket,
    by_age: BTreeMap<Ticket, (Address, u32)>,
    /// How many there are of each guest address that has any.
    of_address: HashMap<Address, usize>,
}

impl HalfOpen {
    /// None, and at most `limit`.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            last: 0,
            by_age: BTreeMap::new(),
            of_address: HashMap::new(),
        }
    }

    /// The flow that must go before one from this address may come, if any must. `full`: there is no
    /// place but that of a half-open one.
    pub(crate) fn in_the_way(&self, guest: &Address, full: bool) -> Option<u32> {
        let share = self.limit.div_ceil(2);
        let own = self.of_address.get(guest).copied().unwrap_or(0);
        let mut oldest_first = self.by_age.values();
        if own >= share {
            oldest_first.find(|(address, _)| address == guest)
        } else if full || self.by_age.len() >= self.limit {
            oldest_first.next()
        } else {
            None
        }
        .map(|&(_, index)| index)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// A flow from this address begins, at this place of the table.
    pub(crate) fn add(&mut self, guest: Address, index: u32) -> Ticket {
        self.last += 1;
        self.by_age.insert(self.last, (guest, index));
        *self.of_address.entry(guest).or_default() += 1;
        self.last
    }

    /// The flow is open, or over.
    pub(crate) fn remove(&mut self, ticket: Ticket) {
        let Some((guest, _)) = self.by_age.remove(&ticket) else {
            return;
        };
        if let Some(count) = self.of_address.get_mut(&guest) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&guest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn guest(last: u8) -> Address {
        Address::v4([10, 0, 0, last])
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut half_open = HalfOpen::new(4);
        let tickets: Vec<_> = (0..4).map(|i| half_open.add(guest(i), i.into())).collect();
        assert_eq!(half_open.in_the_way(&guest(9), false), Some(0));
        half_open.remove(tickets[0]);
        assert_eq!(half_open.in_the_way(&guest(9), false), None);
        assert_eq!(half_open.in_the_way(&guest(9), true), Some(1));
        half_open.add(guest(9), 9);
        assert_eq!(half_open.in_the_way(&guest(9), false), Some(1));
    }

    #[test]
    fn one_address_has_half_and_stands_in_its_own_way() {
        let mut half_open = HalfOpen::new(4);
        half_open.add(guest(1), 10);
        half_open.add(guest(2), 20);
        let second = half_open.add(guest(2), 21);
        assert_eq!(
            half_open.in_the_way(&guest(2), false),
            Some(20),
            "not 10, which is older"
        );
        assert_eq!(half_open.in_the_way(&guest(1), false), None);
        half_open.remove(second);
        half_open.remove(second);
        assert_eq!(half_open.in_the_way(&guest(2), false), None);
    }

    #[test]
    fn nothing_is_kept_of_who_is_gone() {
        let mut half_open = HalfOpen::new(1);
        for i in 0..100 {
            let ticket = half_open.add(guest(i), i.into());
            half_open.remove(ticket);
        }
        assert!(half_open.by_age.is_empty() && half_open.of_address.is_empty());
    }
}
