//! What a profile holds, as JSON and as text.

use std::fmt::Write;

use serde::Serialize;

use super::calls::Calls;
use super::flame::Thread;
use super::replay::Replay;
use super::threads::{Frames, Switches};
use crate::facts::Facts;
use crate::metrics::Metric;
use crate::table::{Align, Table, number};

/// System calls named in the text.
const CALLS: usize = 6;
/// Functions named per thread in the text.
const FUNCTIONS: usize = 8;

/// All of a profile.
#[derive(Debug, Serialize)]
pub(crate) struct Profile {
    pub(crate) facts: Facts,
    pub(crate) peer: String,
    pub(crate) case: String,
    pub(crate) mtu: u32,
    /// Length of each load.
    pub(crate) seconds: f64,
    /// The load with nobody looking.
    pub(crate) alone: Window,
    pub(crate) samples: Found<Samples>,
    pub(crate) calls: Found<Calls>,
    /// Calls of the C library's allocation functions.
    pub(crate) allocations: Found<u64>,
    pub(crate) replay: Found<Replay>,
}

/// One run of the load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Window {
    pub(crate) metrics: Vec<Metric>,
    pub(crate) frames: Frames,
    pub(crate) switches: Switches,
    pub(crate) engine_cpu_s: f64,
    /// Share of the machine that others used meanwhile, 0 to 1.
    pub(crate) other_load: f64,
}

/// What a way of looking saw, beside the run in which it did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Found<T> {
    Seen {
        window: Window,
        seen: T,
    },
    /// Why it saw nothing.
    Missing(String),
}

/// Samples of the engine's threads.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Samples {
    /// What was sampled: `cycles`, or `cpu-clock` where the processor counts none for us.
    pub(crate) event: String,
    pub(crate) threads: Vec<Thread>,
}

impl Profile {
    /// For the terminal.
    pub(crate) fn to_text(&self) -> String {
        let facts = self.facts.line();
        let (peer, case, mtu) = (&self.peer, &self.case, self.mtu);
        let mut text = format!(
            "{facts}\n\
             {peer}, {case}, MTU {mtu}, {} s a load; a frame is what passes the guest's \
             interface, up to 64 KiB with offloads\n\n{}",
            self.seconds,
            self.frames_table()
        );
        text += &self.threads_text();
        if let Found::Seen { seen: calls, .. } = &self.calls {
            text += &calls_text(calls);
        }
        if let Found::Seen { seen: replay, .. } = &self.replay {
            let _ = writeln!(
                text,
                "\nReplay of recorded frames through the core ({} from the guest, {} to it): {} \
                 instructions a frame",
                replay.frames_in,
                replay.frames_out,
                number(replay.instructions_per_frame)
            );
        }
        for (what, why) in self.missing() {
            let _ = writeln!(text, "\nNot measured: {what}: {why}");
        }
        text
    }

