//! What changed since an earlier comparison, and whether that is more than noise.

use serde::Serialize;

use crate::metrics::Better;
use crate::results::Report;
use crate::stats::Spread;
use crate::summary::{Row, rows};
use crate::table::{Align, Table, number};

/// Medians that differ by less than this share are the same, however quiet the machine was.
const NOISE_MIN: f64 = 0.05;

/// The rule, for whoever reads the marks.
pub(super) const RULE: &str = "A change counts as beyond the noise when the ranges of the runs do \
    not overlap and the medians differ by more than 5 % and by more than the wider of the two \
    ranges (max−min over median).";

/// An earlier comparison beside this one.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Changes {
    /// What the two differ in besides the numbers; then the numbers say little.
    pub(super) settings: Vec<String>,
    pub(super) changes: Vec<Change>,
    /// Rows of one that the other does not have.
    pub(super) only_old: usize,
    pub(super) only_new: usize,
}

/// One number, then and now.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Change {
    pub(super) case: String,
    pub(super) mtu: u32,
    pub(super) peer: String,
    /// Name and unit.
    pub(super) what: String,
    pub(super) old: Spread,
    pub(super) new: Spread,
    /// New median over old median, minus one; `None` where the old one is zero.
    pub(super) relative: Option<f64>,
    pub(super) verdict: Verdict,
}

/// Whether a change means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Better,
    Worse,
    Noise,
}

impl Changes {
    /// From `old` to `new`.
    pub(crate) fn between(old: &Report, new: &Report) -> Changes {
        let (old_rows, new_rows) = (rows(old), rows(new));
        let same = |one: &Row, other: &Row| {
            (one.mtu, &one.case, &one.peer) == (other.mtu, &other.case, &other.peer)
        };
        let mut changes = Vec::new();
        let mut only_new = 0;
        for row in &new_rows {
            match old_rows.iter().find(|old| same(old, row)) {
                Some(old) => changes.extend(changes_of(old, row)),
                None => only_new += 1,
            }
        }
        let gone = old_rows
            .iter()
            .filter(|old| !new_rows.iter().any(|row| same(old, row)));
        Changes {
            settings: settings(old, new),
            changes,
            only_old: gone.count(),
            only_new,
        }
    }

    /// The numbers that changed beyond the noise.
    pub(super) fn beyond_noise(&self) -> impl Iterator<Item = &Change> {
        self.changes
            .iter()
            .filter(|change| change.verdict != Verdict::Noise)
    }

    /// For the terminal.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("\nAgainst the earlier comparison. {RULE}\n");
        for setting in &self.settings {
            text += &format!("NOT THE SAME: {setting}\n");
        }
        let left = |name: &str| (name.to_owned(), Align::Left);
        let right = |name: &str| (name.to_owned(), Align::Right);
        let mut table = Table::new([
            left("case"),
            right("MTU"),
            left("peer"),
            left("number"),
            right("then"),
            right("now"),
            right("change"),
            left(""),
        ]);
        for change in &self.changes {
            table.row([
                change.case.clone(),
                change.mtu.to_string(),
                change.peer.clone(),
                change.what.clone(),
                number(change.old.median),
                number(change.new.median),
                change.percent(),
                change.verdict.in_words().to_owned(),
            ]);
        }
        text += &table.to_string();
        let (beyond, all) = (self.beyond_noise().count(), self.changes.len());
        text += &format!("{beyond} of {all} numbers changed beyond the noise.\n");
        text += &self.left_out();
        text
    }

    /// What only one of the two has, as a sentence; empty where there is nothing.
    pub(super) fn left_out(&self) -> String {
        match (self.only_old, self.only_new) {
            (0, 0) => String::new(),
            (old, new) => format!(
                "{old} combinations of case, MTU and peer are in the earlier comparison alone, \
                 {new} in this one alone.\n"
            ),
        }
    }
}

impl Change {
    /// The relative change, with its sign.
    pub(super) fn percent(&self) -> String {
        self.relative.map_or_else(
            || "–".to_owned(),
            |share| format!("{:+.1} %", share * 100.0),
        )
    }
}

impl Verdict {
    /// For people; nothing where there is nothing to say.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "WORSE",
            Verdict::Noise => "",
        }
    }
}

/// Every number that both rows have: the metrics with a unit, and the engine's CPU time.
fn changes_of(old: &Row, new: &Row) -> Vec<Change> {
    let change = |what: String, better, old: Spread, new_spread: Spread| Change {
        case: new.case.clone(),
        mtu: new.mtu,
        peer: new.peer.clone(),
        what,
        old,
        new: new_spread,
        relative: (old.median != 0.0).then(|| new_spread.median / old.median - 1.0),
        verdict: verdict(better, old, new_spread),
    };
    let mut changes: Vec<Change> = new
        .figures
        .iter()
        .filter(|figure| !figure.unit.is_empty())
        .filter_map(|figure| {
            let then = old.figures.iter().find(|then| then.name == figure.name)?;
            let what = format!("{}, {}", figure.name, figure.unit);
            Some(change(what, figure.better, then.spread, figure.spread))
        })
        .collect();
    if let (Some(then), Some(now), Some(unit)) = (old.engine_cost, new.engine_cost, &new.cost_unit)
    {
        changes.push(change(
            format!("engine CPU, {unit}"),
            Better::Less,
            then,
            now,
        ));
    }
    changes
}

