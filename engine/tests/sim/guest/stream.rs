//! A guest's end of a stream of frames: a hypervisor that writes and reads any number of bytes at a time,
//! stops reading for a while, and leaves, also in the middle of a frame.
//!
//! The framing is written by hand, so that the engine's is not checked against itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use towpath::link::{Attacher, Attachment, Carrier, Departure};
use towpath_ring::Framing;
use towpath_ring::driver::sim::{Got, LinkFaults, Random, SimHost, SimLink, SimStream};

/// How a guest's stream is, and what becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct StreamPlan {
    pub(crate) framing: Framing,
    pub(crate) joins_at: u64,
    /// Bytes that wait in the socket on the way to the guest, and to the core.
    pub(crate) down_buffer: usize,
    pub(crate) up_buffer: usize,
    /// What a frame takes between the guest's TCP and the socket.
    pub(crate) delay_ns: u64,
    /// Bytes that it writes and reads at a time at most, with a pause of up to so many ns after each.
    pub(crate) write_chunk: u64,
    pub(crate) write_pause_ns: u64,
    pub(crate) read_chunk: u64,
    pub(crate) read_pause_ns: u64,
    pub(crate) fate: Fate,
}

/// What becomes of a guest before all is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// It stays.
    Stays,
    /// It reads nothing for so long.
    Pauses { at: u64, for_ns: u64 },
    /// It closes its end, whatever is on the way.
    Leaves { at: u64 },
    /// It begins a frame and writes nothing any more.
    HalfFrame { at: u64 },
    /// It sends a frame of no bytes.
    Babbles { at: u64 },
}

#[derive(Debug)]
pub(crate) struct StreamLink {
    plan: StreamPlan,
    random: Random,
    /// The guest's end, from when it joins until it is gone.
    stream: Option<SimStream>,
    up: SimLink,
    down: SimLink,
    /// Bytes to write.
    queue: VecDeque<u8>,
    /// Bytes of a frame that is not complete.
    partial: Vec<u8>,
    write_at: u64,
    read_at: u64,
    joined: bool,
    /// It has done what its fate says.
    fated: bool,
    /// What the guest sends is thrown away.
    mute: bool,
    /// It was there until all was over.
    pub(crate) stayed: bool,
    /// Whole frames that came.
    pub(crate) frames: u64,
    departure: Arc<Mutex<Option<Departure>>>,
    /// What the core said when it closed the port, and when.
    pub(crate) departed: Option<(u64, Departure)>,
}

impl StreamLink {
    pub(crate) fn new(plan: StreamPlan, mut random: Random) -> StreamLink {
        let faults = LinkFaults {
            delay_ns: plan.delay_ns,
            ..LinkFaults::default()
        };
        StreamLink {
            up: SimLink::new(faults.clone(), random.branch(), 0),
            down: SimLink::new(faults, random.branch(), 0),
            random,
            stream: None,
            queue: VecDeque::new(),
            partial: Vec::new(),
            write_at: 0,
            read_at: 0,
            joined: false,
            fated: false,
            mute: false,
            stayed: false,
            frames: 0,
            departure: Arc::default(),
            departed: None,
            plan,
        }
    }

    pub(crate) fn plan(&self) -> &StreamPlan {
        &self.plan
    }

    /// Whether it has joined and is not gone.
    pub(crate) fn is_here(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether it was here and is not any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.joined && self.stream.is_none()
    }

    /// Whether its fate is still to come: a pause to end, or the core to dismiss it.
    pub(crate) fn awaits_fate(&self, now: u64) -> bool {
        match self.plan.fate {
            Fate::Stays | Fate::Leaves { .. } => false,
            Fate::Pauses { at, for_ns } => now < at + for_ns,
            Fate::HalfFrame { .. } | Fate::Babbles { .. } => !self.is_gone(),
        }
    }

    /// When it wants to act though nothing happens on its socket.
    pub(crate) fn next_at(&self, now: u64) -> Option<u64> {
        if !self.joined {
            return Some(self.plan.joins_at);
        }
        self.stream.as_ref()?;
        let fate = self.fate_at().filter(|_| !self.fated);
        let write = (!self.queue.is_empty()).then_some(self.write_at);
        let own = [fate, write, Some(self.read_at)];
        let own = own.into_iter().flatten().filter(|&at| at > now);
        let links = [self.up.next_at(), self.down.next_at()];
        own.chain(links.into_iter().flatten()).min()
    }

    fn fate_at(&self) -> Option<u64> {
        match self.plan.fate {
            Fate::Stays => None,
            Fate::Pauses { at, .. }
            | Fate::Leaves { at }
            | Fate::HalfFrame { at }
            | Fate::Babbles { at } => Some(at),
        }
    }

    /// Joins when it is time to.
    pub(crate) fn join_if_due(&mut self, now: u64, name: usize, host: &SimHost, to: &Attacher) {
        if self.joined || now < self.plan.joins_at {
            return;
        }
        self.joined = true;
        let (up, down) = (self.plan.down_buffer, self.plan.up_buffer);
        let (socket, stream) = host.offer_stream(up, down).expect("a descriptor is free");
        let attachment = Attachment {
            name: format!("guest {name}"),
            carrier: Carrier::Stream {
                socket,
                framing: self.plan.framing,
            },
        };
        let departure = Arc::clone(&self.departure);
        let on_end = move |why| {
            *departure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        };
        to.attach(attachment, on_end).expect("there are few guests");
        self.stream = Some(stream);
    }

