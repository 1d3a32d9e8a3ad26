//! The control thread: DNS and DHCP for guests, and the door for those that come over links, beside the
//! data path.
//!
//! One thread that is pinned nowhere runs a current-thread tokio runtime. Each core holds one end
//! of a `SOCK_SEQPACKET` pair to it and speaks [`crate::service::message`] over that; a core never
//! waits for an answer, it gets a packet when there is one. Both directions are bounded by the
//! sockets' buffers: when one is full the packet is dropped and counted, as on a wire, and the
//! clients' own retries mend it.
//!
//! DNS by TCP comes in as a byte stream. A core connects its guest's connection to the UNIX socket
//! at [`Control::dns_stream_address`], as it would to any server. The name of that socket is made
//! from 128 random bits, and who connects must be this very process: abstract names are listed in
//! `/proc/net/unix`, so the name alone would keep no one out.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, socketpair,
};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::net::UnixListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;
use towpath_ring::driver::UnixAddress;

use crate::config::EngineConfig;
use crate::link::{self, Attacher, Listener, Uuids};
use crate::service::channel::{CoreSocket, Services, serve_core};
use crate::service::counters::Counters;
use crate::service::dhcp;
use crate::service::dns::{Forwarder, serve_streams};
use crate::service::names::Names;

pub use crate::service::counters::{Counter, ServiceCounters};

/// DNS connections that may wait to be accepted.
const STREAM_BACKLOG: i32 = 128;

/// The running control thread; dropping it ends the thread.
pub struct Control {
    thread: Option<JoinHandle<()>>,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    dns_stream: UnixAddress,
    runtime: Handle,
    services: Arc<Services>,
    uuids: Arc<Uuids>,
    mtu: u16,
}

impl Control {
    /// Starts the thread for `cores` cores, and gives each core its end of a socket pair:
    /// `SOCK_SEQPACKET`, non-blocking, close-on-exec.
    ///
    /// Everything that can fail has been done when this returns.
    pub fn start(config: &EngineConfig, cores: usize) -> io::Result<(Self, Vec<OwnedFd>)> {
        let counters = Arc::new(Counters::default());
        let origin = Instant::now();
        let names = Arc::new(Names::new(&config.network, &config.leases, origin));
        let forwarder = Arc::new(Forwarder::new(
            &config.dns,
            Arc::clone(&names),
            Arc::clone(&counters),
        ));
        let services = Arc::new(Services {
            forwarder: Arc::clone(&forwarder),
            dhcp: Mutex::new(dhcp::Server::new(
                &config.network,
                &config.leases,
                names,
                Arc::clone(&counters),
            )),
            counters,
            origin,
        });
        let (listener, dns_stream) = listen_for_streams()?;

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (listener, sockets, core_ends) = {
            let _inside = runtime.enter();
            let (sockets, core_ends) = core_sockets(cores)?;
            (UnixListener::from_std(listener)?, sockets, core_ends)
        };

        let handle = runtime.handle().clone();
        let shared = Arc::clone(&services);
        let uuids = Arc::new(Uuids::new(Arc::clone(&services), &config.leases));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("towpath-control".into())
            .spawn(move || {
                for socket in sockets {
                    runtime.spawn(serve_core(socket, Arc::clone(&services)));
                }
                runtime.spawn(serve_streams(listener, forwarder));
                run_until(&runtime, stopped);
            })?;
        let control = Self {
            thread: Some(thread),
            stop: Some(stop),
            dns_stream,
            runtime: handle,
            services: shared,
            uuids,
            mtu: config.network.mtu,
        };
        Ok((control, core_ends))
    }

    /// Hears of each end of a port that `attacher` gives: what the guest had is free then. The ports below
    /// `unshared` are of links that the engine began with; what there is of addresses and queries is shared
    /// among all others.
    pub(crate) fn watch(&self, attacher: &Attacher, unshared: u16) {
        self.services.dhcp().spare(unshared);
        self.services.forwarder.spare(unshared);
        let (runtime, services) = (self.runtime.clone(), Arc::clone(&self.services));
        attacher.listen(move |port, heard| {
            // There, because a core must not wait for the DHCP server's lock.
            let services = Arc::clone(&services);
            runtime.spawn(async move {
                let now = services.now();
                services.dhcp().on_departure(now, port.0);
                heard();
            });
        });
    }

    /// Lets guests of `listeners` in, which `attacher` gives to cores, until the thread ends.
    ///
    /// The descriptor hangs up when no guest can come any more and all are gone: never, where something
    /// listens.
    ///
    /// # Errors
    ///
    /// Descriptors can't be had; the listeners are closed then.
    pub fn listen(&self, attacher: Attacher, listeners: Vec<Listener>) -> io::Result<OwnedFd> {
        link::serve(
            &self.runtime,
            &self.services,
            &self.uuids,
            self.mtu,
            attacher,
            listeners,
        )
    }

