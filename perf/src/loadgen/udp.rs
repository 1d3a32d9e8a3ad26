//! Datagrams at a rate, one way, and how many of them arrive.
//!
//! A TCP connection beside it carries the session's header, the port to use and the counts. Towards
//! the client the first datagrams come from the client, so that an address translation on the way
//! has a mapping for the answers. How datagrams are sent and counted is in [`super::burst`].

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_timerslack;
use serde::{Deserialize, Serialize};

use super::Direction;
use super::bulk::join;
use super::burst::{Burst, Counter};
use super::client::Target;
use super::session::{Kind, Received, Session};
use super::socket;
use crate::failure::{Context, Failure, Outcome};

/// Smallest payload, in bytes.
pub(crate) const SIZE_MIN: u32 = 8;
/// Largest payload of UDP over IPv4.
pub(crate) const SIZE_MAX: u32 = 65_507;

/// What is under way when the sender ends has this long to arrive.
const TAIL: Duration = Duration::from_millis(200);
/// How long the server waits for the client's first datagram.
const HELLO_WAIT: Duration = Duration::from_secs(3);
/// Datagrams that open the way back; one may be lost while an address is resolved.
const HELLOS: u32 = 3;
/// A sender that is ahead of its rate sleeps at least this long, so that it does not spin.
const NAP: Duration = Duration::from_micros(100);

/// What the datagrams came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Datagrams {
    pub(crate) direction: Direction,
    /// UDP payload, in bytes.
    pub(crate) size: u32,
    /// Offered rate of payload in bits/s; 0 = as fast as the sender can.
    pub(crate) rate: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Share of what was sent that did not arrive, in percent.
    pub(crate) loss_percent: f64,
    /// From the first to the last datagram received.
    pub(crate) seconds: f64,
    /// Payload received.
    pub(crate) gbit_per_s: f64,
    /// Datagrams received a second.
    pub(crate) per_s: f64,
}

/// Runs one session at the client.
///
/// # Errors
/// A socket error, or not enough datagrams arrived to measure anything.
pub(crate) fn run(target: &Target, session: Session) -> Outcome<Datagrams> {
    let mut control = target.connect().doing("connect")?;
    control
        .write_all(&session.to_bytes())
        .doing("send the session's header")?;
    let mut port = [0; 2];
    control.read_exact(&mut port).doing("wait for the port")?;
    let to = SocketAddr::new(target.address.ip(), u16::from_le_bytes(port));
    let socket = socket::connect_udp(to).doing("make a UDP socket")?;
    let (direction, sent, received) = if session.kind == Kind::UdpUp {
        let sent = send(&socket, &session).doing("send datagrams")?;
        thread::sleep(TAIL);
        control.write_all(b"E").doing("end the session")?;
        (
            Direction::Up,
            sent,
            Received::read(&control).doing("wait for the report")?,
        )
    } else {
        for _ in 0..HELLOS {
            socket
                .send(&[0; SIZE_MIN as usize])
                .doing("send the first datagram")?;
        }
        let (report, received) = receive_until(&socket, session.size, || {
            control.set_read_timeout(Some(session.duration + socket::STALL))?;
            let report = Received::read(&control);
            thread::sleep(TAIL);
            report
        });
        let sent = report.doing("wait for the report")?.datagrams;
        (Direction::Down, sent, received.doing("receive datagrams")?)
    };
    summarise(direction, &session, sent, &received)
}

/// Runs one session at the server; `control` has sent its header.
pub(crate) fn serve(mut control: TcpStream, session: &Session) -> io::Result<()> {
    let socket = socket::bind_udp(SocketAddr::new(control.local_addr()?.ip(), 0))?;
    control.write_all(&socket.local_addr()?.port().to_le_bytes())?;
    if session.kind == Kind::UdpUp {
        control.set_read_timeout(Some(session.duration + socket::STALL))?;
        let (ended, received) =
            receive_until(&socket, session.size, || (&control).read_exact(&mut [0]));
        ended?;
        received?.write(&control)
    } else {
        socket.set_read_timeout(Some(HELLO_WAIT))?;
        let (_, client) = socket.recv_from(&mut [0; SIZE_MIN as usize])?;
        socket.connect(client)?;
        let datagrams = send(&socket, session)?;
        Received {
            datagrams,
            ..Received::default()
        }
        .write(&control)
    }
}

