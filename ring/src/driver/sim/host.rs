//! The host's network as a simulated kernel knows it: who answers a connect, and datagrams that left.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

use super::stream::SimStream;
use crate::driver::{Errno, Remote};

/// What becomes of a connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It succeeds after so many ns.
    Accept {
        /// When.
        after_ns: u64,
        /// Bytes that the peer's side takes before it reads.
        up_buffer: usize,
        /// Bytes that wait on the way to the core.
        down_buffer: usize,
    },
    /// It fails after so many ns.
    Refuse {
        /// When.
        after_ns: u64,
        /// As what.
        errno: Errno,
    },
    /// Nobody ever answers.
    Never,
}

/// A datagram, or several, that a core's socket has sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SimDatagram {
    /// The socket's address: where an answer goes.
    pub from: SocketAddr,
    /// Its target.
    pub to: SocketAddr,
    /// The payload; from the ICMP header on for ping sockets.
    pub payload: Vec<u8>,
}

type Judge = Box<dyn FnMut(&Remote) -> Answer>;

/// The far side of all drivers of a world: those who play the peers hold it too.
#[derive(Clone)]
pub struct SimHost(Rc<RefCell<State>>);

struct State {
    judge: Judge,
    accepted: VecDeque<(Remote, SimStream)>,
    datagrams: VecDeque<SimDatagram>,
    next_port: u16,
}

impl SimHost {
    /// A host where `judge` says what becomes of each connect.
    #[must_use]
    pub fn new(judge: impl FnMut(&Remote) -> Answer + 'static) -> SimHost {
        SimHost(Rc::new(RefCell::new(State {
            judge: Box::new(judge),
            accepted: VecDeque::new(),
            datagrams: VecDeque::new(),
            next_port: 1024,
        })))
    }

    /// The peer's end of the next connection that was made.
    #[must_use]
    pub fn accept(&self) -> Option<(Remote, SimStream)> {
        self.0.borrow_mut().accepted.pop_front()
    }

    /// The next datagram that left.
    #[must_use]
    pub fn take_datagram(&self) -> Option<SimDatagram> {
        self.0.borrow_mut().datagrams.pop_front()
    }

    pub(super) fn judge(&self, to: &Remote) -> Answer {
        (self.0.borrow_mut().judge)(to)
    }

    pub(super) fn connected(&self, to: Remote, stream: SimStream) {
        self.0.borrow_mut().accepted.push_back((to, stream));
    }

    pub(super) fn sent(&self, datagram: SimDatagram) {
        self.0.borrow_mut().datagrams.push_back(datagram);
    }

    /// A port that no socket of the last 60,000 has.
    pub(super) fn new_port(&self) -> u16 {
        let state = &mut *self.0.borrow_mut();
        let port = state.next_port;
        state.next_port = port.checked_add(1).unwrap_or(1024);
        port
    }
}

impl fmt::Debug for SimHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimHost")
    }
}