    /// Where guests' DNS connections lead: a UNIX stream socket in the abstract namespace, open to
    /// this process alone.
    pub fn dns_stream_address(&self) -> UnixAddress {
        self.dns_stream.clone()
    }

    /// What was served until now.
    pub fn counters(&self) -> ServiceCounters {
        self.services.counters.snapshot()
    }

    /// Ends the thread and waits for it; queries under way get no answer.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread had panicked");
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs the spawned tasks until the sender of `stopped` is gone.
fn run_until(runtime: &Runtime, stopped: oneshot::Receiver<()>) {
    // Nothing is ever sent: the error of the dropped sender is the signal.
    let _ = runtime.block_on(stopped);
}

fn core_sockets(cores: usize) -> io::Result<(Vec<CoreSocket>, Vec<OwnedFd>)> {
    let mut sockets = Vec::with_capacity(cores);
    let mut core_ends = Vec::with_capacity(cores);
    for _ in 0..cores {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (core_end, end) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        sockets.push(CoreSocket::new(end)?);
        core_ends.push(core_end);
    }
    Ok((sockets, core_ends))
}

fn listen_for_streams() -> io::Result<(StdUnixListener, UnixAddress)> {
    let mut secret = [0_u8; 16];
    if getrandom(&mut secret, GetRandomFlags::empty())? != secret.len() {
        return Err(io::Error::other("the kernel gave too few random bytes"));
    }
    let name = format!("towpath-dns-{:032x}", u128::from_ne_bytes(secret)).into_bytes();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new_abstract_name(&name)?)?;
    listen(&socket, STREAM_BACKLOG)?;
    Ok((StdUnixListener::from(socket), UnixAddress::Abstract(name)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
    use std::os::fd::OwnedFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::sync::atomic::AtomicBool;
    use std::sync::{Arc, OnceLock};
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::net::{RecvFlags, SendFlags, recv, send};
    use towpath_ring::driver::UnixAddress;
    use towpath_stack::Address;

    use super::{Control, Counter};
    use crate::config::{DnsUpstream, EngineConfig, HostLoopback, Limits, Network};
    use crate::core::Peers;
    use crate::link::{Attacher, Attachment, Carrier, Departure, PortCommand};
    use crate::service::message::{Asker, PACKET_MAX, Reply, Request};

    /// A query for `a. IN A`.
    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";

    fn config(servers: Vec<SocketAddr>) -> EngineConfig {
        EngineConfig {
            cores: 2,
            pin: false,
            driver: crate::driver::DriverChoice::Auto,
            busy_poll: Duration::ZERO,
            faults: None,
            isolate: false,
            stall_timeout: crate::config::STALL_TIMEOUT,
            leases: Vec::new(),
            network: Network {
                subnet4: (Ipv4Addr::new(10, 0, 2, 0), 24),
                subnet6: "fd00::".parse().unwrap(),
                mtu: 1500,
                gateway_mac: Network::GATEWAY_MAC,
                domain: None,
                search: Vec::new(),
                lease: Duration::from_secs(3600),
            },
            host_loopback: HostLoopback::Closed,
            dns: DnsUpstream::Servers(servers),
            limits: Limits::default(),
        }
    }

    fn tell(core: &OwnedFd, request: &Request<'_>) {
        let mut packet = Vec::new();
        request.encode(&mut packet);
        assert_eq!(
            send(core, &packet, SendFlags::empty()).unwrap(),
            packet.len()
        );
    }

    fn hear(core: &OwnedFd) -> Vec<u8> {
        poll(&mut [PollFd::new(core, PollFlags::IN)], None).unwrap();
        let mut packet = vec![0; PACKET_MAX];
        let (length, _) = recv(core, &mut packet[..], RecvFlags::empty()).unwrap();
        packet.truncate(length);
        packet
    }

    #[test]
    fn each_core_gets_its_own_answers() {
        let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (control, cores) =
            Control::start(&config(vec![upstream.local_addr().unwrap()]), 2).unwrap();
        let server = Address::v4([10, 0, 2, 1]);
        for (n, core) in cores.iter().enumerate() {
            let asker = Asker {
                port: n as u16,
                mac: [2, 0, 0, 0, 0, n as u8],
                guest: Address::v4([10, 0, 2, 3 + n as u8]),
                guest_port: 4000,
                server,
            };
            tell(
                core,
                &Request::Dns {
                    asker,
                    query: QUERY,
                },
            );
            let mut query = [0; 512];
            let (length, from) = upstream.recv_from(&mut query).unwrap();
            assert_eq!(query[2..length], QUERY[2..]);
            query[2] |= 0x80;
            upstream.send_to(&query[..length], from).unwrap();
            let mut answer = QUERY.to_vec();
            answer[2] |= 0x80;
            let reply = Reply::Dns {
                asker,
                answer: &answer,
            };
            assert_eq!(Reply::decode(&hear(core)), Some(reply));
        }
        assert_eq!(control.counters().get(Counter::DnsAnswers), 2);
        control.stop();
        assert_eq!(hear(&cores[0]), b"", "the other end is closed");
    }

    #[test]
    fn whoever_attached_a_guest_its_address_is_free_when_it_is_gone() {
        let (control, cores) = Control::start(&config(Vec::new()), 1).unwrap();
        let peers = Peers {
            wakers: vec![OnceLock::new()],
            stop: AtomicBool::new(false),
        };
        let attacher = Attacher::new(Arc::new(peers), 0);
        control.watch(&attacher, 0);
        let attachment = Attachment {
            name: "a guest".into(),
            carrier: Carrier::Packets(UnixDatagram::pair().unwrap().0.into()),
        };
        let port = attacher.attach(attachment, |_| {}).unwrap();
        let mut reboot = vec![1, 1, 6];
        reboot.resize(236, 0);
        reboot.extend_from_slice(&[99, 130, 83, 99, 53, 1, 3, 50, 4, 10, 0, 2, 9, 255]);
        // Whether the guest behind a port gets 10.0.2.9.
        let mut ask = |port: u16| {
            reboot[33] = port as u8;
            let request = Request::Dhcp {
                port,
                mac: [2; 6],
                message: &reboot,
            };
            tell(&cores[0], &request);
            match Reply::decode(&hear(&cores[0])) {
                Some(Reply::Dhcp { message, .. }) => message[16..20] == [10, 0, 2, 9],
                other => panic!("{other:?}"),
            }
        };
        assert!(ask(port.0));
        assert!(!ask(port.0 + 1), "another's");
        let Some(PortCommand::Attach { on_end, .. }) = attacher.take(0).pop() else {
            panic!("nothing to attach");
        };
        on_end(Departure::Left);
        assert!((0..1000).any(|_| ask(port.0 + 1)), "it is not free");
    }

    #[test]
    fn cores_share_one_dhcp_server() {
        let (control, cores) = Control::start(&config(Vec::new()), 2).unwrap();
        let mut discover = vec![1, 1, 6, 0, 0, 0, 0, 7];
        discover.resize(28, 0);
        discover.extend_from_slice(&[2, 0, 0, 0, 0, 0]);
        discover.resize(236, 0);
        discover.extend_from_slice(&[99, 130, 83, 99, 53, 1, 1, 255]);
        for (n, core) in cores.iter().enumerate() {
            let mac = [2, 0, 0, 0, 0, n as u8];
            discover[33] = n as u8;
            tell(
                core,
                &Request::Dhcp {
                    port: n as u16,
                    mac,
                    message: &discover,
                },
            );
            let packet = hear(core);
            let Some(Reply::Dhcp {
                port,
                mac: target,
                to,
                message,
            }) = Reply::decode(&packet)
            else {
                panic!("{packet:?}");
            };
            let expected = Ipv4Addr::new(10, 0, 2, 3 + n as u8);
            assert_eq!((port, target, to), (n as u16, mac, Some(expected)));
            assert_eq!(message[16..20], expected.octets());
        }
        send(&cores[0], b"\xff nonsense", SendFlags::empty()).unwrap();
        tell(
            &cores[0],
            &Request::Dhcp {
                port: 0,
                mac: [0; 6],
                message: &discover,
            },
        );
        hear(&cores[0]);
        assert_eq!(control.counters().get(Counter::RequestsMalformed), 1);
        assert_eq!(control.counters().get(Counter::DhcpOffer), 3);
    }

    #[test]
    fn streams_reach_the_forwarder() {
        let (control, _cores) = Control::start(&config(Vec::new()), 1).unwrap();
        let UnixAddress::Abstract(name) = control.dns_stream_address() else {
            panic!("an address in the file system");
        };
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
        let mut stream = UnixStream::connect_addr(&address).unwrap();
        stream
            .write_all(&[&[0, QUERY.len() as u8], QUERY].concat())
            .unwrap();
        let mut answer = vec![0; 2 + QUERY.len()];
        stream.read_exact(&mut answer).unwrap();
        let mut expected = [&[0, QUERY.len() as u8], QUERY].concat();
        expected[4..6].copy_from_slice(&[0x81, 0x82]);
        assert_eq!(answer, expected, "no server, so SERVFAIL");
        assert_eq!(control.counters().get(Counter::DnsTcp), 1);
        drop(control);
        assert!(
            UnixStream::connect_addr(&address).is_err(),
            "ended with the control thread"
        );
    }
}
