//! What a comparison is doing, for whoever waits.
//!
//! A terminal gets one line that changes, with what runs and how long it may still take, and a line
//! that stays for each case that is done. Anything else (a file, a build's log) gets a plain line
//! for each run.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::results::{End, Run};
use crate::stats::Spread;
use crate::table::number;

/// Goes to the start of the line and empties it.
const CLEAR: &str = "\r\x1b[2K";

/// Where a comparison is.
pub(crate) struct Progress {
    terminal: bool,
    total: usize,
    done: usize,
    started: Instant,
    /// What a run is thought to take before one has been seen.
    guess: Duration,
    /// Runs of the case that is under way.
    case: Vec<Run>,
}

impl Progress {
    /// At the start of `total` runs, each of which may take about `guess`.
    pub(crate) fn new(total: usize, guess: Duration) -> Progress {
        Progress {
            terminal: io::stderr().is_terminal(),
            total,
            done: 0,
            started: Instant::now(),
            guess,
            case: Vec::new(),
        }
    }

    /// Something that is no run begins.
    pub(crate) fn says(&self, what: &str) {
        self.line(what);
    }

    /// A run begins.
    pub(crate) fn begins(&self, what: &str) {
        if self.terminal {
            let gone = self.started.elapsed();
            let number = self.done + 1;
            let (gone, left) = (duration(gone), duration(self.left(gone)));
            let total = self.total;
            self.line(&format!(
                "[{number}/{total}] {what}; {gone} gone, {left} left"
            ));
        }
    }

    /// A run has ended.
    pub(crate) fn ended(&mut self, run: &Run) {
        self.done += 1;
        if !self.terminal {
            eprintln!("[{}/{}] {}", self.done, self.total, run_text(run));
            return;
        }
        let same = |before: &Run| (before.mtu, &before.case) == (run.mtu, &run.case);
        if !self.case.first().is_none_or(same) {
            self.case_ended();
        }
        self.case.push(run.clone());
        if self.done == self.total {
            self.case_ended();
        }
    }

    fn case_ended(&mut self) {
        eprintln!("{CLEAR}{}", case_text(&self.case));
        self.case.clear();
    }

    /// A line that the next one overwrites on a terminal; elsewhere a line.
    fn line(&self, text: &str) {
        if self.terminal {
            // What does not fit into a line would stay when the next one overwrites it.
            let size = rustix::termios::tcgetwinsize(io::stderr());
            let width = size.map_or(0, |size| usize::from(size.ws_col));
            let width = if width == 0 { 80 } else { width };
            let text: String = text.chars().take(width - 1).collect();
            eprint!("{CLEAR}{text}");
            // A terminal that is gone is no reason to stop measuring.
            let _ = io::stderr().flush();
        } else {
            eprintln!("{text}");
        }
    }

    fn left(&self, gone: Duration) -> Duration {
        let each = match self.done {
            0 => self.guess,
            done => gone / done as u32,
        };
        each * (self.total - self.done) as u32
    }
}

/// A run in a line.
fn run_text(run: &Run) -> String {
    let result = match &run.end {
        End::Failed(why) => format!("failed: {why}"),
        End::Measured(sample) => match sample.metrics.first() {
            Some(metric) => format!("{} {}", number(metric.value), metric.unit),
            None => "done".to_owned(),
        },
    };
    let (case, mtu, round, peer) = (&run.case, run.mtu, run.round, &run.peer);
    let again = match run.attempts {
        1 => String::new(),
        times => format!(" (run {times} times: others used the machine)"),
    };
    format!("{case} MTU {mtu} round {round} {peer}: {result}{again}")
}

/// All peers' medians in one case, in a line.
fn case_text(runs: &[Run]) -> String {
    let Some(first) = runs.first() else {
        return String::new();
    };
    let mut peers: Vec<&str> = Vec::new();
    for run in runs {
        if !peers.contains(&run.peer.as_str()) {
            peers.push(&run.peer);
        }
    }
    let metric = |run: &Run| match &run.end {
        End::Measured(sample) => sample.metrics.first().cloned(),
        End::Failed(_) => None,
    };
    let unit = runs.iter().find_map(metric).map(|metric| metric.unit);
    let medians = peers.into_iter().map(|peer| {
        let same = runs.iter().filter(|run| run.peer == peer);
        let values = same.filter_map(metric).map(|metric| metric.value);
        match Spread::of(values) {
            Some(spread) => format!("{peer} {}", number(spread.median)),
            None => format!("{peer} failed"),
        }
    });
    let medians = medians.collect::<Vec<_>>().join(", ");
    let (case, mtu) = (&first.case, first.mtu);
    format!("{case} MTU {mtu}: {medians} {}", unit.unwrap_or_default())
}

/// A duration to the second.
fn duration(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::report;

    #[test]
    fn a_case_is_a_line_of_medians() {
        assert_eq!(
            case_text(&report().runs),
            "tcp-up MTU 1500: towpath 9.00, pasta 1.00, veth 18.0 Gbit/s"
        );
        let failed = &report().runs[4..5];
        assert_eq!(case_text(failed), "tcp-up MTU 1500: pasta failed ");
    }

    #[test]
    fn a_run_is_a_line_that_says_when_it_was_made_again() {
        let mut run = report().runs[0].clone();
        assert_eq!(
            run_text(&run),
            "tcp-up MTU 1500 round 1 towpath: 8.00 Gbit/s"
        );
        run.attempts = 2;
        assert!(run_text(&run).ends_with("(run 2 times: others used the machine)"));
    }

    #[test]
    fn what_is_left_is_what_a_run_took_for_each_that_is_to_come() {
        let mut progress = Progress::new(10, Duration::from_secs(3));
        assert_eq!(progress.left(Duration::ZERO), Duration::from_secs(30));
        progress.done = 4;
        assert_eq!(
            progress.left(Duration::from_secs(8)),
            Duration::from_secs(12)
        );
        assert_eq!(duration(Duration::from_secs(75)), "1 min 15 s");
    }
}
