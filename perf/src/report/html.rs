//! The page: everything that was measured, with plots, in one file that loads nothing else.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::against::{self, Changes, Verdict};
use super::notes;
use super::plot::{self, Bar, Color, Curve, Stack};
use crate::cases::Case;
use crate::facts::Facts;
use crate::failure::Outcome;
use crate::loadgen::Measured;
use crate::loadgen::latency::Summary as Latencies;
use crate::metrics::Better;
use crate::peers::Role;
use crate::results::{End, Report};
use crate::summary::{Row, rows};
use crate::table::number;

const STYLE: &str = include_str!("page.css");

/// The parts of the CPU time and their colours.
const CPU_PARTS: [(&str, Color); 4] = [
    ("engine", plot::PEERS[0]),
    ("bridge", plot::PEERS[1]),
    ("generator", plot::LIMITS[0]),
    ("rest", plot::REST),
];

/// The page of a comparison, with what changed since an earlier one where there is one.
///
/// # Errors
/// A plot cannot be drawn.
pub(crate) fn to_html(report: &Report, changes: Option<&Changes>) -> Outcome<String> {
    let mut rows = rows(report);
    let cases = cases(&rows);
    // They ran MTU by MTU; here all MTUs of a case stand together.
    rows.sort_by_key(|row| cases.iter().position(|case| *case == row.case));
    let page = Page {
        report,
        colors: colors(report),
        rows: &rows,
    };
    let mut sections = Vec::new();
    for group in rows.chunk_by(|one, next| one.case == next.case) {
        sections.push(page.case(group)?);
    }
    let warnings = notes::warnings(report, &rows);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "User-mode networks side by side" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "User-mode networks side by side" }
                (page.head())
                @if !warnings.is_empty() {
                    div.warnings {
                        h2 { "Read with care" }
                        ul { @for warning in &warnings { li { (warning) } } }
                    }
                }
                (page.peers())
                (page.limits())
                h2 { "How to read this" }
                ul { @for line in notes::HOW_TO_READ { li { (line) } } }
                @if let Some(changes) = changes { (changes_section(changes)) }
                @for section in &sections { (section) }
            }
        }
    };
    Ok(markup.into_string())
}

/// What the sections are made from.
struct Page<'a> {
    report: &'a Report,
    colors: HashMap<&'a str, Color>,
    rows: &'a [Row],
}

