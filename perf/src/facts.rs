//! What a reader must know of the machine to judge the numbers.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The machine, and how it was set for the runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Seconds since 1970 at the start of the comparison.
    pub(crate) started_at: u64,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    /// TCP congestion control of every socket in the runs, at guest and host.
    pub(crate) congestion: String,
    /// `net.ipv4.tcp_rmem` and `tcp_wmem`: least, default and most bytes of a socket's buffers.
    pub(crate) tcp_rmem: String,
    pub(crate) tcp_wmem: String,
}

impl Facts {
    /// The machine and the congestion control in a line, without its end.
    pub(crate) fn line(&self) -> String {
        let Facts {
            kernel,
            cpu,
            cores,
            congestion,
            ..
        } = self;
        format!("{kernel}, {cores} cores, {cpu}; TCP congestion control {congestion}")
    }

    /// Gathers them; what cannot be read is `unknown`.
    pub(crate) fn gather(congestion: &str) -> Facts {
        let system = rustix::system::uname();
        let text = |path| fs::read_to_string(path).unwrap_or_else(|_| "unknown".to_owned());
        let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let started_at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |age| age.as_secs());
        Facts {
            started_at,
            kernel: format!(
                "{} {} {}",
                system.sysname().to_string_lossy(),
                system.release().to_string_lossy(),
                system.machine().to_string_lossy()
            ),
            cpu: cpu_model(&text("/proc/cpuinfo")).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            congestion: congestion.to_owned(),
            tcp_rmem: words(text("/proc/sys/net/ipv4/tcp_rmem")),
            tcp_wmem: words(text("/proc/sys/net/ipv4/tcp_wmem")),
        }
    }
}

/// The first `model name` of `/proc/cpuinfo`.
fn cpu_model(text: &str) -> &str {
    text.lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .trim_start()
                .strip_prefix(':')
        })
        .map_or("unknown", str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found() {
        let text = "processor\t: 0\nmodel name\t: A CPU: fast\nmodel name\t: B\n";
        assert_eq!(cpu_model(text), "A CPU: fast");
        assert_eq!(cpu_model("processor: 0"), "unknown");
    }
}
