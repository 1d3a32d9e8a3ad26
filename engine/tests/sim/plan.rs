//! What a seed stands for: links, a host and connections with programs at both ends.
//!
//! Seeds from [`CROWDS`] on are worlds of several guests on streams, all others of one guest on a TAP.

use std::time::Duration;

use towpath_ring::Framing;
use towpath_ring::driver::Errno;
use towpath_ring::driver::sim::{Answer, HostFaults, LinkFaults, Random};
use towpath_stack::Address;

use crate::app::Program;
use crate::guest::GuestTcp;
use crate::guest::datagrams::DatagramPlan;
use crate::guest::stream::{Fate, StreamPlan};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// The first seed of a world of guests on streams.
pub(crate) const CROWDS: u64 = 1_000_000_000;

impl Plan {
    /// A long life: connections that come and go over so many hours, and some that are quiet for
    /// longer than a keepalive waits.
    pub(crate) fn long(seed: u64, hours: u64) -> Plan {
        const HOUR: u64 = 3600 * S;
        let mut plan = Plan::new(seed);
        let mut random = Random::named(seed, "long", 0);
        let (begins_at, mtu, level) = (plan.begins_at, plan.mtu, Level::Mild);
        plan.level = level;
        plan.up = link_faults(&mut random, level);
        plan.down = link_faults(&mut random, level);
        plan.host = host_faults(&mut random, level);
        plan.flows = (0..hours * 20)
            .map(|index| {
                let mut flow = flow(
                    &mut random,
                    index as u16,
                    begins_at,
                    mtu,
                    plan.offloads,
                    level,
                );
                flow.starts_at = begins_at + random.below(hours * HOUR);
                if random.chance(2_000) {
                    let quiet = random.between(2 * HOUR, 5 * HOUR);
                    flow.guest_program.starts_after_ns = quiet;
                    flow.host_program.starts_after_ns = quiet;
                    flow.guest.keepalive = Duration::from_secs(random.pick(&[0, 7_200]));
                }
                flow
            })
            .collect();
        plan.datagrams = (0..hours * 100)
            .map(|_| {
                let mut datagram = DatagramPlan::draw(&mut random, begins_at, mtu);
                datagram.at = begins_at + random.below(hours * HOUR);
                datagram
            })
            .collect();
        plan
    }
}

/// How much goes wrong in a world.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Level {
    /// Nothing.
    Clean,
    /// What a machine under load does.
    Mild,
    /// What a bad network does.
    Bad,
    /// More than anybody should bear; connections may be given up.
    Terrible,
}

impl Level {
    fn of(random: &mut Random) -> Level {
        random.pick(&[
            Level::Clean,
            Level::Clean,
            Level::Clean,
            Level::Mild,
            Level::Mild,
            Level::Mild,
            Level::Bad,
            Level::Bad,
            Level::Bad,
            Level::Terrible,
        ])
    }
}

/// One connection that the guest opens.
#[derive(Clone, Debug)]
pub(crate) struct FlowPlan {
    /// The number of the guest that opens it.
    pub(crate) owner: usize,
    pub(crate) starts_at: u64,
    pub(crate) remote: Address,
    pub(crate) port: u16,
    /// Tells its streams from all others.
    pub(crate) key: u64,
    pub(crate) guest: GuestTcp,
    /// Whether the guest's TCP is not ours but the naive one.
    pub(crate) naive: bool,
    pub(crate) guest_program: Program,
    pub(crate) answer: Answer,
    pub(crate) host_program: Program,
}

