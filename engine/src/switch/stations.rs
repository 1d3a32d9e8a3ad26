//! Which station is behind which port: the learning table of a bridge (IEEE 802.1Q §8.7, §8.8).
//!
//! Stations age without timers: one that was not heard for [`AGE`] is not found any more, and its
//! place in the table is taken when another needs it. The time before which no station of the table
//! can have aged is kept, so that a guest that makes up addresses does not have the table searched
//! for each of its frames.
//!
//! A station that is heard at another port than before has moved there, if its old port is quiet.
//! If that one heard it within [`QUIET`], it is a frame that a loop brought back, or one of two
//! stations with one address; believing it would send the other's frames astray, so it is refused.

use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;
use towpath_stack::Instant;
use towpath_stack::wire::ethernet::MacAddress;

use super::Place;
use crate::link::PortId;

/// How long a station is known after it was heard: the default of IEEE 802.1Q §8.8.3.
const AGE: Duration = Duration::from_secs(300);
/// For how long a port must not have heard a station before it can be learnt at another one. A loop
/// brings frames back within milliseconds; a guest that wants another's frames would wait for longer.
const QUIET: Duration = Duration::from_secs(60);
/// How long replicas may not know that a station was heard again: what they believe of it has to be
/// new enough to tell a loop from a move.
const TELL_AFTER: Duration = Duration::from_millis(500);
/// Stations of one port: a guest that is itself a bridge has as many machines behind it.
const STATIONS_PER_PORT: u16 = 64;
/// Stations in all.
const STATIONS_MAX: usize = 4_096;

const _: () = assert!(TELL_AFTER.as_nanos() * 2 <= QUIET.as_nanos());

/// All stations that one core knows.
pub(crate) struct Stations {
    gateway: MacAddress,
    stations: Slab<Station>,
    index: HashTable<u32>,
    hasher: RandomState,
    ports: Vec<Port>,
    /// Until then, none of the stations can have aged.
    ages_from: Instant,
    per_port: u16,
    in_all: usize,
}

struct Station {
    mac: MacAddress,
    place: Place,
    heard: Instant,
    /// When the other cores were told.
    told: Instant,
}

#[derive(Clone, Copy, Default)]
struct Port {
    stations: u16,
    /// The station that was heard last, which most frames are from.
    last: u32,
}

/// What a core tells the others: where a station was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The station.
    pub(crate) mac: MacAddress,
    /// Where it is.
    pub(crate) place: Place,
}

/// What a source address was to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// It was not known, or not any more.
    New,
    /// It is where it was. `tell` when the other cores have not been told for long.
    Refreshed { tell: bool },
    /// It came from another port.
    Moved,
    /// There is no room. The frame passes, but nothing is learnt from it.
    Full,
    /// It can't be right: the frame is to be dropped.
    Refused(Refusal),
}

/// Why a source address can't be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is a group's.
    Group,
    /// It is all zeros.
    Zero,
    /// It is ours.
    Gateway,
    /// Another port has heard it just now.
    Loop,
}

impl Learned {
    /// Whether the other cores have to be told.
    pub(crate) const fn is_news(self) -> bool {
        matches!(
            self,
            Self::New | Self::Moved | Self::Refreshed { tell: true }
        )
    }
}

impl Stations {
    /// An empty table on a segment whose gateway has this address.
    pub(crate) fn new(gateway: MacAddress) -> Self {
        Self::bounded(gateway, STATIONS_PER_PORT, STATIONS_MAX)
    }

    fn bounded(gateway: MacAddress, per_port: u16, in_all: usize) -> Self {
        Self {
            gateway,
            stations: Slab::new(),
            index: HashTable::new(),
            hasher: RandomState::default(),
            ports: Vec::new(),
            ages_from: Instant::ZERO,
            per_port,
            in_all,
        }
    }

    /// The gateway's address, which is never learnt.
    pub(crate) fn gateway(&self) -> MacAddress {
        self.gateway
    }

