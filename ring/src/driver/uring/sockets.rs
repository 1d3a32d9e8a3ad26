//! A socket of the ring: what is in flight on it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use crate::driver::SocketKind;
use crate::driver::kernel::errors::{Drained, TakenErrors};
use crate::driver::kernel::options;
use crate::driver::kernel::table::{SocketTable, TableSocket};

/// No operation of that form is in flight.
pub(super) const NONE: u32 = u32::MAX;

/// All sockets of a ring.
pub(super) type Sockets = SocketTable<Socket>;

/// One socket.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    /// `None`: adopted.
    pub(super) kind: Option<SocketKind>,
    /// It receives into the large buffers of links.
    pub(super) large: bool,
    pub(super) connect: u32,
    pub(super) send: u32,
    pub(super) receive: u32,
    pub(super) receive_from: u32,
    /// Datagram sends in flight.
    pub(super) silent: u32,
    /// To be closed when nothing is in flight any more; whether with a reset.
    pub(super) closing: Option<bool>,
    /// The sending direction ends with the send in flight.
    pub(super) shutdown: bool,
    pub(super) errors: TakenErrors,
}

impl Socket {
    pub(super) fn new(fd: OwnedFd, kind: Option<SocketKind>) -> Socket {
        Socket {
            fd,
            kind,
            large: false,
            connect: NONE,
            send: NONE,
            receive: NONE,
            receive_from: NONE,
            silent: 0,
            closing: None,
            shutdown: false,
            errors: TakenErrors::default(),
        }
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn is_idle(&self) -> bool {
        let operations = [self.connect, self.send, self.receive, self.receive_from];
        self.silent == 0 && operations.into_iter().all(|operation| operation == NONE)
    }

    /// Whether datagrams of many peers come here, so that an error of one is no end.
    pub(super) fn is_shared(&self) -> bool {
        options::is_shared(self.kind)
    }

    /// Empties the kernel's error queue.
    pub(super) fn drain_errors(&mut self) -> Drained {
        self.errors.drain(self.fd.as_fd())
    }
}

impl TableSocket for Socket {
    fn is_open(&self) -> bool {
        self.closing.is_none()
    }
}
