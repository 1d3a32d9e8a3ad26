//! What one run takes place in: a host and a guest namespace, the network between them, and the
//! load server.
//!
//! ```text
//!  guest namespace                       host namespace
//!   client ── tap0 ── engine ── its sockets ── lo ── server at 198.18.0.1:5201
//!   client ── veth ───────────────────────────────── server                     (limit)
//!                                    client ── lo ── server                     (limit)
//! ```
//!
//! The server's address is on the host's loopback interface but not a loopback address, so that no
//! engine treats it as one. The host also has an uplink with a default route, whose other end leads
//! nowhere: engines copy addresses from it (pasta) or refuse to start without it. All addresses are
//! of 198.18.0.0/15, set apart for such tests (RFC 2544).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::bridge::Framing;
use crate::failure::{Context, Failure, Outcome};
use crate::netns::NetNs;
use crate::peers::{Link, Peer};
use crate::program::Program;
use crate::sandbox;

/// The load server's address.
pub(crate) const SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), 5201);

/// TCP ports that the server listens at, from that one upwards: so many that the local ports for
/// connections to one of them do not run out within a run.
pub(crate) const SERVER_PORTS: u16 = 64;
/// The host's own address on its uplink, and the gateway there: what an engine gives its guest when it
/// copies the host's.
pub(crate) const HOST_ADDRESS: &str = "198.18.1.2/24";
pub(crate) const HOST_GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 254);

/// How long a network may take until the first byte has gone both ways.
const READY: Duration = Duration::from_secs(10);
/// Pause between two attempts: the resolution of the time that a start takes.
const PAUSE: Duration = Duration::from_millis(1);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(300);

/// Offloads that a `veth-no-offload` lacks, as `ethtool -K` names them.
const OFFLOADS: [&str; 8] = [
    "tso",
    "off",
    "gso",
    "off",
    "gro",
    "off",
    "tx-udp-segmentation",
    "off",
];

/// One peer, ready for loads.
#[derive(Debug)]
pub(crate) struct World {
    // In the order in which they are to end.
    bridge: Option<Program>,
    engine: Option<Program>,
    _server: Program,
    guest: NetNs,
    host: NetNs,
    client_at_host: bool,
    name: String,
    ready_after: Duration,
}

impl World {
    /// Builds the namespaces, starts server and engine, and waits until a byte has gone both ways.
    ///
    /// # Errors
    /// Anything that keeps the peer from carrying that byte; the engine's last words where it
    /// ended.
    pub(crate) fn build(peer: &Peer, mtu: u32, congestion: &str) -> Outcome<World> {
        let host = NetNs::new("host")?;
        let guest = NetNs::new("guest")?;
        for netns in [&host, &guest] {
            netns.sysctl("ipv4/tcp_congestion_control", congestion)?;
            // Short connections must not run out of ports; the server's own port stays out of the
            // range.
            netns.sysctl("ipv4/ip_local_port_range", "10000 65535")?;
            netns.sysctl("ipv4/tcp_tw_reuse", "1")?;
        }
        host.ip("addr add 198.18.0.1/32 dev lo")?;
        match peer.link {
            Link::Netns | Link::Socket { .. } | Link::VhostUser => uplink(&host)?,
            Link::Veth { offloads } => {
                veth(&host, &guest, mtu)?;
                for netns in [&host, &guest].iter().filter(|_| !offloads) {
                    netns.tool("ethtool", &[&["-K", "eth0"], &OFFLOADS[..]].concat(), "")?;
                }
            }
            Link::Loopback => {}
        }
        let mut serve = Command::new(sandbox::THIS_PROGRAM);
        serve.args(["server", "--listen", &SERVER.to_string()]);
        serve.args(["--ports", &SERVER_PORTS.to_string()]);
        let server = Program::start("server", &host, serve)?;
        let started = Instant::now();
        let socket = guest.path().with_extension("sock");
        let engine = match peer.fill_in(guest.path(), &socket, mtu).as_deref() {
            Some([program, args @ ..]) => {
                let mut command = Command::new(program);
                command.args(args);
                Some(Program::start(&peer.name, &host, command)?)
            }
            _ => None,
        };
        let mut world = World {
            bridge: bridge(peer, &guest, &socket, mtu)?,
            engine,
            _server: server,
            guest,
            host,
            client_at_host: peer.link == Link::Loopback,
            name: peer.name.clone(),
            ready_after: Duration::ZERO,
        };
        world.wait_ready()?;
        world.ready_after = started.elapsed();
        Ok(world)
    }