    /// Learns from a frame whose source is `mac`; only the home core of the port that it came in at
    /// does. Costs a comparison when the port's last frame was from the same station.
    #[inline]
    pub(crate) fn learn(&mut self, now: Instant, mac: MacAddress, place: Place) -> Learned {
        if let Some(port) = self.ports.get(usize::from(place.port.0))
            && let Some(station) = self.stations.get_mut(port.last as usize)
            && station.mac == mac
            && station.place == place
        {
            return station.refresh(now);
        }
        self.learn_any(now, mac, place)
    }

    /// Takes what the home core of a port told.
    pub(crate) fn hear_of(&mut self, now: Instant, heard: Heard) {
        let Heard { mac, place } = heard;
        if let Some(index) = self.index_of(mac) {
            let station = &mut self.stations[index as usize];
            if station.place == place {
                (station.heard, station.told) = (now, now);
                return;
            }
            self.remove(index);
        }
        if self.has_room(now, place.port, 1) {
            self.insert(now, mac, place);
        }
    }

    /// Where a station is, if it was heard within [`AGE`].
    pub(crate) fn find(&self, now: Instant, mac: MacAddress) -> Option<Place> {
        let station = &self.stations[self.index_of(mac)? as usize];
        (!station.has_aged(now)).then_some(station.place)
    }

    /// Forgets the stations of a port that was closed.
    pub(crate) fn forget_port(&mut self, port: PortId) {
        self.remove_where(|station| station.place.port == port);
    }

    fn learn_any(&mut self, now: Instant, mac: MacAddress, place: Place) -> Learned {
        let refusal = if mac == self.gateway {
            Some(Refusal::Gateway)
        } else if mac.is_multicast() {
            Some(Refusal::Group)
        } else if mac.is_zero() {
            Some(Refusal::Zero)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return Learned::Refused(refusal);
        }
        if let Some(index) = self.index_of(mac) {
            let station = &mut self.stations[index as usize];
            if station.place == place {
                let refreshed = station.refresh(now);
                self.ports[usize::from(place.port.0)].last = index;
                return refreshed;
            }
            if !station.has_aged(now) {
                return self.relocate(now, index, place);
            }
            self.remove(index);
        }
        if !self.has_room(now, place.port, 1) {
            return Learned::Full;
        }
        self.insert(now, mac, place);
        Learned::New
    }

    /// A station that is known elsewhere was heard at `place`.
    fn relocate(&mut self, now: Instant, index: u32, place: Place) -> Learned {
        let Station { mac, heard, .. } = self.stations[index as usize];
        if now.since(heard) < QUIET {
            return Learned::Refused(Refusal::Loop);
        }
        if !self.has_room(now, place.port, 0) {
            return Learned::Full;
        }
        self.remove(index);
        self.insert(now, mac, place);
        Learned::Moved
    }

    /// Whether a port may have one more station, and the table so many; what has aged makes room.
    fn has_room(&mut self, now: Instant, port: PortId, more: usize) -> bool {
        let room = |table: &Self| {
            let port = table.ports.get(usize::from(port.0));
            port.is_none_or(|port| port.stations < table.per_port)
                && table.stations.len() + more <= table.in_all
        };
        if room(self) {
            return true;
        }
        if now < self.ages_from {
            return false;
        }
        self.remove_where(|station| station.has_aged(now));
        let oldest = self.stations.iter().map(|(_, station)| station.heard).min();
        self.ages_from = oldest.unwrap_or(now) + AGE;
        room(self)
    }

    /// Adds a station that is not known, at a port with room for it.
    fn insert(&mut self, now: Instant, mac: MacAddress, place: Place) {
        let port = usize::from(place.port.0);
        if self.ports.len() <= port {
            self.ports.resize(port + 1, Port::default());
        }
        let station = Station {
            mac,
            place,
            heard: now,
            told: now,
        };
        let index = self.stations.insert(station) as u32;
        let Self {
            stations, hasher, ..
        } = self;
        self.index
            .insert_unique(hasher.hash_one(mac), index, |&index| {
                hasher.hash_one(stations[index as usize].mac)
            });
        let port = &mut self.ports[port];
        port.stations += 1;
        port.last = index;
    }

