//! The world: cores over simulated kernels, a guest and the host's peers, on one clock.
//!
//! What happens next is always what is due first; of what is due at one time, the link's arrivals
//! at the guest come before the guest, then the peers, then the link's arrivals at the cores, then
//! the cores in an order of the seed. Everything is done on one thread and nothing looks at a clock,
//! so a seed is a history.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use towpath::config::{Limits, Network};
use towpath::internals::{BareCore, Setup, Usage};
use towpath::link::Attacher;
use towpath_ring::driver::sim::{
    Answer, Got, Random, SimConfig, SimDatagram, SimDriver, SimHost, SimLink, SimStream,
};
use towpath_ring::driver::{Driver, Errno, ErrorOrigin, LinkFeatures, Remote, SocketError};
use towpath_stack::wire::ethernet::MacAddress;

use crate::app::{App, Socket};
use crate::guest::datagrams::CLOSED_PORT;
use crate::guest::frame::Writer;
use crate::guest::stream::StreamLink;
use crate::guest::{Guest, GuestFlow};
use crate::plan::{GuestPlan, Plan};
use crate::seat::{Link, Seat};
use crate::show;
use crate::trace::Trace;

/// Steps that no world needs: one that takes more goes round in circles.
const STEPS_MAX: u64 = 20_000_000;

/// How long guests stay when all is over: so long as answers to datagrams take at most.
const LAST_ANSWERS_NS: u64 = 5_000_000_000;

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: u64,
    random: Random,
    cores: Vec<BareCore<SimDriver>>,
    /// Until when each core is busy with its last turn.
    busy_until: Vec<u64>,
    host: SimHost,
    /// The peers of each connection: one, unless a SYN that came late or again made another.
    pub(crate) peers: Vec<Vec<Peer>>,
    pub(crate) seats: Vec<Seat>,
    /// Where each connection is: whose, and which of its.
    places: Vec<(usize, usize)>,
    attacher: Attacher,
    /// UDP payload that left the host.
    pub(crate) datagram_bytes: u64,
    pub(crate) trace: Trace,
}

/// The peer of a connection: a program on the far host.
pub(crate) struct Peer {
    pub(crate) app: App,
    pub(crate) stream: SimStream,
}

impl Socket for SimStream {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        SimStream::write(self, bytes)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<Got, Errno> {
        SimStream::read(self, into)
    }

    fn shutdown_write(&mut self) {
        SimStream::shutdown_write(self);
    }

    fn reset(&mut self, random: &mut Random) {
        let kept = random.pick(&[0, 1_000, usize::MAX]);
        SimStream::reset(self, kept);
    }

