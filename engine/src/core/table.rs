//! Flows of one kind: a slab, and an index by key that uses the shard hash (computed once per frame).

use hashbrown::HashTable;
use slab::Slab;
use towpath_stack::flow::FlowKey;

/// Flows that can be found by key while they are *listed*, and by index until they are *freed*.
///
/// The two ends differ because a flow whose key is free for a successor may still wait for
/// completions of its host socket.
pub(crate) struct FlowTable<T> {
    flows: Slab<Entry<T>>,
    index: HashTable<u32>,
    /// How many there are of each guest, listed or not.
    guests: Vec<u32>,
}

struct Entry<T> {
    key: FlowKey,
    hash: u32,
    listed: bool,
    flow: T,
}

impl<T> FlowTable<T> {
    pub(crate) fn new() -> Self {
        Self {
            flows: Slab::new(),
            index: HashTable::new(),
            guests: Vec::new(),
        }
    }

    /// The listed flow with this key.
    pub(crate) fn find(&self, key: &FlowKey, hash: u32) -> Option<u32> {
        self.index
            .find(spread(hash), |&i| self.flows[i as usize].key == *key)
            .copied()
    }

    /// Adds a flow under a key that is not listed.
    pub(crate) fn insert(&mut self, key: FlowKey, hash: u32, flow: T) -> u32 {
        debug_assert!(self.find(&key, hash).is_none());
        let guest = usize::from(key.guest);
        if self.guests.len() <= guest {
            self.guests.resize(guest + 1, 0);
        }
        self.guests[guest] += 1;
        let index = self.flows.insert(Entry {
            key,
            hash,
            listed: true,
            flow,
        }) as u32;
        let flows = &self.flows;
        self.index
            .insert_unique(spread(hash), index, |&i| spread(flows[i as usize].hash));
        index
    }

    /// Makes the key free for a successor; the flow stays reachable by index.
    pub(crate) fn unlist(&mut self, index: u32) {
        let Some(entry) = self.flows.get_mut(index as usize) else {
            return;
        };
        if std::mem::take(&mut entry.listed)
            && let Ok(found) = self.index.find_entry(spread(entry.hash), |&i| i == index)
        {
            found.remove();
        }
    }

    /// Forgets the flow.
    pub(crate) fn free(&mut self, index: u32) {
        self.unlist(index);
        if let Some(entry) = self.flows.try_remove(index as usize) {
            self.guests[usize::from(entry.key.guest)] -= 1;
        }
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.flows.get(index as usize).map(|entry| &entry.flow)
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.flows
            .get_mut(index as usize)
            .map(|entry| &mut entry.flow)
    }

    pub(crate) fn key(&self, index: u32) -> Option<&FlowKey> {
        self.flows.get(index as usize).map(|entry| &entry.key)
    }

    /// All flows, listed or not.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.flows
            .iter_mut()
            .map(|(i, entry)| (i as u32, &mut entry.flow))
    }

    /// The places of all flows of guests that `which` picks, listed or not.
    pub(crate) fn indices(&self, which: impl Fn(u16) -> bool) -> Vec<u32> {
        let flows = self.flows.iter();
        flows
            .filter(|(_, entry)| which(entry.key.guest))
            .map(|(index, _)| index as u32)
            .collect()
    }

    /// How many a guest has, listed or not.
    pub(crate) fn of_guest(&self, guest: u16) -> usize {
        let count = self.guests.get(usize::from(guest));
        count.map_or(0, |&count| count as usize)
    }

    /// All flows, listed or not.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }
}

/// Fills 64 bits from the 32 of the shard hash: the table takes its tags from the top and its
/// buckets from the bottom, and all flows of one core share some low bits of the shard hash.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use towpath_stack::Address;
    use towpath_stack::flow::Protocol;

    fn key(port: u16) -> FlowKey {
        FlowKey {
            guest: 0,
            protocol: Protocol::Tcp,
            guest_address: Address::v4([10, 0, 0, 3]),
            remote_address: Address::v4([1, 1, 1, 1]),
            guest_port: port,
            remote_port: 80,
        }
    }

    #[test]
    fn an_unlisted_flow_leaves_its_key_to_a_successor() {
        let mut table = FlowTable::new();
        let hash = towpath_stack::flow::hash(&key(1));
        let first = table.insert(key(1), hash, "first");
        assert_eq!(table.find(&key(1), hash), Some(first));
        assert_eq!(table.find(&key(2), hash), None);
        table.unlist(first);
        assert_eq!(table.find(&key(1), hash), None);
        assert_eq!(table.get(first), Some(&"first"));
        let second = table.insert(key(1), hash, "second");
        table.free(first);
        assert_eq!(table.find(&key(1), hash), Some(second));
        assert_eq!(table.len(), 1);
        table.free(second);
        assert_eq!(table.find(&key(1), hash), None);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn many_flows_of_one_hash_are_told_apart() {
        let mut table = FlowTable::new();
        for port in 0..1000 {
            table.insert(key(port), 42, port);
        }
        for port in 0..1000 {
            let index = table.find(&key(port), 42).unwrap();
            assert_eq!(table.get(index), Some(&port));
        }
    }
}
