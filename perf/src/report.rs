//! From runs to rows: medians, ratios, the table that people read and the JSON that programs read.

use std::fmt::Write;

use serde::Serialize;

use crate::cases::{self, Better, Case, Metric};
use crate::facts::Facts;
use crate::loadgen::Measured;
use crate::peers::{Peer, Presence};
use crate::stats::Spread;
use crate::table::{Align, Table, number};

/// Above this share of the machine being busy before a run, the table warns.
const LOAD_MAX: f64 = 0.1;

/// One load through one peer, once.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) mtu: u32,
    pub(crate) case: Case,
    pub(crate) peer: Peer,
    /// From 1.
    pub(crate) round: u32,
    /// Share of the machine that others used just before, 0 to 1.
    pub(crate) load_before: f64,
    #[serde(flatten)]
    pub(crate) end: End,
}

/// How a run ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    Measured(Sample),
    Failed(String),
}

/// What a run measured.
#[derive(Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) client: Measured,
    pub(crate) metrics: Vec<Metric>,
    /// CPU time of the engine's processes while the client ran; `None` for the limits.
    pub(crate) engine_cpu_s: Option<f64>,
    /// CPU time of the whole machine while the client ran.
    pub(crate) machine_cpu_s: f64,
}

/// All of a comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) facts: Facts,
    pub(crate) rounds: u32,
    /// Length of one load.
    pub(crate) seconds: f64,
    /// Whether receivers of bulk streams copy the bytes; else the kernel throws them away.
    pub(crate) copies: bool,
    pub(crate) peers: Vec<Presence>,
    pub(crate) runs: Vec<Run>,
}

/// A metric over the rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    name: &'static str,
    unit: &'static str,
    better: Better,
    #[serde(flatten)]
    spread: Spread,
}

/// One peer in one case at one MTU, over the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    mtu: u32,
    case: Case,
    peer: Peer,
    /// The first one is what is compared.
    figures: Vec<Figure>,
    /// How many times as good as the veth pair with offloads; above 1 is better for every metric.
    times_veth: Option<f64>,
    /// How many times as good as the better of pasta and slirp4netns.
    times_best_rival: Option<f64>,
    cost_unit: Option<&'static str>,
    engine_cost: Option<Spread>,
    machine_cost: Option<Spread>,
    load_before_max: f64,
    runs: usize,
    failures: Vec<String>,
}

/// Report and rows, as they are written to `results.json`.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    summary: Vec<Row>,
}

