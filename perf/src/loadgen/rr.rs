//! Request/response: one byte there, one byte back, one at a time, each timed.
//!
//! Without a rate the loop is closed: the next byte leaves when the last one is back. That finds the
//! least latency, but a network that stands still for a while only delays one byte, and the many
//! that would have been sent meanwhile are never counted (coordinated omission). With a rate each
//! byte has a time at which it should leave; when the one before is not back by then, its latency
//! counts from that time. A timer that wakes this process late is not the network's doing: then
//! the latency counts from when the byte really left, and how late the timer was is told apart.

use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_timerslack;
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
    /// Round trips a second that were asked for; `None` for a closed loop.
    pub(crate) rate: Option<u64>,
    /// By how much the generator's own timer was late, at the 99th percentile; in µs.
    pub(crate) timer_late_p99_us: Option<f64>,
    pub(crate) latency: Summary,
}

/// Makes round trips for `duration`, `rate` a second or one after the other.
///
/// # Errors
/// The connection could not be made or broke, or not one round trip was made.
pub(crate) fn run(
    target: &Target,
    transport: Transport,
    rate: Option<u64>,
    duration: Duration,
) -> Outcome<RoundTrips> {
    match transport {
        Transport::Tcp => {
            let mut connection = target.connect().doing("connect")?;
            timed(transport, rate, duration, |_| {
                connection.write_all(b"e")?;
                connection.read_exact(&mut [0])?;
                Ok(true)
            })
        }
        Transport::Udp => {
            let socket = socket::connect_udp(target.address).doing("make a UDP socket")?;
            socket.set_read_timeout(Some(LOST)).doing("set a timeout")?;
            timed(transport, rate, duration, |number| {
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
    rate: Option<u64>,
    duration: Duration,
    mut trip: impl FnMut(u32) -> io::Result<bool>,
) -> Outcome<RoundTrips> {
    for number in 0..WARM_UP {
        trip(number).doing("warm up")?;
    }
    let mut pace = rate.map(Pace::new);
    let mut latencies = Latencies::new();
    let mut lost = 0;
    let start = Instant::now();
    let mut now = start;
    let mut number = WARM_UP;
    while now - start < duration {
        let begun = pace.as_mut().map_or(now, Pace::next);
        let answered = trip(number).doing("make a round trip")?;
        now = Instant::now();
        if answered {
            latencies.record(now - begun);
        } else {
            lost += 1;
            // The wait for what never came is no latency of those behind it.
            pace = rate.map(Pace::new);
        }
        number = number.wrapping_add(1);
    }
    let seconds = (now - start).as_secs_f64();
    let latency = latencies
        .summary()
        .ok_or_else(|| Failure::new("not one datagram was answered"))?;
    let count = latencies.count();
    let late = pace.and_then(|pace| pace.late.summary());
    Ok(RoundTrips {
        transport,
        count,
        lost,
        seconds,
        per_s: count as f64 / seconds,
        rate,
        timer_late_p99_us: late.map(|late| late.p99_us),
        latency,
    })
}

/// Times at which round trips should begin.
struct Pace {
    interval: Duration,
    due: Instant,
    /// How late the timer was when it was waited for.
    late: Latencies,
}

impl Pace {
    /// `rate` a second, from now on.
    fn new(rate: u64) -> Pace {
        // Without slack the kernel wakes us as near to the time as it can; where it refuses, we are
        // a little later, which is counted.
        let _ = set_timerslack(1);
        Pace {
            interval: Duration::from_secs_f64(1.0 / rate.max(1) as f64),
            due: Instant::now(),
            late: Latencies::new(),
        }
    }

    /// Waits for the next one's time. Returns from when its latency counts.
    fn next(&mut self) -> Instant {
        let due = self.due;
        self.due += self.interval;
        let now = Instant::now();
        if now >= due {
            return due;
        }
        thread::sleep(due - now);
        let now = Instant::now();
        self.late.record(now - due);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_no_latency() {
        let trips = timed(Transport::Udp, None, Duration::from_millis(20), |number| {
            thread::sleep(Duration::from_millis(1));
            Ok(number % 2 == 0)
        })
        .unwrap();
        assert!(trips.count > 0 && trips.lost > 0);
        assert!(trips.count.abs_diff(trips.lost) <= 1);
    }

    #[test]
    fn a_pause_counts_for_all_that_should_have_left_in_it() {
        let pause = Duration::from_millis(100);
        let paused = |rate| {
            let trips = timed(Transport::Tcp, rate, pause * 2, |number| {
                if number == WARM_UP + 3 {
                    thread::sleep(pause);
                }
                Ok(true)
            });
            trips.unwrap()
        };
        // 100 of at most 200 should have left in the pause: on average they are 50 ms late.
        let paced = paused(Some(1000));
        assert!(paced.latency.mean_us > 10_000.0, "{paced:?}");
        assert_eq!(paced.rate, Some(1000));
        // A closed loop has one slow round trip among many.
        let closed = paused(None);
        assert!(closed.latency.p90_us < 10_000.0, "{closed:?}");
        assert!(closed.latency.max_us > 99_000.0, "{closed:?}");
    }

    #[test]
    fn silence_is_a_failure() {
        let silent = timed(Transport::Udp, None, Duration::from_millis(1), |_| {
            Ok(false)
        });
        assert!(silent.is_err());
        let broken = timed(Transport::Tcp, None, Duration::from_millis(1), |_| {
            Err(io::ErrorKind::ConnectionReset.into())
        });
        assert!(broken.is_err());
    }
}