/// A world.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) level: Level,
    pub(crate) begins_at: u64,
    pub(crate) mtu: u16,
    /// Whether frames carry an offload header; and whether they may be super-frames, and leave
    /// checksums out.
    pub(crate) offload_header: bool,
    pub(crate) offloads: bool,
    pub(crate) up: LinkFaults,
    pub(crate) down: LinkFaults,
    pub(crate) host: HostFaults,
    pub(crate) tap_buffers: u16,
    pub(crate) stream_buffers: u16,
    pub(crate) stream_buffer_bytes: u32,
    /// How long a core is busy at most after a turn, so that more waits for its next.
    pub(crate) busy_ns: u64,
    pub(crate) cores: usize,
    /// Whether the first core alone reads the link; else each frame comes to any of them.
    pub(crate) one_queue: bool,
    pub(crate) lane_frames: usize,
    pub(crate) flows: Vec<FlowPlan>,
    /// Of the guest on the TAP.
    pub(crate) datagrams: Vec<DatagramPlan>,
    /// Guests on streams; if there are none, there is one on a TAP.
    pub(crate) guests: Vec<GuestPlan>,
    /// Buffers for what these send.
    pub(crate) link_buffers: u16,
}

/// A guest on a stream.
#[derive(Clone, Debug)]
pub(crate) struct GuestPlan {
    pub(crate) stream: StreamPlan,
    pub(crate) datagrams: Vec<DatagramPlan>,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Plan {
        if seed < CROWDS {
            Plan::one_guest(seed)
        } else {
            Plan::crowd(seed)
        }
    }

    fn one_guest(seed: u64) -> Plan {
        let mut random = Random::named(seed, "link", 0);
        let random = &mut random;
        let mtu = random.pick(&[1280, 1500, 1500, 9000, 65_520]);
        let offload_header = random.chance(7_500);
        let level = Level::of(&mut Random::named(seed, "level", 0));
        // A damaged frame must be found out, which takes checksums.
        let offloads = offload_header && level != Level::Terrible && random.chance(8_000);
        let delay_ns = random.pick(&[20 * US, 20 * US, 500 * US, 10 * MS]);
        let jitter_ns = random.pick(&[0, delay_ns / 4]);
        let link = |name| {
            let faults = link_faults(&mut Random::named(seed, name, 0), level);
            LinkFaults {
                delay_ns,
                jitter_ns,
                ..faults
            }
        };
        let mut lanes = Random::named(seed, "lanes", 0);
        let begins_at = random.below(1 << 50);
        let count = random.pick(&[1, 1, 2, 3, 5, 8]);
        let flows = (0..count)
            .map(|index| {
                let mut random = Random::named(seed, "flow", u64::from(index));
                let mut flow = flow(&mut random, index, begins_at, mtu, offloads, level);
                let mut guest = Random::named(seed, "guest", u64::from(index));
                if guest.chance(1_500) {
                    flow.naive = true;
                    flow.guest_program.writes = flow.guest_program.writes.min(50_000);
                    flow.host_program.writes = flow.host_program.writes.min(50_000);
                }
                flow
            })
            .collect();
        let mut others = Random::named(seed, "datagrams", 0);
        let count = others.pick(&[0, 0, 5, 60]);
        let datagrams = (0..count)
            .map(|_| DatagramPlan::draw(&mut others, begins_at, mtu))
            .collect();
        Plan {
            level,
            begins_at,
            mtu,
            offload_header,
            offloads,
            up: link("up"),
            down: link("down"),
            host: host_faults(&mut Random::named(seed, "host", 0), level),
            tap_buffers: random.pick(&[4, 16, 64]),
            stream_buffers: random.pick(&[3, 16, 64]),
            stream_buffer_bytes: random.pick(&[2 << 10, 16 << 10]),
            busy_ns: random.pick(&[0, 20 * US, 300 * US]),
            cores: lanes.pick(&[1, 1, 1, 2, 4]),
            one_queue: lanes.chance(5_000),
            lane_frames: lanes.pick(&[1, 4, 256]),
            flows,
            datagrams,
            guests: Vec::new(),
            link_buffers: 0,
        }
    }