    fn close(&mut self) {
        SimStream::close(self);
    }
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan, prints: bool) -> World {
        let mut random = Random::new(seed ^ 0x5eed_5eed_5eed_5eed);
        let network = Network {
            subnet4: (Ipv4Addr::new(10, 0, 2, 0), 24),
            subnet6: Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 0),
            mtu: plan.mtu,
            gateway_mac: Network::GATEWAY_MAC,
            domain: None,
            search: Vec::new(),
            lease: Duration::from_secs(3600),
        };
        let features = LinkFeatures {
            offload_header: plan.offload_header,
            tso4: plan.offloads,
            tso6: plan.offloads,
            uso: plan.offloads,
            checksum: plan.offloads,
            frame_max: 65_535 + 18,
        };
        let answers: Vec<Answer> = plan.flows.iter().map(|flow| flow.answer).collect();
        let host = SimHost::new(move |to| match to {
            Remote::Inet(to) => answers
                .get(usize::from(to.port()) - 1)
                .copied()
                .unwrap_or(Answer::Never),
            Remote::Unix(_) => Answer::Never,
        });
        let (cores, attacher) = cores(&plan, &network, features, &host, &mut random);
        let of_flows: Vec<Random> = plan.flows.iter().map(|_| random.branch()).collect();
        let mut seats = if plan.guests.is_empty() {
            vec![seat_at_tap(&plan, &network, features, &mut random)]
        } else {
            let plans = plan.guests.iter().enumerate();
            plans
                .map(|(index, plan)| seat_at_stream(index, plan, &network, &mut random))
                .collect()
        };
        let flows = plan.flows.iter().zip(of_flows);
        let places = flows.map(|(flow, random)| {
            let guest = &mut seats[flow.owner].guest;
            guest.add(flow, random);
            (flow.owner, guest.flows.len() - 1)
        });
        let places = places.collect();
        World {
            now: plan.begins_at,
            busy_until: vec![0; cores.len()],
            cores,
            host,
            peers: plan.flows.iter().map(|_| Vec::new()).collect(),
            seats,
            places,
            attacher,
            datagram_bytes: 0,
            trace: Trace::new(prints),
            random,
            plan,
        }
    }

    /// Runs until all connections are through on all sides, at most until `ends_at`, and then until
    /// nothing will ever happen again.
    pub(crate) fn run(&mut self, ends_at: u64) -> Result<(), String> {
        self.cores.iter_mut().for_each(BareCore::start);
        let (mut over, mut woken, mut goodbye_at) = (false, false, None);
        for _ in 0..STEPS_MAX {
            let next = self.next_at().into_iter().chain(goodbye_at).min();
            let Some(next) = next else {
                // What a quiet send completes with comes with the next thing, whatever it is.
                if std::mem::replace(&mut woken, true) {
                    return Ok(());
                }
                for core in &self.cores {
                    core.driver().waker().wake();
                }
                continue;
            };
            if next > ends_at && !over {
                return Ok(());
            }
            self.now = self.now.max(next);
            self.step()?;
            if !over && self.is_over() {
                over = true;
                goodbye_at = (!self.plan.guests.is_empty()).then_some(self.now + LAST_ANSWERS_NS);
            }
            if goodbye_at.take_if(|at| *at <= self.now).is_some() {
                self.say_goodbye()?;
            }
        }
        Err(format!("{STEPS_MAX} steps and no end"))
    }

    /// Runs until something is so, or until a time.
    pub(crate) fn run_until(
        &mut self,
        ends_at: u64,
        is_so: impl Fn(&World) -> bool,
    ) -> Result<(), String> {
        self.cores.iter_mut().for_each(BareCore::start);
        while let Some(next) = self.next_at().filter(|&next| next <= ends_at) {
            self.now = self.now.max(next);
            self.step()?;
            if is_so(self) {
                return Ok(());
            }
        }
        self.now = ends_at;
        Ok(())
    }

    /// Whether all connections are through.
    fn is_over(&self) -> bool {
        self.usage().tcp == 0 && self.seats.iter().all(|seat| seat.is_over(self.now))
    }

    /// The guests on streams leave.
    fn say_goodbye(&mut self) -> Result<(), String> {
        let streams = self.seats.iter_mut().filter_map(Seat::stream_mut);
        streams.for_each(StreamLink::say_goodbye);
        self.exchange()
    }

    /// The guest's side of a connection.
    pub(crate) fn guest_flow(&self, index: usize) -> &GuestFlow {
        let (seat, place) = self.places[index];
        &self.seats[seat].guest.flows[place]
    }

    /// What all cores hold.
    pub(crate) fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        for core in &self.cores {
            let one = core.usage();
            sum.tcp += one.tcp;
            sum.tcp_half_open += one.tcp_half_open;
            sum.udp += one.udp;
            sum.echo += one.echo;
            sum.held_bytes += one.held_bytes;
            sum.timers += one.timers;
        }
        sum
    }

    pub(crate) fn cores(&mut self) -> &mut [BareCore<SimDriver>] {
        &mut self.cores
    }

    /// Where it stands, for a report of a failure.
    pub(crate) fn state(&mut self) -> String {
        let now = self.now;
        let seconds = |at: u64| (at as f64 - now as f64) / 1e9;
        let next = self.next_at().map(seconds);
        let lasted = -seconds(self.plan.begins_at);
        format!("after {lasted} s, next in {next:?} s, {:?}", self.usage())
    }

    fn next_at(&mut self) -> Option<u64> {
        let now = self.now;
        let peers = self.peers.iter().flatten();
        let peers = peers.filter_map(|peer| peer.app.next_at(now)).min();
        let cores = (0..self.cores.len()).filter_map(|core| self.core_at(core));
        let cores = cores.min();
        let seats = self.seats.iter().filter_map(|seat| seat.next_at(now));
        seats.chain(peers).chain(cores).min()
    }

    /// When a core wants its next turn.
    fn core_at(&mut self, index: usize) -> Option<u64> {
        let core = &mut self.cores[index];
        let deadline = core.deadline();
        let event = core.driver_mut().next_at();
        let first = [deadline, event].into_iter().flatten().min()?;
        Some(first.max(self.busy_until[index]))
    }

    fn step(&mut self) -> Result<(), String> {
        let now = self.now;
        self.step_guests()?;
        self.step_peers()?;
        while let Some(frame) = self.take_upload() {
            let readers = if self.plan.one_queue {
                1
            } else {
                self.cores.len()
            };
            let reader = self.random.below(readers as u64) as usize;
            let driver = self.cores[reader].driver_mut();
            driver.set_now(now);
            driver.deliver_frame(frame);
        }
        self.step_cores()?;
        self.exchange()?;
        // What the cores did is seen by the peers at once.
        self.step_peers()
    }

    fn step_guests(&mut self) -> Result<(), String> {
        let (now, header) = (self.now, self.plan.offload_header);
        let name = |index: usize, way: &str| match self.plan.guests.len() {
            0 => format!("  guest {way}"),
            _ => format!("  guest {index} {way}"),
        };
        for (index, seat) in self.seats.iter_mut().enumerate() {
            if let Link::Stream(stream) = &mut seat.link {
                stream.join_if_due(now, index, &self.host, &self.attacher);
            }
            if !seat.is_here() {
                continue;
            }
            let blame = |why| format!("guest {index}: {why}");
            while let Some(frame) = seat.take(now) {
                let line = || show::frame(&name(index, "<-"), &frame, header);
                self.trace.note(now, &frame, line);
                seat.guest.on_frame(now, &frame).map_err(blame)?;
            }
            seat.guest.act(now).map_err(blame)?;
            while let Some(frame) = seat.guest.take_frame() {
                let line = || show::frame(&name(index, "->"), &frame, header);
                self.trace.note(now, &frame, line);
                seat.send(now, frame);
            }
        }
        self.exchange()
    }

    /// The guests on streams write and read what they can.
    fn exchange(&mut self) -> Result<(), String> {
        let now = self.now;
        for (index, seat) in self.seats.iter_mut().enumerate() {
            if let Link::Stream(stream) = &mut seat.link {
                let was = (stream.is_here(), stream.departed.is_some());
                stream
                    .exchange(now)
                    .map_err(|why| format!("guest {index}: {why}"))?;
                if was != (stream.is_here(), stream.departed.is_some()) {
                    let here = stream.is_here();
                    self.trace.note(now, &[index as u8, u8::from(here)], || {
                        format!("guest {index}: here {here}, departed {:?}", stream.departed)
                    });
                }
            }
            if seat.done_at.is_none() && seat.is_over(now) {
                seat.done_at = Some(now);
            }
        }
        Ok(())
    }

    /// The next frame that has come over the TAP.
    fn take_upload(&mut self) -> Option<Vec<u8>> {
        match &mut self.seats[0].link {
            Link::Tap { up, .. } => up.take(self.now),
            Link::Stream(_) => None,
        }
    }

    /// Answers what left in datagrams.
    fn answer_datagrams(&mut self) {
        while let Some(datagram) = self.host.take_datagram() {
            let after_ns = self.random.below(1_000_000);
            let ping = datagram.to.port() == 0;
            if !ping {
                self.datagram_bytes += datagram.payload.len() as u64;
            }
            let now = self.now;
            for core in &mut self.cores {
                let driver = core.driver_mut();
                driver.set_now(now);
                let found = if datagram.to.port() == CLOSED_PORT {
                    driver.deliver_error(datagram.from, refusal(&datagram), after_ns)
                } else {
                    let mut payload = datagram.payload.clone();
                    if ping {
                        // The type of a reply (RFC 792; RFC 4443 §4.2).
                        payload[0] = if datagram.to.is_ipv4() { 0 } else { 129 };
                    }
                    driver.deliver_datagram(datagram.from, datagram.to, payload, 0, after_ns)
                };
                if found {
                    break;
                }
            }
        }
    }

    fn step_peers(&mut self) -> Result<(), String> {
        self.answer_datagrams();
        let now = self.now;
        while let Some((to, stream)) = self.host.accept() {
            let Remote::Inet(to) = to else { continue };
            let index = usize::from(to.port()) - 1;
            let plan = &self.plan.flows[index];
            let keys = (!plan.key, plan.key);
            let app = App::new(plan.host_program.clone(), keys, self.random.branch(), now);
            self.trace.note(now, &[index as u8], || {
                format!("flow {index}: host accepts")
            });
            self.peers[index].push(Peer { app, stream });
        }
        let peers = self.peers.iter_mut().enumerate();
        let peers = peers.flat_map(|(index, all)| all.iter_mut().map(move |peer| (index, peer)));
        for (index, peer) in peers {
            let before = (peer.app.written, peer.app.read, peer.app.is_over());
            peer.app
                .act(now, &mut peer.stream)
                .map_err(|why| format!("flow {index}, host: {why}"))?;
            let app = &peer.app;
            if before != (app.written, app.read, app.is_over()) {
                let fact = (app.written.rotate_left(32) ^ app.read).to_le_bytes();
                self.trace.note(now, &fact, || {
                    format!(
                        "flow {index}: host wrote {} read {} eof {} shut {} failed {:?}",
                        app.written, app.read, app.eof, app.shut, app.failed
                    )
                });
            }
        }
        Ok(())
    }

    fn step_cores(&mut self) -> Result<(), String> {
        let now = self.now;
        let mut due: VecDeque<usize> = (0..self.cores.len())
            .filter(|&core| self.core_at(core).is_some_and(|at| at <= now))
            .collect();
        let first = self.random.below(due.len() as u64) as usize;
        due.rotate_left(first);
        for index in due {
            let core = &mut self.cores[index];
            core.driver_mut().set_now(now);
            core.turn().map_err(|error| format!("core: {error}"))?;
            self.busy_until[index] = now + self.random.below(self.plan.busy_ns + 1);
            while let Some(frame) = core.driver_mut().take_frame() {
                let header = self.plan.offload_header;
                self.trace
                    .note(now, &frame, || show::frame("core ->", &frame, header));
                if let Link::Tap { down, .. } = &mut self.seats[0].link {
                    down.send(now, frame);
                }
            }
        }
        Ok(())
    }
}

