//! The table of state × event → disposition, `states.md`, made by trying each event in each state.
//!
//! The test fails when the file is not what the code does. To write it anew:
//!
//! ```text
//! TOWPATH_WRITE_STATES=1 cargo test -p towpath-stack state_table
//! ```

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Write;
use std::{env, fs};

use super::*;
use crate::tcp::timers::{Deadline, Timers};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tcp/states.md");

const STATES: [State; 11] = [
    State::Held,
    State::SynSent,
    State::SynReceived,
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
    State::TimeWait,
    State::Closed,
];

const HEAD: &str = "\
# What a connection does in each state

Written by the test `state_table`; do not edit. `TOWPATH_WRITE_STATES=1 cargo test -p towpath-stack
state_table` writes it anew, and the difference shows what a change changed.

Our initial sequence number is 5000 and the guest's 1000; SACK was agreed, timestamps were not. The
guest's window and ours are far from full. In each state, everything before it was acknowledged, and
what is unacknowledged is only what makes the state: our SYN or FIN. (To be sent again, there are
100 bytes in flight in ESTABLISHED and CLOSE-WAIT.) Events that can't happen in a state are left out.

- *sent*: what leaves at once, as flags, sequence number, ACK, and bytes of payload. \"(40 ms)\": an ACK
  that waits so long for company.
- *told*: what the engine hears: bytes to deliver, bytes acknowledged, edges, and why something was
  not used.
- A dash: nothing. \"same\": the state stays; \"anew\": and so long as if it began now.
";

#[test]
fn state_table() {
    let made = table();
    if env::var_os("TOWPATH_WRITE_STATES").is_some() {
        fs::write(FILE, &made).expect("the source tree can be written");
    }
    let kept = fs::read_to_string(FILE).unwrap_or_default();
    let mut lines = made.lines().zip(kept.lines());
    if let Some((new, old)) = lines.find(|(new, old)| new != old) {
        panic!(
            "states.md says\n  {old}\nbut it is\n  {new}\n(how to write it anew is in its head)"
        );
    }
    assert_eq!(made.len(), kept.len(), "states.md has another length");
}

fn table() -> String {
    let mut text = HEAD.to_string();
    for state in STATES {
        write!(text, "\n## {state:?}\n\n").expect("memory");
        text.push_str("| event | new state | sent | told |\n|---|---|---|---|\n");
        for (name, event) in EVENTS {
            let mut bench = bench_in(state);
            assert_eq!((bench.state(), bench.out()), (state, Vec::new()));
            bench.now = bench.now + ms(1);
            let wait = bench.connection.timers.wait;
            let Some(told) = event(&mut bench) else {
                continue;
            };
            let sent = sent(&mut bench);
            let after = match bench.state() {
                same if same == state && bench.connection.timers.wait != wait => {
                    "same, anew".to_string()
                }
                same if same == state => "same".to_string(),
                other => format!("**{other:?}**"),
            };
            writeln!(text, "| {name} | {after} | {sent} | {told} |").expect("memory");
        }
    }
    text
}

/// A connection in this state, with nothing due.
fn bench_in(state: State) -> Bench {
    let mut bench = match state {
        State::Held => return Bench::held(Bench::with_sack()),
        State::SynSent => {
            let mut bench = Bench::opened();
            bench.guest.0 = 1000;
            return bench;
        }
        State::SynReceived => {
            let mut bench = Bench::held(Bench::with_sack());
            bench.accept();
            bench.out();
            return bench;
        }
        _ => Bench::established(Bench::with_sack()),
    };
    let guest_ended = |bench: &mut Bench| {
        bench.fin();
        bench.out();
        bench.wait(bench.config.delayed_ack);
        bench.out();
    };
    let host_ended = |bench: &mut Bench| {
        bench.queue.finished = true;
        bench.out();
    };
    match state {
        State::Held | State::SynSent | State::SynReceived | State::Established => {}
        State::FinWait1 => host_ended(&mut bench),
        State::FinWait2 => {
            host_ended(&mut bench);
            bench.ack_to(5002);
        }
        State::CloseWait => guest_ended(&mut bench),
        State::Closing => {
            host_ended(&mut bench);
            guest_ended(&mut bench);
        }
        State::LastAck => {
            guest_ended(&mut bench);
            host_ended(&mut bench);
        }
        State::TimeWait => {
            host_ended(&mut bench);
            bench.ack_to(5002);
            guest_ended(&mut bench);
        }
        State::Closed => {
            bench.send(Flags::RST);
        }
    }
    bench
}

/// What an event told the engine; `None` where it can't happen.
type Event = fn(&mut Bench) -> Option<String>;

