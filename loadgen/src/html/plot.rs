//! Line plots as inline SVG.

use super::escape;
use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 40.0;
/// A line of more points is thinned out: the page shows no more than that anyway.
const MOST_POINTS: usize = 900;
/// Points get a dot and a value of their own up to this many.
const MOST_DOTS: usize = 120;
/// Classes of the page's style, one for each line in turn.
pub(super) const COLOURS: [&str; 3] = ["a", "b", "c"];

/// An axis: where it begins and ends, and the values marked on it.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) ticks: Vec<(f64, String)>,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) label: String,
    /// Place, and the value in words.
    pub(super) points: Vec<(f64, f64)>,
    /// Points that are marked, and what is written there.
    pub(super) marks: Vec<(f64, f64, String)>,
}

/// A plot of all lines, or a sentence where there is nothing to plot.
pub(super) fn svg(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    if lines.iter().all(|line| line.points.is_empty()) {
        return "<p class=\"soft\">nothing to plot</p>\n".to_owned();
    }
    let at_x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * share(value, x);
    let at_y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share(value, y);
    let mut out =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", escape(title));
    // Writing to a String cannot fail.
    for (value, label) in &y.ticks {
        let (at, right, text_x) = (at_y(*value), WIDTH - RIGHT, LEFT - 6.0);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
        );
        let _ = writeln!(
            out,
            "<text x=\"{text_x}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            at + 4.0,
            escape(label)
        );
    }
    for (value, label) in &x.ticks {
        let (at, bottom) = (at_x(*value), HEIGHT - BOTTOM);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>"
        );
        let _ = writeln!(
            out,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            escape(label)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n<text x=\"4\" y=\"11\">{}</text>",
        WIDTH - RIGHT,
        HEIGHT - 6.0,
        escape(x.label),
        escape(y.label)
    );
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let thin = line.points.len().div_ceil(MOST_POINTS).max(1);
        let mut points = String::new();
        for (px, py) in line.points.iter().step_by(thin) {
            let _ = write!(points, "{:.1},{:.1} ", at_x(*px), at_y(*py));
        }
        let _ = writeln!(
            out,
            "<g class=\"{colour}\"><polyline class=\"line\" points=\"{}\"/>",
            points.trim_end()
        );
        for (px, py, value) in line.marks.iter().take(MOST_DOTS) {
            let _ = writeln!(
                out,
                "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {}</title></circle>",
                at_x(*px),
                at_y(*py),
                escape(&line.label),
                escape(value)
            );
        }
        out.push_str("</g>\n");
    }
    out + "</svg>\n"
}

/// Where `value` is on the axis, from 0 to 1.
fn share(value: f64, axis: &Axis) -> f64 {
    let width = axis.to - axis.from;
    if width > 0.0 { ((value - axis.from) / width).clamp(0.0, 1.0) } else { 0.0 }
}

/// An axis from 0 to `most` with round ticks.
pub(super) fn linear(label: &'static str, most: f64) -> Axis {
    let most = if most > 0.0 && most.is_finite() { most } else { 1.0 };
    let raw = most / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= raw).unwrap_or(raw);
    let count = (most / step).ceil() as u32;
    let digits = if step >= 1.0 { 0 } else { -step.log10().floor() as usize };
    let ticks =
        (0..=count).map(|n| (f64::from(n) * step, format!("{:.digits$}", f64::from(n) * step))).collect();
    Axis { label, from: 0.0, to: f64::from(count) * step, ticks }
}

/// An axis of powers of ten around `least` and `most`; places on it are logarithms.
pub(super) fn logarithmic(label: &'static str, least: f64, most: f64, show: impl Fn(f64) -> String) -> Axis {
    let least = least.max(1e-3);
    let from = least.log10().floor();
    let to = most.max(least).log10().ceil().max(from + 1.0);
    let ticks = (from as i32..=to as i32).map(|n| (f64::from(n), show(10f64.powi(n)))).collect();
    Axis { label, from, to, ticks }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[(f64, f64)]) -> Line {
        Line { label: "<l>".to_owned(), points: points.to_vec(), marks: vec![(0.0, 0.0, "<v>".to_owned())] }
    }

    #[test]
    fn ticks_are_round_and_reach_over_the_largest_value() {
        let axis = linear("x", 4.7);
        assert_eq!(
            axis.ticks.iter().map(|(_, label)| label.as_str()).collect::<Vec<_>>(),
            ["0", "1", "2", "3", "4", "5"]
        );
        assert!(linear("x", 0.037).to >= 0.037);
        for odd in [0.0, f64::NAN, f64::INFINITY] {
            assert!((linear("x", odd).to - 1.0).abs() < 1e-9);
        }
        let axis = logarithmic("y", 30.0, 2_000.0, |value| format!("{value}"));
        assert_eq!(
            axis.ticks.iter().map(|(_, label)| label.as_str()).collect::<Vec<_>>(),
            ["10", "100", "1000", "10000"]
        );
    }

    #[test]
    fn points_land_between_the_axes_and_labels_are_escaped() {
        let (x, y) = (linear("x", 10.0), linear("y", 10.0));
        let svg = svg("<t>", &x, &y, &[line(&[(0.0, 0.0), (10.0, 10.0), (99.0, 99.0)])]);
        assert!(svg.contains("points=\"70.0,260.0 880.0,16.0 880.0,16.0\""), "{svg}");
        assert!(!svg.contains("<t>") && !svg.contains("<l>") && !svg.contains("<v>"), "{svg}");
    }

    #[test]
    fn a_long_line_is_thinned_and_an_empty_one_is_said_so() {
        let (x, y) = (linear("x", 1e6), linear("y", 1.0));
        let points: Vec<(f64, f64)> = (0..600_000).map(|n| (f64::from(n), 0.5)).collect();
        assert!(svg("t", &x, &y, &[line(&points)]).len() < 50_000);
        assert!(svg("t", &x, &y, &[line(&[])]).contains("nothing to plot"));
    }
}