impl Page<'_> {
    fn head(&self) -> Markup {
        let Facts {
            started_at,
            kernel,
            cpu,
            cores,
            congestion,
            tcp_rmem,
            tcp_wmem,
        } = &self.report.facts;
        let started = UNIX_EPOCH + Duration::from_secs(*started_at);
        let started = humantime::format_rfc3339_seconds(started)
            .to_string()
            .replace('T', " ");
        let (rounds, seconds) = (self.report.rounds, self.report.seconds);
        let cases = cases(self.rows);
        html! {
            p.soft {
                (started) ", " (kernel) ", " (cores) " processors (" (cpu) ")" br;
                "TCP congestion control " strong { (congestion) } " at guest and host; tcp_rmem "
                (tcp_rmem) "; tcp_wmem " (tcp_wmem) br;
                (rounds) " rounds of " (seconds) " s; receivers of bulk streams "
                (notes::receivers(self.report.receivers)) " what arrives"
            }
            nav { @for case in &cases { a href={ "#" (case) } { (case) } } }
        }
    }

    fn peers(&self) -> Markup {
        html! {
            h2 { "Peers" }
            table {
                @for one in &self.report.peers {
                    tr {
                        td.name { (legend_mark(self.color(&one.peer))) (one.peer) }
                        td { (match one.role {
                            Role::Subject => "measured here",
                            Role::Rival => "rival",
                            Role::Limit => "limit",
                        }) }
                        td {
                            @match (&one.version, &one.missing) {
                                (_, Some(why)) => span.failed { "missing: " (why) },
                                (Some(version), None) => (version),
                                (None, None) => "no version known",
                            }
                        }
                    }
                }
            }
        }
    }

    /// How far the load generator itself goes.
    fn limits(&self) -> Markup {
        let is_limit = |row: &&Row| self.role(&row.peer) == Some(Role::Limit);
        let limits: Vec<&Row> = self.rows.iter().filter(is_limit).collect();
        html! {
            h2 { "Limits of the load generator" }
            p {
                "Both ends on one processor, over a veth pair with no engine between them: "
                @for (index, reached) in self.report.generator.iter().enumerate() {
                    @if index > 0 { ", " }
                    (reached.case) " " strong { (number(reached.metric.value)) } " "
                    (reached.metric.unit)
                }
                ". An engine that comes near to this may be held back by the generator."
            }
            @if limits.is_empty() {
                p { "Without veth and loopback among the peers nobody can say what it reaches with \
                     all processors." }
            } @else {
                p { "With all processors:" }
                table {
                    tr { th { "case" } th.number { "MTU" } th { "limit" } th.number { "median" } }
                    @for row in limits {
                        @if let Some(figure) = row.figures.first() {
                            tr {
                                td.name { (row.case) }
                                td.number { (row.mtu) }
                                td { (row.peer) }
                                td.number { (number(figure.spread.median)) " " (figure.unit) }
                            }
                        }
                    }
                }
            }
        }
    }

    /// One case at all its MTUs.
    fn case(&self, rows: &[Row]) -> Outcome<Markup> {
        let case = rows.first().map_or("", |row| row.case.as_str());
        let about = Case::named(case).map_or("", |case| case.about);
        let mut parts = Vec::new();
        for group in rows.chunk_by(|one, next| one.mtu == next.mtu) {
            parts.push(self.group(group)?);
        }
        Ok(html! {
            h2 id=(case) { (case) }
            p.soft { (about) }
            @for part in parts { (part) }
        })
    }

    /// One case at one MTU.
    fn group(&self, rows: &[Row]) -> Outcome<Markup> {
        let mtu = rows.first().map_or(0, |row| row.mtu);
        let plots = [self.bars(rows)?, self.cpu(rows)?, self.latencies(rows)?];
        Ok(html! {
            h3 { "MTU " (mtu) }
            div.plots { @for plot in plots.into_iter().flatten() { (plot) } }
            details {
                summary { "Numbers" }
                div.scroll { (numbers(rows)) }
            }
            @for row in rows.iter().filter(|row| !row.failures.is_empty()) {
                p.failed {
                    (row.peer) ": " (row.failures.len()) " of " (row.runs) " runs failed: "
                    (row.failures[0])
                }
            }
        })
    }

    fn bars(&self, rows: &[Row]) -> Outcome<Option<Markup>> {
        let Some(figure) = rows.iter().find_map(|row| row.figures.first()) else {
            return Ok(None);
        };
        let bar = |row: &Row| {
            let spread = row.figures.first()?.spread;
            Some(Bar {
                name: row.peer.clone(),
                color: self.color(&row.peer),
                median: spread.median,
                min: spread.min,
                max: spread.max,
            })
        };
        let bars: Vec<Bar> = rows.iter().filter_map(bar).collect();
        let caption = format!("{}, {} is better", figure.name, in_words(figure.better));
        let svg = plot::bars(&figure.unit, &bars)?;
        Ok(Some(figure_of(&caption, &[], &svg)))
    }

    fn cpu(&self, rows: &[Row]) -> Outcome<Option<Markup>> {
        let stack = |row: &Row| {
            let of = |spread: Option<crate::stats::Spread>| spread.map_or(0.0, |one| one.median);
            let known = [row.engine_cost, row.bridge_cost, row.generator_cost].map(of);
            let rest = row.machine_cost?.median - known.iter().sum::<f64>();
            let parts = known.into_iter().chain([rest.max(0.0)]).collect();
            Some(Stack {
                name: row.peer.clone(),
                parts,
            })
        };
        let stacks: Vec<Stack> = rows.iter().filter_map(stack).collect();
        let Some(unit) = rows.iter().find_map(|row| row.cost_unit.as_deref()) else {
            return Ok(None);
        };
        let svg = plot::stacks(unit, &CPU_PARTS.map(|(_, color)| color), &stacks)?;
        let legend = CPU_PARTS.map(|(name, color)| (name.to_owned(), color));
        Ok(Some(figure_of("CPU time, less is better", &legend, &svg)))
    }

    fn latencies(&self, rows: &[Row]) -> Outcome<Option<Markup>> {
        let mut legend = Vec::new();
        let mut curves = Vec::new();
        for row in rows {
            if let Some(latencies) = self.middle_round(row) {
                let color = self.color(&row.peer);
                let points = latencies.curve.iter();
                let points = points.map(|point| (point.quantile, point.us)).collect();
                legend.push((row.peer.clone(), color));
                curves.push(Curve { color, points });
            }
        }
        if curves.is_empty() {
            return Ok(None);
        }
        let svg = plot::curves("µs", &curves)?;
        Ok(Some(figure_of(
            "latency by percentile, less is better",
            &legend,
            &svg,
        )))
    }

    /// The latencies of the round whose median is in the middle of the rounds.
    fn middle_round(&self, row: &Row) -> Option<&Latencies> {
        let runs = self.report.runs.iter();
        let same =
            runs.filter(|run| (run.mtu, &run.case, &run.peer) == (row.mtu, &row.case, &row.peer));
        let mut all: Vec<&Latencies> = same
            .filter_map(|run| match &run.end {
                End::Measured(sample) => latencies(&sample.client),
                End::Failed(_) => None,
            })
            .collect();
        all.sort_by(|one, other| one.p50_us.total_cmp(&other.p50_us));
        all.get(all.len() / 2).copied()
    }

    fn color(&self, peer: &str) -> Color {
        self.colors.get(peer).copied().unwrap_or(plot::LIMITS[0])
    }

    fn role(&self, peer: &str) -> Option<Role> {
        let mut peers = self.report.peers.iter();
        peers.find(|one| one.peer == peer).map(|one| one.role)
    }
}

