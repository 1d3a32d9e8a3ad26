//! Whether everything that the load took was given back.
//!
//! Descriptors, sockets and threads are compared with what the engine held before any load. Memory
//! is compared with what it held after a warm-up, because pools and the C library's heap grow at
//! first use and stay; what counts is that hours take no more than seconds.

use std::time::Duration;

use super::sample::Holdings;

/// Memory may be this share above its base …
const MEMORY_SHARE: f64 = 0.25;
/// … and this much: one heap more of the C library, one more buffer of a pool.
const MEMORY_BYTES: u64 = 16 << 20;
/// Descriptors, sockets and TCP sockets of the host may be this many above their base.
const DESCRIPTORS: u64 = 2;
/// Threads may be this many above their base: the kernel keeps a worker of io_uring for a while.
const THREADS: u64 = 2;

/// What an engine is to come back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base {
    /// Before any load.
    pub(super) fresh: Holdings,
    /// At rest after a warm-up.
    pub(super) warm: Holdings,
}

/// The allowances, in words, for the output.
pub(super) fn rule() -> String {
    format!(
        "allowed at the end: memory {} % and {} MiB above that after the warm-up; {DESCRIPTORS} \
         descriptors,\n{DESCRIPTORS} sockets and {THREADS} threads more than before any load",
        MEMORY_SHARE * 100.0,
        MEMORY_BYTES >> 20
    )
}

impl Base {
    /// A sentence for each thing that has not come back.
    pub(super) fn not_returned(&self, now: &Holdings, after: Duration) -> Vec<String> {
        let memory_max =
            (self.warm.memory_bytes as f64 * (1.0 + MEMORY_SHARE)) as u64 + MEMORY_BYTES;
        let (fresh, warm) = (&self.fresh, &self.warm);
        let counts = [
            (
                "descriptors",
                fresh.descriptors,
                now.descriptors,
                DESCRIPTORS,
            ),
            ("sockets", fresh.sockets, now.sockets, DESCRIPTORS),
            ("threads", fresh.threads, now.threads, THREADS),
            (
                "TCP sockets in the host's namespace",
                fresh.host_tcp,
                now.host_tcp,
                DESCRIPTORS,
            ),
        ];
        let seconds = after.as_secs();
        let mut sentences: Vec<String> = counts
            .into_iter()
            .filter(|&(_, base, now, allowance)| now > base + allowance)
            .map(|(what, base, now, allowance)| {
                format!(
                    "{what} did not return: {base} before the load, {now} still {seconds} s after \
                     it (allowed: {allowance} more)"
                )
            })
            .collect();
        if now.memory_bytes > memory_max {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            sentences.push(format!(
                "memory did not return: {:.1} MiB after the warm-up, {:.1} MiB still {seconds} s \
                 after the load (allowed: {:.1} MiB)",
                mib(warm.memory_bytes),
                mib(now.memory_bytes),
                mib(memory_max)
            ));
        }
        sentences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Holdings = Holdings {
        memory_bytes: 10 << 20,
        descriptors: 9,
        sockets: 1,
        threads: 3,
        host_tcp: 1,
    };
    const WARM: Holdings = Holdings {
        memory_bytes: 40 << 20,
        ..FRESH
    };
    const BASE: Base = Base {
        fresh: FRESH,
        warm: WARM,
    };

    fn sentences(now: Holdings) -> Vec<String> {
        BASE.not_returned(&now, Duration::from_secs(7))
    }

    #[test]
    fn what_is_back_within_the_allowance_passes() {
        assert!(sentences(WARM).is_empty());
        let edge = Holdings {
            memory_bytes: 66 << 20,
            descriptors: 11,
            sockets: 3,
            threads: 5,
            host_tcp: 3,
        };
        assert!(sentences(edge).is_empty());
    }

    #[test]
    fn each_thing_that_stays_is_named() {
        let leaks = [
            (
                Holdings {
                    memory_bytes: 67 << 20,
                    ..WARM
                },
                "memory did not return: 40.0 MiB",
            ),
            (
                Holdings {
                    descriptors: 12,
                    ..WARM
                },
                "descriptors did not return: 9 before",
            ),
            (
                Holdings { sockets: 4, ..WARM },
                "sockets did not return: 1 before",
            ),
            (
                Holdings { threads: 6, ..WARM },
                "threads did not return: 3 before",
            ),
            (
                Holdings {
                    host_tcp: 4,
                    ..WARM
                },
                "TCP sockets in the host's namespace did not",
            ),
        ];
        for (now, begin) in leaks {
            let sentences = sentences(now);
            assert_eq!(sentences.len(), 1, "{sentences:?}");
            assert!(sentences[0].starts_with(begin), "{sentences:?}");
        }
    }
}
