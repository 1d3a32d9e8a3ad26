//! Request/response: one byte there, one byte back, one at a time, each timed.

use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::client::Target;
use super::latency::{Latencies, Summary};
use super::socket;
use crate::failure::{Context, Failure, Outcome};

/// Round trips made before those that count, so that caches, neighbour tables and sockets are warm.
const WARM_UP: u32 = 50;
/// A datagram not answered within this time counts as lost.
const LOST: Duration = Duration::from_millis(250);

/// What the bytes travel in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    /// One connection for all.
    Tcp,
    /// One socket for all.
    Udp,
}

/// What the round trips came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RoundTrips {
    pub(crate) transport: Transport,
    pub(crate) count: u64,
    /// Datagrams with no answer in time (always 0 for TCP).
    pub(crate) lost: u64,
    pub(crate) seconds: f64,
    pub(crate) per_s: f64,
    pub(crate) latency: Summary,
}

/// Makes round trips for `duration`.
///
/// # Errors
/// The connection could not be made or broke, or not one round trip was made.
pub(crate) fn run(
    target: &Target,
    transport: Transport,
    duration: Duration,
) -> Outcome<RoundTrips> {
    match transport {
        Transport::Tcp => {
            let mut connection = target.connect().doing("connect")?;
            timed(transport, duration, |_| {
                connection.write_all(b"e")?;
                connection.read_exact(&mut [0])?;
                Ok(true)
            })
        }
        Transport::Udp => {
            let socket = socket::connect_udp(target.address).doing("make a UDP socket")?;
            socket.set_read_timeout(Some(LOST)).doing("set a timeout")?;
            timed(transport, duration, |number| {
                datagram(&socket, number as u8)
            })
        }
    }
}

/// Sends one byte and waits for the same one; late answers to earlier ones are passed over.
fn datagram(socket: &UdpSocket, number: u8) -> io::Result<bool> {
    socket.send(&[number])?;
    let mut answer = [0];
    loop {
        match socket.recv(&mut answer) {
            Ok(1) if answer[0] == number => return Ok(true),
            Ok(_) => {}
            Err(error) if socket::timed_out(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Calls `trip` with a running number until `duration` has passed; it returns whether an answer
/// came.
fn timed(
    transport: Transport,
    duration: Duration,
    mut trip: impl FnMut(u32) -> io::Result<bool>,
) -> Outcome<RoundTrips> {
    for number in 0..WARM_UP {
        trip(number).doing("warm up")?;
    }
    let mut latencies = Latencies::new();
    let mut lost = 0;
    let start = Instant::now();
    let mut before = start;
    let mut number = WARM_UP;
    while before - start < duration {
        let answered = trip(number).doing("make a round trip")?;
        let after = Instant::now();
        if answered {
            latencies.record(after - before);
        } else {
            lost += 1;
        }
        before = after;
        number = number.wrapping_add(1);
    }
    let seconds = (before - start).as_secs_f64();
    let latency = latencies
        .summary()
        .ok_or_else(|| Failure::new("not one datagram was answered"))?;
    let count = latencies.count();
    Ok(RoundTrips {
        transport,
        count,
        lost,
        seconds,
        per_s: count as f64 / seconds,
        latency,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_no_latency() {
        let trips = timed(Transport::Udp, Duration::from_millis(20), |number| {
            std::thread::sleep(Duration::from_millis(1));
            Ok(number % 2 == 0)
        })
        .unwrap();
        assert!(trips.count > 0 && trips.lost > 0);
        assert!(trips.count.abs_diff(trips.lost) <= 1);
    }

    #[test]
    fn silence_is_a_failure() {
        let silent = timed(Transport::Udp, Duration::from_millis(1), |_| Ok(false));
        assert!(silent.is_err());
        let broken = timed(Transport::Tcp, Duration::from_millis(1), |_| {
            Err(io::ErrorKind::ConnectionReset.into())
        });
        assert!(broken.is_err());
    }
}
