//! One socket of a simulated kernel: what is outstanding on it, and what came for it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use super::host::Answer;
use super::packets::Packets;
use super::stream::Stream;
use crate::buffer::Slice;
use crate::driver::{Remote, SocketError, SocketKind, Token};

/// The host's own address in each IP version.
pub(super) const LOCAL4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(super) const LOCAL6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) kind: SocketKind,
    pub(super) local: SocketAddr,
    pub(super) stream: Option<Rc<Stream>>,
    /// It receives into the buffers of links, one at a time.
    pub(super) is_link: bool,
    pub(super) connect: Option<Connect>,
    pub(super) send: Option<Send>,
    pub(super) packets: Option<Rc<Packets>>,
    /// Somebody waits for room for packets.
    pub(super) room: Option<Token>,
    pub(super) receive: Option<Receive>,
    pub(super) receive_from: Option<Token>,
    /// Operations that are through and of which the caller has not heard.
    pub(super) unheard: Unheard,
    /// The sending direction ends when the waiting send is through.
    pub(super) shutdown_wanted: bool,
    /// Datagrams and errors on their way, by arrival.
    pub(super) inbox: BTreeMap<(u64, u64), Arrival>,
    pub(super) errors: VecDeque<SocketError>,
    /// The place of its last completion among all, which the next may not overtake.
    pub(super) last: (u64, u64),
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unheard {
    pub(super) connect: bool,
    pub(super) send: bool,
    pub(super) receive: bool,
}

#[derive(Debug)]
pub(super) struct Connect {
    pub(super) token: Token,
    pub(super) to: Remote,
    /// `None`: nobody answers.
    pub(super) at: Option<u64>,
    pub(super) answer: Answer,
}

#[derive(Debug)]
pub(super) struct Send {
    pub(super) token: Token,
    pub(super) payload: Vec<Slice>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Receive {
    pub(super) token: Token,
    pub(super) max: u32,
}

#[derive(Debug)]
pub(super) enum Arrival {
    Datagram {
        from: SocketAddr,
        payload: Vec<u8>,
        gso_size: u16,
    },
    Error(SocketError),
}

impl Socket {
    pub(super) fn new(kind: SocketKind, port: u16) -> Socket {
        let ip = if is_v6(kind) { LOCAL6 } else { LOCAL4 };
        Socket {
            kind,
            local: SocketAddr::new(ip, port),
            stream: None,
            is_link: false,
            connect: None,
            send: None,
            packets: None,
            room: None,
            receive: None,
            receive_from: None,
            unheard: Unheard::default(),
            shutdown_wanted: false,
            inbox: BTreeMap::new(),
            errors: VecDeque::new(),
            last: (0, 0),
        }
    }

    /// Whether something may happen to it by itself.
    pub(super) fn is_waiting(&self) -> bool {
        self.connect.is_some()
            || self.send.is_some()
            || self.room.is_some()
            || self.receive.is_some()
            || !self.inbox.is_empty()
    }

    pub(super) fn shut_down_if_wanted(&mut self) {
        if self.shutdown_wanted
            && self.send.is_none()
            && let Some(stream) = &self.stream
        {
            stream.core_shutdown();
        }
    }
}

pub(super) fn is_v6(kind: SocketKind) -> bool {
    matches!(
        kind,
        SocketKind::TcpV6 | SocketKind::UdpV6 | SocketKind::PingV6
    )
}

/// Whether sockets of this kind reach such a target at all.
pub(super) fn reaches(kind: SocketKind, to: &Remote) -> bool {
    match to {
        Remote::Inet(to) => kind != SocketKind::UnixStream && is_v6(kind) == to.is_ipv6(),
        Remote::Unix(_) => kind == SocketKind::UnixStream,
    }
}
