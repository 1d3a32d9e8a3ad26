//! Links that come and go while the engine runs: the sockets and TAPs of virtual machines.
//!
//! Who accepts a guest (a listener, an inherited descriptor) does what its protocol wants before the first
//! frame, and hands what is left over as an [`Attachment`]. From then on it belongs to one core, the
//! *home* of the guest's port, which also has all of that guest's flows.

mod attacher;
mod complaints;
mod listener;
mod serve;
mod socket;
mod socket_file;
mod stdio;
mod strangers;
mod url;
mod uuids;
mod vfkit;
mod vpnkit;

use std::fmt;
use std::os::fd::OwnedFd;

use towpath_ring::frames::stream::Framing;
use towpath_ring::frames::tap::TapQueue;

pub use attacher::{AttachError, Attacher, PORTS_MAX};
pub use listener::Listener;
pub use url::{LinkUrl, Protocol};

pub(crate) use attacher::{OnEnd, PortCommand};
pub(crate) use serve::serve;
pub(crate) use uuids::Uuids;

/// What carries a guest's frames.
#[derive(Debug)]
pub enum Carrier {
    /// A connected stream socket; each frame is behind its length.
    Stream {
        /// The socket.
        socket: OwnedFd,
        /// How the length is written.
        framing: Framing,
    },
    /// A connected datagram or seqpacket socket; each packet is a frame.
    Packets(OwnedFd),
    /// A TAP that somebody else made, with one queue.
    Tap(TapQueue),
}

/// A guest's link, ready for frames.
#[derive(Debug)]
pub struct Attachment {
    /// What logs call it, for example `qemu:///run/vm.sock#3`.
    pub name: String,
    /// What carries its frames.
    pub carrier: Carrier,
}

/// The number of a guest's port: of the guests that are there, no two have the same, and one is not
/// used again at once.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// Why a port was closed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Departure {
    /// The guest's side closed its end, or the engine was told to let it go.
    Left,
    /// What it sent could not be understood, or it took nothing for too long; the text says which.
    Dismissed(String),
    /// Its socket or interface failed.
    Failed(String),
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => write!(f, "it left"),
            Self::Dismissed(why) => write!(f, "dismissed: {why}"),
            Self::Failed(why) => write!(f, "its link failed: {why}"),
        }
    }
}

#[cfg(test)]
mod tests;
