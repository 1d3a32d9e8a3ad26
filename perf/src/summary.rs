//! From runs to rows: medians over the rounds, ratios, CPU time per unit of work.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::metrics::{self, Better, Metric};
use crate::peers::Role;
use crate::results::{Cpu, End, Report, Sample};
use crate::stats::Spread;

/// A metric over the rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    #[serde(flatten)]
    pub(crate) spread: Spread,
}

/// One peer in one case at one MTU, over the rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) mtu: u32,
    pub(crate) case: String,
    pub(crate) peer: String,
    /// The first one is what is compared.
    pub(crate) figures: Vec<Figure>,
    /// How many times as good as the veth pair with offloads; above 1 is better for every metric.
    pub(crate) times_veth: Option<f64>,
    /// How many times as good as the best of the rivals.
    pub(crate) times_best_rival: Option<f64>,
    /// The unit of the costs: CPU time per GiB, or per round trip or connection.
    pub(crate) cost_unit: Option<String>,
    pub(crate) engine_cost: Option<Spread>,
    pub(crate) bridge_cost: Option<Spread>,
    pub(crate) generator_cost: Option<Spread>,
    pub(crate) machine_cost: Option<Spread>,
    /// Share of the machine that others used just before a run, at most; 0 to 1.
    pub(crate) load_before_max: f64,
    /// Share of the machine that others used during a run, at most; 0 to 1.
    pub(crate) other_load_max: f64,
    /// Runs that were made again because others used too much of the machine.
    pub(crate) repeats: u32,
    pub(crate) runs: usize,
    pub(crate) failures: Vec<String>,
}

/// Report and rows, as they are written to `results.json`.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    summary: Vec<Row>,
}

/// The whole as JSON: what was measured, and the rows under `summary`.
pub(crate) fn to_json(report: &Report) -> serde_json::Result<String> {
    let summary = rows(report);
    serde_json::to_string_pretty(&Document { report, summary })
}

/// One row per MTU, case and peer, in the order of the first runs.
pub(crate) fn rows(report: &Report) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for run in &report.runs {
        let same = |row: &Row| (row.mtu, &row.case, &row.peer) == (run.mtu, &run.case, &run.peer);
        if !rows.iter().any(same) {
            rows.push(row(report, run.mtu, &run.case, &run.peer));
        }
    }
    add_ratios(report, &mut rows);
    rows
}

fn row(report: &Report, mtu: u32, case: &str, peer: &str) -> Row {
    let runs = || {
        let all = report.runs.iter();
        all.filter(|run| (run.mtu, &*run.case, &*run.peer) == (mtu, case, peer))
    };
    let mut samples = Vec::new();
    let mut failures = Vec::new();
    for run in runs() {
        match &run.end {
            End::Measured(sample) => samples.push(&**sample),
            End::Failed(why) => failures.push(why.clone()),
        }
    }
    let work: Vec<_> = samples
        .iter()
        .map(|sample| metrics::work(&sample.client))
        .collect();
    let cost = |cpu: fn(&Cpu) -> Option<f64>| {
        let each = samples.iter().zip(&work);
        Spread::of(each.filter_map(|(sample, work)| (*work)?.cost(cpu(&sample.cpu)?)))
    };
    let unit = work.iter().flatten().next().map(|work| work.cost_unit());
    Row {
        mtu,
        case: case.to_owned(),
        peer: peer.to_owned(),
        figures: figures(&samples),
        times_veth: None,
        times_best_rival: None,
        cost_unit: unit.map(str::to_owned),
        engine_cost: cost(|cpu| cpu.engine_s),
        bridge_cost: cost(|cpu| cpu.bridge_s),
        generator_cost: cost(|cpu| Some(cpu.generator_s)),
        machine_cost: cost(|cpu| Some(cpu.machine_s)),
        load_before_max: runs().map(|run| run.load_before).fold(0.0, f64::max),
        other_load_max: samples
            .iter()
            .map(|sample| sample.other_load)
            .fold(0.0, f64::max),
        repeats: runs().map(|run| run.attempts - 1).sum(),
        runs: runs().count(),
        failures,
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
        Spread::of(same).map(|spread| Figure {
            name: metric.name.clone(),
            unit: metric.unit.clone(),
            better: metric.better,
            spread,
        })
    };
    first.metrics.iter().filter_map(figure).collect()
}