    fn remove(&mut self, index: u32) {
        let Station { mac, place, .. } = self.stations.remove(index as usize);
        if let Ok(found) = self
            .index
            .find_entry(self.hasher.hash_one(mac), |&other| other == index)
        {
            found.remove();
        }
        self.ports[usize::from(place.port.0)].stations -= 1;
    }

    fn remove_where(&mut self, goes: impl Fn(&Station) -> bool) {
        for index in 0..self.stations.capacity() {
            if self.stations.get(index).is_some_and(&goes) {
                self.remove(index as u32);
            }
        }
    }

    fn index_of(&self, mac: MacAddress) -> Option<u32> {
        self.index
            .find(self.hasher.hash_one(mac), |&index| {
                self.stations[index as usize].mac == mac
            })
            .copied()
    }
}

impl Station {
    /// It was heard where it was before.
    fn refresh(&mut self, now: Instant) -> Learned {
        let learned = if self.has_aged(now) {
            Learned::New
        } else {
            let tell = now.since(self.told) >= TELL_AFTER;
            Learned::Refreshed { tell }
        };
        self.heard = now;
        if learned.is_news() {
            self.told = now;
        }
        learned
    }

    fn has_aged(&self, now: Instant) -> bool {
        now.since(self.heard) >= AGE
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    const GATEWAY: MacAddress = MacAddress([2, 0x74, 0x6f, 0x77, 0, 1]);

    fn mac(n: u16) -> MacAddress {
        let [a, b] = n.to_be_bytes();
        MacAddress([2, 0, 0, 1, a, b])
    }

    fn place(port: u16) -> Place {
        let core = (port % 2) as u8;
        let port = PortId(port);
        Place { core, port }
    }

    fn at_ms(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    fn refreshed(tell: bool) -> Learned {
        Learned::Refreshed { tell }
    }

    #[test]
    fn a_station_is_found_until_it_has_aged() {
        let mut table = Stations::new(GATEWAY);
        assert_eq!(table.find(at_ms(0), mac(1)), None);
        assert_eq!(table.learn(at_ms(0), mac(1), place(3)), Learned::New);
        assert_eq!(table.find(at_ms(299_999), mac(1)), Some(place(3)));
        assert_eq!(table.find(at_ms(300_000), mac(1)), None);
        assert_eq!(table.learn(at_ms(300_000), mac(1), place(3)), Learned::New);
        assert_eq!(table.find(at_ms(300_000), mac(1)), Some(place(3)));
    }

    #[test]
    fn what_no_station_can_have_is_refused() {
        let mut table = Stations::new(GATEWAY);
        let cases = [
            (GATEWAY, Refusal::Gateway),
            (MacAddress::BROADCAST, Refusal::Group),
            (MacAddress([3, 0, 0, 0, 0, 1]), Refusal::Group),
            (MacAddress([0; 6]), Refusal::Zero),
        ];
        for (mac, refusal) in cases {
            let learned = table.learn(at_ms(0), mac, place(3));
            assert_eq!(learned, Learned::Refused(refusal));
            assert_eq!(table.find(at_ms(0), mac), None);
        }
    }

    #[test]
    fn a_loop_is_refused_and_a_move_is_followed() {
        let mut table = Stations::new(GATEWAY);
        table.learn(at_ms(0), mac(1), place(3));
        table.learn(at_ms(700), mac(1), place(3));
        let looped = table.learn(at_ms(60_699), mac(1), place(4));
        assert_eq!(looped, Learned::Refused(Refusal::Loop));
        assert_eq!(table.find(at_ms(60_699), mac(1)), Some(place(3)));
        // What was refused does not keep the old port: it has to be heard there itself.
        assert_eq!(table.learn(at_ms(60_700), mac(1), place(4)), Learned::Moved);
        assert_eq!(table.find(at_ms(60_700), mac(1)), Some(place(4)));
        let back = table.learn(at_ms(60_701), mac(1), place(3));
        assert_eq!(back, Learned::Refused(Refusal::Loop));
    }

    #[test]
    fn others_are_told_in_time_to_know_a_loop() {
        let mut table = Stations::new(GATEWAY);
        assert!(table.learn(at_ms(0), mac(1), place(3)).is_news());
        assert_eq!(table.learn(at_ms(499), mac(1), place(3)), refreshed(false));
        assert_eq!(table.learn(at_ms(500), mac(1), place(3)), refreshed(true));
        assert_eq!(table.learn(at_ms(501), mac(1), place(3)), refreshed(false));
        assert!(!Learned::Full.is_news());
        assert!(!Learned::Refused(Refusal::Loop).is_news());
    }

    #[test]
    fn a_replica_follows_what_it_is_told() {
        let mut table = Stations::new(GATEWAY);
        let (mac, first, second) = (mac(1), place(3), place(4));
        table.hear_of(at_ms(0), Heard { mac, place: first });
        assert_eq!(table.find(at_ms(0), mac), Some(first));
        let looped = table.learn(at_ms(900), mac, second);
        assert_eq!(looped, Learned::Refused(Refusal::Loop));
        table.hear_of(at_ms(900), Heard { mac, place: first });
        let looped = table.learn(at_ms(1_800), mac, second);
        assert_eq!(looped, Learned::Refused(Refusal::Loop));
        table.hear_of(at_ms(1_800), Heard { mac, place: second });
        assert_eq!(table.find(at_ms(1_800), mac), Some(second));
    }

    #[test]
    fn a_port_has_so_many_stations_until_one_has_aged() {
        let mut table = Stations::new(GATEWAY);
        for n in 0..STATIONS_PER_PORT {
            let now = at_ms(u64::from(n));
            assert_eq!(table.learn(now, mac(n), place(3)), Learned::New);
        }
        let (now, more) = (at_ms(1_500), mac(1_000));
        assert_eq!(table.learn(now, more, place(3)), Learned::Full);
        assert_eq!(table.find(now, more), None);
        assert_eq!(table.learn(now, more, place(4)), Learned::New, "elsewhere");
        assert_eq!(table.learn(now, mac(0), place(3)), refreshed(true));
        // Station 0 was heard again; station 1 is the first that has aged.
        let now = at_ms(300_000);
        assert_eq!(table.learn(now, mac(1_001), place(3)), Learned::Full);
        let now = at_ms(300_001);
        assert_eq!(table.learn(now, mac(1_001), place(3)), Learned::New);
        assert_eq!(table.learn(now, mac(1_002), place(3)), Learned::Full);
    }

    #[test]
    fn the_table_has_so_many_stations() {
        let mut table = Stations::new(GATEWAY);
        for n in 0..STATIONS_MAX as u16 {
            let learned = table.learn(at_ms(0), mac(n), place(n / STATIONS_PER_PORT));
            assert_eq!(learned, Learned::New);
        }
        let (now, port) = (at_ms(60_000), place(100));
        assert_eq!(table.learn(now, mac(9_000), port), Learned::Full);
        assert_eq!(table.learn(now, mac(0), port), Learned::Moved, "no more");
        table.forget_port(place(1).port);
        assert_eq!(table.find(now, mac(STATIONS_PER_PORT)), None);
        assert_eq!(table.learn(now, mac(9_000), port), Learned::New);
        let now = at_ms(400_000);
        assert_eq!(table.learn(now, mac(9_001), port), Learned::New);
    }

    /// The rules without tables: what is known of each station that has not aged.
    #[derive(Default)]
    struct Model {
        known: HashMap<MacAddress, (Place, Instant, Instant)>,
        per_port: usize,
        in_all: usize,
    }

    impl Model {
        fn has_room(&self, port: PortId) -> bool {
            let there = self.known.values().filter(|(at, ..)| at.port == port);
            there.count() < self.per_port
        }

        fn put(&mut self, now: Instant, mac: MacAddress, place: Place) {
            self.known.insert(mac, (place, now, now));
        }

        fn learn(&mut self, now: Instant, mac: MacAddress, place: Place) -> Learned {
            let port_has_room = self.has_room(place.port);
            let has_room = port_has_room && self.known.len() < self.in_all;
            match self.known.get_mut(&mac) {
                Some((at, heard, told)) if *at == place => {
                    *heard = now;
                    let tell = now.since(*told) >= TELL_AFTER;
                    if tell {
                        *told = now;
                    }
                    refreshed(tell)
                }
                Some((_, heard, _)) if now.since(*heard) < QUIET => Learned::Refused(Refusal::Loop),
                Some(_) if port_has_room => {
                    self.put(now, mac, place);
                    Learned::Moved
                }
                None if has_room => {
                    self.put(now, mac, place);
                    Learned::New
                }
                _ => Learned::Full,
            }
        }

        fn hear_of(&mut self, now: Instant, mac: MacAddress, place: Place) {
            match self.known.get_mut(&mac) {
                Some((at, heard, told)) if *at == place => (*heard, *told) = (now, now),
                _ => {
                    self.known.remove(&mac);
                    if self.has_room(place.port) && self.known.len() < self.in_all {
                        self.put(now, mac, place);
                    }
                }
            }
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Wait(u64),
        Learn(u16, u16),
        HearOf(u16, u16),
        Forget(u16),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let waits = prop::sample::select(vec![1, 100, 499, 500, 999, 1_000, 60_000, 299_000]);
        prop_oneof![
            4 => waits.prop_map(Step::Wait),
            12 => (0_u16..12, 0_u16..4).prop_map(|(mac, port)| Step::Learn(mac, port)),
            3 => (0_u16..12, 0_u16..4).prop_map(|(mac, port)| Step::HearOf(mac, port)),
            1 => (0_u16..4).prop_map(Step::Forget),
        ]
    }

    proptest! {
        #[test]
        fn as_a_plain_model(
            steps in prop::collection::vec(any_step(), 1..300),
            per_port in 1_u16..5,
            in_all in 1_usize..10,
        ) {
            let mut table = Stations::bounded(GATEWAY, per_port, in_all);
            let mut model = Model { per_port: per_port.into(), in_all, ..Model::default() };
            let mut now = Instant::ZERO;
            for step in steps {
                model.known.retain(|_, (_, heard, _)| now.since(*heard) < AGE);
                match step {
                    Step::Wait(ms) => now = now + Duration::from_millis(ms),
                    Step::Learn(n, port) => prop_assert_eq!(
                        table.learn(now, mac(n), place(port)),
                        model.learn(now, mac(n), place(port))
                    ),
                    Step::HearOf(n, port) => {
                        let (mac, place) = (mac(n), place(port));
                        table.hear_of(now, Heard { mac, place });
                        model.hear_of(now, mac, place);
                    }
                    Step::Forget(port) => {
                        table.forget_port(PortId(port));
                        model.known.retain(|_, (at, ..)| at.port != PortId(port));
                    }
                }
                model.known.retain(|_, (_, heard, _)| now.since(*heard) < AGE);
                for n in 0..12 {
                    let expected = model.known.get(&mac(n)).map(|(at, ..)| *at);
                    prop_assert_eq!(table.find(now, mac(n)), expected);
                }
                let ports: usize = table.ports.iter().map(|p| usize::from(p.stations)).sum();
                prop_assert_eq!(table.stations.len(), ports);
                prop_assert_eq!(table.index.len(), ports);
                prop_assert!(ports <= in_all);
            }
        }
    }
}