/// Sends at the session's rate for its duration; returns how many were handed to the kernel.
fn send(socket: &UdpSocket, session: &Session) -> io::Result<u64> {
    let size = session.size.clamp(SIZE_MIN, SIZE_MAX);
    let mut burst = Burst::new(socket, size as usize);
    // The kernel may be as precise as it can; where it refuses, a nap is a little longer.
    let _ = set_timerslack(1);
    let start = Instant::now();
    let mut sent = 0u64;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= session.duration {
            return Ok(sent);
        }
        let due = match session.amount {
            0 => u64::MAX,
            rate => due(elapsed, rate, size),
        };
        if sent >= due {
            thread::sleep(NAP);
            continue;
        }
        match burst.send(due - sent) {
            Ok(handed_over) => sent += handed_over,
            // An ICMP error that came back; the datagram that it speaks of is already counted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
}

/// How many datagrams of `size` bytes a sender at `rate` bits/s has sent after `elapsed`; one at
/// the start.
fn due(elapsed: Duration, rate: u64, size: u32) -> u64 {
    1 + (elapsed.as_secs_f64() * rate as f64 / (f64::from(size) * 8.0)) as u64
}

/// Counts datagrams of `size` bytes on another thread until `wait` returns.
fn receive_until<T>(
    socket: &UdpSocket,
    size: u32,
    wait: impl FnOnce() -> T,
) -> (T, io::Result<Received>) {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let counting = scope.spawn(|| receive(socket, size, &ended));
        let waited = wait();
        ended.store(true, Ordering::Relaxed);
        (waited, join(counting))
    })
}

fn receive(socket: &UdpSocket, size: u32, ended: &AtomicBool) -> io::Result<Received> {
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut counter = Counter::new(socket, size.clamp(SIZE_MIN, SIZE_MAX) as usize);
    let mut received = Received::default();
    let mut first = None;
    while !ended.load(Ordering::Relaxed) {
        match counter.take() {
            Ok(taken) => {
                received.elapsed = first.get_or_insert_with(Instant::now).elapsed();
                received.bytes += taken.bytes;
                received.datagrams += taken.datagrams;
            }
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(received)
}

fn summarise(
    direction: Direction,
    session: &Session,
    sent: u64,
    received: &Received,
) -> Outcome<Datagrams> {
    let seconds = received.elapsed.as_secs_f64();
    if sent == 0 || seconds == 0.0 {
        let (of, arrived) = (sent, received.datagrams);
        return Err(Failure::new(format!(
            "nothing to measure: {arrived} of {of} datagrams came"
        )));
    }
    let lost = sent.saturating_sub(received.datagrams);
    Ok(Datagrams {
        direction,
        size: session.size,
        rate: session.amount,
        sent,
        received: received.datagrams,
        loss_percent: lost as f64 * 100.0 / sent as f64,
        seconds,
        gbit_per_s: received.bytes as f64 * 8.0 / 1e9 / seconds,
        per_s: received.datagrams as f64 / seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::super::session::Receive;
    use super::*;

    #[test]
    fn the_rate_is_one_of_payload_bits() {
        assert_eq!(due(Duration::ZERO, 8_000_000, 1000), 1);
        assert_eq!(due(Duration::from_secs(2), 8_000_000, 1000), 2001);
        assert!(due(Duration::from_secs(1), u64::MAX, 8) > 1_000_000);
    }

    #[test]
    fn loss_is_a_share_of_what_was_sent() {
        let session = Session {
            kind: Kind::UdpUp,
            receive: Receive::Discard,
            size: 1000,
            seed: 0,
            duration: Duration::from_secs(1),
            amount: 0,
        };
        let elapsed = Duration::from_secs(1);
        let received = Received {
            bytes: 750_000,
            datagrams: 750,
            elapsed,
            mismatch_at: None,
        };
        let datagrams = summarise(Direction::Up, &session, 1000, &received).unwrap();
        assert_eq!(datagrams.loss_percent, 25.0);
        assert_eq!(datagrams.gbit_per_s, 0.006);
        assert_eq!(datagrams.per_s, 750.0);
        assert!(summarise(Direction::Up, &session, 10, &Received::default()).is_err());
    }
}
