//! Two reports side by side: every figure of both, and the ratio of the second to the first.

use crate::report::Report;
use crate::units::show_time_us;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write as _;

/// What kind of number a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    GbPerS,
    PerS,
    Microseconds,
    SecondsPerGb,
    Share,
}

/// One figure of two reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    /// Whether a larger value is the better one.
    pub(crate) more_is_better: bool,
    pub(crate) a: Option<f64>,
    pub(crate) b: Option<f64>,
    /// b / a; none where one of them is missing or a is 0.
    pub(crate) ratio: Option<f64>,
}

/// All figures that two reports have.
pub(crate) fn rows(a: &Report, b: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name: String, unit, of: &dyn Fn(&Report) -> Option<f64>| {
        let (a, b) = (of(a), of(b));
        if a.is_some() || b.is_some() {
            rows.push(Row { name, unit, more_is_better: unit.more_is_better(), a, b, ratio: ratio(a, b) });
        }
    };
    row("throughput".to_owned(), Unit::GbPerS, &|one| Some(one.figures.gb_per_s));
    row("requests".to_owned(), Unit::PerS, &|one| Some(one.figures.requests_per_s));
    for index in 0..7 {
        let name = a.figures.latency_us.named()[index].0;
        row(format!("latency {name}"), Unit::Microseconds, &|one| {
            (one.figures.latency_us.count > 0).then(|| one.figures.latency_us.named()[index].1)
        });
    }
    for index in [0, 3, 4] {
        let name = a.figures.first_byte_us.named()[index].0;
        row(format!("first byte {name}"), Unit::Microseconds, &|one| {
            (one.figures.first_byte_us.count > 0).then(|| one.figures.first_byte_us.named()[index].1)
        });
    }
    row("server CPU".to_owned(), Unit::SecondsPerGb, &|one| one.server_cpu.as_ref()?.seconds_per_gb);
    row("client CPU".to_owned(), Unit::SecondsPerGb, &|one| one.client_cpu.as_ref()?.seconds_per_gb);
    row("errors".to_owned(), Unit::Share, &|one| Some(one.error_rate));
    rows
}

/// b / a, where that says something.
pub(crate) fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    let (a, b) = (a?, b?);
    (a > 0.0).then(|| b / a)
}

impl Unit {
    fn more_is_better(self) -> bool {
        matches!(self, Self::GbPerS | Self::PerS)
    }

    /// A value for people.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::GbPerS => format!("{value:.3} GB/s"),
            Self::PerS => format!("{value:.1} /s"),
            Self::Microseconds => show_time_us(value),
            Self::SecondsPerGb => format!("{value:.3} s/GB"),
            Self::Share => format!("{:.2} %", 100.0 * value),
        }
    }
}

/// The comparison for people.
pub(crate) fn text(a: &Report, b: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "A  {}  {}\nB  {}  {}\n", a.description, a.url(), b.description, b.url());
    let _ = writeln!(out, "{:<20}{:>16}{:>16}{:>10}", "", "A", "B", "B/A");
    for row in rows(a, b) {
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| row.unit.show(value));
        let ratio = row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
        let _ = writeln!(out, "{:<20}{:>16}{:>16}{ratio:>10}", row.name, shown(row.a), shown(row.b));
    }
    if a.description != b.description {
        let _ = writeln!(out, "\nnote: the workloads differ");
    }
    out
}

/// The comparison for machines.
pub(crate) fn to_json(a: &Report, b: &Report) -> String {
    let value = json!({
        "loadgen": env!("CARGO_PKG_VERSION"),
        "kind": "compare",
        "same_workload": a.description == b.description,
        "rows": rows(a, b),
        "a": a,
        "b": b,
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn ratios_are_of_the_second_to_the_first() {
        let (a, mut b) =
            (report(100, 2_000_000_000, 2 * MS, &[], 1.0), report(100, 1_000_000_000, 8 * MS, &[], 1.0));
        b.server_cpu = None;
        let rows = rows(&a, &b);
        let ratio = |name: &str| rows.iter().find(|row| row.name == name).unwrap().ratio;
        assert_eq!(ratio("throughput"), Some(0.5));
        assert!((ratio("latency p99").unwrap() - 4.0).abs() < 0.01);
        assert_eq!(ratio("server CPU"), None);
        assert_eq!(ratio("errors"), None, "nothing divided by nothing");
        assert!(!rows.iter().any(|row| row.name == "client CPU"), "neither has one");
        let text = text(&a, &b);
        assert!(text.contains("throughput") && text.contains("0.500"), "{text}");
    }

    #[test]
    fn other_workloads_are_pointed_out() {
        let (a, mut b) = (report(1, 1, MS, &[], 1.0), report(1, 1, MS, &[], 1.0));
        assert!(!text(&a, &b).contains("differ"));
        b.description = "another".to_owned();
        assert!(text(&a, &b).contains("differ"));
        assert!(to_json(&a, &b).contains("\"same_workload\": false"));
    }
}
