//! What a driver is asked to do with sockets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A socket of a driver. Dead after close; a later socket has another id.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct SocketId(pub(crate) u32);

impl SocketId {
    /// For drivers outside of this crate: a socket is whatever they number so.
    #[must_use]
    pub const fn from_raw(raw: u32) -> SocketId {
        SocketId(raw)
    }

    /// The number that the driver gave.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// What to open.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum SocketKind {
    /// A TCP socket.
    TcpV4,
    /// A TCP socket for IPv6 alone.
    TcpV6,
    /// A UDP socket.
    UdpV4,
    /// A UDP socket for IPv6 alone.
    UdpV6,
    /// An unprivileged ICMP echo socket.
    PingV4,
    /// An unprivileged ICMPv6 echo socket.
    PingV6,
    /// A UNIX stream socket.
    UnixStream,
}

/// What a socket is for that somebody else made.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum Adopted {
    /// Now and then a few bytes or packets.
    Service,
    /// A stream of frames: much is received at a time, into the large buffers of links.
    StreamLink,
    /// A frame in each packet.
    PacketLink,
}

/// Where to connect.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Remote {
    /// Over IP.
    Inet(SocketAddr),
    /// On this host.
    Unix(UnixAddress),
}

impl From<SocketAddr> for Remote {
    fn from(address: SocketAddr) -> Remote {
        Remote::Inet(address)
    }
}

/// The address of a UNIX socket.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum UnixAddress {
    /// A file.
    Path(PathBuf),
    /// A name of Linux's abstract namespace, without its leading zero byte.
    Abstract(Vec<u8>),
}

/// What to do when a stream's send buffer is full.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum SendMode {
    /// Complete at once, with what went or nothing.
    Now,
    /// As `Now`, but a send that took everything does not end a wait: its completion comes with the
    /// next thing that does. For senders that have nothing to do when it has come.
    Quiet,
    /// Wait inside the kernel until at least one byte went.
    WhenWritable,
}

/// How a TCP socket watches over a connection on which nothing comes (RFC 1122 §4.2.3.6).
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Keepalive {
    /// Silence before the first question, in whole seconds, at least 1 s.
    pub idle: Duration,
    /// Time between questions, in whole seconds, at least 1 s.
    pub interval: Duration,
    /// Unanswered questions before the connection fails.
    pub probes: u8,
}
