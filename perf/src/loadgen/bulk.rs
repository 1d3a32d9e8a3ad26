//! Bulk transfer over TCP: N streams, one thread each, in one direction.
//!
//! The sender writes 256 KiB at a time from one buffer. The receiver lets the kernel throw the
//! bytes away (`MSG_TRUNC`), so that its cost is the protocol's and not a copy's, unless it is told
//! to copy them as most programs do, or to verify them: then both sides make and compare the seeded
//! pattern. The receiver's count and clock are what is reported.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};

use super::client::Target;
use super::pattern::Pattern;
use super::session::{Kind, Receive, Received, Session};
use super::socket;
use crate::failure::{Context, Failure, Outcome};

/// Bytes handed to the kernel by one write.
const WRITE_BYTES: usize = 256 << 10;
/// Bytes that one receive may take.
const READ_BYTES: usize = 1 << 20;

/// What a bulk transfer came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bulk {
    pub(crate) streams: u32,
    /// Bytes received over all streams.
    pub(crate) bytes: u64,
    /// The longest stream, from its first to its last received byte.
    pub(crate) seconds: f64,
    pub(crate) gbit_per_s: f64,
    /// Bytes of the slowest and the fastest stream: how fair the network is.
    pub(crate) stream_bytes_min: u64,
    pub(crate) stream_bytes_max: u64,
    /// Whether each byte was checked (a wrong byte is an error, never a result).
    pub(crate) verified: bool,
}

/// Runs `streams` sessions at once; each stream has a seed of its own.
///
/// # Errors
/// A stream that could not connect, broke, stalled, or delivered wrong bytes.
pub(crate) fn run(target: &Target, session: Session, streams: u32) -> Outcome<Bulk> {
    let started = Barrier::new(streams as usize);
    let received: Vec<Outcome<Received>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..streams)
            .map(|index| {
                let started = &started;
                let session = Session {
                    seed: session.seed.wrapping_add(index.into()),
                    ..session
                };
                scope.spawn(move || stream(target, session, started))
            })
            .collect();
        threads.into_iter().map(join).collect()
    });
    let received: Vec<Received> = received.into_iter().collect::<Outcome<_>>()?;
    summarise(&received, session.receive == Receive::Verify)
}

/// One session, at the client.
fn stream(target: &Target, session: Session, started: &Barrier) -> Outcome<Received> {
    let connected = target.connect();
    // Every thread passes here, connected or not, or the others would wait for it for ever.
    started.wait();
    let mut connection = connected.doing("connect")?;
    connection
        .write_all(&session.to_bytes())
        .doing("send the session's header")?;
    let received = match session.kind {
        Kind::BulkUp => {
            send(&connection, &session).doing("send")?;
            Received::read(&connection)
                .map_err(name_a_stall)
                .doing("wait for the report")?
        }
        _ => receive(&connection, &session).doing("receive")?,
    };
    match received.mismatch_at {
        Some(offset) => Err(Failure::new(format!(
            "the byte at offset {offset} arrived changed"
        ))),
        None => Ok(received),
    }
}

/// Sends until the session's duration or amount is reached, then closes that direction.
pub(crate) fn send(mut connection: &TcpStream, session: &Session) -> io::Result<()> {
    let pattern = (session.receive == Receive::Verify).then(|| Pattern::new(session.seed));
    let mut buffer = vec![0x5a; WRITE_BYTES];
    let end = Instant::now() + session.duration;
    let mut sent = 0u64;
    loop {
        let left = if session.amount == 0 {
            u64::MAX
        } else {
            session.amount - sent
        };
        if left == 0 || (session.amount == 0 && Instant::now() >= end) {
            return connection.shutdown(Shutdown::Write);
        }
        let part = usize::try_from(left).map_or(WRITE_BYTES, |left| left.min(WRITE_BYTES));
        if let Some(pattern) = pattern {
            pattern.fill(sent, &mut buffer[..part]);
        }
        connection
            .write_all(&buffer[..part])
            .map_err(name_a_stall)?;
        sent += part as u64;
    }
}