    /// Several guests on streams.
    fn crowd(seed: u64) -> Plan {
        let mut plan = Plan::one_guest(seed);
        let mut random = Random::named(seed, "crowd", 0);
        (plan.offload_header, plan.offloads) = (false, false);
        (plan.up, plan.down) = (LinkFaults::default(), LinkFaults::default());
        plan.datagrams.clear();
        plan.cores = random.pick(&[1, 1, 2, 2, 3]);
        // The guests' pool is one of its own, and half of a pool must be a buffer, a quarter too.
        plan.stream_buffers = random.pick(&[8, 16, 64]);
        plan.link_buffers = random.pick(&[2, 8]);
        let count = random.pick(&[1, 2, 3, 5]);
        plan.guests = (0..count)
            .map(|index| {
                let mut random = Random::named(seed, "seat", index);
                let datagrams = random.pick(&[0, 0, 5, 60]);
                let stream = stream(&mut random, plan.begins_at);
                let draw = |_| DatagramPlan::draw(&mut random, stream.joins_at, plan.mtu);
                GuestPlan {
                    datagrams: (0..datagrams).map(draw).collect(),
                    stream,
                }
            })
            .collect();
        let (mtu, begins_at, level) = (plan.mtu, plan.begins_at, plan.level);
        plan.flows.clear();
        for guest in 0..plan.guests.len() {
            for _ in 0..random.pick(&[0, 1, 1, 2, 4]) {
                let index = plan.flows.len() as u16;
                let mut of_flow = Random::named(seed, "flow", u64::from(index));
                let mut flow = flow(&mut of_flow, index, begins_at, mtu, false, level);
                flow.owner = guest;
                flow.starts_at += plan.guests[guest].stream.joins_at - begins_at;
                plan.flows.push(flow);
            }
        }
        plan
    }
}

/// How a guest's stream is.
fn stream(random: &mut Random, begins_at: u64) -> StreamPlan {
    let joins_at = begins_at + random.pick(&[0, random.clone().below(2 * S)]);
    let at = joins_at + random.clone().below(random.pick(&[MS, 100 * MS, 3 * S]));
    let fate = match random.below(10) {
        0..4 => Fate::Stays,
        4..6 => Fate::Pauses {
            at,
            for_ns: random.pick(&[20 * MS, S, 50 * S, 200 * S]),
        },
        6..8 => Fate::Leaves { at },
        8 => Fate::HalfFrame { at },
        _ => Fate::Babbles { at },
    };
    let slow = random.chance(3_000);
    let chunk = |random: &mut Random| random.pick(&[700, 5_000, 64 << 10]);
    let pause = |random: &mut Random| match slow {
        true => random.pick(&[0, 100 * US, MS]),
        false => random.pick(&[0, 0, 10 * US]),
    };
    StreamPlan {
        framing: random.pick(&[Framing::Le16, Framing::Be32]),
        joins_at,
        write_chunk: chunk(random),
        write_pause_ns: pause(random),
        read_chunk: chunk(random),
        read_pause_ns: pause(random),
        down_buffer: random.pick(&[500, 3_000, 70_000, 300_000]),
        up_buffer: random.pick(&[500, 3_000, 70_000, 300_000]),
        delay_ns: random.pick(&[5 * US, 50 * US, 5 * MS]),
        fate,
    }
}

fn link_faults(random: &mut Random, level: Level) -> LinkFaults {
    let most: [u32; 5] = match level {
        Level::Clean => return LinkFaults::default(),
        Level::Mild => [30, 30, 100, 0, 0],
        Level::Bad => [500, 200, 2_000, 0, 0],
        Level::Terrible => [2_000, 1_000, 5_000, 300, 300],
    };
    let mut up_to = |most: u32| match random.below(3) {
        0 => 0,
        _ => random.below(u64::from(most) + 1) as u32,
    };
    LinkFaults {
        loss: up_to(most[0]),
        duplicate: up_to(most[1]),
        reorder: up_to(most[2]),
        corrupt: up_to(most[3]),
        truncate: up_to(most[4]),
        reorder_ns: random.pick(&[50 * US, 2 * MS, 30 * MS]),
        ..LinkFaults::default()
    }
}

fn host_faults(random: &mut Random, level: Level) -> HostFaults {
    let most = match level {
        Level::Clean => 0,
        Level::Mild => 100,
        Level::Bad => 1_000,
        Level::Terrible => 3_000,
    };
    let mut up_to = |part: u64| match random.below(3) {
        0 => 0,
        _ => random.below(most / part + 1) as u32,
    };
    HostFaults {
        late: up_to(1),
        short_send: up_to(1),
        short_receive: up_to(1),
        starved: up_to(1),
        no_socket: up_to(2),
        frame_refused: up_to(4),
        link_stall: up_to(2),
        datagram_refused: up_to(2),
        late_ns: random.pick(&[50 * US, 5 * MS]),
        link_stall_ns: random.pick(&[50 * US, 5 * MS]),
    }
}

