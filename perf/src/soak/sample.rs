//! What an engine holds at one moment, as the kernel tells it.

use std::fs;

use serde::Serialize;

use crate::cpu::{memory_of_tree, processes_of_tree};
use crate::failure::{Context, Outcome};
use crate::netns::NetNs;

/// What the engine's processes hold together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Holdings {
    /// Anonymous and shared pages in RAM, without files.
    pub(super) memory_bytes: u64,
    /// Open file descriptors, sockets included.
    pub(super) descriptors: u64,
    /// Of these, sockets: an engine of host sockets has one for each flow.
    pub(super) sockets: u64,
    pub(super) threads: u64,
    /// TCP sockets in the host's namespace that are in use or linger: the engine's and those of the
    /// load server.
    pub(super) host_tcp: u64,
}

impl Holdings {
    /// What the process `engine` and those below it hold now; `host` is where their sockets are.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(super) fn of(engine: u32, host: &NetNs) -> Outcome<Holdings> {
        let mut holdings = Holdings {
            memory_bytes: memory_of_tree(engine),
            ..Holdings::default()
        };
        for pid in processes_of_tree(engine) {
            let entries = |name: &str| {
                let directory = fs::read_dir(format!("/proc/{pid}/{name}"));
                directory.into_iter().flatten().flatten()
            };
            for descriptor in entries("fd") {
                holdings.descriptors += 1;
                let target = fs::read_link(descriptor.path()).unwrap_or_default();
                let is_socket = target.to_string_lossy().starts_with("socket:");
                holdings.sockets += u64::from(is_socket);
            }
            holdings.threads += entries("task").count() as u64;
        }
        let text = host.enter(|| {
            fs::read_to_string("/proc/thread-self/net/sockstat").doing("count the host's sockets")
        })?;
        holdings.host_tcp = tcp_sockets(&text);
        Ok(holdings)
    }

    /// The most of each.
    pub(super) fn most(self, other: Holdings) -> Holdings {
        Holdings {
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            descriptors: self.descriptors.max(other.descriptors),
            sockets: self.sockets.max(other.sockets),
            threads: self.threads.max(other.threads),
            host_tcp: self.host_tcp.max(other.host_tcp),
        }
    }

    /// For people.
    pub(super) fn in_words(&self) -> String {
        let Holdings {
            memory_bytes,
            descriptors,
            sockets,
            threads,
            host_tcp,
        } = self;
        let mib = *memory_bytes as f64 / f64::from(1 << 20);
        format!(
            "memory {mib:.1} MiB, {descriptors} descriptors, {sockets} of them sockets, {threads} \
             threads; {host_tcp} TCP sockets in the host's namespace"
        )
    }
}

/// `inuse` and `orphan` in the line `TCP: inuse 5 orphan 0 tw 2 alloc 9 mem 1`.
fn tcp_sockets(sockstat: &str) -> u64 {
    let Some(line) = sockstat.lines().find_map(|line| line.strip_prefix("TCP:")) else {
        return 0;
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    words
        .chunks_exact(2)
        .filter(|pair| matches!(pair[0], "inuse" | "orphan"))
        .filter_map(|pair| pair[1].parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_in_use_and_orphans_count() {
        let text =
            "sockets: used 9\nTCP: inuse 5 orphan 2 tw 70 alloc 9 mem 1\nUDP: inuse 3 mem 0\n";
        assert_eq!(tcp_sockets(text), 7);
        assert_eq!(tcp_sockets("UDP: inuse 3"), 0);
    }
}
