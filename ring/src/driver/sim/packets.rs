//! A simulated socket of packets: what is on its way between a core and its peer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::buffer::Slice;
use crate::driver::Errno;

/// The peer's end of a socket of packets.
#[derive(Clone, Debug)]
pub struct SimPackets(pub(super) Rc<Packets>);

#[derive(Debug)]
pub(super) struct Packets {
    /// From the core to the peer.
    up: RefCell<VecDeque<Vec<u8>>>,
    /// So many of them wait at most.
    room: usize,
    down: RefCell<VecDeque<Vec<u8>>>,
    core_closed: Cell<bool>,
    peer_closed: Cell<bool>,
}

impl Packets {
    pub(super) fn new(room: usize) -> Rc<Packets> {
        Rc::new(Packets {
            up: RefCell::default(),
            room,
            down: RefCell::default(),
            core_closed: Cell::new(false),
            peer_closed: Cell::new(false),
        })
    }

    /// Takes a packet of the core; `EAGAIN` if there is no room.
    pub(super) fn core_send(&self, packet: &[Slice]) -> Result<(), Errno> {
        if self.peer_closed.get() {
            return Err(Errno::CONNREFUSED);
        }
        let mut up = self.up.borrow_mut();
        if up.len() >= self.room {
            return Err(Errno::AGAIN);
        }
        up.push_back(packet.concat());
        Ok(())
    }

    /// Whether a packet would not have to wait.
    pub(super) fn core_writable(&self) -> bool {
        self.peer_closed.get() || self.up.borrow().len() < self.room
    }

    /// The length of the next packet for the core.
    pub(super) fn core_waits(&self) -> Option<usize> {
        self.down.borrow().front().map(Vec::len)
    }

    pub(super) fn core_receive(&self) -> Option<Vec<u8>> {
        self.down.borrow_mut().pop_front()
    }

    /// Nothing comes any more.
    pub(super) fn is_over(&self) -> bool {
        self.peer_closed.get() && self.down.borrow().is_empty()
    }

    pub(super) fn core_close(&self) {
        self.core_closed.set(true);
    }
}

impl SimPackets {
    /// Sends a packet. Whether the core's end is still there.
    pub fn send(&self, packet: Vec<u8>) -> bool {
        let open = !self.0.core_closed.get();
        if open {
            self.0.down.borrow_mut().push_back(packet);
        }
        open
    }

    /// The next packet of the core.
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
        self.0.up.borrow_mut().pop_front()
    }

    /// Whether the core has closed its end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.core_closed.get()
    }

    /// Closes the peer's end. What was sent before arrives.
    pub fn close(&self) {
        self.0.peer_closed.set(true);
    }
}