/// Receives until the other side closes its direction.
pub(crate) fn receive(connection: &TcpStream, session: &Session) -> io::Result<Received> {
    let pattern = (session.receive == Receive::Verify).then(|| Pattern::new(session.seed));
    let flags = match session.receive {
        Receive::Discard => RecvFlags::TRUNC,
        Receive::Copy | Receive::Verify => RecvFlags::empty(),
    };
    let mut buffer = vec![0; READ_BYTES];
    let mut received = Received::default();
    let mut first = None;
    loop {
        let length = match rustix::net::recv(connection, &mut buffer[..], flags) {
            Ok((length, _)) => length,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(name_a_stall(error.into())),
        };
        if length == 0 {
            return Ok(received);
        }
        received.elapsed = first.get_or_insert_with(Instant::now).elapsed();
        if let (Some(pattern), None) = (pattern, received.mismatch_at) {
            received.mismatch_at = pattern.mismatch(received.bytes, &buffer[..length]);
        }
        received.bytes += length as u64;
    }
}

/// Adds the streams up.
fn summarise(received: &[Received], verified: bool) -> Outcome<Bulk> {
    let bytes: u64 = received.iter().map(|one| one.bytes).sum();
    let elapsed = received
        .iter()
        .map(|one| one.elapsed)
        .max()
        .unwrap_or(Duration::ZERO);
    if bytes == 0 || elapsed.is_zero() {
        return Err(Failure::new("nothing to measure: too few bytes arrived"));
    }
    Ok(Bulk {
        streams: received.len() as u32,
        bytes,
        seconds: elapsed.as_secs_f64(),
        gbit_per_s: bytes as f64 * 8.0 / 1e9 / elapsed.as_secs_f64(),
        stream_bytes_min: received.iter().map(|one| one.bytes).min().unwrap_or(0),
        stream_bytes_max: received.iter().map(|one| one.bytes).max().unwrap_or(0),
        verified,
    })
}

fn name_a_stall(error: io::Error) -> io::Error {
    if socket::timed_out(&error) {
        let text = format!("nothing moved for {} s", socket::STALL.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    } else {
        error
    }
}

/// The result of a thread; a panic in it goes on in the caller.
pub(crate) fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn session(receive: Receive, seed: u64) -> Session {
        let duration = Duration::ZERO;
        Session {
            kind: Kind::BulkUp,
            receive,
            size: 0,
            seed,
            duration,
            amount: 1_000_003,
        }
    }

    #[test]
    fn all_bytes_arrive_as_sent() {
        for how in [Receive::Discard, Receive::Copy, Receive::Verify] {
            let (from, to) = pair();
            thread::scope(|scope| {
                scope.spawn(move || send(&from, &session(how, 5)).unwrap());
                let received = receive(&to, &session(how, 5)).unwrap();
                assert_eq!(received.bytes, 1_000_003);
                assert_eq!(received.mismatch_at, None);
            });
        }
    }

    #[test]
    fn another_stream_s_bytes_are_refused() {
        let (from, to) = pair();
        thread::scope(|scope| {
            scope.spawn(move || send(&from, &session(Receive::Verify, 5)).unwrap());
            assert_eq!(
                receive(&to, &session(Receive::Verify, 6))
                    .unwrap()
                    .mismatch_at,
                Some(0)
            );
        });
    }

    #[test]
    fn streams_add_up_over_the_longest() {
        let one = |bytes, seconds| Received {
            bytes,
            elapsed: Duration::from_secs(seconds),
            ..Received::default()
        };
        let bulk = summarise(&[one(500_000_000, 1), one(1_500_000_000, 2)], false).unwrap();
        assert_eq!(bulk.gbit_per_s, 8.0);
        assert_eq!(
            (bulk.stream_bytes_min, bulk.stream_bytes_max),
            (500_000_000, 1_500_000_000)
        );
        assert!(summarise(&[Received::default()], false).is_err());
    }
}