const EVENTS: &[(&str, Event)] = &[
    ("its SYN again", |b| segment(b, Flags::SYN, -1, 0, 0)),
    ("another SYN, in the window", |b| {
        segment(b, Flags::SYN, 100, 0, 0)
    }),
    ("another SYN, before the window", |b| {
        segment(b, Flags::SYN, -900, 0, 0)
    }),
    ("SYN-ACK of our SYN", |b| {
        segment(b, SYN_ACK, -1, to_syn(b), 0)
    }),
    ("SYN-ACK of something else", |b| {
        segment(b, SYN_ACK, -1, 77, 0)
    }),
    ("ACK of all that we sent", |b| {
        segment(b, ACK, 0, to_max(b), 0)
    }),
    ("ACK with nothing new", |b| segment(b, ACK, 0, 0, 0)),
    ("ACK from before", |b| segment(b, ACK, 0, -1, 0)),
    ("ACK from long ago", |b| segment(b, ACK, 0, -30_000, 0)),
    ("ACK of what we never sent", |b| segment(b, ACK, 0, 100, 0)),
    ("ACK, keepalive probe", |b| segment(b, ACK, -1, 0, 0)),
    ("ACK beyond the window", |b| segment(b, ACK, 20_000, 0, 0)),
    ("payload in order", |b| segment(b, ACK, 0, ack_in(b), 10)),
    ("payload out of order", |b| {
        segment(b, ACK, 100, ack_in(b), 10)
    }),
    ("payload received before", |b| {
        segment(b, ACK, -10, ack_in(b), 10)
    }),
    ("payload beyond the window", |b| {
        segment(b, ACK, 20_000, ack_in(b), 10)
    }),
    ("payload that acknowledges nonsense", |b| {
        segment(b, ACK, 0, 100, 10)
    }),
    ("payload without ACK", |b| segment(b, Flags(0), 0, 0, 10)),
    ("FIN in order", |b| segment(b, FIN_ACK, 0, ack_in(b), 0)),
    ("FIN that acknowledges all", |b| {
        segment(b, FIN_ACK, 0, to_max(b), 0)
    }),
    ("FIN out of order", |b| {
        segment(b, FIN_ACK, 100, ack_in(b), 0)
    }),
    ("FIN received before", |b| {
        segment(b, FIN_ACK, -1, ack_in(b), 0)
    }),
    ("RST, exact", |b| segment(b, Flags::RST, 0, 0, 0)),
    ("RST with ACK, exact", |b| {
        segment(b, RST_ACK, 0, to_max(b), 0)
    }),
    ("RST in the window", |b| segment(b, Flags::RST, 100, 0, 0)),
    ("RST outside the window", |b| {
        segment(b, Flags::RST, -100, 0, 0)
    }),
    ("host is connected", |b| {
        (b.state() == State::Held).then(|| b.accept())?;
        quiet()
    }),
    ("host sent 100 bytes", |b| {
        (!b.queue.finished).then(|| b.queue.bytes = 100)?;
        quiet()
    }),
    ("host ended", |b| {
        (!b.queue.finished).then(|| b.queue.finished = true)?;
        quiet()
    }),
    ("host's side is reset: abort", |b| {
        let reset = b.connection.abort();
        Some(reset.map_or("—".to_string(), |r| format!("to send: {}", named(&r, 0))))
    }),
    ("time to send again", |b| {
        in_flight(b);
        timer(b, |timers| &mut timers.retransmit)
    }),
    ("time to send again, once too often", |b| {
        in_flight(b);
        b.connection.send.attempts = b.config.retries;
        timer(b, |timers| &mut timers.retransmit)
    }),
    ("time to probe a closed window", |b| {
        close_window(b)?;
        timer(b, |timers| &mut timers.retransmit)
    }),
    ("time to probe, once too often", |b| {
        close_window(b)?;
        b.connection.send.unanswered_probes = b.config.retries;
        timer(b, |timers| &mut timers.retransmit)
    }),
    ("time to see whether the guest lives", |b| {
        b.config.keepalive_idle = ms(1);
        timer(b, |timers| &mut timers.keepalive)
    }),
    ("the same, after unanswered probes", |b| {
        b.connection.keepalive_sent = b.config.keepalive_probes;
        timer(b, |timers| &mut timers.keepalive)
    }),
    ("the state's time is over", |b| {
        timer(b, |timers| &mut timers.wait)
    }),
];

/// A segment comes, at `sequence` from what is expected next and `ack` from SND.UNA.
fn segment(bench: &mut Bench, flags: Flags, sequence: i32, ack: i32, len: usize) -> Option<String> {
    let next = match bench.state() {
        State::SynSent => Seq(1001),
        _ => bench.connection.receive.nxt,
    };
    let segment = Segment {
        sequence: next + sequence as u32,
        acknowledgment: bench.connection.send.una + ack as u32,
        flags,
        options: if flags.syn() {
            Bench::with_sack()
        } else {
            Options::default()
        },
        ..bench.header(flags)
    };
    let received = bench.on(&segment, len);
    Some(told(bench, &received))
}