/// What a host says where nobody listens (RFC 1122 §3.2.2.1, RFC 4443 §3.1).
fn refusal(datagram: &SimDatagram) -> SocketError {
    let v6 = datagram.to.is_ipv6();
    let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
    SocketError {
        errno: Errno::CONNREFUSED,
        origin: ErrorOrigin::Icmp {
            v6,
            kind,
            code,
            offender: datagram.to.ip(),
        },
        info: 0,
        target: datagram.to,
        payload: datagram.payload.iter().take(500).copied().collect(),
    }
}

/// The only guest, on a TAP.
fn seat_at_tap(
    plan: &Plan,
    network: &Network,
    features: LinkFeatures,
    random: &mut Random,
) -> Seat {
    let writer = Writer {
        features,
        guest_mac: Network::GUEST_MAC,
        gateway_mac: network.gateway_mac,
    };
    let addresses = [network.guest4().into(), network.guest6().into()];
    let gateway4 = network.gateway4().octets();
    let guest = Guest::new(writer, addresses, gateway4, plan.datagrams.clone());
    let spared = writer.spared() + 14;
    let up = SimLink::new(plan.up.clone(), random.branch(), spared);
    let down = SimLink::new(plan.down.clone(), random.branch(), spared);
    let (up, down) = (up.into(), down.into());
    Seat::new(guest, Link::Tap { up, down })
}

