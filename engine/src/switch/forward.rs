//! What becomes of a frame, by its target.

use towpath_stack::Instant;
use towpath_stack::wire::ethernet::MacAddress;

use super::Place;
use super::stations::Stations;
use crate::link::PortId;

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// To us alone.
    ToUs,
    /// To us and to all ports but its own: ARP, DHCP and neighbour discovery speak to all, and mean
    /// the gateway as well.
    ToUsAndFlood,
    /// To one guest.
    To(Place),
    /// To all ports but its own: the target has never been heard, or not for long, and may be a
    /// server that waits to be spoken to.
    Flood,
    /// Nowhere.
    Drop(Blocked),
}

/// Why a frame goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// It is for the next bridge alone: spanning tree, link aggregation, LLDP.
    Reserved,
    /// It is for a guest, and guests are kept apart.
    Isolated,
    /// Its target is behind the port that it came from, and has had it there.
    SamePort,
    /// Its target is all zeros, which no station is.
    Zero,
}

/// Decides about a frame that came in at `source`; `isolate` keeps guests apart.
pub(crate) fn forward(
    stations: &Stations,
    now: Instant,
    source: PortId,
    target: MacAddress,
    isolate: bool,
) -> Decision {
    if target == stations.gateway() {
        return Decision::ToUs;
    }
    if is_reserved(target) {
        return Decision::Drop(Blocked::Reserved);
    }
    if target.is_multicast() {
        return if isolate {
            Decision::ToUs
        } else {
            Decision::ToUsAndFlood
        };
    }
    if target.is_zero() {
        return Decision::Drop(Blocked::Zero);
    }
    if isolate {
        return Decision::Drop(Blocked::Isolated);
    }
    match stations.find(now, target) {
        Some(place) if place.port == source => Decision::Drop(Blocked::SamePort),
        Some(place) => Decision::To(place),
        None => Decision::Flood,
    }
}

/// IEEE 802.1Q §8.6.3: bridges do not forward what is for one of these sixteen groups.
fn is_reserved(target: MacAddress) -> bool {
    matches!(target.0, [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::stations::Learned;

    const GATEWAY: MacAddress = MacAddress([2, 0x74, 0x6f, 0x77, 0, 1]);
    const GUEST: MacAddress = MacAddress([2, 0, 0, 0, 0, 7]);
    const PLACE: Place = Place {
        core: 1,
        port: PortId(7),
    };
    const OTHER: PortId = PortId(8);

    fn decide(source: PortId, target: [u8; 6], isolate: bool) -> Decision {
        let mut stations = Stations::new(GATEWAY);
        assert_eq!(stations.learn(Instant::ZERO, GUEST, PLACE), Learned::New);
        forward(
            &stations,
            Instant::ZERO,
            source,
            MacAddress(target),
            isolate,
        )
    }

    #[test]
    fn each_target_has_its_way() {
        let groups = [
            [0xff; 6],
            [0x01, 0, 0x5e, 0, 0, 0xfb],
            [0x33, 0x33, 0, 0, 0, 2],
            [0x01, 0x80, 0xc2, 0, 0, 0x10],
        ];
        for group in groups {
            assert_eq!(decide(OTHER, group, false), Decision::ToUsAndFlood);
        }
        assert_eq!(decide(OTHER, GATEWAY.0, false), Decision::ToUs);
        assert_eq!(decide(OTHER, GUEST.0, false), Decision::To(PLACE));
        assert_eq!(decide(OTHER, [2, 0, 0, 0, 0, 9], false), Decision::Flood);
        for last in [0, 1, 2, 3, 0x0e, 0x0f] {
            let target = [0x01, 0x80, 0xc2, 0, 0, last];
            let dropped = Decision::Drop(Blocked::Reserved);
            assert_eq!(decide(OTHER, target, false), dropped);
        }
        let own = decide(PLACE.port, GUEST.0, false);
        assert_eq!(own, Decision::Drop(Blocked::SamePort));
        let zero = decide(OTHER, [0; 6], false);
        assert_eq!(zero, Decision::Drop(Blocked::Zero));
    }

    #[test]
    fn isolated_guests_reach_us_only() {
        assert_eq!(decide(OTHER, GATEWAY.0, true), Decision::ToUs);
        assert_eq!(decide(OTHER, [0xff; 6], true), Decision::ToUs);
        for target in [GUEST.0, [2, 0, 0, 0, 0, 9]] {
            let dropped = Decision::Drop(Blocked::Isolated);
            assert_eq!(decide(OTHER, target, true), dropped);
        }
    }
}