/// The ACK that a segment of this state carries, from SND.UNA: in the handshake it is of our SYN.
fn ack_in(bench: &Bench) -> i32 {
    if bench.state() == State::SynReceived {
        1
    } else {
        0
    }
}

fn to_max(bench: &Bench) -> i32 {
    bench.connection.send_unacknowledged() as i32
}

fn to_syn(bench: &Bench) -> i32 {
    Seq(5001).0.wrapping_sub(bench.connection.send.una.0) as i32
}

fn quiet() -> Option<String> {
    Some("—".to_string())
}

/// Sends 100 bytes where data is sent.
fn in_flight(bench: &mut Bench) {
    if sends_data(bench) {
        bench.queue.bytes = 100;
        bench.out();
    }
}

/// The guest closes its window before 100 bytes; `None` where no data is sent.
fn close_window(bench: &mut Bench) -> Option<()> {
    if !sends_data(bench) {
        return None;
    }
    bench.window = 0;
    bench.guest.0 = bench.connection.receive.nxt.0;
    bench.ack();
    bench.queue.bytes = 100;
    assert_eq!(bench.out(), []);
    Some(())
}

fn sends_data(bench: &Bench) -> bool {
    matches!(bench.state(), State::Established | State::CloseWait)
}

/// A timer expires, if it runs; the others are later.
fn timer(bench: &mut Bench, which: fn(&mut Timers) -> &mut Deadline) -> Option<String> {
    let chosen = which(&mut bench.connection.timers);
    if !chosen.is_on() {
        return None;
    }
    bench.now = bench.now + ms(1);
    *chosen = Deadline::at(bench.now);
    Some(match bench.connection.on_timer(bench.now, &bench.config) {
        TimerOutcome::Idle | TimerOutcome::Transmit => "—".to_string(),
        TimerOutcome::Gone(reason) => format!("gone: {reason:?}"),
    })
}

fn told(bench: &mut Bench, received: &Received) -> String {
    let Received {
        deliver,
        reassembled,
        acked,
        finished,
        reset,
        established,
        closed,
        reopen,
        dropped,
    } = received;
    let mut words = Vec::new();
    if !deliver.is_empty() {
        words.push(format!("deliver {}", deliver.end - deliver.start));
    }
    if *acked > 0 {
        words.push(format!("acked {acked}"));
    }
    let edges = [
        (*reassembled, "reassembled"),
        (*established, "established"),
        (*finished, "finished"),
        (*reset, "reset"),
        (*reopen, "reopen"),
        (*closed, "closed"),
    ];
    words.extend(
        edges
            .iter()
            .filter(|edge| edge.0)
            .map(|edge| edge.1.to_string()),
    );
    if let Some(reason) = dropped {
        words.push(format!("dropped: {reason:?}"));
    }
    assert_eq!(*closed, bench.connection.is_closed());
    if words.is_empty() {
        "—".to_string()
    } else {
        words.join(", ")
    }
}

/// What leaves now, and the ACK that waits.
fn sent(bench: &mut Bench) -> String {
    let mut words: Vec<_> = bench
        .out()
        .iter()
        .map(|transmit| {
            named(
                &transmit.segment,
                transmit.payload.end - transmit.payload.start,
            )
        })
        .collect();
    if bench.connection.timers.ack.is_on() {
        bench.wait(bench.config.delayed_ack);
        words.extend(
            bench
                .out()
                .iter()
                .map(|t| format!("(40 ms) {}", named(&t.segment, 0))),
        );
    }
    if words.is_empty() {
        "—".to_string()
    } else {
        words.join("; ")
    }
}

fn named(segment: &Segment, len: u32) -> String {
    let flags = [
        (Flags::SYN, "SYN"),
        (Flags::FIN, "FIN"),
        (Flags::RST, "RST"),
        (Flags::PSH, "PSH"),
        (Flags::ACK, "ACK"),
    ];
    let names: Vec<_> = flags
        .iter()
        .filter(|(flag, _)| segment.flags.contains(*flag))
        .map(|(_, name)| *name)
        .collect();
    let mut text = format!("{} {}", names.join("-"), segment.sequence.0);
    if segment.flags.ack() {
        write!(text, " ack {}", segment.acknowledgment.0).expect("memory");
    }
    if len > 0 {
        write!(text, ", {len} B").expect("memory");
    }
    for (left, right) in segment.options.sack.as_slice() {
        write!(text, ", SACK {}–{}", left.0, right.0).expect("memory");
    }
    text
}