/// One of several guests, on a stream.
fn seat_at_stream(index: usize, plan: &GuestPlan, network: &Network, random: &mut Random) -> Seat {
    let last = 20 + index as u8;
    let writer = Writer {
        features: LinkFeatures {
            frame_max: usize::from(network.mtu) + 14,
            ..LinkFeatures::default()
        },
        guest_mac: MacAddress([0x52, 0x54, 0, 0, 0, last]),
        gateway_mac: network.gateway_mac,
    };
    let own6 = network.subnet6.to_bits() | u128::from(last);
    let addresses = [
        Ipv4Addr::new(10, 0, 2, last).into(),
        Ipv6Addr::from_bits(own6).into(),
    ];
    let gateway4 = network.gateway4().octets();
    let guest = Guest::new(writer, addresses, gateway4, plan.datagrams.clone());
    let stream = StreamLink::new(plan.stream.clone(), random.branch());
    Seat::new(guest, Link::Stream(stream.into()))
}

fn cores(
    plan: &Plan,
    network: &Network,
    features: LinkFeatures,
    host: &SimHost,
    random: &mut Random,
) -> (Vec<BareCore<SimDriver>>, Attacher) {
    let sequence_key = random.next();
    let has_link = plan.guests.is_empty();
    let drivers = (0..plan.cores).map(|core| {
        let config = SimConfig {
            link: has_link.then_some(features),
            tap_buffers: plan.tap_buffers,
            stream_buffers: plan.stream_buffers,
            stream_buffer_bytes: plan.stream_buffer_bytes,
            link_buffers: plan.link_buffers,
            datagram_buffers: 16,
            sockets_max: usize::MAX,
            // Stalled guests are told from those that took everything quietly.
            deadlines_tell: !has_link,
            faults: plan.host.clone(),
        };
        let driver = SimDriver::new(config, host.clone(), random.branch(), plan.begins_at);
        let mut driver = driver.expect("memory for buffers");
        let service = driver.adopt_mute();
        (driver, service, has_link && (core == 0 || !plan.one_queue))
    });
    let setup = Setup {
        network,
        limits: Limits::default(),
        lane_frames: plan.lane_frames,
        sequence_key,
        has_link,
    };
    BareCore::mesh(drivers.collect(), &setup)
}
