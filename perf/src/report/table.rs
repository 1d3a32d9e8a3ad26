//! The tables that people read.

use std::fmt::Write;

use super::notes;
use crate::facts::Facts;
use crate::metrics::Better;
use crate::presence::Presence;
use crate::results::Report;
use crate::summary::{Figure, Row, rows};
use crate::table::{Align, Table, number};

/// The tables, one per case and MTU, below what a reader must know.
pub(crate) fn to_text(report: &Report) -> String {
    let mut text = head(report);
    let rows = rows(report);
    for group in rows.chunk_by(|one, next| (one.mtu, &one.case) == (next.mtu, &next.case)) {
        let _ = write!(text, "\n{}", group_text(group));
    }
    for warning in notes::warnings(report, &rows) {
        let _ = writeln!(text, "\n{warning}");
    }
    text
}

fn head(report: &Report) -> String {
    let Facts {
        started_at: _,
        kernel,
        cpu,
        cores,
        congestion,
        tcp_rmem,
        tcp_wmem,
    } = &report.facts;
    let mut text = format!(
        "{kernel}, {cores} cores, {cpu}\n\
         TCP congestion control {congestion}; tcp_rmem {tcp_rmem}; tcp_wmem {tcp_wmem}\n\
         rounds: {}, peers in turn; seconds a load: {}; bulk receivers {}; median and range\n",
        report.rounds,
        report.seconds,
        notes::receivers(report.receivers),
    );
    let reached = report.generator.iter().map(|reached| {
        let (case, metric) = (&reached.case, &reached.metric);
        format!("{case} {} {}", number(metric.value), metric.unit)
    });
    let reached = reached.collect::<Vec<_>>().join(", ");
    let _ = writeln!(
        text,
        "load generator alone, both ends on one core over veth: {reached}"
    );
    for Presence {
        peer,
        role: _,
        version,
        missing,
    } in &report.peers
    {
        let _ = match (version, missing) {
            (_, Some(why)) => writeln!(text, "{peer}: missing ({why})"),
            (Some(version), None) => writeln!(text, "{peer}: {version}"),
            (None, None) => writeln!(text, "{peer}: no version known"),
        };
    }
    text
}

/// The table of one case at one MTU.
fn group_text(rows: &[Row]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let title = rows
        .iter()
        .find_map(|row| row.figures.first())
        .map(|figure| {
            let Figure {
                name,
                unit,
                better,
                spread: _,
            } = figure;
            let better = if *better == Better::More {
                "more"
            } else {
                "less"
            };
            format!(": {name} in {unit}, {better} is better")
        });
    let unit = rows.iter().find_map(|row| row.cost_unit.as_deref());
    let unit = unit.unwrap_or("");
    let columns = [
        ("peer".to_owned(), Align::Left),
        ("median".to_owned(), Align::Right),
        ("min–max".to_owned(), Align::Right),
        ("×veth".to_owned(), Align::Right),
        ("×best rival".to_owned(), Align::Right),
        (
            format!("engine CPU {unit}").trim_end().to_owned(),
            Align::Right,
        ),
        (
            format!("bridge CPU {unit}").trim_end().to_owned(),
            Align::Right,
        ),
        (
            format!("machine CPU {unit}").trim_end().to_owned(),
            Align::Right,
        ),
        ("others before/during".to_owned(), Align::Right),
        ("also".to_owned(), Align::Left),
    ];
    let mut table = Table::new(columns);
    let mut notes = String::new();
    let or_dash = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    for row in rows {
        let spread = row.figures.first().map(|figure| figure.spread);
        let also: Vec<String> = row.figures.iter().skip(1).map(also).collect();
        table.row([
            row.peer.clone(),
            or_dash(spread.map(|spread| spread.median)),
            spread.map_or_else(String::new, |spread| {
                format!("{}–{}", number(spread.min), number(spread.max))
            }),
            or_dash(row.times_veth),
            or_dash(row.times_best_rival),
            or_dash(row.engine_cost.map(|cost| cost.median)),
            or_dash(row.bridge_cost.map(|cost| cost.median)),
            or_dash(row.machine_cost.map(|cost| cost.median)),
            format!(
                "{:.0}/{:.0} %",
                row.load_before_max * 100.0,
                row.other_load_max * 100.0
            ),
            also.join(", "),
        ]);
        if let Some(why) = row.failures.first() {
            let (name, failed, runs) = (&row.peer, row.failures.len(), row.runs);
            let _ = writeln!(notes, "  {name}: {failed} of {runs} runs failed: {why}");
        }
    }
    let (case, mtu) = (&first.case, first.mtu);
    format!(
        "{case}, MTU {mtu}{}\n{table}{notes}",
        title.unwrap_or_default()
    )
}

/// A further metric of a row, such as `p99 120 µs`.
fn also(figure: &Figure) -> String {
    let Figure {
        name,
        unit,
        better: _,
        spread,
    } = figure;
    let value = if unit.is_empty() && spread.median.fract() == 0.0 {
        format!("{:.0}", spread.median)
    } else {
        number(spread.median)
    };
    format!("{name} {value} {unit}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::report;

    #[test]
    fn the_text_names_what_is_missing_and_what_failed() {
        let text = to_text(&report());
        for part in [
            "slirp4netns: missing (not here)",
            "congestion control reno",
            "on one core over veth: tcp-connect 40000 connections/s",
            "tcp-up, MTU 1500: throughput in Gbit/s, more is better",
            "pasta: 1 of 2 runs failed: pasta: it broke",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("not quiet"), "{text}");
    }

    #[test]
    fn a_busy_machine_is_named() {
        let mut report = report();
        report.runs[0].load_before = 0.5;
        assert!(to_text(&report).contains("up to 50.0 % of it before a run"));
    }
}
