//! Relays TCP connections on loopback through one ring and prints what it carries.
//!
//! `cargo run --release -p towpath-ring --example relay -- [connections] [seconds] [KiB per receive]`

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use towpath_ring::{
    Completion, Driver, ReceiveEnd, Remote, SendMode, Slice, SocketId, SocketKind, Uring,
    UringConfig,
};

struct Flow {
    from: SocketId,
    to: SocketId,
    held: Vec<Slice>,
}

fn main() -> std::io::Result<()> {
    let argument = |at, default| {
        std::env::args()
            .nth(at)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let (connections, seconds) = (argument(1, 1u64), argument(2, 3u64));
    let receive_bytes = argument(3, 256u64) as u32 * 1024;
    let mut driver = Uring::new(&UringConfig::default(), Vec::new())?;
    println!("{:?}", driver.features());
    let source = TcpListener::bind("127.0.0.1:0")?;
    let sink = TcpListener::bind("127.0.0.1:0")?;
    let carried = Arc::new(AtomicU64::new(0));
    let mut flows = Vec::new();
    for token in 0..connections {
        let from = driver.open(SocketKind::TcpV4)?;
        let to = driver.open(SocketKind::TcpV4)?;
        driver.connect(from, &Remote::Inet(source.local_addr()?), token);
        driver.connect(to, &Remote::Inet(sink.local_addr()?), token);
        let (mut left, mut completions) = (2, Vec::new());
        while left > 0 {
            driver.wait(None, &mut completions)?;
            left -= completions.drain(..).count();
        }
        spawn_ends(source.accept()?.0, sink.accept()?.0, Arc::clone(&carried));
        flows.push(Flow {
            from,
            to,
            held: Vec::new(),
        });
    }
    for (token, flow) in (0..).zip(&flows) {
        driver.receive(flow.from, receive_bytes, true, token);
    }
    let (started, cpu) = (Instant::now(), thread_cpu());
    let carried_before = carried.load(Ordering::Relaxed);
    let mut completions = Vec::new();
    while started.elapsed() < Duration::from_secs(seconds) {
        let deadline = driver.now() + 100_000_000;
        driver.wait(Some(deadline), &mut completions)?;
        for completion in completions.drain(..) {
            match completion {
                Completion::Received { token, data } => flows[token as usize].held.push(data),
                Completion::ReceiveEnd {
                    token,
                    end: ReceiveEnd::Partial,
                } => {
                    let flow = &flows[token as usize];
                    driver.send(flow.to, &flow.held, SendMode::WhenWritable, token);
                }
                Completion::ReceiveEnd {
                    token,
                    end: ReceiveEnd::Starved,
                } => {
                    driver.receive(flows[token as usize].from, receive_bytes, false, token);
                }
                Completion::Sent {
                    token,
                    result: Ok(sent),
                } => {
                    let flow = &mut flows[token as usize];
                    let mut sent = sent as usize;
                    flow.held.retain_mut(|slice| {
                        let part = sent.min(slice.len());
                        slice.advance(part);
                        sent -= part;
                        !slice.is_empty()
                    });
                    if flow.held.is_empty() {
                        driver.receive(flow.from, receive_bytes, false, token);
                    } else {
                        driver.send(flow.to, &flow.held, SendMode::WhenWritable, token);
                    }
                }
                other => println!("{other:?}"),
            }
        }
    }
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), thread_cpu() - cpu);
    let bytes = (carried.load(Ordering::Relaxed) - carried_before) as f64;
    println!(
        "{connections} connections: {:.1} Gbit/s, {:.2} cpu-s/GiB; {:?}",
        bytes * 8.0 / elapsed / 1e9,
        cpu / (bytes / (1u64 << 30) as f64),
        driver.counters(),
    );
    Ok(())
}

fn spawn_ends(mut writer: TcpStream, mut reader: TcpStream, carried: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let block = vec![1; 256 << 10];
        while writer.write_all(&block).is_ok() {}
    });
    std::thread::spawn(move || {
        let mut block = vec![0; 256 << 10];
        while let Ok(len @ 1..) = reader.read(&mut block) {
            carried.fetch_add(len as u64, Ordering::Relaxed);
        }
    });
}

/// CPU seconds of this thread.
fn thread_cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
