//! The server: one epoll thread that accepts and echoes, one thread that echoes datagrams, one
//! thread per session.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use rustix::event::epoll;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};

use super::session::{HEADER_BYTES, Kind, MAGIC, Session};
use super::{bulk, socket, udp};
use crate::failure::{Context, Outcome};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Events taken by one wait.
const EVENTS: usize = 256;
/// Connections accepted before the others are looked at again.
const ACCEPTS: usize = 64;
/// Set in a listener's mark among the epoll events, beside its index; no descriptor has so high a
/// number.
const LISTENER: u64 = 1 << 63;
/// Most that is echoed at a time, in bytes.
const ECHO_BYTES: usize = 64 << 10;

/// Options of `server`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address and port to listen at, TCP and UDP
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5201")]
    listen: SocketAddr,
    /// TCP ports to listen at, from that one upwards
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    ports: u16,
}

/// Serves until the process is killed.
///
/// # Errors
/// The address cannot be listened at, or the event loop broke.
pub(crate) fn run(args: &Args) -> Outcome<()> {
    socket::raise_descriptor_limit();
    let mut listeners = Vec::new();
    for above in 0..args.ports {
        let mut at = args.listen;
        at.set_port(at.port().saturating_add(above));
        listeners.push(listen(at).doing(format_args!("listen at {at}"))?);
    }
    let at = listeners[0].local_addr().doing("ask for the address")?;
    let datagrams = socket::bind_udp(at).doing(format_args!("listen at {at} for datagrams"))?;
    println!("listening at {at}");
    thread::spawn(move || echo_datagrams(&datagrams));
    EchoLoop::new(listeners)
        .and_then(EchoLoop::run)
        .doing("serve")
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it: an echo must not wait for an acknowledgement.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; udp::SIZE_MAX as usize];
    loop {
        // Errors are those of one client (its port is gone); the next datagram is another's.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

/// A connection of which the loop takes care.
struct Echo {
    stream: TcpStream,
    /// The first byte has come, and it did not open a session.
    echoes: bool,
}

/// What is to be done with a connection after it was readable.
enum Next {
    Keep,
    Drop,
    Session,
}

struct EchoLoop {
    epoll: OwnedFd,
    listeners: Vec<TcpListener>,
    /// By descriptor number, which is also the epoll mark.
    connections: HashMap<u64, Echo>,
    buffer: Vec<u8>,
}

impl EchoLoop {
    fn new(listeners: Vec<TcpListener>) -> io::Result<EchoLoop> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, listener) in listeners.iter().enumerate() {
            let mark = epoll::EventData::new_u64(LISTENER | index as u64);
            epoll::add(&epoll, listener, mark, epoll::EventFlags::IN)?;
        }
        let connections = HashMap::new();
        Ok(EchoLoop {
            epoll,
            listeners,
            connections,
            buffer: vec![0; ECHO_BYTES],
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    mark if mark & LISTENER != 0 => self.accept((mark ^ LISTENER) as usize),
                    mark => self.readable(mark),
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        for _ in 0..ACCEPTS {
            // An error is "none left", or that of one client or of our descriptors; none ends the
            // server.
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let Ok(stream) = rustix::net::accept_with(&self.listeners[listener], flags) else {
                return;
            };
            let stream = TcpStream::from(stream);
            let mark = stream.as_raw_fd() as u64;
            let data = epoll::EventData::new_u64(mark);
            let added = epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN);
            if added.is_ok() {
                self.connections.insert(
                    mark,
                    Echo {
                        stream,
                        echoes: false,
                    },
                );
            }
        }
    }

    fn readable(&mut self, mark: u64) {
        let Some(echo) = self.connections.get_mut(&mark) else {
            return;
        };
        match echo.readable(&mut self.buffer) {
            Next::Keep => {}
            // Closing a descriptor takes it out of the epoll set.
            Next::Drop => drop(self.connections.remove(&mark)),
            Next::Session => {
                if let Some(echo) = self.connections.remove(&mark)
                    && epoll::delete(&self.epoll, &echo.stream).is_ok()
                {
                    thread::spawn(move || serve(echo.stream));
                }
            }
        }
    }
}

impl Echo {
    fn readable(&mut self, buffer: &mut [u8]) -> Next {
        // The first byte alone decides, and the rest of a session's header is read by the session's
        // thread.
        let most = if self.echoes { buffer.len() } else { 1 };
        let length = match self.stream.read(&mut buffer[..most]) {
            Ok(0) => return Next::Drop,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Keep,
            Err(_) => return Next::Drop,
        };
        if !self.echoes && buffer[0] == MAGIC {
            return Next::Session;
        }
        self.echoes = true;
        // A client that sends more than it reads fills the socket's buffer; it is cut off, not
        // queued for.
        match self.stream.write_all(&buffer[..length]) {
            Ok(()) => Next::Keep,
            Err(_) => Next::Drop,
        }
    }
}

