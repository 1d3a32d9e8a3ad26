//! Frames between guests, on the core whose port they come from and on that of the port they go to.
//!
//! The rules are the switch's (`crate::switch`); here they meet ports and lanes. Between ports of one core a
//! frame stays in the buffer that it came in. To another core it goes over a lane as a copy in memory of its
//! own, so that no core's guests hold buffers of another's; to all guests, once for each other core.

use towpath_ring::buffer::{Parcel, Slice};
use towpath_ring::driver::{Driver, LinkFeatures};
use towpath_stack::parse::{self, Ethernet, Packet};
use towpath_stack::resegment::{self, Abilities, Plan};
use towpath_stack::wire::ethernet::{self, EtherType, MacAddress};
use towpath_stack::wire::offload::Offload;

use super::{Core, LaneMessage};
use crate::counters::Counter;
use crate::link::PortId;
use crate::switch::forward::{Blocked, Decision, forward};
use crate::switch::stations::{Heard, Learned, Refusal};
use crate::switch::{Place, guard};

/// Frames of one guest that go over lanes in one batch, at most: twice what one receive of a stream brings at
/// MTU 1500.
const LANE_SHARE: u32 = 512;
/// Places of a lane that are kept for what cores tell each other.
const LANE_RESERVE: usize = 256;

/// A frame on its way to guests of another core.
pub(crate) struct Switched {
    pub(super) to: Target,
    pub(super) offload: Offload,
    /// From its ethernet header on.
    pub(super) frame: Parcel,
}

/// Which of a core's ports a frame goes to.
#[derive(Clone, Copy)]
pub(super) enum Target {
    One(PortId),
    All,
}

/// A frame that is being decided about: its bytes from the ethernet header on, and what they say.
pub(super) struct Passing<'a> {
    pub(super) port: PortId,
    pub(super) frame: &'a Slice,
    pub(super) ethernet_at: usize,
    pub(super) offload: &'a Offload,
    pub(super) ethernet: Ethernet,
    pub(super) content: What<'a>,
}

/// What a frame says.
pub(super) enum What<'a> {
    Read(&'a Packet<'a>),
    /// It is of a protocol that nobody here reads.
    Unread(EtherType),
}

impl Passing<'_> {
    fn ethernet(&self) -> Slice {
        self.frame.sub(self.ethernet_at..self.frame.len())
    }
}

impl<D: Driver> Core<D> {
    /// Decides about a frame of a guest and passes it on to other guests if it is for them. Returns whether
    /// it is for us.
    pub(super) fn switch(&mut self, passing: &Passing<'_>) -> bool {
        let ethernet = passing.ethernet;
        let place = Place {
            core: self.id as u8,
            port: passing.port,
        };
        let learned = self.stations.learn(self.now, ethernet.source, place);
        if let Learned::Refused(why) = learned {
            self.counters.bump(Counter::DroppedSpoofed);
            if why == Refusal::Loop {
                self.tell_of_double(passing.port, ethernet.source);
                // Flows belong to ports, so whoever took its address can't take its way to us.
                return ethernet.target == self.egress.gateway_mac()
                    || ethernet.target.is_multicast();
            }
            return false;
        }
        if learned.is_news() {
            let heard = Heard {
                mac: ethernet.source,
                place,
            };
            self.tell_others(&|| LaneMessage::Heard(heard));
        }
        let target = ethernet.target;
        match forward(&self.stations, self.now, passing.port, target, self.isolate) {
            Decision::ToUs => true,
            Decision::ToUsAndFlood => {
                self.flood(passing);
                true
            }
            Decision::To(place) => {
                if self.may_pass(passing) {
                    self.pass_to(place, passing);
                }
                false
            }
            Decision::Flood => {
                self.flood(passing);
                false
            }
            Decision::Drop(why) => {
                self.counters.bump(match why {
                    Blocked::Isolated => Counter::DroppedIsolated,
                    Blocked::Reserved | Blocked::SamePort | Blocked::Zero => {
                        Counter::DroppedStation
                    }
                });
                false
            }
        }
    }

    /// Does the same about a frame of a protocol that is not read here.
    pub(super) fn switch_unread(
        &mut self,
        port: PortId,
        frame: &Slice,
        ethernet_at: usize,
        offload: &Offload,
    ) -> bool {
        let bytes = frame.bytes().get(ethernet_at..).unwrap_or(&[]);
        let Some((header, _)) = ethernet::Header::parse(bytes) else {
            return false;
        };
        self.switch(&Passing {
            port,
            frame,
            ethernet_at,
            offload,
            ethernet: Ethernet {
                source: header.source,
                target: header.target,
            },
            content: What::Unread(header.ether_type()),
        })
    }

    /// Says once for each guest that another has its MAC address: machines that were started with the default
    /// of their hypervisor.
    fn tell_of_double(&mut self, port: PortId, mac: MacAddress) {
        if let Some(state) = self.egress.ports.get_mut(port)
            && !std::mem::replace(&mut state.told_of_double, true)
        {
            tracing::warn!(
                "{}: its MAC address {mac} is another guest's, or its network leads back here: its frames are \
                 dropped while the other is heard; give each machine an address of its own (QEMU: -device …,mac=…)",
                state.name
            );
        }
    }

