//! How sockets are made, and their options.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, TcpKeepalive, Type};

use crate::driver::{Keepalive, SocketKind};

/// How UDP sockets are made.
#[derive(Copy, Clone, Debug)]
pub(in crate::driver) struct UdpTuning {
    /// The receive buffer that is asked for, in bytes.
    pub(in crate::driver) receive_buffer_bytes: u32,
    /// Several datagrams may be received as one.
    pub(in crate::driver) receive_offload: bool,
}

/// Makes and tunes a socket, which blocks.
pub(in crate::driver) fn make(kind: SocketKind, udp: UdpTuning) -> io::Result<OwnedFd> {
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
            report_errors_of(&socket, domain)?;
            // Both are best effort: the host may set limits, and old kernels have no GRO.
            let _ = socket.set_recv_buffer_size(udp.receive_buffer_bytes as usize);
            if udp.receive_offload {
                let _ = set_flag(&socket, libc::SOL_UDP, libc::UDP_GRO);
            }
        }
        SocketKind::PingV4 => {
            report_errors_of(&socket, domain)?;
            set_flag(&socket, libc::IPPROTO_IP, libc::IP_RECVTTL)?;
        }
        SocketKind::PingV6 => {
            report_errors_of(&socket, domain)?;
            set_flag(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT)?;
        }
        SocketKind::UnixStream => {}
    }
    Ok(socket.into())
}

/// Whether datagrams of many peers come to sockets of a kind, so that an error of one is no end.
/// `None`: somebody else made the socket.
pub(in crate::driver) fn is_shared(kind: Option<SocketKind>) -> bool {
    matches!(
        kind,
        Some(SocketKind::UdpV4 | SocketKind::UdpV6 | SocketKind::PingV4 | SocketKind::PingV6)
    )
}

/// Makes a descriptor block or not.
pub(in crate::driver) fn set_blocking(fd: &impl AsFd, blocking: bool) {
    if let Ok(flags) = rustix::fs::fcntl_getfl(fd)
        && flags.contains(OFlags::NONBLOCK) == blocking
    {
        let _ = rustix::fs::fcntl_setfl(fd, flags ^ OFlags::NONBLOCK);
    }
}

/// What may wait between the UNIX socket of a link and its reader, in bytes, as it is asked for. The kernel
/// cuts that to the sysctl `net.core.wmem_max` (208 KiB where nobody raised it) and doubles it for its own
/// overhead. A super-frame of 64 KiB takes a sixth of what a socket has by default.
const LINK_SEND_BUFFER_BYTES: usize = 1 << 20;

/// Has a link take more at a time than a socket does by default.
pub(in crate::driver) fn enlarge(fd: &impl AsFd) {
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

/// Makes the close a reset.
pub(in crate::driver) fn set_reset(socket: &impl AsFd) {
    // Fails only for what has no reset.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Sets the TTL or hop limit of what is sent.
pub(in crate::driver) fn set_hop_limit(socket: &impl AsFd, hops: u8) -> io::Result<()> {
    let socket = SockRef::from(socket);
    match socket.domain()? {
        Domain::IPV6 => socket.set_unicast_hops_v6(hops.into()),
        _ => socket.set_ttl_v4(hops.into()),
    }
}

/// Bytes that were sent and not acknowledged by the peer.
pub(in crate::driver) fn unacknowledged_bytes(socket: &impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 {
        Ok(bytes.max(0) as u32)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The IP address that a socket is bound to.
pub(in crate::driver) fn local_address(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(socket).local_addr()?;
    address.as_socket().ok_or_else(|| Errno::AFNOSUPPORT.into())
}

/// Has ICMP errors reported, and queued with what they say.
pub(in crate::driver) fn report_errors(socket: &impl AsFd) -> io::Result<()> {
    report_errors_of(socket, SockRef::from(socket).domain()?)
}

fn report_errors_of(socket: &impl AsFd, domain: Domain) -> io::Result<()> {
    if domain == Domain::IPV6 {
        set_flag(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    } else {
        set_flag(socket, libc::IPPROTO_IP, libc::IP_RECVERR)
    }
}

/// Has the kernel watch over a connection. It counts from when something last came, also when that
/// was before.
pub(in crate::driver) fn set_keepalive(
    socket: &impl AsFd,
    keepalive: &Keepalive,
) -> io::Result<()> {
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

    const UDP: UdpTuning = UdpTuning {
        receive_buffer_bytes: 1 << 20,
        receive_offload: true,
    };

    #[test]
    fn all_kinds_but_ping_can_be_made_anywhere() {
        for kind in [
            SocketKind::TcpV4,
            SocketKind::TcpV6,
            SocketKind::UdpV4,
            SocketKind::UdpV6,
            SocketKind::UnixStream,
        ] {
            let fd = make(kind, UDP).unwrap();
            let flags = rustix::io::fcntl_getfd(&fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{kind:?}");
        }
    }

    #[test]
    fn a_socket_can_be_made_to_block_or_not() {
        let fd = make(SocketKind::UnixStream, UDP).unwrap();
        for blocking in [true, false, false, true] {
            set_blocking(&fd, blocking);
            let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
            assert_eq!(flags.contains(OFlags::NONBLOCK), !blocking);
        }
    }
}
