//! A socket of the driver: what is ready, and what waits for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::poller::Interest;
use crate::buffer::Slice;
use crate::driver::kernel::address::RawAddress;
use crate::driver::kernel::errors::TakenErrors;
use crate::driver::kernel::options;
use crate::driver::kernel::table::TableSocket;
use crate::driver::{SocketKind, Token};

/// One socket.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    /// `None`: adopted.
    pub(super) kind: Option<SocketKind>,
    /// It receives into the large buffers of links.
    pub(super) large: bool,
    /// What the poller watches it for.
    pub(super) watched: Option<Interest>,
    pub(super) ready: Ready,
    /// It is in the list of those that are tried at the next wait.
    pub(super) queued: bool,
    /// Operations whose completion has not been told yet.
    pub(super) busy: Busy,
    pub(super) connect: Option<Connect>,
    pub(super) send: Send,
    /// Who wants to know when there is room for packets.
    pub(super) room: Option<Token>,
    pub(super) receive: Option<Receive>,
    pub(super) receive_from: Option<ReceiveFrom>,
    /// The sending direction ends with the send that waits.
    pub(super) shutdown: bool,
    pub(super) errors: TakenErrors,
}

/// What a try may find, as far as is known.
#[derive(Copy, Clone, Debug)]
pub(super) struct Ready {
    /// Something to read: until a try finds nothing.
    pub(super) read: bool,
    /// Room for what waits to be sent: until a try finds none.
    pub(super) write: bool,
    /// The end or an error, of which no further event tells.
    pub(super) ended: bool,
}

impl Ready {
    /// Before anything is known, everything is tried.
    pub(super) const UNKNOWN: Ready = Ready {
        read: true,
        write: false,
        ended: false,
    };
    pub(super) const NOTHING: Ready = Ready {
        read: false,
        write: false,
        ended: false,
    };
}

/// An operation of which a socket has one at a time.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Operation {
    Connect = 1,
    Send = 2,
    Receive = 4,
}

/// A set of operations.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Busy(u8);

impl Busy {
    /// Whether the operation was not in the set; now it is.
    pub(super) fn begin(&mut self, operation: Operation) -> bool {
        let begins = self.0 & operation as u8 == 0;
        self.0 |= operation as u8;
        begins
    }

    pub(super) fn end(&mut self, operation: Operation) {
        self.0 &= !(operation as u8);
    }
}

/// A connect under way.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) token: Token,
    /// The other end's queue was full: to be tried again.
    pub(super) again: Option<Box<RawAddress>>,
}

/// Bytes that wait for room. The list is used again, so that in the steady state nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Send {
    pub(super) waits: bool,
    pub(super) token: Token,
    pub(super) slices: Vec<Slice>,
}

impl Send {
    pub(super) fn release(&mut self) {
        self.waits = false;
        self.slices.clear();
    }
}

/// A receive that waits for bytes.
#[derive(Copy, Clone, Debug)]
pub(super) struct Receive {
    pub(super) token: Token,
    pub(super) max: u32,
}

/// The datagrams of a socket are wanted.
#[derive(Copy, Clone, Debug)]
pub(super) struct ReceiveFrom {
    pub(super) token: Token,
    /// It waits for buffers.
    pub(super) starved: bool,
}

impl Socket {
    pub(super) fn new(fd: OwnedFd, kind: Option<SocketKind>) -> Socket {
        Socket {
            fd,
            kind,
            large: false,
            watched: None,
            ready: Ready::UNKNOWN,
            queued: false,
            busy: Busy::default(),
            connect: None,
            send: Send::default(),
            room: None,
            receive: None,
            receive_from: None,
            shutdown: false,
            errors: TakenErrors::default(),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether datagrams of many peers come here, so that an error of one is no end.
    pub(super) fn is_shared(&self) -> bool {
        options::is_shared(self.kind)
    }

    /// Whether it is a connection over IP.
    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.kind, Some(SocketKind::TcpV4 | SocketKind::TcpV6))
    }

    /// Whether somebody waits for room, or for a connect.
    pub(super) fn wants_room(&self) -> bool {
        self.send.waits || self.room.is_some() || self.connect.is_some()
    }

    /// Whether a try may get on with something that waits.
    pub(super) fn can_be_tried(&self) -> bool {
        let wants_bytes = self.receive.is_some()
            || self
                .receive_from
                .is_some_and(|receive_from| !receive_from.starved);
        self.ready.read && wants_bytes || self.ready.write && self.wants_room()
    }

    /// A read found nothing: only an event will tell of more.
    pub(super) fn nothing_to_read(&mut self) {
        self.ready.read = false;
        self.ready.ended = false;
    }
}

impl TableSocket for Socket {
    fn is_open(&self) -> bool {
        // One that is closed is not in the table.
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_busy_from_begin_to_end() {
        let mut busy = Busy::default();
        assert!(busy.begin(Operation::Send) && busy.begin(Operation::Receive));
        assert!(!busy.begin(Operation::Send));
        busy.end(Operation::Send);
        assert!(busy.begin(Operation::Send) && !busy.begin(Operation::Receive));
    }
}
