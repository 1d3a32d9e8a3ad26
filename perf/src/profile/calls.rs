//! System calls by name, io_uring operations, and the bytes that both moved between the kernel and
//! the engine.
//!
//! From three of the kernel's tracepoints, recorded in a run of its own: the end of every system
//! call with its result, the completion of every io_uring operation with its result, and every
//! copy of a packet out of the kernel with its length. The result of a call or operation that moves
//! data is the number of bytes that the kernel copied for it. The tracepoint of the copies knows
//! one direction only (out of the kernel), so it serves as a check on that direction.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use syscalls::Sysno;

use super::perf::{self, Perf};
use crate::failure::{Failure, Outcome};
use crate::sandbox;

/// What is recorded.
const EVENTS: &str = "raw_syscalls:sys_exit,io_uring:io_uring_complete,skb:skb_copy_datagram_iovec";
/// Kernel memory for the events of a processor: at 100 bytes an event some 0.3 s of a busy engine,
/// should `perf` not get to run.
const BUFFER: &str = "32M";

/// What one run came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Calls {
    /// System calls by name, most first.
    pub(crate) by_name: Vec<Call>,
    /// io_uring operations that completed (multishot ones each time).
    pub(crate) uring_completions: u64,
    /// Bytes that io_uring operations moved.
    pub(crate) uring_bytes: u64,
    /// Bytes that the kernel copied out of packets to the engine, by its own tracepoint; a part of
    /// what the calls and operations moved.
    pub(crate) copied_out_bytes: u64,
    /// Whether the kernel threw events away because `perf` was too slow: then all are too few.
    pub(crate) lost: bool,
}

/// One system call.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) count: u64,
    /// Bytes that it moved; 0 for a call that moves none.
    pub(crate) bytes: u64,
}

impl Calls {
    /// System calls of any name.
    pub(crate) fn count(&self) -> u64 {
        self.by_name.iter().map(|call| call.count).sum()
    }

    /// Bytes that were copied between kernel and engine, both ways.
    pub(crate) fn copied_bytes(&self) -> u64 {
        self.uring_bytes + self.by_name.iter().map(|call| call.bytes).sum::<u64>()
    }
}

/// Runs `load` while the calls of these processes are recorded.
///
/// # Errors
/// `perf` is missing or may not look, or the load fails.
pub(crate) fn count<T>(pids: &[u32], load: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Calls)> {
    let data = Path::new(sandbox::DIRECTORY).join("calls.data");
    let path = data.to_string_lossy().into_owned();
    let args = ["-m", BUFFER, "-e", EVENTS, "-o", &path];
    let mut perf = Perf::start("record", pids, &args)?;
    perf.enable()?;
    let result = load()?;
    perf.disable()?;
    let words = perf.finish()?;
    let script = perf::script(&data, "event,trace")?;
    let _ = std::fs::remove_file(&data);
    let mut calls = parse(&String::from_utf8_lossy(&script));
    calls.lost = words.contains("lost");
    if calls.count() == 0 {
        return Err(Failure::new("no system call was seen"));
    }
    Ok((result, calls))
}

/// Reads lines such as `raw_syscalls:sys_exit: NR 426 = 1`.
fn parse(script: &str) -> Calls {
    let mut calls = Calls::default();
    let mut by_name: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in script.lines() {
        if let Some(rest) = after(line, "raw_syscalls:sys_exit:") {
            let Some((number, result)) = rest.strip_prefix("NR ").and_then(|r| r.split_once(" = "))
            else {
                continue;
            };
            let name = name(number.trim());
            let bytes = if moves_bytes(&name) {
                positive(result)
            } else {
                0
            };
            let entry = by_name.entry(name).or_default();
            entry.0 += 1;
            entry.1 += bytes;
        } else if let Some(rest) = after(line, "io_uring:io_uring_complete:") {
            calls.uring_completions += 1;
            calls.uring_bytes += word_after(rest, "result ").map_or(0, positive);
        } else if let Some(rest) = after(line, "skb:skb_copy_datagram_iovec:") {
            calls.copied_out_bytes += word_after(rest, "len=").map_or(0, positive);
        }
    }
    let calls_by_name =
        by_name
            .into_iter()
            .map(|(name, (count, bytes))| Call { name, count, bytes });
    calls.by_name = calls_by_name.collect();
    calls
        .by_name
        .sort_by_key(|call| std::cmp::Reverse(call.count));
    calls
}

fn after<'a>(line: &'a str, event: &str) -> Option<&'a str> {
    line.trim_start().strip_prefix(event).map(str::trim_start)
}

fn word_after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(mark)?;
    rest.split([' ', ',']).next()
}

/// A result above zero; errors are negative.
fn positive(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The name of a system call by its number on this machine.
fn name(number: &str) -> String {
    number
        .parse()
        .ok()
        .and_then(Sysno::new)
        .map_or_else(|| format!("call {number}"), |sysno| sysno.name().to_owned())
}

/// Whether a call's result is a number of bytes that the kernel copied. `recvmmsg` and `sendmmsg`
/// tell a number of messages, so their bytes are missing.
fn moves_bytes(name: &str) -> bool {
    matches!(
        name,
        "read"
            | "readv"
            | "pread64"
            | "preadv"
            | "preadv2"
            | "write"
            | "writev"
            | "pwrite64"
            | "pwritev"
            | "pwritev2"
            | "recvfrom"
            | "recvmsg"
            | "sendto"
            | "sendmsg"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_operations_and_copies_are_told_apart() {
        let read = Sysno::read as i32;
        let enter = Sysno::io_uring_enter as i32;
        let script = format!(
            "raw_syscalls:sys_exit: NR {read} = 1448\n\
             raw_syscalls:sys_exit: NR {read} = -11\n\
             raw_syscalls:sys_exit: NR {enter} = 3\n\
             raw_syscalls:sys_exit: NR {enter} = 1\n\
             raw_syscalls:sys_exit: NR {enter} = 1\n\
             io_uring:io_uring_complete: ring 0x1, req 0x2, user_data 0x3, result 100, cflags 0x1\n\
             io_uring:io_uring_complete: ring 0x1, req 0x2, user_data 0x3, result -125, cflags 0x0\n\
             skb:skb_copy_datagram_iovec: skbaddr=0x1 len=90\n\
             other:event: NR 1 = 5\n"
        );
        let calls = parse(&script);
        assert_eq!(
            calls.by_name[0],
            Call {
                name: "io_uring_enter".into(),
                count: 3,
                bytes: 0
            }
        );
        assert_eq!(
            calls.by_name[1],
            Call {
                name: "read".into(),
                count: 2,
                bytes: 1448
            }
        );
        assert_eq!((calls.uring_completions, calls.uring_bytes), (2, 100));
        assert_eq!(calls.copied_out_bytes, 90);
        assert_eq!((calls.count(), calls.copied_bytes()), (5, 1548));
    }

    #[test]
    fn an_unknown_number_keeps_its_number() {
        assert_eq!(name("99999"), "call 99999");
    }
}