/// The names of the cases, in the order in which they first ran.
fn cases(rows: &[Row]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for row in rows {
        if !names.contains(&row.case) {
            names.push(row.case.clone());
        }
    }
    names
}

/// A colour for each peer, the same in all plots.
fn colors(report: &Report) -> HashMap<&str, Color> {
    let (mut peers, mut limits) = (plot::PEERS.iter().cycle(), plot::LIMITS.iter().cycle());
    let color = |role| match role {
        Role::Limit => limits.next(),
        Role::Subject | Role::Rival => peers.next(),
    };
    let names = report.peers.iter().map(|one| one.peer.as_str());
    names
        .zip(report.peers.iter().map(|one| one.role).filter_map(color))
        .map(|(name, color)| (name, *color))
        .collect()
}

/// The distribution of latencies that a client measured.
fn latencies(measured: &Measured) -> Option<&Latencies> {
    match measured {
        Measured::Rr(trips) => Some(&trips.latency),
        Measured::Connect(connects) => Some(&connects.latency),
        Measured::Mix(mix) => Some(&mix.trips.latency),
        Measured::Objects(objects) => Some(&objects.latency),
        Measured::BulkUp(_)
        | Measured::BulkDown(_)
        | Measured::Udp(_)
        | Measured::Idle(_)
        | Measured::Start { .. } => None,
    }
}

fn figure_of(caption: &str, legend: &[(String, Color)], svg: &str) -> Markup {
    html! {
        figure {
            figcaption { (caption) }
            @if !legend.is_empty() {
                ul.legend {
                    @for (name, color) in legend { li { (legend_mark(*color)) (name) } }
                }
            }
            (PreEscaped(svg))
        }
    }
}

fn legend_mark(color: Color) -> Markup {
    html! { i.mark style={ "background:" (color) } {} }
}

/// The rows as a table.
fn numbers(rows: &[Row]) -> Markup {
    let unit = rows
        .iter()
        .find_map(|row| row.cost_unit.as_deref())
        .unwrap_or("");
    let cost = |spread: Option<crate::stats::Spread>| {
        spread.map_or_else(|| "–".to_owned(), |spread| number(spread.median))
    };
    let times = |ratio: Option<f64>| ratio.map_or_else(|| "–".to_owned(), number);
    html! {
        table {
            tr {
                th { "peer" } th { "numbers: median (min–max)" }
                th.number { "×veth" } th.number { "×best rival" }
                th.number { "engine CPU " (unit) } th.number { "bridge" }
                th.number { "generator" } th.number { "machine" }
                th.number { "others before/during" }
            }
            @for row in rows {
                tr {
                    td.name { (row.peer) }
                    td {
                        @for figure in &row.figures {
                            (figure.name) " " strong { (number(figure.spread.median)) } " "
                            (figure.unit) " (" (number(figure.spread.min)) "–"
                            (number(figure.spread.max)) ")" br;
                        }
                    }
                    td.number { (times(row.times_veth)) }
                    td.number { (times(row.times_best_rival)) }
                    td.number { (cost(row.engine_cost)) }
                    td.number { (cost(row.bridge_cost)) }
                    td.number { (cost(row.generator_cost)) }
                    td.number { (cost(row.machine_cost)) }
                    td.number {
                        (format!("{:.0} %", row.load_before_max * 100.0)) "/"
                        (format!("{:.0} %", row.other_load_max * 100.0))
                    }
                }
            }
        }
    }
}

