//! Goodput in virtual time over buffers, loss and round-trip time: a committed table.
//!
//! A transfer of one connection over a link of 10 Gbit/s with plain frames of 1500 bytes, cut off after
//! some seconds of virtual time. The table is a means to see what a change of TCP does to all of this
//! at once; the test fails when it changed, and `--update-golden` writes it anew.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use towpath_ring::driver::sim::{Answer, HostFaults, LinkFaults};
use towpath_stack::Address;

use crate::app::Program;
use crate::guest::GuestTcp;
use crate::plan::{FlowPlan, Level, Plan};
use crate::world::World;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/goodput.txt");
const BUFFERS: [usize; 4] = [16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Parts of 10,000.
const LOSSES: [u32; 5] = [0, 10, 100, 300, 1_000];
const RTTS_US: [u64; 3] = [50, 1_000, 20_000];
/// A transfer is over after so many bytes, or so much time.
const BYTES: u64 = 4 << 20;
const LASTS_NS: u64 = 10_000_000_000;

struct Cell {
    up: bool,
    rtt_us: u64,
    loss: u32,
    buffer: usize,
}

/// Compares with the committed table, or writes it.
pub(crate) fn check(update: bool) -> Result<(), String> {
    let table = table()?;
    if update {
        return std::fs::write(PATH, table).map_err(|error| error.to_string());
    }
    let committed = std::fs::read_to_string(PATH).map_err(|error| error.to_string())?;
    if table == committed {
        return Ok(());
    }
    let changed = table.lines().zip(committed.lines());
    let changed = changed.filter(|(now, before)| now != before);
    let mut report = String::from("goodput is not what the table says:\n");
    for (now, before) in changed {
        let _ = writeln!(report, "  was {before}\n  is  {now}");
    }
    Err(report + "if that is meant: cargo test -p towpath --test sim -- --update-golden")
}

fn table() -> Result<String, String> {
    let mut cells = Vec::new();
    for up in [true, false] {
        for rtt_us in RTTS_US {
            for loss in LOSSES {
                for buffer in BUFFERS {
                    cells.push(Cell {
                        up,
                        rtt_us,
                        loss,
                        buffer,
                    });
                }
            }
        }
    }
    let rates = measure(&cells)?;
    let mut text = String::from(
        "# Goodput in Mbit/s of virtual time, from the seed; see golden.rs.\n\
         # way    rtt/us  loss/%    16 KiB   64 KiB  256 KiB    1 MiB\n",
    );
    for (row, rates) in cells.chunks(BUFFERS.len()).zip(rates.chunks(BUFFERS.len())) {
        let Cell {
            up, rtt_us, loss, ..
        } = row[0];
        let way = if up { "up" } else { "down" };
        let loss = f64::from(loss) / 100.0;
        let _ = write!(text, "{way:<6} {rtt_us:>9} {loss:>7.1} ");
        for rate in rates {
            let _ = write!(text, " {rate:>8.1}");
        }
        text.push('\n');
    }
    Ok(text)
}

fn measure(cells: &[Cell]) -> Result<Vec<f64>, String> {
    let rates = Mutex::new(vec![Ok(0.0); cells.len()]);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(cell) = cells.get(index) else { return };
                    let rate = rate(cell);
                    rates.lock().expect("nobody panics in here")[index] = rate;
                }
            });
        }
    });
    let rates = rates.into_inner().expect("nobody panics in there");
    rates.into_iter().collect()
}

/// Mbit/s of one transfer.
fn rate(cell: &Cell) -> Result<f64, String> {
    let mut world = World::new(1, plan(cell), false);
    let begins_at = world.plan.begins_at;
    world.run_until(begins_at + LASTS_NS, |world| {
        let (guest, peer) = (&world.guest_flow(0).app, world.peers[0].first());
        let (Some(guest), Some(peer)) = (guest, peer) else {
            return false;
        };
        let read = if cell.up { peer.app.read } else { guest.read };
        read >= BYTES
    })?;
    let guest = world.guest_flow(0).app.as_ref();
    let read = match (cell.up, guest, world.peers[0].first()) {
        (true, _, Some(peer)) => peer.app.read,
        (false, Some(guest), _) => guest.read,
        _ => 0,
    };
    let lasted_ns = world.now - begins_at;
    Ok(read as f64 * 8e3 / lasted_ns as f64)
}

fn plan(cell: &Cell) -> Plan {
    let link = LinkFaults {
        loss: cell.loss,
        delay_ns: cell.rtt_us * 500,
        byte_ps: 800,
        queue_bytes: 1 << 20,
        ..LinkFaults::default()
    };
    let writer = Program {
        writes: 2 * BYTES,
        write_chunk: 16 << 10,
        read_chunk: 16 << 10,
        ..Program::default()
    };
    let reader = Program {
        writes: 0,
        ..writer.clone()
    };
    let (guest_program, host_program) = match cell.up {
        true => (writer, reader),
        false => (reader, writer),
    };
    let flow = FlowPlan {
        owner: 0,
        starts_at: 1_000_000_000,
        remote: Address::v4([192, 0, 2, 1]),
        port: 1,
        key: 42,
        guest: GuestTcp {
            mss: 1460,
            receive_buffer: cell.buffer as u32,
            send_buffer: cell.buffer,
            sack: true,
            timestamps: true,
            window_scale: true,
            segment_max: 1460,
            keepalive: Duration::ZERO,
        },
        naive: false,
        guest_program,
        answer: Answer::Accept {
            after_ns: 0,
            up_buffer: cell.buffer,
            down_buffer: cell.buffer,
        },
        host_program,
    };
    Plan {
        level: Level::Bad,
        begins_at: 1_000_000_000,
        mtu: 1500,
        offload_header: false,
        offloads: false,
        up: link.clone(),
        down: link,
        host: HostFaults::default(),
        tap_buffers: 64,
        stream_buffers: 256,
        stream_buffer_bytes: 16 << 10,
        busy_ns: 0,
        cores: 1,
        one_queue: true,
        lane_frames: 1,
        flows: vec![flow],
        datagrams: Vec::new(),
        guests: Vec::new(),
        link_buffers: 0,
    }
}