    fn missing(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("samples", self.samples.why_missing()),
            ("system calls and copies", self.calls.why_missing()),
            ("allocations", self.allocations.why_missing()),
            ("instructions", self.replay.why_missing()),
        ];
        all.into_iter()
            .filter_map(|(what, why)| Some((what, why?)))
            .collect()
    }

    /// A row per way of looking: what the load came to under it, and what it counted per frame.
    fn frames_table(&self) -> Table {
        let left = |name: &str| (name.to_owned(), Align::Left);
        let right = |name: &str| (name.to_owned(), Align::Right);
        let mut table = Table::new([
            left("run"),
            right("result"),
            right("frames up"),
            right("down"),
            right("bytes/frame"),
            right("CPU µs/frame"),
            right("others"),
            left("per frame"),
        ]);
        let switches = |window: &Window| {
            let (frames, switches) = (window.frames, window.switches);
            format!(
                "{} voluntary, {} involuntary context switches",
                per(switches.voluntary, frames),
                per(switches.involuntary, frames)
            )
        };
        table.row(row("alone", &self.alone, switches(&self.alone)));
        if let Found::Seen { window, .. } = &self.samples {
            table.row(row("perf record", window, String::new()));
        }
        if let Found::Seen { window, seen } = &self.calls {
            let words = format!(
                "{} system calls, {} io_uring completions, {} bytes copied",
                per(seen.count(), window.frames),
                per(seen.uring_completions, window.frames),
                per(seen.copied_bytes(), window.frames)
            );
            table.row(row("calls recorded", window, words));
        }
        if let Found::Seen { window, seen } = &self.allocations {
            let words = format!("{} allocations", per(*seen, window.frames));
            table.row(row("allocations probed", window, words));
        }
        table
    }

    fn threads_text(&self) -> String {
        let Found::Seen { seen: samples, .. } = &self.samples else {
            return String::new();
        };
        let all: u64 = samples.threads.iter().map(|thread| thread.samples).sum();
        let mut text = String::new();
        if samples.event == "cpu-clock" {
            text += "\nThis machine counts no cycles for us. The timer instead cannot look where \
                     interrupts are off:\nthat time stands at the function that turns them on \
                     again, such as _raw_spin_unlock_irqrestore.\n";
        }
        for thread in samples
            .threads
            .iter()
            .filter(|thread| thread.graph.is_some())
        {
            let percent = |share: f64| number(share * 100.0);
            let _ = writeln!(
                text,
                "\nThread {} ({}): {} % of {all} samples of {}; kernel {} %, copying {} %",
                thread.name,
                thread.id,
                percent(thread.samples as f64 / all.max(1) as f64),
                samples.event,
                percent(thread.kernel),
                percent(thread.copying)
            );
            for function in thread.functions.iter().take(FUNCTIONS) {
                let whose = if function.kernel { "kernel" } else { "engine" };
                let (share, name) = (percent(function.share), &function.name);
                let _ = writeln!(text, "  {share:>5} %  {whose}  {name}");
            }
        }
        text
    }
}

impl<T> Found<T> {
    fn why_missing(&self) -> Option<&str> {
        match self {
            Found::Seen { .. } => None,
            Found::Missing(why) => Some(why),
        }
    }
}

fn row(name: &str, window: &Window, words: String) -> [String; 8] {
    let Window {
        metrics,
        frames,
        switches: _,
        engine_cpu_s,
        other_load,
    } = window;
    let result = metrics.first().map_or_else(
        || "–".to_owned(),
        |one| format!("{} {}", number(one.value), one.unit),
    );
    let cpu_us = (engine_cpu_s * 1e6) as u64;
    [
        name.to_owned(),
        result,
        frames.up.to_string(),
        frames.down.to_string(),
        per(frames.up_bytes + frames.down_bytes, *frames),
        per(cpu_us, *frames),
        format!("{:.0} %", other_load * 100.0),
        words,
    ]
}

fn per(amount: u64, frames: Frames) -> String {
    number(amount as f64 / frames.count().max(1) as f64)
}

fn calls_text(calls: &Calls) -> String {
    let mut text = String::from("\nSystem calls:");
    for call in calls.by_name.iter().take(CALLS) {
        let _ = write!(text, " {} {},", call.name, call.count);
    }
    let all = calls.copied_bytes();
    let _ = write!(
        text,
        " {} in all.\nCopied between kernel and engine: {all} bytes, {} of them by io_uring \
         operations; {} are confirmed by the kernel's tracepoint for copies out of packets.\n",
        calls.count(),
        calls.uring_bytes,
        calls.copied_out_bytes
    );
    if calls.by_name.iter().any(|call| call.name.ends_with("mmsg")) {
        text += "The bytes of recvmmsg and sendmmsg are not in it: these tell no bytes.\n";
    }
    if calls.lost {
        text += "The kernel lost events in this run: the counts of calls and copies are too low.\n";
    }
    text
}