/// One session on a thread of its own; its errors show at the client as a broken connection.
fn serve(stream: TcpStream) {
    if let Err(error) = session(stream) {
        eprintln!("towpath-perf server: a session ended early: {error}");
    }
}

fn session(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(socket::STALL))?;
    stream.set_write_timeout(Some(socket::STALL))?;
    let mut header = [MAGIC; HEADER_BYTES];
    stream.read_exact(&mut header[1..])?;
    let session = Session::parse(&header)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a session's header"))?;
    match session.kind {
        Kind::BulkUp => bulk::receive(&stream, &session)?.write(&stream),
        Kind::BulkDown => bulk::send(&stream, &session),
        Kind::UdpUp | Kind::UdpDown => udp::serve(stream, &session),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::client::Target;
    use super::super::session::Receive;
    use super::super::{connect, idle, mix, objects, rr};
    use super::*;

    /// A server on the loopback of the test, and the way to it.
    fn target() -> Target {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let datagrams = socket::bind_udp(address).unwrap();
        thread::spawn(move || echo_datagrams(&datagrams));
        thread::spawn(|| EchoLoop::new(vec![listener]).and_then(EchoLoop::run));
        Target {
            address,
            congestion: None,
        }
    }

    fn a_session(kind: Kind, amount: u64) -> Session {
        let duration = Duration::from_millis(100);
        let receive = if kind == Kind::BulkUp {
            Receive::Verify
        } else {
            Receive::Copy
        };
        Session {
            kind,
            receive,
            size: 1000,
            seed: 1,
            duration,
            amount,
        }
    }

    #[test]
    fn bulk_streams_deliver_what_was_asked_for() {
        let target = target();
        for kind in [Kind::BulkUp, Kind::BulkDown] {
            let measured = bulk::run(&target, a_session(kind, 3_000_001), 3).unwrap();
            assert_eq!(measured.bytes, 9_000_003, "{kind:?}");
            assert_eq!(measured.stream_bytes_min, measured.stream_bytes_max);
        }
    }

    #[test]
    fn round_trips_and_connections_are_answered() {
        let target = target();
        let duration = Duration::from_millis(50);
        for transport in [rr::Transport::Tcp, rr::Transport::Udp] {
            let measured = rr::run(&target, transport, None, duration).unwrap();
            assert!(measured.count > 0 && measured.lost == 0, "{measured:?}");
        }
        let measured = connect::run(&target, 1, 4, duration).unwrap();
        assert!(measured.count > 0 && measured.failed == 0, "{measured:?}");
    }

    #[test]
    fn objects_arrive_whole_and_are_counted() {
        let target = target();
        for kind in [Kind::BulkUp, Kind::BulkDown] {
            let measured = objects::run(&target, a_session(kind, 100_000), 3).unwrap();
            assert!(measured.count > 0 && measured.size == 100_000);
            assert_eq!(measured.latency.curve.last().unwrap().quantile, 1.0);
        }
    }

    #[test]
    fn round_trips_are_made_beside_a_stream() {
        let measured = mix::run(&target(), a_session(Kind::BulkDown, 0), 2, 100).unwrap();
        assert!(measured.bulk.bytes > 0 && measured.bulk.streams == 2);
        assert!(measured.trips.count > 0 && measured.trips.rate == Some(100));
        assert!(
            measured.bulk.seconds > measured.trips.seconds,
            "{measured:?}"
        );
    }

    #[test]
    fn idle_connections_stay_alive() {
        let measured = idle::run(&target(), 40, Duration::from_millis(10)).unwrap();
        assert_eq!((measured.opened, measured.alive), (40, 40));
    }

    #[test]
    fn datagrams_are_counted_both_ways() {
        let target = target();
        for kind in [Kind::UdpUp, Kind::UdpDown] {
            let measured = udp::run(&target, a_session(kind, 8_000_000)).unwrap();
            assert!(
                measured.sent >= 10 && measured.received <= measured.sent,
                "{measured:?}"
            );
            assert!(measured.received > 0, "{measured:?}");
        }
    }

    #[test]
    fn a_stranger_s_header_is_refused() {
        let mut stream = TcpStream::connect(target().address).unwrap();
        stream.write_all(&[MAGIC; HEADER_BYTES]).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn nobody_there_is_a_failure_of_every_mode() {
        let gone = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let target = Target {
            address: gone,
            congestion: None,
        };
        let duration = Duration::from_millis(5);
        assert!(bulk::run(&target, a_session(Kind::BulkUp, 1), 2).is_err());
        assert!(rr::run(&target, rr::Transport::Tcp, None, duration).is_err());
        assert!(connect::run(&target, 1, 2, duration).is_err());
        assert!(idle::run(&target, 2, duration).is_err());
    }
}
