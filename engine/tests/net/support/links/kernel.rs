//! A guest with a kernel: a namespace whose TAP's frames go over a link, as a virtual machine's do.
//!
//! The kernel verifies every checksum, since nobody vouches for one on such a TAP, and its sockets are
//! real ones.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::super::guest::{GuestSockets, pipe};
use super::super::namespace::{Namespace, ip, sysctl};
use super::super::world::{eventually, open_ping_sockets};
use super::Link;
use super::raw::{Lease, RawGuest};

/// A kernel behind a link.
pub(crate) struct KernelGuest {
    /// Its network.
    pub(crate) net: Namespace,
    /// What it was given by DHCP.
    pub(crate) lease: Lease,
    link: Arc<Link>,
    /// Closed, it ends the thread that reads the TAP.
    _stop: OwnedFd,
}

impl KernelGuest {
    /// Gets an address over the link, and gives link and address to a new namespace.
    #[track_caller]
    pub(crate) fn new(guest: RawGuest, mtu: u16) -> Self {
        let lease = guest.lease();
        let RawGuest { link, mac } = guest;
        let net = Namespace::new();
        let tap = net.enter(|| set_up(mac, mtu, &lease));
        let (link, tap) = (Arc::new(link), Arc::new(tap));
        let (stopped, stop) = pipe();
        let (out, into) = (
            (Arc::clone(&tap), Arc::clone(&link)),
            (tap, Arc::clone(&link)),
        );
        thread::spawn(move || send_all(&out.0, &out.1, &stopped));
        thread::spawn(move || receive_all(&into.0, &into.1));
        Self {
            net,
            lease,
            link,
            _stop: stop,
        }
    }

    /// Its address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.lease.address
    }

    /// Waits until the kernel has configured IPv6 from what the router says.
    #[track_caller]
    pub(crate) fn wait_for_ipv6(&self) {
        eventually("the kernel has an IPv6 address and a route", || {
            self.net.enter(|| {
                ip("-6 addr show dev tap0 scope global").contains("fd77::")
                    && ip("-6 route show default").contains("dev tap0")
            })
        });
    }

    /// Pings an address once and waits for the reply.
    #[track_caller]
    pub(crate) fn ping(&self, other: Ipv4Addr) {
        let own = self.address();
        let mut socket = self.net.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4));
            socket.expect("net.ipv4.ping_group_range is open")
        });
        let patience = Some(Duration::from_secs(30));
        socket.set_read_timeout(patience).expect("it is not zero");
        let target = SocketAddr::from((other, 0));
        socket.connect(&target.into()).expect("a route is there");
        // The kernel fills in checksum and identifier.
        let request = [8, 0, 0, 0, 0, 0, 0, 1, b'p', b'i', b'n', b'g'];
        socket.write_all(&request).expect("it is sent");
        let mut reply = [0; 64];
        let n = socket.read(&mut reply);
        let n = n.unwrap_or_else(|error| panic!("{own} pings {other}: {error}"));
        assert!(
            reply[..n].ends_with(b"ping"),
            "{own} pings {other}: {reply:?}"
        );
    }

    /// The link, on which others than its kernel may send too.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }
}

impl Drop for KernelGuest {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl GuestSockets for KernelGuest {
    fn try_connect(&self, target: impl Into<SocketAddr>) -> io::Result<TcpStream> {
        self.net.try_connect(target)
    }

    fn udp(&self, like: std::net::IpAddr) -> UdpSocket {
        self.net.udp(like)
    }
}

/// A TAP with the guest's addresses, in the calling thread's namespace.
fn set_up(mac: [u8; 6], mtu: u16, lease: &Lease) -> SyncDevice {
    open_ping_sockets();
    // No other is there that could have the same address.
    sysctl("net.ipv6.conf.default.accept_dad", "0");
    let builder = DeviceBuilder::new().name("tap0").layer(Layer::L2);
    let builder = builder.mac_addr(mac).mtu(mtu).enable(false);
    let tap = builder.build_sync().expect("a TAP can be made");
    tap.set_nonblocking(true).expect("it is a descriptor");
    ip(&format!("addr add {}/24 dev tap0", lease.address));
    ip("link set tap0 up");
    ip(&format!("route add default via {}", lease.router));
    tap
}

/// What the kernel sends goes over the link until either is closed.
fn send_all(tap: &SyncDevice, link: &Link, stopped: &OwnedFd) {
    let mut frame = vec![0; 128 << 10];
    loop {
        match tap.recv(&mut frame) {
            Ok(n) if link.send(&frame[..n]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut wait = [
                    PollFd::new(tap, PollFlags::IN),
                    PollFd::new(stopped, PollFlags::IN),
                ];
                match poll(&mut wait, None) {
                    Ok(_) | Err(Errno::INTR) if wait[1].revents().is_empty() => {}
                    _ => return,
                }
            }
            _ => return,
        }
    }
}

/// What comes over the link goes to the kernel until the link is closed.
fn receive_all(tap: &SyncDevice, link: &Link) {
    loop {
        match link.receive() {
            Ok(Some(frame)) => {
                // What is no frame, or finds the interface's queue full, is lost as on any network.
                let _ = tap.send(&frame);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}