    /// A frame of the guest's leaves.
    pub(crate) fn send(&mut self, now: u64, frame: Vec<u8>) {
        self.up.send(now, frame);
    }

    /// The next frame that has arrived at the guest.
    pub(crate) fn take(&mut self, now: u64) -> Option<Vec<u8>> {
        self.down.take(now)
    }

    /// Does with the socket what can be done now. An error is a broken promise of the engine's.
    pub(crate) fn exchange(&mut self, now: u64) -> Result<(), String> {
        let said = self.departure.lock();
        let said = said.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(why) = said {
            self.departed = Some((now, why));
        }
        if self.fate_at().is_some_and(|at| at <= now) && !self.fated && self.is_here() {
            self.fated = true;
            self.meet_fate(now);
        }
        while let Some(frame) = self.up.take(now) {
            if !self.mute {
                self.queue.extend(prefix(self.plan.framing, frame.len()));
                self.queue.extend(frame);
            }
        }
        self.write_some(now);
        self.read_some(now)
    }

    fn meet_fate(&mut self, now: u64) {
        match self.plan.fate {
            Fate::Stays => {}
            Fate::Pauses { for_ns, .. } => self.read_at = now + for_ns,
            Fate::Leaves { .. } => self.leave(),
            Fate::HalfFrame { .. } => {
                // What was queued goes out, and then a beginning.
                let whole = prefix(self.plan.framing, 60);
                let n = self.random.between(1, whole.len() as u64 + 59) as usize;
                let bytes = whole.into_iter().chain([0x42; 60]).take(n);
                self.queue.extend(bytes);
                self.mute = true;
            }
            Fate::Babbles { .. } => self.queue.extend(prefix(self.plan.framing, 0)),
        }
    }

    /// All is over, and who is still here leaves.
    pub(crate) fn say_goodbye(&mut self) {
        self.stayed = self.is_here();
        self.leave();
    }

    /// Closes its end.
    fn leave(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.close();
        }
    }

    fn write_some(&mut self, now: u64) {
        while self.write_at <= now && !self.queue.is_empty() {
            let Some(stream) = &self.stream else { return };
            let most = self.plan.write_chunk.min(self.queue.len() as u64);
            let n = self.random.between(1, most) as usize;
            let bytes: Vec<u8> = self.queue.range(..n).copied().collect();
            match stream.write(&bytes) {
                Ok(0) => return,
                Ok(n) => {
                    self.queue.drain(..n);
                    self.write_at = now + self.random.below(self.plan.write_pause_ns + 1);
                }
                Err(_) => return self.leave(),
            }
        }
    }

    fn read_some(&mut self, now: u64) -> Result<(), String> {
        let mut bytes = [0; 64 << 10];
        while self.read_at <= now {
            let Some(stream) = &self.stream else {
                return Ok(());
            };
            let most = self.plan.read_chunk.min(bytes.len() as u64);
            let want = self.random.between(1, most) as usize;
            match stream.read(&mut bytes[..want]) {
                Ok(Got::Nothing) => return Ok(()),
                Ok(Got::Bytes(n)) => {
                    self.partial.extend(&bytes[..n]);
                    self.read_at = now + self.random.below(self.plan.read_pause_ns + 1);
                    self.take_apart(now)?;
                }
                Ok(Got::Eof) | Err(_) => self.leave(),
            }
        }
        Ok(())
    }

    fn take_apart(&mut self, now: u64) -> Result<(), String> {
        let mut at = 0;
        while let Some((prefix, len)) = length(self.plan.framing, &self.partial[at..]) {
            if !(14..=65_553).contains(&len) {
                return Err(format!("the stream brought a frame of {len} bytes"));
            }
            let frame = at + prefix..at + prefix + len;
            let Some(frame) = self.partial.get(frame) else {
                break;
            };
            self.down.send(now, frame.to_vec());
            self.frames += 1;
            at += prefix + len;
        }
        self.partial.drain(..at);
        Ok(())
    }
}

/// The length of a frame as it stands in front of it.
fn prefix(framing: Framing, len: usize) -> Vec<u8> {
    match framing {
        Framing::Le16 => vec![len as u8, (len >> 8) as u8],
        Framing::Be32 => vec![
            (len >> 24) as u8,
            (len >> 16) as u8,
            (len >> 8) as u8,
            len as u8,
        ],
    }
}

/// The bytes of a length in front of a frame, and what it says.
fn length(framing: Framing, bytes: &[u8]) -> Option<(usize, usize)> {
    match (framing, bytes) {
        (Framing::Le16, &[a, b, ..]) => Some((2, usize::from(a) | usize::from(b) << 8)),
        (Framing::Be32, &[a, b, c, d, ..]) => Some((4, u32::from_be_bytes([a, b, c, d]) as usize)),
        _ => None,
    }
}