impl Report {
    /// The whole as JSON.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&Document {
            report: self,
            summary: self.rows(),
        })
    }

    /// One row per MTU, case and peer, in the order of the first runs.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for run in &self.runs {
            let same = |row: &Row| (row.mtu, row.case, row.peer) == (run.mtu, run.case, run.peer);
            if !rows.iter().any(same) {
                rows.push(self.row(run.mtu, run.case, run.peer));
            }
        }
        let medians: Vec<_> = rows.iter().filter_map(Row::median).collect();
        for row in &mut rows {
            let Some(figure) = row.figures.first() else {
                continue;
            };
            let (better, value) = (figure.better, figure.spread.median);
            let same_case = medians
                .iter()
                .filter(|one| (one.0, one.1) == (row.mtu, row.case));
            let veth = same_case
                .clone()
                .find(|one| one.2 == Peer::Veth)
                .map(|one| one.3);
            let rivals = same_case.filter(|one| one.2.is_rival()).map(|one| one.3);
            row.times_veth = veth.and_then(|veth| times(better, value, veth));
            row.times_best_rival =
                best(better, rivals).and_then(|rival| times(better, value, rival));
        }
        rows
    }

    fn row(&self, mtu: u32, case: Case, peer: Peer) -> Row {
        let runs = || {
            self.runs
                .iter()
                .filter(move |run| (run.mtu, run.case, run.peer) == (mtu, case, peer))
        };
        let mut samples = Vec::new();
        let mut failures = Vec::new();
        for run in runs() {
            match &run.end {
                End::Measured(sample) => samples.push(sample),
                End::Failed(why) => failures.push(why.clone()),
            }
        }
        let work: Vec<_> = samples
            .iter()
            .map(|sample| cases::work(&sample.client))
            .collect();
        let cost = |cpu: &dyn Fn(&Sample) -> Option<f64>| {
            let each = samples.iter().zip(&work);
            Spread::of(each.filter_map(|(sample, work)| (*work)?.cost(cpu(sample)?)))
        };
        Row {
            mtu,
            case,
            peer,
            figures: figures(&samples),
            times_veth: None,
            times_best_rival: None,
            cost_unit: work.iter().flatten().next().map(|work| work.cost_unit()),
            engine_cost: cost(&|sample| sample.engine_cpu_s),
            machine_cost: cost(&|sample| Some(sample.machine_cpu_s)),
            load_before_max: runs().map(|run| run.load_before).fold(0.0, f64::max),
            runs: runs().count(),
            failures,
        }
    }

    /// The tables, one per case and MTU, below what a reader must know.
    pub(crate) fn to_text(&self) -> String {
        let mut text = self.head();
        let rows = self.rows();
        for group in rows.chunk_by(|one, next| (one.mtu, one.case) == (next.mtu, next.case)) {
            let _ = write!(text, "\n{}", group_text(group));
        }
        let load = rows
            .iter()
            .map(|row| row.load_before_max)
            .fold(0.0, f64::max);
        if load > LOAD_MAX {
            let percent = number(load * 100.0);
            let _ = writeln!(
                text,
                "\nThe machine was not quiet: up to {percent} % of it was busy before a run. \
                 Compare within a table only, and run again when it is quiet."
            );
        }
        text
    }

    fn head(&self) -> String {
        let Facts {
            started_at: _,
            kernel,
            cpu,
            cores,
            congestion,
            tcp_rmem,
            tcp_wmem,
        } = &self.facts;
        let mut text = format!(
            "{kernel}, {cores} cores, {cpu}\n\
             TCP congestion control {congestion}; tcp_rmem {tcp_rmem}; tcp_wmem {tcp_wmem}\n\
             rounds: {}, peers in turn; seconds a load: {}; bulk receivers {}; median and range\n",
            self.rounds,
            self.seconds,
            if self.copies { "copy" } else { "discard" },
        );
        for Presence {
            peer,
            version,
            missing,
        } in &self.peers
        {
            let name = peer.name();
            let _ = match (version, missing) {
                (_, Some(why)) => writeln!(text, "{name}: missing ({why})"),
                (Some(version), None) => writeln!(text, "{name}: {version}"),
                (None, None) => writeln!(text, "{name}: no version known"),
            };
        }
        text
    }
}

impl Row {
    fn median(&self) -> Option<(u32, Case, Peer, f64)> {
        Some((
            self.mtu,
            self.case,
            self.peer,
            self.figures.first()?.spread.median,
        ))
    }
}

/// Each metric over the samples; the metrics of a case are the same in every run.
fn figures(samples: &[&Sample]) -> Vec<Figure> {
    let Some(first) = samples.first() else {
        return Vec::new();
    };
    let figure = |metric: &Metric| {
        let same = samples.iter().flat_map(|sample| &sample.metrics);
        let same = same
            .filter(|other| other.name == metric.name)
            .map(|other| other.value);
        let &Metric {
            name,
            unit,
            better,
            value: _,
        } = metric;
        Spread::of(same).map(|spread| Figure {
            name,
            unit,
            better,
            spread,
        })
    };
    first.metrics.iter().filter_map(figure).collect()
}

/// How many times as good `value` is as `reference`; `None` where a zero makes that meaningless.
fn times(better: Better, value: f64, reference: f64) -> Option<f64> {
    let (over, under) = match better {
        Better::More => (value, reference),
        Better::Less => (reference, value),
    };
    (over > 0.0 && under > 0.0).then(|| over / under)
}

