//! Short connections: connect, one byte each way, close; K at a time. Each is timed from before the
//! connect to the answer's byte. The client closes first, so that its side holds the TIME-WAIT, as
//! with most real clients.
//!
//! The connections go to several ports of the server in turn. With one, a fast network would soon have
//! every local port in TIME-WAIT, and what would be measured is how long the kernel searches for a
//! free one.
//!
//! One thread drives all of them with epoll, whatever K is: a thread for each would measure how the
//! kernel switches between them. Each connection has a slot, and the slot's number is its mark among
//! the events; a connection that ends makes room for the next one in its slot.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use serde::{Deserialize, Serialize};

use super::client::Target;
use super::latency::{Latencies, Summary};
use super::socket;
use crate::failure::{Context, Failure, Outcome};

/// After a failed connection nothing is begun for a while, so that a network in trouble is not
/// hammered by refusals.
const PAUSE: Duration = Duration::from_millis(1);
/// A connection that takes longer than this has failed.
const LONGEST: Duration = Duration::from_secs(5);
/// How long a wait for events is at most; then the connections are looked through for ones that
/// take too long.
const WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// Events taken by one wait.
const EVENTS: usize = 256;

/// What the connections came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Connects {
    /// Connections under way at a time.
    pub(crate) concurrency: u32,
    pub(crate) count: u64,
    /// Connections that were refused, broken or timed out.
    pub(crate) failed: u64,
    /// One of the failures, in words.
    pub(crate) failure: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) per_s: f64,
    pub(crate) latency: Summary,
}

/// Makes connections to the target's port and `ports - 1` above it for `duration`, `concurrency` at
/// a time. Those under way in the end do not count.
///
/// # Errors
/// Not one connection succeeded, or the event loop broke.
pub(crate) fn run(
    target: &Target,
    ports: u16,
    concurrency: u32,
    duration: Duration,
) -> Outcome<Connects> {
    socket::raise_descriptor_limit();
    let start = Instant::now();
    let mut connector = Connector::new(target, ports, concurrency).doing("make an event loop")?;
    connector.run(start + duration).doing("make connections")?;
    let seconds = start.elapsed().as_secs_f64();
    let Connector {
        latencies,
        failed,
        failure,
        ..
    } = connector;
    let failure = failure.map(|error| error.to_string());
    let Some(latency) = latencies.summary() else {
        let why = failure.unwrap_or_else(|| "no time for one".to_owned());
        return Err(Failure::new(format!("not one connection succeeded: {why}")));
    };
    let count = latencies.count();
    let per_s = count as f64 / seconds;
    Ok(Connects {
        concurrency,
        count,
        failed,
        failure,
        seconds,
        per_s,
        latency,
    })
}

/// A connection under way.
struct Attempt {
    stream: TcpStream,
    begun: Instant,
    /// It is connected and its byte is sent.
    asked: bool,
}

struct Connector<'a> {
    target: &'a Target,
    ports: u16,
    /// Connections begun; tells the next one's port.
    begun: u64,
    epoll: OwnedFd,
    slots: Vec<Option<Attempt>>,
    latencies: Latencies,
    failed: u64,
    failure: Option<io::Error>,
}

impl Connector<'_> {
    fn new(target: &Target, ports: u16, concurrency: u32) -> io::Result<Connector<'_>> {
        Ok(Connector {
            target,
            ports,
            begun: 0,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            slots: (0..concurrency).map(|_| None).collect(),
            latencies: Latencies::new(),
            failed: 0,
            failure: None,
        })
    }

    fn run(&mut self, end: Instant) -> io::Result<()> {
        for slot in 0..self.slots.len() {
            self.begin(slot);
        }
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        let mut looked = Instant::now();
        while Instant::now() < end {
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, room, Some(&WAIT)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                self.ready(event.data.u64() as usize);
            }
            if looked.elapsed() > Duration::from_nanos(WAIT.tv_nsec as u64) {
                looked = Instant::now();
                self.give_up_old_ones(looked);
            }
        }
        Ok(())
    }

    /// Begins the next connection in a slot; when even that fails, the slot stays empty until the
    /// connections are looked through.
    fn begin(&mut self, slot: usize) {
        let begun = Instant::now();
        let port = (self.begun % u64::from(self.ports)) as u16;
        self.begun += 1;
        let connecting = self.target.begin_connect(port).and_then(|stream| {
            // Edges: it becomes writable once, when it is connected, and readable once.
            let edges = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            let mark = epoll::EventData::new_u64(slot as u64);
            epoll::add(&self.epoll, &stream, mark, edges)?;
            Ok(stream)
        });
        match connecting {
            Ok(stream) => {
                self.slots[slot] = Some(Attempt {
                    stream,
                    begun,
                    asked: false,
                });
            }
            Err(error) => self.fail(slot, error),
        }
    }

    fn ready(&mut self, slot: usize) {
        let Some(attempt) = &mut self.slots[slot] else {
            return;
        };
        match attempt.proceed() {
            Ok(true) => {
                self.latencies.record(attempt.begun.elapsed());
                self.begin(slot);
            }
            Ok(false) => {}
            Err(error) => {
                self.fail(slot, error);
                self.begin(slot);
            }
        }
    }

    fn fail(&mut self, slot: usize, error: io::Error) {
        self.slots[slot] = None;
        self.failed += 1;
        self.failure = Some(error);
        thread::sleep(PAUSE);
    }

    fn give_up_old_ones(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            match &self.slots[slot] {
                Some(attempt) if now - attempt.begun < LONGEST => {}
                Some(_) => {
                    let text = format!("no answer in {} s", LONGEST.as_secs());
                    self.fail(slot, io::Error::new(io::ErrorKind::TimedOut, text));
                    self.begin(slot);
                }
                None => self.begin(slot),
            }
        }
    }
}

impl Attempt {
    /// Goes on after an event; returns whether the answer has come.
    fn proceed(&mut self) -> io::Result<bool> {
        if !self.asked {
            // Not connected yet says "would block"; a connect that failed gives its error.
            match self.stream.write(b"c") {
                Ok(_) => self.asked = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            // The answer cannot be here yet.
            return Ok(false);
        }
        match self.stream.read(&mut [0]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}