    /// Sends a message to each of the other cores.
    pub(super) fn tell_others(&mut self, message: &dyn Fn() -> LaneMessage) {
        for core in 0..self.to_wake.len() {
            if core != self.id {
                self.hand_over(core, message());
            }
        }
    }

    /// Whether a guest may say this to others.
    fn may_pass(&mut self, passing: &Passing<'_>) -> bool {
        let verdict = match &passing.content {
            What::Read(packet) => guard::judge(packet, &self.admission),
            What::Unread(ether_type) => guard::judge_unread(*ether_type),
        };
        if verdict.is_err() {
            self.counters.bump(Counter::DroppedTrespass);
        }
        verdict.is_ok()
    }

    fn pass_to(&mut self, place: Place, passing: &Passing<'_>) {
        let frame = passing.ethernet();
        let core = usize::from(place.core);
        if core == self.id {
            self.deliver(place.port, &frame, passing.offload);
        } else {
            if !self.may_cross(passing.port, core) {
                return self.counters.bump(Counter::DroppedLane);
            }
            let switched = Switched {
                to: Target::One(place.port),
                offload: *passing.offload,
                frame: frame.into_parcel(),
            };
            self.hand_over(core, LaneMessage::Switched(switched));
        }
    }

    /// Whether one more frame of a guest may go over the lane to a core in this batch. A guest that floods
    /// leaves room to others, and all of them to what cores tell each other.
    fn may_cross(&mut self, port: PortId, core: usize) -> bool {
        let batch = self.batch;
        let room = self.lane_room(core) > LANE_RESERVE;
        let Some(state) = self.egress.ports.get_mut(port) else {
            return false;
        };
        let (crossed_in, crossed) = &mut state.crossed;
        if *crossed_in != batch {
            (*crossed_in, *crossed) = (batch, 0);
        }
        *crossed += 1;
        room && *crossed <= LANE_SHARE
    }

    fn flood(&mut self, passing: &Passing<'_>) {
        if self.isolate || !self.may_pass(passing) {
            return;
        }
        let frame = passing.ethernet();
        let Some(port) = self.egress.ports.get_mut(passing.port) else {
            return;
        };
        if !port.flood.permits(self.now, frame.len()) {
            return self.counters.bump(Counter::DroppedFlood);
        }
        self.tell_others(&|| {
            LaneMessage::Switched(Switched {
                to: Target::All,
                offload: *passing.offload,
                frame: Slice::from_vec(frame.to_vec()).into_parcel(),
            })
        });
        self.deliver_to_all(Some(passing.port), &frame, passing.offload);
    }

    /// A frame that another core passed on.
    pub(super) fn on_switched(&mut self, switched: Switched) {
        let frame = Slice::from(switched.frame);
        match switched.to {
            Target::One(port) => self.deliver(port, &frame, &switched.offload),
            Target::All => self.deliver_to_all(None, &frame, &switched.offload),
        }
    }

    fn deliver_to_all(&mut self, except: Option<PortId>, frame: &Slice, offload: &Offload) {
        let ports: Vec<PortId> = self.egress.ports.iter().map(|(port, _)| port).collect();
        for port in ports.into_iter().filter(|&port| Some(port) != except) {
            self.deliver(port, frame, offload);
        }
    }

    /// Sends a guest's frame out of another guest's port, in the form that its link takes.
    fn deliver(&mut self, port: PortId, frame: &Slice, offload: &Offload) {
        let Some(state) = self.egress.ports.get(port) else {
            return self.counters.bump(Counter::DroppedStation);
        };
        if !state.carrier.has_room() {
            return self.counters.bump(Counter::DroppedLinkFull);
        }
        let frame_max = ethernet::HEADER_LEN + usize::from(self.egress.mtu());
        if *offload == Offload::NONE && frame.len() <= frame_max {
            let frame = frame.clone();
            self.counters.bump(Counter::FramesSwitched);
            return self
                .egress
                .pass(&mut self.driver, port, offload, &[], frame);
        }
        let abilities = abilities(&state.features, self.egress.mtu());
        let packet = parse::parse(frame, offload);
        let plan = packet.map(|packet| resegment::plan(&packet, offload, &abilities));
        match plan {
            Ok(Ok(Plan::AsIs(offload))) => {
                let frame = frame.clone();
                self.egress
                    .pass(&mut self.driver, port, &offload, &[], frame);
            }
            Ok(Ok(Plan::Pieces(mut pieces))) => {
                let mut headers = [0; resegment::HEADERS_MAX];
                while let Some((len, payload)) = pieces.next(&mut headers) {
                    let (headers, payload) = (&headers[..len], frame.sub(payload));
                    self.egress
                        .pass(&mut self.driver, port, &Offload::NONE, headers, payload);
                }
            }
            Ok(Err(_)) | Err(_) => return self.counters.bump(Counter::DroppedTooLong),
        }
        self.counters.bump(Counter::FramesSwitched);
    }
}

/// What a link takes from other guests.
fn abilities(features: &LinkFeatures, mtu: u16) -> Abilities {
    Abilities {
        tso4: features.tso4,
        tso6: features.tso6,
        uso: features.uso,
        checksum: features.checksum,
        mtu,
    }
}
