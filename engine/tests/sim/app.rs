//! What runs at the two ends of a connection: a program that writes, reads, waits, ends and resets as
//! planned, and that knows what it must read.

use towpath_ring::driver::Errno;
use towpath_ring::driver::sim::{Got, Random};

/// One end of a connection as a program sees it.
pub(crate) trait Socket {
    /// Writes as much as there is room for.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno>;
    fn read(&mut self, into: &mut [u8]) -> Result<Got, Errno>;
    fn shutdown_write(&mut self);
    /// Resets it; what the other end has not read may be lost in part.
    fn reset(&mut self, random: &mut Random);
    /// Lets go of it, when both directions are through or it failed.
    fn close(&mut self);
}

/// What a program does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    /// Bytes that it writes in all, in pieces of up to so many, with a pause of so many ns after each.
    pub(crate) writes: u64,
    pub(crate) write_chunk: u64,
    pub(crate) write_pause_ns: u64,
    /// Bytes that it reads at a time, with a pause of so many ns after each.
    pub(crate) read_chunk: u64,
    pub(crate) read_pause_ns: u64,
    /// After so many bytes read it stops reading for so many ns, once.
    pub(crate) stop: Option<(u64, u64)>,
    /// It writes nothing before it has read the end.
    pub(crate) answers: bool,
    /// It ends its direction only when it has read the end.
    pub(crate) ends_last: bool,
    /// It stays quiet for so many ns once it is connected.
    pub(crate) starts_after_ns: u64,
    /// It resets the connection so many ns after it began.
    pub(crate) resets_after_ns: Option<u64>,
}

impl Program {
    /// The virtual time that it takes by its own will, in ns.
    pub(crate) fn lasts_ns(&self, reads: u64) -> u64 {
        let writing = self.writes / self.write_chunk.max(1) * self.write_pause_ns;
        let reading = reads / self.read_chunk.max(1) * self.read_pause_ns;
        let stop = self.stop.map_or(0, |(_, ns)| ns);
        // A chunk is half as long as it may be, on average, and the shortest is one byte.
        self.starts_after_ns + 4 * (writing + reading) + stop
    }
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) program: Program,
    /// Which bytes it writes and which it must read.
    keys: (u64, u64),
    random: Random,
    begun_at: u64,
    write_at: u64,
    read_at: u64,
    pub(crate) written: u64,
    pub(crate) read: u64,
    stopped: bool,
    /// It has ended its direction.
    pub(crate) shut: bool,
    /// It has read the end.
    pub(crate) eof: bool,
    /// It was told of an error, or has reset the connection itself.
    pub(crate) failed: Option<Errno>,
    closed: bool,
}

impl App {
    pub(crate) fn new(program: Program, keys: (u64, u64), random: Random, now: u64) -> App {
        App {
            begun_at: now,
            write_at: now + program.starts_after_ns,
            read_at: now,
            program,
            keys,
            random,
            written: 0,
            read: 0,
            stopped: false,
            shut: false,
            eof: false,
            failed: None,
            closed: false,
        }
    }

    /// Whether it has done and heard all that it wanted.
    pub(crate) fn is_complete(&self) -> bool {
        self.eof && self.shut && self.failed.is_none()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.failed.is_some() || self.is_complete()
    }

    /// When it wants to act though nothing happens on its socket.
    pub(crate) fn next_at(&self, now: u64) -> Option<u64> {
        if self.is_over() {
            return None;
        }
        let reset = self.program.resets_after_ns.map(|ns| self.begun_at + ns);
        let write = (!self.shut).then_some(self.write_at);
        let read = (!self.eof).then_some(self.read_at);
        let times = [reset, write, read].into_iter().flatten();
        times.filter(|&at| at > now).min()
    }

    /// Does what it can do now. An error is a broken promise of the engine's.
    pub(crate) fn act(&mut self, now: u64, socket: &mut impl Socket) -> Result<(), String> {
        if !self.is_over() {
            let resets = self.program.resets_after_ns;
            if resets.is_some_and(|ns| self.begun_at + ns <= now) {
                socket.reset(&mut self.random);
                self.failed = Some(Errno::CANCELED);
            }
            self.read_some(now, socket)?;
            self.write_some(now, socket);
        }
        if self.is_over() && !std::mem::replace(&mut self.closed, true) {
            socket.close();
        }
        Ok(())
    }

    fn read_some(&mut self, now: u64, socket: &mut impl Socket) -> Result<(), String> {
        let mut bytes = [0; 16 << 10];
        while self.failed.is_none() && !self.eof && self.read_at <= now {
            let most = self.program.read_chunk.min(bytes.len() as u64);
            let want = self.random.between(1, most) as usize;
            match socket.read(&mut bytes[..want]) {
                Ok(Got::Nothing) => return Ok(()),
                Ok(Got::Eof) => self.eof = true,
                Ok(Got::Bytes(n)) => {
                    let place = first_difference(self.keys.1, self.read, &bytes[..n]);
                    if let Some(at) = place {
                        return Err(format!("byte {at} of a stream arrived changed"));
                    }
                    self.read += n as u64;
                    self.read_at = now + self.random.below(self.program.read_pause_ns + 1);
                    self.stop_if_due(now);
                }
                Err(errno) => self.failed = Some(errno),
            }
        }
        Ok(())
    }

    fn stop_if_due(&mut self, now: u64) {
        if let Some((after, ns)) = self.program.stop
            && self.read >= after
            && !std::mem::replace(&mut self.stopped, true)
        {
            self.read_at = now + ns;
        }
    }

    fn write_some(&mut self, now: u64, socket: &mut impl Socket) {
        let mut bytes = [0; 16 << 10];
        while self.failed.is_none() && !self.shut && self.write_at <= now {
            if self.program.answers && !self.eof {
                return;
            }
            let left = self.program.writes - self.written;
            if left == 0 {
                if self.eof || !self.program.ends_last {
                    socket.shutdown_write();
                    self.shut = true;
                }
                return;
            }
            let most = left.min(self.program.write_chunk).min(bytes.len() as u64);
            let n = self.random.between(1, most) as usize;
            fill(self.keys.0, self.written, &mut bytes[..n]);
            match socket.write(&bytes[..n]) {
                Ok(0) => return,
                Ok(n) => {
                    self.written += n as u64;
                    self.write_at = now + self.random.below(self.program.write_pause_ns + 1);
                }
                Err(errno) => self.failed = Some(errno),
            }
        }
    }
}

/// Eight bytes of a stream: no two places of a stream, and no two streams, are alike.
fn word(key: u64, place: u64) -> [u8; 8] {
    let mut bits = (key ^ place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (bits ^ (bits >> 32)).to_le_bytes()
}

fn each_byte(key: u64, from: u64, len: usize) -> impl Iterator<Item = u8> {
    let skipped = (from % 8) as usize;
    let words = from / 8..(from + len as u64).div_ceil(8);
    words
        .flat_map(move |place| word(key, place))
        .skip(skipped)
        .take(len)
}

/// Writes the bytes of stream `key` from place `from` on.
pub(crate) fn fill(key: u64, from: u64, bytes: &mut [u8]) {
    let len = bytes.len();
    for (byte, right) in bytes.iter_mut().zip(each_byte(key, from, len)) {
        *byte = right;
    }
}

/// The place of the first byte that is not that of stream `key`.
fn first_difference(key: u64, from: u64, bytes: &[u8]) -> Option<u64> {
    let right = each_byte(key, from, bytes.len());
    let place = bytes.iter().zip(right).position(|(&is, right)| is != right);
    place.map(|at| from + at as u64)
}
