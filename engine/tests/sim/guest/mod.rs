//! The guest: a machine of one interface with connections, each with a program on top.

pub(crate) mod datagrams;
pub(crate) mod frame;
mod naive;
mod ours;
pub(crate) mod stream;

use std::collections::VecDeque;

use towpath_ring::driver::sim::Random;
use towpath_stack::parse::{self, Body, Content, Transport};
use towpath_stack::tcp::segment::Segment;

use crate::app::App;
use crate::plan::FlowPlan;
use datagrams::{DatagramPlan, Datagrams};
use frame::{Pair, Writer};
use naive::Naive;
pub(crate) use ours::GuestTcp;
use ours::Ours;

/// The first port that the guest's connections use; each has its own.
const FIRST_PORT: u16 = 10_000;

pub(crate) struct Guest {
    writer: Writer,
    addresses: [towpath_stack::Address; 2],
    gateway4: [u8; 4],
    pub(crate) datagrams: Datagrams,
    pub(crate) flows: Vec<GuestFlow>,
    /// Frames that wait for the link.
    out: VecDeque<Vec<u8>>,
    pub(crate) counted: GuestCounts,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GuestCounts {
    /// Frames from the core that could not be parsed.
    pub(crate) unparsed: u64,
    /// Payload bytes of TCP frames that came.
    pub(crate) tcp_bytes: u64,
    /// Segments for connections that are not there any more.
    pub(crate) strays: u64,
}

/// One connection of the guest's, from before it opens until it is gone.
pub(crate) struct GuestFlow {
    pair: Pair,
    tcp: Option<Tcp>,
    pub(crate) app: Option<App>,
    plan: FlowPlan,
    random: Random,
    gone: bool,
}

/// The guest's side of a connection.
enum Tcp {
    Ours(Box<Ours>),
    Naive(Box<Naive>),
}

impl Tcp {
    fn next_at(&self) -> Option<u64> {
        match self {
            Tcp::Ours(tcp) => tcp.next_at(),
            Tcp::Naive(tcp) => tcp.next_at(),
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Tcp::Ours(tcp) => tcp.is_gone(),
            Tcp::Naive(tcp) => tcp.is_gone(),
        }
    }

    fn tick(&mut self, now: u64) {
        match self {
            Tcp::Ours(tcp) => tcp.tick(now),
            Tcp::Naive(tcp) => tcp.tick(now),
        }
    }

    fn is_connected(&self) -> bool {
        match self {
            Tcp::Ours(tcp) => tcp.is_connected(),
            Tcp::Naive(tcp) => tcp.is_connected(),
        }
    }
}

impl Guest {
    pub(crate) fn new(
        writer: Writer,
        addresses: [towpath_stack::Address; 2],
        gateway4: [u8; 4],
        datagrams: Vec<DatagramPlan>,
    ) -> Guest {
        Guest {
            writer,
            addresses,
            gateway4,
            datagrams: Datagrams::new(datagrams),
            flows: Vec::new(),
            out: VecDeque::new(),
            counted: GuestCounts::default(),
        }
    }

    pub(crate) fn add(&mut self, plan: &FlowPlan, random: Random) {
        let guest = self.addresses[usize::from(!plan.remote.is_v4())];
        self.flows.push(GuestFlow {
            pair: (guest, plan.remote),
            tcp: None,
            app: None,
            plan: plan.clone(),
            random,
            gone: false,
        });
    }

    /// When something of the guest's is due by itself.
    pub(crate) fn next_at(&self, now: u64) -> Option<u64> {
        let flows = self.flows.iter().filter_map(|flow| flow.next_at(now));
        flows.chain(self.datagrams.next_at()).min()
    }

    /// A frame came from the link.
    pub(crate) fn on_frame(&mut self, now: u64, frame: &[u8]) -> Result<(), String> {
        let Some((offload, ethernet)) = self.writer.split(frame) else {
            self.counted.unparsed += 1;
            return Ok(());
        };
        let Ok(packet) = parse::parse(ethernet, &offload) else {
            self.counted.unparsed += 1;
            return Ok(());
        };
        if let Body::Ip(ip) = &packet.body
            && let Content::Transport(Transport::Tcp { segment, payload }) = &ip.content
        {
            let bytes = packet.slice(payload);
            self.counted.tcp_bytes += bytes.len() as u64;
            self.on_tcp(now, segment, bytes, &ip.bytes[ip.header_len..]);
            return Ok(());
        }
        self.datagrams.on_packet(&packet)
    }