fn best(better: Better, values: impl Iterator<Item = f64>) -> Option<f64> {
    match better {
        Better::More => values.reduce(f64::max),
        Better::Less => values.reduce(f64::min),
    }
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
    let unit = rows.iter().find_map(|row| row.cost_unit).unwrap_or("");
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
            format!("machine CPU {unit}").trim_end().to_owned(),
            Align::Right,
        ),
        ("load before".to_owned(), Align::Right),
        ("also".to_owned(), Align::Left),
    ];
    let mut table = Table::new(columns);
    let mut notes = String::new();
    let or_dash = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    for row in rows {
        let spread = row.figures.first().map(|figure| figure.spread);
        let also: Vec<String> = row.figures.iter().skip(1).map(also).collect();
        table.row([
            row.peer.name().to_owned(),
            or_dash(spread.map(|spread| spread.median)),
            spread.map_or_else(String::new, |spread| {
                format!("{}–{}", number(spread.min), number(spread.max))
            }),
            or_dash(row.times_veth),
            or_dash(row.times_best_rival),
            or_dash(row.engine_cost.map(|cost| cost.median)),
            or_dash(row.machine_cost.map(|cost| cost.median)),
            format!("{} %", (row.load_before_max * 100.0).round()),
            also.join(", "),
        ]);
        if let Some(why) = row.failures.first() {
            let (name, failed, runs) = (row.peer.name(), row.failures.len(), row.runs);
            let _ = writeln!(notes, "  {name}: {failed} of {runs} runs failed: {why}");
        }
    }
    let (case, mtu) = (first.case.name(), first.mtu);
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
    use crate::loadgen::bulk::Bulk;

    fn sample(gbit_per_s: f64, engine_cpu_s: Option<f64>) -> End {
        let client = Measured::BulkUp(Bulk {
            streams: 1,
            bytes: 1 << 30,
            seconds: 1.0,
            gbit_per_s,
            stream_bytes_min: 1 << 30,
            stream_bytes_max: 1 << 30,
            verified: false,
        });
        let metrics = cases::metrics(&client, None);
        End::Measured(Sample {
            client,
            metrics,
            engine_cpu_s,
            machine_cpu_s: 2.0,
        })
    }

    fn report() -> Report {
        let run = |peer, round, end| Run {
            mtu: 1500,
            case: Case::TcpUp,
            peer,
            round,
            load_before: 0.01,
            end,
        };
        Report {
            facts: Facts::gather("reno"),
            rounds: 3,
            seconds: 1.0,
            copies: false,
            peers: vec![Presence {
                peer: Peer::Slirp4netns,
                version: None,
                missing: Some("not here".to_owned()),
            }],
            runs: vec![
                run(Peer::Towpath, 1, sample(8.0, Some(0.5))),
                run(Peer::Pasta, 1, sample(1.0, Some(4.0))),
                run(Peer::Veth, 1, sample(20.0, None)),
                run(Peer::Towpath, 2, sample(9.0, Some(0.25))),
                run(Peer::Pasta, 2, End::Failed("pasta: it broke".to_owned())),
                run(Peer::Veth, 2, sample(16.0, None)),
                run(Peer::Towpath, 3, sample(10.0, Some(0.75))),
            ],
        }
    }

    #[test]
    fn rows_have_medians_ratios_and_costs() {
        let rows = report().rows();
        assert_eq!(rows.len(), 3);
        let towpath = &rows[0];
        assert_eq!(
            towpath.figures[0].spread,
            Spread {
                median: 9.0,
                min: 8.0,
                max: 10.0
            }
        );
        assert_eq!(towpath.times_veth, Some(0.5));
        assert_eq!(towpath.times_best_rival, Some(9.0));
        assert_eq!(towpath.engine_cost.unwrap().median, 0.5);
        assert_eq!(towpath.machine_cost.unwrap().median, 2.0);
        assert_eq!(rows[1].failures, ["pasta: it broke"]);
        assert!(rows[2].engine_cost.is_none());
    }

    #[test]
    fn the_text_names_what_is_missing_and_what_failed() {
        let text = report().to_text();
        assert!(text.contains("slirp4netns: missing (not here)"), "{text}");
        assert!(text.contains("congestion control reno"), "{text}");
        assert!(
            text.contains("tcp-up, MTU 1500: throughput in Gbit/s, more is better"),
            "{text}"
        );
        assert!(
            text.contains("pasta: 1 of 2 runs failed: pasta: it broke"),
            "{text}"
        );
        assert!(!text.contains("not quiet"), "{text}");
    }

    #[test]
    fn a_busy_machine_is_named() {
        let mut report = report();
        report.runs[0].load_before = 0.5;
        assert!(report.to_text().contains("up to 50.0 % of it was busy"));
    }

    #[test]
    fn the_json_holds_runs_and_summary() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json().unwrap()).unwrap();
        assert_eq!(json["runs"].as_array().unwrap().len(), 7);
        assert_eq!(json["runs"][4]["failed"], "pasta: it broke");
        assert_eq!(json["runs"][0]["measured"]["client"]["gbit_per_s"], 8.0);
        assert_eq!(json["summary"][0]["peer"], "towpath");
        assert_eq!(json["summary"][0]["figures"][0]["median"], 9.0);
        assert_eq!(json["facts"]["congestion"], "reno");
    }

    #[test]
    fn less_is_better_turns_the_ratio() {
        assert_eq!(times(Better::More, 2.0, 1.0), Some(2.0));
        assert_eq!(times(Better::Less, 2.0, 1.0), Some(0.5));
        assert_eq!(times(Better::Less, 0.0, 1.0), None);
        assert_eq!(best(Better::Less, [3.0, 2.0].into_iter()), Some(2.0));
    }
}