/// By [`RULE`].
fn verdict(better: Better, old: Spread, new: Spread) -> Verdict {
    let overlap = new.min <= old.max && old.min <= new.max;
    let width = |spread: Spread| (spread.max - spread.min) / spread.median.abs();
    let threshold = width(old).max(width(new)).max(NOISE_MIN);
    let relative = (new.median / old.median - 1.0).abs();
    // From zero, or to zero, is infinitely far; a zero's own width is no number and counts as none.
    if overlap || relative <= threshold {
        return Verdict::Noise;
    }
    let more = new.median > old.median;
    if more == (better == Better::More) {
        Verdict::Better
    } else {
        Verdict::Worse
    }
}

/// Differences that make the numbers of two comparisons hard to compare.
fn settings(old: &Report, new: &Report) -> Vec<String> {
    let mut differences = Vec::new();
    let (then, now) = (&old.facts, &new.facts);
    for (what, then, now) in [
        ("kernel", &then.kernel, &now.kernel),
        ("processor", &then.cpu, &now.cpu),
        ("congestion control", &then.congestion, &now.congestion),
        ("tcp_rmem", &then.tcp_rmem, &now.tcp_rmem),
        ("tcp_wmem", &then.tcp_wmem, &now.tcp_wmem),
        (
            "processors",
            &then.cores.to_string(),
            &now.cores.to_string(),
        ),
        (
            "seconds of a load",
            &old.seconds.to_string(),
            &new.seconds.to_string(),
        ),
        (
            "bulk receivers",
            &format!("{:?}", old.receivers).to_lowercase(),
            &format!("{:?}", new.receivers).to_lowercase(),
        ),
    ] {
        if then != now {
            differences.push(format!("{what}: {then} then, {now} now"));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::End;
    use crate::summary::tests::report;

    fn spread(min: f64, median: f64, max: f64) -> Spread {
        Spread { median, min, max }
    }

    #[test]
    fn noise_is_what_overlaps_or_is_smaller_than_its_own_width() {
        use Better::{Less, More};
        let old = spread(9.0, 10.0, 11.0);
        for (better, new, wanted) in [
            (More, spread(10.5, 13.0, 14.0), Verdict::Noise),
            // Apart, but the change is not wider than the range then.
            (More, spread(11.1, 11.5, 11.6), Verdict::Noise),
            (More, spread(12.5, 12.6, 12.7), Verdict::Better),
            (Less, spread(12.5, 12.6, 12.7), Verdict::Worse),
            (Less, spread(5.0, 5.1, 5.2), Verdict::Better),
            (More, spread(0.0, 0.0, 0.0), Verdict::Worse),
        ] {
            assert_eq!(verdict(better, old, new), wanted, "{new:?}");
        }
        // Quiet machines make narrow ranges; below 5 % is still nothing.
        let quiet = spread(10.0, 10.0, 10.0);
        assert_eq!(
            verdict(More, quiet, spread(10.4, 10.4, 10.4)),
            Verdict::Noise
        );
        assert_eq!(
            verdict(More, quiet, spread(10.6, 10.6, 10.6)),
            Verdict::Better
        );
        let zero = spread(0.0, 0.0, 0.0);
        assert_eq!(verdict(Less, zero, quiet), Verdict::Worse);
        assert_eq!(verdict(Less, zero, zero), Verdict::Noise);
    }

    #[test]
    fn a_comparison_with_itself_has_no_change() {
        let changes = Changes::between(&report(), &report());
        assert_eq!(changes.beyond_noise().count(), 0);
        assert!(!changes.changes.is_empty());
        assert!(changes.settings.is_empty());
        assert_eq!((changes.only_old, changes.only_new), (0, 0));
    }

    #[test]
    fn a_change_is_marked_and_other_settings_are_named() {
        let old = report();
        let mut new = report();
        new.facts.congestion = "bbr".to_owned();
        new.runs.retain(|run| run.peer != "pasta");
        for run in new.runs.iter_mut().filter(|run| run.peer == "towpath") {
            if let End::Measured(sample) = &mut run.end {
                sample.metrics[0].value *= 3.0;
            }
        }
        let changes = Changes::between(&old, &new);
        let beyond: Vec<_> = changes.beyond_noise().collect();
        assert_eq!(beyond.len(), 1);
        assert_eq!(
            (beyond[0].peer.as_str(), beyond[0].verdict),
            ("towpath", Verdict::Better)
        );
        assert_eq!(beyond[0].percent(), "+200.0 %");
        assert_eq!(changes.only_old, 1);
        let text = changes.to_text();
        assert!(
            text.contains("NOT THE SAME: congestion control: reno then, bbr now"),
            "{text}"
        );
        assert!(text.contains("+200.0 %  better"), "{text}");
        assert!(text.contains("1 of "), "{text}");
    }
}
