//! What a URL leads to, opened: before the engine starts, so that what is wrong is said at once.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::net::if_::if_nametoindex;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_recv_buffer_size, socket_acceptconn, socket_type};
use rustix::net::{SocketType, getpeername};
use socket2::{Domain, SockAddr, Socket, Type};
use towpath_ring::frames::stream::Framing;
use towpath_ring::frames::tap::{Tap, TapError, TapOptions, TapQueue};

use super::socket_file::SocketFile;
use super::url::{LinkUrl, Protocol};
use super::{Carrier, stdio};
use crate::inherited;

/// Guests that may wait to be accepted on a vsock port.
const VSOCK_BACKLOG: i32 = 128;
/// What is asked for as the receive buffer of a guest's socket; the kernel gives what its limit allows.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// A source of guests, open. Dropped, it is closed, and its socket's file is removed.
#[derive(Debug)]
pub struct Listener {
    pub(super) url: LinkUrl,
    pub(super) source: Source,
}

/// How guests come.
#[derive(Debug)]
pub(super) enum Source {
    /// By connecting.
    Listening {
        socket: OwnedFd,
        protocol: Protocol,
        file: Option<SocketFile>,
    },
    /// By sending a first datagram.
    Datagrams { socket: OwnedFd, file: SocketFile },
    /// One is there.
    Connected { socket: OwnedFd, protocol: Protocol },
    /// One is there, or a bridge with many.
    Tap(TapQueue),
}

impl Listener {
    /// Opens what `url` names. An inherited descriptor is taken over.
    ///
    /// # Errors
    ///
    /// For people, with the URL in front.
    pub fn open(url: LinkUrl) -> Result<Self, String> {
        let source = match &url {
            LinkUrl::Path { protocol, path } => listen_at(path, *protocol),
            LinkUrl::Stdio(protocol) => stdio::take().map(|socket| Source::Connected {
                socket,
                protocol: *protocol,
            }),
            LinkUrl::Descriptor { number, protocol } => take_descriptor(*number, *protocol),
            LinkUrl::Vsock { cid, port } => listen_vsock(*cid, *port),
            LinkUrl::Tap(name) => open_tap(name),
        };
        match source {
            Ok(source) => Ok(Self { url, source }),
            Err(reason) => Err(format!("--listen {url}: {reason}")),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// A guest's socket as what carries its frames, with buffers as large as the host allows.
pub(super) fn carrier(socket: OwnedFd, protocol: Protocol) -> Carrier {
    // Best effort: the limit is the host's. (The driver sees to what waits for the guest.)
    let _ = set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    match protocol {
        Protocol::Vpnkit | Protocol::Gvproxy => Carrier::Stream {
            socket,
            framing: Framing::Le16,
        },
        Protocol::Qemu => Carrier::Stream {
            socket,
            framing: Framing::Be32,
        },
        Protocol::Vfkit | Protocol::Bess => Carrier::Packets(socket),
    }
}

/// What a protocol runs over.
fn kind_of(protocol: Protocol) -> (SocketType, &'static str) {
    match protocol {
        Protocol::Vpnkit | Protocol::Gvproxy | Protocol::Qemu => {
            (SocketType::STREAM, "SOCK_STREAM")
        }
        Protocol::Vfkit => (SocketType::DGRAM, "SOCK_DGRAM"),
        Protocol::Bess => (SocketType::SEQPACKET, "SOCK_SEQPACKET"),
    }
}

fn listen_at(path: &Path, protocol: Protocol) -> Result<Source, String> {
    let (socket, file) = SocketFile::listen(path, kind_of(protocol).0)?;
    Ok(match protocol {
        Protocol::Vfkit => Source::Datagrams { socket, file },
        _ => Source::Listening {
            socket,
            protocol,
            file: Some(file),
        },
    })
}

fn take_descriptor(number: i32, protocol: Protocol) -> Result<Source, String> {
    if !inherited::is_open(number) {
        return Err("this file descriptor is not open: the caller must leave it open".to_owned());
    }
    let socket = inherited::duplicate(number)
        .map_err(|error| format!("this file descriptor can't be taken over: {error}"))?;
    let (wanted, name) = kind_of(protocol);
    let needs = format!("{} needs a socket of type {name}", protocol.name());
    match socket_type(&socket) {
        Ok(kind) if kind == wanted => {}
        Ok(_) => return Err(format!("{needs}, and this one has another type")),
        Err(Errno::NOTSOCK) => return Err(format!("{needs}, and this is no socket")),
        Err(errno) => return Err(format!("this file descriptor can't be looked at: {errno}")),
    }
    inherited::close(number);
    if socket_acceptconn(&socket) == Ok(true) {
        return Ok(Source::Listening {
            socket,
            protocol,
            file: None,
        });
    }
    if protocol != Protocol::Vfkit && getpeername(&socket).is_err() {
        return Err("the socket is neither connected nor listening".to_owned());
    }
    Ok(Source::Connected { socket, protocol })
}

fn listen_vsock(cid: u32, port: u32) -> Result<Source, String> {
    let listen = || {
        let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
        socket.bind(&SockAddr::vsock(cid, port))?;
        socket.listen(VSOCK_BACKLOG)?;
        Ok(socket)
    };
    let socket = listen().map_err(|error: std::io::Error| {
        let advice = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::AFNOSUPPORT | Errno::NODEV) => {
                "; the kernel has no vsock (modprobe vhost_vsock on the host of the machines)"
            }
            Some(Errno::ADDRNOTAVAIL) => "; CID must be this machine's own, or 'any'",
            Some(Errno::ADDRINUSE) => "; another program listens there",
            Some(Errno::ACCESS | Errno::PERM) => "; ports below 1024 are for root",
            _ => "",
        };
        format!("can't listen: {error}{advice}")
    })?;
    Ok(Source::Listening {
        socket: socket.into(),
        protocol: Protocol::Vpnkit,
        file: None,
    })
}

/// The kernel would make an interface of that name, so it must be there before.
fn open_tap(name: &str) -> Result<Source, String> {
    let index = if_nametoindex(name).map_err(|_| {
        format!("there is no such interface here: make it first (ip tuntap add dev {name} mode tap user $USER)")
    })?;
    let tap = match Tap::create(name, 1, &TapOptions::default()) {
        Err(TapError::Attach {
            errno: Errno::INVAL,
            ..
        }) if Path::new(&format!("/dev/tap{index}")).exists() => Tap::open_macvtap(index),
        outcome => outcome,
    };
    let queue = tap.map_err(|error| error.to_string())?.queues.pop();
    queue
        .map(Source::Tap)
        .ok_or_else(|| "the TAP has no queue".to_owned())
}