/// Compares each row with the veth pair and the rivals of its case and MTU.
fn add_ratios(report: &Report, rows: &mut [Row]) {
    let roles: HashMap<&str, Role> = report
        .peers
        .iter()
        .map(|one| (one.peer.as_str(), one.role))
        .collect();
    for group in rows.chunk_by_mut(|one, next| (one.mtu, &one.case) == (next.mtu, &next.case)) {
        let medians: Vec<(String, f64)> = group
            .iter()
            .filter_map(|row| Some((row.peer.clone(), row.figures.first()?.spread.median)))
            .collect();
        let veth = medians.iter().find(|one| one.0 == "veth").map(|one| one.1);
        let is_rival = |name: &str| roles.get(name) == Some(&Role::Rival);
        for row in group {
            let Some(figure) = row.figures.first() else {
                continue;
            };
            let (better, value) = (figure.better, figure.spread.median);
            let rivals = medians.iter().filter(|one| is_rival(&one.0));
            let rival = best(better, rivals.map(|one| one.1));
            row.times_veth = veth.and_then(|veth| times(better, value, veth));
            row.times_best_rival = rival.and_then(|rival| times(better, value, rival));
        }
    }
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::facts::Facts;
    use crate::loadgen::Measured;
    use crate::loadgen::bulk::Bulk;
    use crate::presence::Presence;
    use crate::reach::Reached;
    use crate::results::{Receivers, Run};

    fn sample(gbit_per_s: f64, engine_s: Option<f64>) -> End {
        let client = Measured::BulkUp(Bulk {
            streams: 1,
            bytes: 1 << 30,
            seconds: 1.0,
            gbit_per_s,
            stream_bytes_min: 1 << 30,
            stream_bytes_max: 1 << 30,
            verified: false,
        });
        let metrics = metrics::metrics(&client, None);
        let cpu = Cpu {
            engine_s,
            bridge_s: None,
            generator_s: 1.0,
            machine_s: 2.0,
        };
        End::Measured(Box::new(Sample {
            client,
            metrics,
            cpu,
            other_load: 0.02,
            start_ms: 5.0,
        }))
    }

    /// Seven runs of one case, one of which failed, and a peer that is missing.
    pub(crate) fn report() -> Report {
        let run = |peer: &str, round, end| Run {
            mtu: 1500,
            case: "tcp-up".to_owned(),
            peer: peer.to_owned(),
            round,
            load_before: 0.01,
            attempts: 1,
            end,
        };
        let presence = |peer: &str, role, missing: Option<&str>| Presence {
            peer: peer.to_owned(),
            role,
            version: None,
            missing: missing.map(str::to_owned),
        };
        Report {
            facts: Facts::gather("reno"),
            rounds: 3,
            seconds: 1.0,
            receivers: Receivers::Discard,
            generator: vec![Reached {
                case: "tcp-connect".to_owned(),
                metric: Metric {
                    name: "rate".to_owned(),
                    unit: "connections/s".to_owned(),
                    better: Better::More,
                    value: 40_000.0,
                },
            }],
            peers: vec![
                presence("towpath", Role::Subject, None),
                presence("pasta", Role::Rival, None),
                presence("slirp4netns", Role::Rival, Some("not here")),
                presence("veth", Role::Limit, None),
            ],
            runs: vec![
                run("towpath", 1, sample(8.0, Some(0.5))),
                run("pasta", 1, sample(1.0, Some(4.0))),
                run("veth", 1, sample(20.0, None)),
                run("towpath", 2, sample(9.0, Some(0.25))),
                run("pasta", 2, End::Failed("pasta: it broke".to_owned())),
                run("veth", 2, sample(16.0, None)),
                run("towpath", 3, sample(10.0, Some(0.75))),
            ],
        }
    }

    #[test]
    fn rows_have_medians_ratios_and_costs() {
        let rows = rows(&report());
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
    fn the_json_holds_runs_and_summary() {
        let json: serde_json::Value = serde_json::from_str(&to_json(&report()).unwrap()).unwrap();
        assert_eq!(json["runs"].as_array().unwrap().len(), 7);
        assert_eq!(json["runs"][4]["failed"], "pasta: it broke");
        assert_eq!(json["runs"][0]["measured"]["client"]["gbit_per_s"], 8.0);
        assert_eq!(json["summary"][0]["peer"], "towpath");
        assert_eq!(json["summary"][0]["figures"][0]["median"], 9.0);
        assert_eq!(json["facts"]["congestion"], "reno");
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let written = to_json(&report()).unwrap();
        let read: Report = serde_json::from_str(&written).unwrap();
        assert_eq!(to_json(&read).unwrap(), written);
    }

    #[test]
    fn less_is_better_turns_the_ratio() {
        assert_eq!(times(Better::More, 2.0, 1.0), Some(2.0));
        assert_eq!(times(Better::Less, 2.0, 1.0), Some(0.5));
        assert_eq!(times(Better::Less, 0.0, 1.0), None);
        assert_eq!(best(Better::Less, [3.0, 2.0].into_iter()), Some(2.0));
    }
}
