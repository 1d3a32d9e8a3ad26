//! Plots as SVG: bars with ranges, stacked bars, and curves of latency percentiles.
//!
//! Drawn by `plotters`. They stand in a page that may be light or dark, so text and lines take the page's colours, and
//! the colours of the data are of a middle lightness. Legends are the page's as well.

use std::fmt::Display;

use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::failure::{Context, Outcome};
use crate::table::number;

/// Width of every plot, in the SVG's pixels; the page scales it down where it is narrower.
const WIDTH: u32 = 460;
/// Height of a bar with its gap.
const BAR: u32 = 28;
/// Height of what is below and above the bars.
const FRAME: u32 = 56;
/// Height of a plot with curves.
const CURVES_HEIGHT: u32 = 290;
/// Width of the names beside bars.
const NAMES: u32 = 120;
/// Size of text.
const TEXT: u32 = 14;

/// Stands for the page's text colour until the SVG is done.
const INK: RGBColor = RGBColor(1, 1, 1);
/// Stands for the page's colour of faint lines until the SVG is done.
const FAINT: RGBColor = RGBColor(2, 2, 2);

/// A colour as it stands in a style sheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Color(u8, u8, u8);

/// The colours of peers, in order; limits have greys of their own.
pub(super) const PEERS: [Color; 6] = [
    Color(0x2f, 0x7e, 0xd8),
    Color(0xe0, 0x7b, 0x1a),
    Color(0x2c, 0xa0, 0x5a),
    Color(0xb3, 0x5f, 0xc4),
    Color(0xd0, 0x48, 0x54),
    Color(0x1a, 0xa3, 0xa8),
];
/// The colours of limits, in order.
pub(super) const LIMITS: [Color; 3] = [
    Color(0x7d, 0x84, 0x8c),
    Color(0x9a, 0xa1, 0xa8),
    Color(0x62, 0x68, 0x70),
];

/// For what is left when all else has its colour.
pub(super) const REST: Color = Color(0xbd, 0xc4, 0xca);

/// A bar from zero to a median, with the range around it.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) color: Color,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// A bar of several parts, one after another.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    pub(super) name: String,
    /// In the order of the colours; their sum is the bar's length.
    pub(super) parts: Vec<f64>,
}

/// Latencies by percentile.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    pub(super) color: Color,
    /// Quantile (0 to 1) and microseconds, both rising.
    pub(super) points: Vec<(f64, f64)>,
}

impl Display for Color {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{:02X}{:02X}{:02X}", self.0, self.1, self.2)
    }
}

impl From<Color> for RGBColor {
    fn from(color: Color) -> RGBColor {
        RGBColor(color.0, color.1, color.2)
    }
}

/// Something in a row of a plot, along the axis of numbers.
enum Piece {
    Block(f64, f64, Color),
    /// The ends of a range.
    Whiskers(f64, f64),
    Text(f64, String),
}

/// Bars, the first on top, with each median beside its bar.
///
/// # Errors
/// The plot cannot be drawn.
pub(super) fn bars(unit: &str, bars: &[Bar]) -> Outcome<String> {
    let row = |bar: &Bar| {
        let pieces = vec![
            Piece::Block(0.0, bar.median, bar.color),
            Piece::Whiskers(bar.min, bar.max),
            Piece::Text(bar.max, number(bar.median)),
        ];
        (bar.name.clone(), pieces)
    };
    rows(unit, bars.iter().map(row).collect())
}

/// Stacked bars, the first on top, with each sum beside its bar.
///
/// # Errors
/// The plot cannot be drawn.
pub(super) fn stacks(unit: &str, colors: &[Color], stacks: &[Stack]) -> Outcome<String> {
    let row = |stack: &Stack| {
        let mut pieces = Vec::new();
        let mut from = 0.0;
        for (part, color) in stack.parts.iter().zip(colors) {
            pieces.push(Piece::Block(from, from + part, *color));
            from += part;
        }
        pieces.push(Piece::Text(from, number(from)));
        (stack.name.clone(), pieces)
    };
    rows(unit, stacks.iter().map(row).collect())
}

/// Curves over the percentiles: each step along the axis leaves out nine tenths of what is left.
///
/// # Errors
/// The plot cannot be drawn.
pub(super) fn curves(unit: &str, curves: &[Curve]) -> Outcome<String> {
    let points = |curve: &Curve| -> Vec<(f64, f64)> {
        let of = curve.points.iter();
        // The very last one is at infinity.
        let of = of.filter(|(quantile, value)| *quantile < 1.0 && *value > 0.0);
        of.map(|&(quantile, value)| (nines(quantile), value))
            .collect()
    };
    let lines: Vec<_> = curves
        .iter()
        .map(|curve| (curve.color, points(curve)))
        .collect();
    let all = || lines.iter().flat_map(|(_, points)| points);
    let right = all().map(|point| point.0).fold(1.0, f64::max);
    let least = all()
        .map(|point| point.1)
        .fold(f64::INFINITY, f64::min)
        .min(1e9);
    let most = all().map(|point| point.1).fold(least, f64::max);
    draw(CURVES_HEIGHT, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(40)
            .y_label_area_size(58)
            .build_cartesian_2d(0.0..right, (least * 0.8..most * 1.25).log_scale())?;
        chart
            .configure_mesh()
            .x_labels(right.ceil() as usize + 1)
            .x_label_formatter(&|nines| percentile(*nines))
            .y_label_formatter(&|value| tick(*value))
            .y_labels(8)
            .label_style(text())
            .axis_desc_style(text())
            .x_desc("percentile")
            .y_desc(unit)
            .axis_style(FAINT)
            .bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (color, points) in lines {
            let color = RGBColor::from(color);
            chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
        }
        Ok(())
    })
}