    /// The engine's process id; `None` for the limits.
    pub(crate) fn engine(&self) -> Option<u32> {
        self.engine.as_ref().map(Program::pid)
    }

    /// The process id of the process between TAP and engine, where there is one.
    pub(crate) fn bridge(&self) -> Option<u32> {
        self.bridge.as_ref().map(Program::pid)
    }

    /// How long it took from the start of the engine until a byte had gone both ways; for the
    /// limits, the time of a first connection.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The namespace that stands for the guest.
    pub(crate) fn guest(&self) -> &NetNs {
        self.client_side()
    }

    /// The namespace that stands for the host, where the engine and the load server are.
    pub(crate) fn host(&self) -> &NetNs {
        &self.host
    }

    /// Starts the load client where the guest is.
    pub(crate) fn client(&self, args: &[String]) -> Outcome<Program> {
        let mut command = Command::new(sandbox::THIS_PROGRAM);
        command
            .args(["client", "--to", &SERVER.to_string()])
            .args(args);
        Program::start("client", self.client_side(), command)
    }

    /// Fails when the engine or the bridge has ended.
    pub(crate) fn check_alive(&mut self) -> Outcome<()> {
        let mut programs = self.engine.iter_mut().chain(&mut self.bridge);
        programs.try_for_each(Program::check_alive)
    }

    /// Ends the engine and returns what it wrote to its standard error; empty for the limits.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) fn stop_engine(&mut self) -> Outcome<String> {
        self.engine
            .as_mut()
            .map_or_else(|| Ok(String::new()), Program::stop)
    }

    fn client_side(&self) -> &NetNs {
        if self.client_at_host {
            &self.host
        } else {
            &self.guest
        }
    }

    fn wait_ready(&mut self) -> Outcome<()> {
        let end = Instant::now() + READY;
        loop {
            self.check_alive()?;
            match self
                .client_side()
                .enter(|| one_byte().doing("reach the server"))
            {
                Ok(()) => return Ok(()),
                Err(failure) if Instant::now() > end => {
                    let (peer, seconds) = (&self.name, READY.as_secs());
                    let words = self.engine.as_ref().and_then(Program::last_words);
                    let words =
                        words.map_or_else(String::new, |words| format!("; it says: {words}"));
                    return Err(Failure::new(format!(
                        "{peer} carried nothing in {seconds} s: {failure}{words}"
                    )));
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }
}

/// The process between the guest's TAP and the socket of an engine that has one.
fn bridge(peer: &Peer, guest: &NetNs, socket: &Path, mtu: u32) -> Outcome<Option<Program>> {
    let Link::Socket {
        framing,
        address,
        gateway,
    } = &peer.link
    else {
        return Ok(None);
    };
    let kind = match framing {
        Framing::Qemu => "qemu",
        Framing::Vpnkit => "vpnkit",
    };
    let mut command = Command::new(sandbox::THIS_PROGRAM);
    command
        .args(["bridge", "--kind", kind, "--mtu", &mtu.to_string()])
        .args(["--address", address, "--gateway", &gateway.to_string()])
        .arg("--socket")
        .arg(socket);
    Program::start("bridge", guest, command).map(Some)
}

/// A byte to the server and back.
fn one_byte() -> std::io::Result<()> {
    let mut connection = TcpStream::connect_timeout(&SERVER, ATTEMPT)?;
    connection.set_read_timeout(Some(ATTEMPT))?;
    connection.write_all(b"r")?;
    connection.read_exact(&mut [0])
}

/// An interface with an address and a default route that leads nowhere.
fn uplink(host: &NetNs) -> Outcome<()> {
    host.ip(&format!(
        "link add eth0 type veth peer name nowhere\n\
         addr add {HOST_ADDRESS} dev eth0\n\
         link set nowhere up\n\
         link set eth0 up\n\
         route add default via {HOST_GATEWAY}\n"
    ))
}

/// A pair with one end, `eth0`, on each side.
fn veth(host: &NetNs, guest: &NetNs, mtu: u32) -> Outcome<()> {
    let other = guest.path().display();
    host.ip(&format!(
        "link add eth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {other}\n\
         addr add 198.18.2.1/24 dev eth0\n\
         link set eth0 up\n"
    ))?;
    guest.ip("addr add 198.18.2.2/24 dev eth0\n\
              link set eth0 up\n\
              route add default via 198.18.2.1\n")
}
