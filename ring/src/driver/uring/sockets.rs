//! The table of sockets, and how they are made.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, TcpKeepalive, Type};

use super::config::UringConfig;
use super::errors;
use crate::driver::{Keepalive, SocketError, SocketId, SocketKind};

/// No operation of that form is in flight.
pub(super) const NONE: u32 = u32::MAX;

/// An id is a generation (12 bits) and an index.
const INDEX_BITS: u32 = 20;
const SOCKETS_MAX: usize = 1 << INDEX_BITS;

/// Error-queue entries kept per socket until somebody takes them.
const ERRORS_MAX: usize = 32;

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
    /// Taken from the kernel's error queue, oldest first.
    pub(super) errors: VecDeque<SocketError>,
}

impl Socket {
    fn new(fd: OwnedFd, kind: Option<SocketKind>) -> Socket {
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
            errors: VecDeque::new(),
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
        matches!(
            self.kind,
            Some(SocketKind::UdpV4 | SocketKind::UdpV6 | SocketKind::PingV4 | SocketKind::PingV6)
        )
    }

    /// Empties the kernel's error queue (while it is not empty the socket always looks ready).
    /// Returns the first error that came from the network and how many were dropped.
    pub(super) fn drain_errors(&mut self) -> (Option<Errno>, u64) {
        let (mut first, mut dropped) = (None, 0);
        while let Some(error) = errors::read(self.fd.as_fd()) {
            if !matches!(error.origin, crate::driver::ErrorOrigin::Local) {
                first = first.or(Some(error.errno));
            }
            if self.errors.len() < ERRORS_MAX {
                self.errors.push_back(error);
            } else {
                dropped += 1;
            }
        }
        (first, dropped)
    }

    /// Makes the close a reset.
    pub(super) fn set_reset(&self) {
        // Fails only for what has no reset.
        let _ = SockRef::from(&self.fd).set_linger(Some(Duration::ZERO));
    }
}

/// All sockets of a ring.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Entry {
    generation: u16,
    socket: Option<Box<Socket>>,
}

impl Sockets {
    /// Adds a socket; `EMFILE` (and the socket is closed) if the table is full.
    pub(super) fn add(&mut self, fd: OwnedFd, kind: Option<SocketKind>) -> io::Result<SocketId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.entries.len() < SOCKETS_MAX - 1 => {
                self.entries.push(Entry::default());
                (self.entries.len() - 1) as u32
            }
            None => return Err(Errno::MFILE.into()),
        };
        let entry = &mut self.entries[index as usize];
        entry.socket = Some(Box::new(Socket::new(fd, kind)));
        Ok(SocketId(u32::from(entry.generation) << INDEX_BITS | index))
    }

    /// The index of an open socket.
    pub(super) fn index(&self, id: SocketId) -> Option<u32> {
        let index = id.0 & (SOCKETS_MAX as u32 - 1);
        let entry = self.entries.get(index as usize)?;
        let open = entry
            .socket
            .as_ref()
            .is_some_and(|socket| socket.closing.is_none());
        (open && u32::from(entry.generation) == id.0 >> INDEX_BITS).then_some(index)
    }

    /// An open socket.
    pub(super) fn open(&self, id: SocketId) -> Option<&Socket> {
        self.index(id)
            .and_then(|index| self.entries[index as usize].socket.as_deref())
    }

    /// The socket at an index, open or closing.
    pub(super) fn at(&mut self, index: u32) -> Option<&mut Socket> {
        self.entries.get_mut(index as usize)?.socket.as_deref_mut()
    }

    /// Takes the socket out.
    pub(super) fn remove(&mut self, index: u32) -> Option<Box<Socket>> {
        let entry = self.entries.get_mut(index as usize)?;
        let socket = entry.socket.take()?;
        entry.generation = (entry.generation + 1) & 0xfff;
        self.free.push(index);
        Some(socket)
    }
}

/// An id that no socket ever has.
pub(super) const NO_SOCKET: SocketId = SocketId(u32::MAX);

