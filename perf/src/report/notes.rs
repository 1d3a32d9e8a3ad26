//! What a reader must be told beside the numbers; the same words in the terminal and in the page.

use crate::results::{Receivers, Report};
use crate::summary::Row;
use crate::table::number;

/// Above this share of the machine used by others before or during a run, there is a warning.
const LOAD_MAX: f64 = 0.1;
/// Above this width of the range, as a share of the median, there is a warning.
const SPREAD_MAX: f64 = 0.2;

/// Sentences about what makes the numbers less certain; empty where all is well.
pub(super) fn warnings(report: &Report, rows: &[Row]) -> Vec<String> {
    let mut warnings = Vec::new();
    let load = |of: fn(&Row) -> f64| rows.iter().map(of).fold(0.0, f64::max);
    let before = load(|row| row.load_before_max);
    let during = load(|row| row.other_load_max);
    if before.max(during) > LOAD_MAX {
        warnings.push(format!(
            "The machine was not quiet: others used up to {} % of it before a run and up to {} % \
             during one. Compare within a table only, and run again when it is quiet.",
            number(before * 100.0),
            number(during * 100.0)
        ));
    }
    let repeats: u32 = rows.iter().map(|row| row.repeats).sum();
    if repeats > 0 {
        warnings.push(format!(
            "Runs made again because others used the machine meanwhile: {repeats}."
        ));
    }
    let wide: Vec<String> = rows.iter().filter_map(wide).collect();
    if !wide.is_empty() {
        warnings.push(format!(
            "The range (max−min over median) is above {} %, so the median says little: {}.",
            SPREAD_MAX * 100.0,
            wide.join("; ")
        ));
    }
    if report.rounds < 3 {
        let rounds = report.rounds;
        warnings.push(format!(
            "With {rounds} of each run there is hardly a range to judge the medians by."
        ));
    }
    warnings
}

/// The row's name and the width of its range, where that is too wide.
fn wide(row: &Row) -> Option<String> {
    let spread = row.figures.first()?.spread;
    let width = (spread.max - spread.min) / spread.median;
    let (case, mtu, peer) = (&row.case, row.mtu, &row.peer);
    (width > SPREAD_MAX).then(|| format!("{case} MTU {mtu} {peer} {:.0} %", width * 100.0))
}

/// What the receivers of bulk streams do.
pub(super) fn receivers(receivers: Receivers) -> &'static str {
    match receivers {
        Receivers::Discard => "discard",
        Receivers::Copy => "copy",
        Receivers::Verify => "verify",
    }
}

/// What the columns and plots mean.
pub(super) const HOW_TO_READ: &[&str] = &[
    "Every run starts from nothing: new namespaces, a new load server, a new engine. The peers of \
     one case at one MTU run right after one another, round after round, because noise on a \
     machine comes in phases. Compare within a case and MTU, not across tables or machines.",
    "Bars show the median over the rounds, the thin line on them the least and the most. up is \
     from the guest to the host, down the other way. 'less is better' stands where it is so.",
    "CPU time is per GiB of payload, or per round trip or connection. engine is the process that \
     is measured with all below it, and the kernel's work in its system calls; bridge is our \
     process between a TAP and an engine with a socket; generator is both ends of the load; rest \
     is the kernel's work on nobody's behalf and whatever else ran.",
    "Curves of latencies come from the round whose median is in the middle. Each step to the \
     right leaves out nine tenths of what is left, so the rare long waits have as much room as \
     the rest.",
    "veth, veth-no-offload and loopback are limits: what the kernel and the load generator do \
     with no engine in between. No engine can be faster than the load generator.",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::rows;
    use crate::summary::tests::report;

    fn warnings_of(report: &Report) -> String {
        warnings(report, &rows(report)).join("\n")
    }

    #[test]
    fn a_busy_machine_and_wide_ranges_are_named() {
        let mut report = report();
        // 8 to 10 around 9.
        let text = warnings_of(&report);
        assert!(text.contains("tcp-up MTU 1500 towpath 22 %"), "{text}");
        assert!(!text.contains("pasta"), "{text}");
        assert!(
            !text.contains("not quiet") && !text.contains("made again"),
            "{text}"
        );
        report.runs[0].load_before = 0.5;
        report.runs[0].attempts = 3;
        let text = warnings_of(&report);
        assert!(text.contains("up to 50.0 % of it before"), "{text}");
        assert!(text.contains("meanwhile: 2."), "{text}");
    }

    #[test]
    fn one_round_has_no_range() {
        let mut report = report();
        assert!(!warnings_of(&report).contains("hardly a range"));
        report.rounds = 1;
        assert!(warnings_of(&report).contains("With 1 of each run"));
    }
}