fn changes_section(changes: &Changes) -> Markup {
    let (beyond, all) = (changes.beyond_noise().count(), changes.changes.len());
    html! {
        h2 id="changes" { "What changed" }
        p { (against::RULE) }
        @for setting in &changes.settings { p.failed { "Not the same: " (setting) } }
        p { strong { (beyond) " of " (all) " numbers changed beyond the noise." } " "
            (changes.left_out()) }
        @if beyond > 0 { div.scroll { (changes_table(changes.beyond_noise())) } }
        details {
            summary { "All " (all) " numbers" }
            div.scroll { (changes_table(changes.changes.iter())) }
        }
    }
}

fn changes_table<'a>(changes: impl Iterator<Item = &'a against::Change>) -> Markup {
    let range = |spread: &crate::stats::Spread| {
        let (min, max) = (number(spread.min), number(spread.max));
        format!("{} ({min}–{max})", number(spread.median))
    };
    html! {
        table {
            tr {
                th { "case" } th.number { "MTU" } th { "peer" } th { "number" }
                th.number { "then" } th.number { "now" } th.number { "change" } th {}
            }
            @for change in changes {
                tr {
                    td.name { (change.case) }
                    td.number { (change.mtu) }
                    td { (change.peer) }
                    td { (change.what) }
                    td.number { (range(&change.old)) }
                    td.number { (range(&change.new)) }
                    td.number { (change.percent()) }
                    td class=(match change.verdict {
                        Verdict::Better => "better",
                        Verdict::Worse => "worse",
                        Verdict::Noise => "",
                    }) { (change.verdict.in_words()) }
                }
            }
        }
    }
}

fn in_words(better: Better) -> &'static str {
    match better {
        Better::More => "more",
        Better::Less => "less",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Run;
    use crate::summary::tests::report;

    #[test]
    fn the_page_loads_nothing_and_names_what_it_must() {
        let page = to_html(&report(), None).unwrap();
        for part in [
            "missing: not here",
            "pasta: 1 of 2 runs failed: pasta: it broke",
            "TCP congestion control <strong>reno",
            "Read with care",
            "throughput, more is better",
            "Limits of the load generator",
            "<svg",
        ] {
            assert!(page.contains(part), "{part} is not in the page");
        }
        for outside in ["src=", "<link", "url(", "@import", "<script"] {
            assert!(!page.contains(outside), "{outside} is in the page");
        }
        // The SVGs' name space is the one address, and no browser loads it.
        assert_eq!(
            page.matches("http").count(),
            page.matches("http://www.w3.org/2000/svg").count()
        );
        assert!(!page.contains("What changed"));
    }

    #[test]
    fn a_case_has_one_section_whatever_the_order_of_its_runs() {
        let mut report = report();
        let more = report.runs.clone().into_iter().flat_map(|run| {
            let other = Run {
                case: "tcp-down".to_owned(),
                ..run.clone()
            };
            [other, Run { mtu: 65_520, ..run }]
        });
        report.runs.extend(more.collect::<Vec<_>>());
        let page = to_html(&report, None).unwrap();
        assert_eq!(page.matches("<h2 id=\"tcp-up\"").count(), 1);
        assert_eq!(page.matches("<h3>MTU 65520").count(), 1);
    }

    #[test]
    fn names_from_outside_cannot_become_markup() {
        let mut report = report();
        report.peers[0].version = Some("<script>alert(1)</script>".to_owned());
        for run in &mut report.runs {
            run.peer = run.peer.replace("towpath", "<b>");
        }
        let page = to_html(&report, None).unwrap();
        assert!(!page.contains("<script") && !page.contains("<b>"));
        assert!(page.contains("&lt;script&gt;"));
    }

    #[test]
    fn changes_have_a_section() {
        let changes = Changes::between(&report(), &report());
        let page = to_html(&report(), Some(&changes)).unwrap();
        assert!(page.contains("What changed") && page.contains("0 of "));
    }
}
