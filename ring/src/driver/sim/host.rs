//! The host's network as a simulated kernel knows it: who answers a connect, and datagrams that left.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use super::stream::{SimStream, Stream};
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
    /// Streams that wait for a driver to adopt them, by the descriptor that stands for them.
    offered: BTreeMap<RawFd, Rc<Stream>>,
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
            offered: BTreeMap::new(),
        })))
    }

    /// The peer's end of the next connection that was made.
    #[must_use]
    pub fn accept(&self) -> Option<(Remote, SimStream)> {
        self.0.borrow_mut().accepted.pop_front()
    }

    /// A stream that somebody made, to be given to any driver of this host: a descriptor that
    /// [`adopt`](crate::driver::Driver::adopt) takes for it, and the other end. So many bytes wait in it
    /// on the way from the core and to it.
    ///
    /// # Errors
    ///
    /// What `eventfd(2)` says.
    pub fn offer_stream(
        &self,
        up_buffer: usize,
        down_buffer: usize,
    ) -> io::Result<(OwnedFd, SimStream)> {
        // Open until it is adopted, so its number stands for nothing else.
        let ticket = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        let stream = Stream::new(up_buffer, down_buffer);
        let offered = &mut self.0.borrow_mut().offered;
        offered.insert(ticket.as_raw_fd(), Rc::clone(&stream));
        Ok((ticket, SimStream(stream)))
    }

    /// The stream that a descriptor stands for.
    pub(super) fn claim(&self, ticket: &OwnedFd) -> Option<Rc<Stream>> {
        self.0.borrow_mut().offered.remove(&ticket.as_raw_fd())
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
