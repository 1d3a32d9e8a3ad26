//! Short transfers, as a build job makes them: objects of one size, each over a connection of its
//! own, some at a time. Each is timed from before the connect to its last byte.

use std::io::Write;
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::bulk::{self, join};
use super::client::Target;
use super::latency::{Latencies, Summary};
use super::session::{Kind, Receive, Received, Session};
use crate::failure::{Context, Failure, Outcome};

/// What the transfers came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Objects {
    /// Bytes of one.
    pub(crate) size: u64,
    /// Transfers under way at a time.
    pub(crate) concurrency: u32,
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    pub(crate) per_s: f64,
    pub(crate) gbit_per_s: f64,
    pub(crate) latency: Summary,
    /// Whether each byte was checked (a wrong byte is an error, never a result).
    pub(crate) verified: bool,
}

/// Transfers objects of the session's amount, `concurrency` at a time, until its duration has
/// passed. Those under way then are finished but do not count.
///
/// # Errors
/// One that could not connect, broke, stalled, or arrived with a changed byte; or not one was
/// finished in time.
pub(crate) fn run(target: &Target, session: Session, concurrency: u32) -> Outcome<Objects> {
    let start = Instant::now();
    let end = start + session.duration;
    let all: Vec<Outcome<Latencies>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..concurrency)
            .map(|_| scope.spawn(|| one_after_another(target, session, end)))
            .collect();
        threads.into_iter().map(join).collect()
    });
    let mut latencies = Latencies::new();
    for one in all {
        latencies.merge(&one?);
    }
    let seconds = session.duration.as_secs_f64();
    let latency = latencies
        .summary()
        .ok_or_else(|| Failure::new("not one object was transferred in time"))?;
    let per_s = latencies.count() as f64 / seconds;
    Ok(Objects {
        size: session.amount,
        concurrency,
        count: latencies.count(),
        seconds,
        per_s,
        gbit_per_s: per_s * session.amount as f64 * 8.0 / 1e9,
        latency,
        verified: session.receive == Receive::Verify,
    })
}

fn one_after_another(target: &Target, session: Session, end: Instant) -> Outcome<Latencies> {
    let mut latencies = Latencies::new();
    loop {
        let begun = Instant::now();
        if begun >= end {
            return Ok(latencies);
        }
        transfer(target, &session)?;
        let now = Instant::now();
        if now < end {
            latencies.record(now - begun);
        }
    }
}

fn transfer(target: &Target, session: &Session) -> Outcome<()> {
    let mut connection = target.connect().doing("connect")?;
    let header = session.to_bytes();
    connection.write_all(&header).doing("ask for an object")?;
    let received = if session.kind == Kind::BulkUp {
        bulk::send(&connection, session).doing("send")?;
        Received::read(&connection).doing("wait for the report")?
    } else {
        bulk::receive(&connection, session).doing("receive")?
    };
    match received.mismatch_at {
        Some(offset) => Err(Failure::new(format!(
            "the byte at offset {offset} arrived changed"
        ))),
        None if received.bytes != session.amount => Err(Failure::new(format!(
            "an object of {} bytes ended after {}",
            session.amount, received.bytes
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::time::Duration;

    use super::super::session::HEADER_BYTES;
    use super::*;

    #[test]
    fn an_object_that_ends_early_is_no_result() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target {
            address: listener.local_addr().unwrap(),
            congestion: None,
        };
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; HEADER_BYTES]).unwrap();
            stream.write_all(b"half").unwrap();
        });
        let session = Session {
            kind: Kind::BulkDown,
            receive: Receive::Copy,
            size: 0,
            seed: 1,
            duration: Duration::from_secs(1),
            amount: 8,
        };
        let error = transfer(&target, &session).unwrap_err().to_string();
        assert_eq!(error, "an object of 8 bytes ended after 4");
        server.join().unwrap();
    }
}
