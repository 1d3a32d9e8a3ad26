//! Sends frames over a UNIX stream to itself through one ring, on one core, and prints what it carries
//! and what that costs: both ends of a link as a hypervisor has it.
//!
//! `cargo run --release -p towpath-ring --example frames -- [bytes per frame] [seconds]`

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use towpath_ring::{
    Adopted, Completion, Driver, FrameBounds, FrameReader, FrameWriter, Framing, SendMode, Slice,
    Uring, UringConfig,
};

/// Ethernet, IPv4 and TCP with timestamps.
const HEADER_BYTES: usize = 66;
const FRAME_MAX: usize = 65_553;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counted;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

fn main() -> std::io::Result<()> {
    let argument = |at, default| {
        std::env::args()
            .nth(at)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let frame_bytes = (argument(1, 1514) as usize).clamp(HEADER_BYTES, FRAME_MAX);
    let seconds = argument(2, 3);
    let config = UringConfig {
        link_buffers: 64,
        ..UringConfig::default()
    };
    let mut driver = Uring::new(&config, Vec::new())?;
    let (ours, theirs) = UnixStream::pair()?;
    let from = driver.adopt(ours.into(), Adopted::StreamLink);
    let to = driver.adopt(theirs.into(), Adopted::StreamLink);
    let bounds = FrameBounds {
        bytes: 256 << 10,
        frames: 4096,
    };
    let mut writer = FrameWriter::new(Framing::Be32, bounds);
    let mut reader = FrameReader::new(Framing::Be32, FRAME_MAX);
    let mut payload = Payload::new();
    let header = [1; HEADER_BYTES];
    let (mut frames, mut receives, mut sends) = (0u64, 0u64, 0u64);
    let (mut sending, mut completions) = (false, Vec::new());
    driver.receive(to, 256 << 10, false, 2);
    let (started, cpu, before) = (Instant::now(), thread_cpu(), driver.counters());
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    while started.elapsed() < Duration::from_secs(seconds) {
        while writer.push(&header, payload.next(frame_bytes - HEADER_BYTES)) {}
        if !sending {
            driver.send(from, writer.batch(), SendMode::WhenWritable, 1);
            sending = true;
        }
        driver.wait(None, &mut completions)?;
        for completion in completions.drain(..) {
            match completion {
                Completion::Sent { result, .. } => {
                    writer.advance(result.map_err(std::io::Error::from)? as usize);
                    sending = false;
                    sends += 1;
                }
                Completion::Received { mut data, .. } => {
                    while let Some(frame) = reader.next(&mut data) {
                        frames += u64::from(frame.is_ok_and(|frame| frame.len() == frame_bytes));
                    }
                }
                Completion::ReceiveEnd { .. } => {
                    driver.receive(to, 256 << 10, false, 2);
                    receives += 1;
                }
                other => println!("{other:?}"),
            }
        }
    }
    let busy = (thread_cpu() - cpu).as_secs_f64();
    let counters = driver.counters();
    let each = |count: u64| count as f64 / frames as f64;
    println!(
        "{:.0} frames and {:.2} Gbit per second of a core; per frame {:.4} system calls, {:.4} allocations; \
         {:.1} frames a send, {:.1} a receive",
        frames as f64 / busy,
        frames as f64 * frame_bytes as f64 * 8.0 / busy / 1e9,
        each(counters.enters - before.enters),
        each(ALLOCATIONS.load(Ordering::Relaxed) - allocations),
        frames as f64 / sends as f64,
        frames as f64 / receives as f64,
    );
    Ok(())
}

fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes as they come from the network: a MiB of stream buffers, which frames cut somewhere.
struct Payload {
    streams: Vec<Slice>,
    place: usize,
    rest: Slice,
    parts: Vec<Slice>,
}

impl Payload {
    fn new() -> Payload {
        let streams = (0..64).map(|_| Slice::from_vec(vec![7; 16 << 10]));
        Payload {
            streams: streams.collect(),
            place: 0,
            rest: Slice::empty(),
            parts: Vec::new(),
        }
    }

    fn next(&mut self, bytes: usize) -> &[Slice] {
        self.parts.clear();
        let mut left = bytes;
        while left > 0 {
            if self.rest.is_empty() {
                self.place = (self.place + 1) % self.streams.len();
                self.rest = self.streams[self.place].clone();
            }
            let part = self.rest.split_to(left);
            left -= part.len();
            self.parts.push(part);
        }
        &self.parts
    }
}