/// Rows of pieces over one axis of numbers that begins at zero.
fn rows(unit: &str, rows: Vec<(String, Vec<Piece>)>) -> Outcome<String> {
    let end = |piece: &Piece| match piece {
        Piece::Block(_, to, _) | Piece::Whiskers(_, to) => *to,
        Piece::Text(at, _) => *at,
    };
    let pieces = rows.iter().flat_map(|(_, pieces)| pieces);
    let longest = pieces.map(end).fold(0.0, f64::max);
    // Room for a number behind the longest bar; an axis of nothing would have no length.
    let right = if longest > 0.0 { longest * 1.14 } else { 1.0 };
    let count = rows.len() as i32;
    draw(BAR * rows.len() as u32 + FRAME, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(16)
            .x_label_area_size(40)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(0.0..right, (0..(count - 1).max(0)).into_segmented())?;
        let name = |at: &SegmentValue<i32>| match at {
            SegmentValue::CenterOf(row) => {
                // The axis goes up, and the first row is to be on top.
                let row = usize::try_from(count - 1 - row).ok();
                row.and_then(|row| rows.get(row))
                    .map_or_else(String::new, |row| row.0.clone())
            }
            SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_labels(5)
            .x_label_formatter(&|value| tick(*value))
            .y_labels(rows.len())
            .y_label_formatter(&name)
            .label_style(text())
            .axis_desc_style(text())
            .x_desc(unit)
            .axis_style(FAINT)
            .bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (index, (_, pieces)) in rows.iter().enumerate() {
            let row = count - 1 - index as i32;
            let (bottom, top) = (SegmentValue::Exact(row), SegmentValue::Exact(row + 1));
            let middle = SegmentValue::CenterOf(row);
            for piece in pieces {
                match piece {
                    Piece::Block(from, to, color) => {
                        let color = RGBColor::from(*color).filled();
                        let mut block =
                            Rectangle::new([(*from, bottom.clone()), (*to, top.clone())], color);
                        block.set_margin(6, 6, 0, 0);
                        chart.draw_series([block])?;
                    }
                    Piece::Whiskers(from, to) => {
                        let ends = vec![(*from, middle.clone()), (*to, middle.clone())];
                        chart.draw_series([PathElement::new(ends, INK.stroke_width(2))])?;
                    }
                    Piece::Text(at, words) => {
                        let style = text().pos(Pos::new(HPos::Left, VPos::Center));
                        let label = EmptyElement::at((*at, middle.clone()))
                            + Text::new(words.clone(), (6, 0), style);
                        chart.draw_series([label])?;
                    }
                }
            }
        }
        Ok(())
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// An SVG of this height with what `on` draws, in the page's colours.
fn draw(height: u32, on: impl FnOnce(&Area<'_>) -> Drawn) -> Outcome<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        on(&area).doing("draw a plot")?;
        area.present().doing("draw a plot")?;
    }
    Ok(svg
        .replace("#010101", "currentColor")
        .replace("#020202", "var(--faint)"))
}

fn text() -> TextStyle<'static> {
    ("sans-serif", TEXT).into_font().color(&INK)
}

/// A number at an axis: no zeros at its end.
fn tick(value: f64) -> String {
    // What is left of a sum of steps in binary is far below a millionth.
    ((value * 1e6).round() / 1e6).to_string()
}

/// 0.9 is 1, 0.99 is 2, and so on.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// 1 is `90 %`, 2 is `99 %`, and so on.
fn percentile(nines: f64) -> String {
    let decimals = (nines.round() as usize).saturating_sub(2);
    format!("{:.decimals$} %", 100.0 * (1.0 - 10f64.powf(-nines)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_have_as_many_digits_as_they_need() {
        for (quantile, text) in [
            (0.0, "0 %"),
            (0.9, "90 %"),
            (0.99, "99 %"),
            (0.9999, "99.99 %"),
        ] {
            assert_eq!(percentile(nines(quantile)), text);
        }
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!(
            [0.0, 0.1 + 0.2, 50.0, 20_000.0].map(tick),
            ["0", "0.3", "50", "20000"]
        );
    }

    #[test]
    fn plots_hold_names_and_numbers_and_take_the_page_s_colours() {
        let bar = |name: &str, median| Bar {
            name: name.to_owned(),
            color: PEERS[0],
            median,
            min: median * 0.9,
            max: median * 1.1,
        };
        let svg = bars("Gbit/s", &[bar("towpath", 41.9), bar("pasta", 2.66)]).unwrap();
        for part in [
            "towpath",
            "pasta",
            "41.9",
            "2.66",
            "Gbit/s",
            "#2F7ED8",
            "currentColor",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert!(!svg.contains("#010101"));
    }

    #[test]
    fn nothing_and_zeros_are_drawn_as_well() {
        assert!(bars("x", &[]).is_ok());
        let zero = Stack {
            name: "a".to_owned(),
            parts: vec![0.0, 0.0],
        };
        assert!(stacks("x", &PEERS, &[zero]).is_ok());
        let color = PEERS[0];
        assert!(
            curves(
                "µs",
                &[Curve {
                    color,
                    points: vec![]
                }]
            )
            .is_ok()
        );
        let points = vec![(0.5, 10.0), (0.99, 20.0), (1.0, 30.0)];
        assert!(curves("µs", &[Curve { color, points }]).is_ok());
    }
}