fn flow(
    random: &mut Random,
    index: u16,
    begins_at: u64,
    mtu: u16,
    offloads: bool,
    level: Level,
) -> FlowPlan {
    let v4 = random.chance(6_000);
    let remote = if v4 {
        Address::v4([192, 0, 2, 1 + (index % 200) as u8])
    } else {
        let last = 1 + (index % 200) as u8;
        Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
    };
    let answer = Answer::Accept {
        after_ns: random.pick(&[0, 100 * US, 30 * MS]),
        up_buffer: random.pick(&[1 << 10, 20_000, 200_000]),
        down_buffer: random.pick(&[1 << 10, 20_000, 200_000]),
    };
    let mut guest_program = program(random);
    let mut host_program = program(random);
    // One of the two has to end first.
    host_program.ends_last &= !guest_program.ends_last;
    let mut plan = FlowPlan {
        owner: 0,
        starts_at: begins_at + random.pick(&[0, random.clone().below(S)]),
        remote,
        port: 1 + index,
        key: random.next(),
        guest: guest_tcp(random, mtu, v4, offloads),
        naive: false,
        guest_program: guest_program.clone(),
        answer,
        host_program: host_program.clone(),
    };
    if level != Level::Clean {
        if random.chance(500) {
            plan.answer = refusal(random);
        }
        for program in [&mut guest_program, &mut host_program] {
            let resets = random.chance(1_000);
            let after = random.pick(&[MS, 50 * MS, 5 * S]);
            program.resets_after_ns = resets.then(|| random.below(after));
        }
        plan.guest_program = guest_program;
        plan.host_program = host_program;
    }
    plan
}

fn refusal(random: &mut Random) -> Answer {
    let errno = random.pick(&[Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::NETUNREACH]);
    let after_ns = random.pick(&[0, 100 * US, 3 * S]);
    if random.chance(3_000) {
        Answer::Never
    } else {
        Answer::Refuse { after_ns, errno }
    }
}

fn guest_tcp(random: &mut Random, mtu: u16, v4: bool, offloads: bool) -> GuestTcp {
    let full = mtu - if v4 { 40 } else { 60 };
    let mss = random.pick(&[full, full, full.min(536), full.min(1220)]);
    let supers = offloads && random.chance(7_000);
    GuestTcp {
        mss,
        receive_buffer: random.pick(&[2_000, 10_000, 65_535, 262_144, 1 << 20]),
        send_buffer: random.pick(&[2_000, 20_000, 300_000]),
        sack: random.chance(7_000),
        timestamps: random.chance(7_000),
        window_scale: random.chance(7_000),
        segment_max: if supers { 65_000 } else { u32::from(mss) },
        keepalive: Duration::from_secs(60),
    }
}

fn program(random: &mut Random) -> Program {
    let writes = random.pick(&[0, 1, 100, 3_000, 50_000, 400_000]);
    // Slow programs move few bytes at a time, but then not for ever.
    let slow = random.chance(2_500);
    let chunk = |random: &mut Random| random.pick(&[1_000, 5_000, 16_384]);
    let pause = |random: &mut Random| match slow {
        true => random.pick(&[0, 10 * US, MS, 20 * MS]),
        false => random.pick(&[0, 0, 10 * US]),
    };
    Program {
        writes,
        write_chunk: chunk(random),
        write_pause_ns: pause(random),
        read_chunk: chunk(random),
        read_pause_ns: pause(random),
        stop: random
            .chance(2_000)
            .then(|| (random.below(writes + 1), random.pick(&[10 * MS, S, 90 * S]))),
        answers: false,
        ends_last: random.chance(2_000),
        starts_after_ns: random.pick(&[0, 0, 0, 50 * MS, 5 * S]),
        resets_after_ns: None,
    }
}