/// Makes and tunes a socket. It blocks: the ring takes care of waiting, and `O_NONBLOCK` would make
/// it give up instead.
pub(super) fn make(kind: SocketKind, config: &UringConfig) -> io::Result<OwnedFd> {
    let (domain, form, protocol) = match kind {
        SocketKind::TcpV4 => (Domain::IPV4, Type::STREAM, Some(Protocol::TCP)),
        SocketKind::TcpV6 => (Domain::IPV6, Type::STREAM, Some(Protocol::TCP)),
        SocketKind::UdpV4 => (Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)),
        SocketKind::UdpV6 => (Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)),
        SocketKind::PingV4 => (Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)),
        SocketKind::PingV6 => (Domain::IPV6, Type::DGRAM, Some(Protocol::ICMPV6)),
        SocketKind::UnixStream => (Domain::UNIX, Type::STREAM, None),
    };
    let socket = RawSocket::new_raw(domain, form.cloexec(), protocol)?;
    match kind {
        SocketKind::TcpV4 => socket.set_tcp_nodelay(true)?,
        SocketKind::TcpV6 => {
            socket.set_only_v6(true)?;
            socket.set_tcp_nodelay(true)?;
        }
        SocketKind::UdpV4 | SocketKind::UdpV6 => {
            if kind == SocketKind::UdpV6 {
                socket.set_only_v6(true)?;
            }
            report_errors(&socket, domain)?;
            // Both are best effort: the host may set limits, and old kernels have no GRO.
            let _ = socket.set_recv_buffer_size(config.udp_receive_buffer_bytes as usize);
            if config.udp_receive_offload {
                let _ = set_flag(&socket, libc::SOL_UDP, libc::UDP_GRO);
            }
        }
        SocketKind::PingV4 => {
            report_errors(&socket, domain)?;
            set_flag(&socket, libc::IPPROTO_IP, libc::IP_RECVTTL)?;
        }
        SocketKind::PingV6 => {
            report_errors(&socket, domain)?;
            set_flag(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT)?;
        }
        SocketKind::UnixStream => {}
    }
    Ok(socket.into())
}

/// Makes a descriptor block.
pub(super) fn set_blocking(fd: &OwnedFd) {
    if let Ok(flags) = rustix::fs::fcntl_getfl(fd)
        && flags.contains(OFlags::NONBLOCK)
    {
        let _ = rustix::fs::fcntl_setfl(fd, flags - OFlags::NONBLOCK);
    }
}

/// What may wait between the UNIX socket of a link and its reader, in bytes, as it is asked for. The kernel
/// cuts that to the sysctl `net.core.wmem_max`, usually 208 KiB, and doubles it for its own overhead.
const LINK_SEND_BUFFER_BYTES: usize = 256 << 10;

/// Has a link take twice as much at a time as a socket does by default.
pub(super) fn enlarge(fd: &OwnedFd) {
    let reference = SockRef::from(fd);
    // TCP finds its own size, if it is let.
    if reference
        .domain()
        .is_ok_and(|domain| domain == Domain::UNIX)
    {
        // Best effort: it works as well with less.
        let _ = reference.set_send_buffer_size(LINK_SEND_BUFFER_BYTES);
    }
}

/// Has ICMP errors reported, and queued with what they say.
pub(super) fn report_errors(socket: &impl AsFd, domain: Domain) -> io::Result<()> {
    if domain == Domain::IPV6 {
        set_flag(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    } else {
        set_flag(socket, libc::IPPROTO_IP, libc::IP_RECVERR)
    }
}

/// Has the kernel watch over a connection. It counts from when something last came, also when that
/// was before.
pub(super) fn set_keepalive(socket: &impl AsFd, keepalive: &Keepalive) -> io::Result<()> {
    let Keepalive {
        idle,
        interval,
        probes,
    } = *keepalive;
    let parameters = TcpKeepalive::new()
        .with_time(idle)
        .with_interval(interval)
        .with_retries(probes.into());
    SockRef::from(socket).set_tcp_keepalive(&parameters)
}

/// Sets an option to 1.
fn set_flag(socket: &impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the option value is one int, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const one).cast(),
            size_of_val(&one) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_fd() -> OwnedFd {
        make(SocketKind::UnixStream, &UringConfig::default()).unwrap()
    }

    #[test]
    fn an_id_dies_with_its_socket() {
        let mut sockets = Sockets::default();
        let first = sockets.add(some_fd(), None).unwrap();
        let index = sockets.index(first).unwrap();
        sockets.at(index).unwrap().closing = Some(false);
        assert!(sockets.index(first).is_none(), "closing");
        sockets.remove(index).unwrap();
        let second = sockets.add(some_fd(), None).unwrap();
        assert_eq!(sockets.index(second), Some(index));
        assert_ne!(first, second);
        assert!(sockets.open(first).is_none());
        assert!(sockets.index(NO_SOCKET).is_none());
    }

    #[test]
    fn all_kinds_but_ping_can_be_made_anywhere() {
        for kind in [
            SocketKind::TcpV4,
            SocketKind::TcpV6,
            SocketKind::UdpV4,
            SocketKind::UdpV6,
            SocketKind::UnixStream,
        ] {
            let fd = make(kind, &UringConfig::default()).unwrap();
            let flags = rustix::io::fcntl_getfd(&fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{kind:?}");
        }
    }
}
