//! How the load generator makes its sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

/// A connection on which nothing moves for this long is given up: a network that lost it must not
/// hang the run.
pub(crate) const STALL: Duration = Duration::from_secs(15);

/// Receive buffer asked for where datagrams are counted, in bytes (the kernel grants up to
/// `net.core.rmem_max`).
const UDP_RECEIVE_BYTES: usize = 4 << 20;

/// Makes a TCP connection without Nagle's delay.
///
/// `congestion` names the congestion control; the system's default when `None`.
///
/// # Errors
/// Any error of the system calls; a connect that takes longer than `timeout` is one.
pub(crate) fn connect(
    to: SocketAddr,
    congestion: Option<&str>,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    set_congestion(&socket, congestion)?;
    socket.set_tcp_nodelay(true)?;
    // On Linux the send timeout bounds a blocking connect as well, with no further system call.
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(&to.into()).map_err(name_a_timeout)?;
    socket.set_write_timeout(Some(STALL))?;
    socket.set_read_timeout(Some(STALL))?;
    Ok(socket.into())
}

/// Begins a TCP connection and does not wait for it: the socket becomes writable when it is made, or
/// has failed. `congestion` as in [`connect`].
pub(crate) fn begin_connect(to: SocketAddr, congestion: Option<&str>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    set_congestion(&socket, congestion)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if !is_under_way(&error) => Err(error),
        _ => Ok(socket.into()),
    }
}

fn set_congestion(socket: &Socket, name: Option<&str>) -> io::Result<()> {
    let Some(name) = name else { return Ok(()) };
    let set = socket.set_tcp_congestion(name.as_bytes());
    set.map_err(|error| {
        let text = format!("congestion control {name:?}: {error}");
        io::Error::new(error.kind(), text)
    })
}

fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

/// A UDP socket that talks to `to` alone.
pub(crate) fn connect_udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = bind_udp(SocketAddr::new(any, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

/// A UDP socket with a large receive buffer.
pub(crate) fn bind_udp(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(UDP_RECEIVE_BYTES)?;
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// Whether the error says that a socket's timeout has passed.
pub(crate) fn timed_out(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Allows this process as many descriptors as the system lets it have; on failure the limit stays
/// as it is.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// A blocking connect that ran into the send timeout says "in progress"; that is no help to a
/// reader.
fn name_a_timeout(error: io::Error) -> io::Error {
    if is_under_way(&error) {
        io::Error::new(io::ErrorKind::TimedOut, "no answer to the connect in time")
    } else {
        error
    }
}