    fn on_tcp(&mut self, now: u64, segment: &Segment, payload: &[u8], packet: &[u8]) {
        let index = segment.target_port.wrapping_sub(FIRST_PORT);
        let Some(flow) = self.flows.get_mut(usize::from(index)) else {
            return;
        };
        match &mut flow.tcp {
            Some(Tcp::Ours(tcp)) => tcp.on_segment(now, segment, payload),
            Some(Tcp::Naive(tcp)) => tcp.on_packet(now, packet),
            None => {
                self.counted.strays += 1;
                let reset = towpath_stack::tcp::reset_for(segment, payload.len() as u32);
                if let Some(reset) = reset {
                    let frame = self.writer.tcp(flow.pair, &reset, &[], None);
                    self.out.push_back(frame);
                }
            }
        }
    }

    /// Everything that the guest does by itself now.
    pub(crate) fn act(&mut self, now: u64) -> Result<(), String> {
        let (writer, out) = (self.writer, &mut self.out);
        for (index, flow) in self.flows.iter_mut().enumerate() {
            if flow.gone || now < flow.plan.starts_at {
                continue;
            }
            let port = FIRST_PORT + index as u16;
            flow.act(now, port, &writer, out)
                .map_err(|why| format!("flow {index}, guest: {why}"))?;
        }
        let (addresses, gateway4) = (&self.addresses, self.gateway4);
        while let Some(frame) = self.datagrams.take(now, &writer, addresses, gateway4) {
            out.push_back(frame);
        }
        Ok(())
    }

    /// The next frame that leaves.
    pub(crate) fn take_frame(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }
}

impl GuestFlow {
    fn next_at(&self, now: u64) -> Option<u64> {
        if self.gone {
            return None;
        }
        let Some(tcp) = &self.tcp else {
            return Some(self.plan.starts_at);
        };
        let app = self.app.as_ref().and_then(|app| app.next_at(now));
        [app, tcp.next_at()].into_iter().flatten().min()
    }

    fn act(
        &mut self,
        now: u64,
        port: u16,
        writer: &Writer,
        out: &mut VecDeque<Vec<u8>>,
    ) -> Result<(), String> {
        let Self { plan, random, .. } = self;
        let tcp = self.tcp.get_or_insert_with(|| {
            let first = random.next() as u32;
            if plan.naive {
                let buffer = plan.guest.receive_buffer as usize;
                return Tcp::Naive(Naive::open(now, port, plan.port, first, buffer).into());
            }
            Tcp::Ours(Ours::open(now, plan.guest.clone(), port, plan.port, first).into())
        });
        tcp.tick(now);
        if tcp.is_connected() || tcp.is_gone() {
            let app = self.app.get_or_insert_with(|| {
                let keys = (plan.key, !plan.key);
                App::new(plan.guest_program.clone(), keys, random.branch(), now)
            });
            match tcp {
                Tcp::Ours(tcp) => app.act(now, &mut **tcp)?,
                Tcp::Naive(tcp) => app.act(now, &mut **tcp)?,
            }
        }
        let pair = self.pair;
        match tcp {
            Tcp::Ours(tcp) => tcp.transmit(now, |(segment, payload, gso_size)| {
                out.push_back(writer.tcp(pair, &segment, &payload, gso_size));
            }),
            Tcp::Naive(tcp) => {
                tcp.transmit(now, |packet| out.push_back(writer.by_hand(pair, packet)));
            }
        }
        if tcp.is_gone() && self.app.as_ref().is_some_and(App::is_over) {
            self.gone = true;
            self.tcp = None;
        }
        Ok(())
    }

    /// Bytes of its program that the guest's TCP knows to have arrived, as far as can be told.
    pub(crate) fn acknowledged(&self) -> u64 {
        match (&self.tcp, &self.app) {
            (Some(Tcp::Ours(tcp)), Some(app)) => app.written - tcp.unacknowledged(),
            (None, Some(app)) if app.is_complete() => app.written,
            _ => 0,
        }
    }

    /// Whether nothing of it is left but what its program knows.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }
}
