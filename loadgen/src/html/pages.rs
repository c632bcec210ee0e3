//! The pages: of a run or a merge, of a comparison, of a duel.

use super::plot::{Axis, COLOURS, Line, linear, logarithmic, svg};
use super::{escape, page, table};
use crate::compare::{self, Unit};
use crate::duel;
use crate::histogram::Latency;
use crate::report::{Figures, Report};
use crate::units::{show_size, show_time_us};
use std::fmt::Write as _;

/// Steps of the percentile curve for each factor of ten.
const STEPS: u32 = 40;
/// The curve's percentiles that are marked, and how many times ten they are away from 100 %.
const MARKS: [(&str, f64); 5] =
    [("p50", std::f64::consts::LOG10_2), ("p90", 1.0), ("p99", 2.0), ("p99.9", 3.0), ("p99.99", 4.0)];
/// The last second of a series is shown if at least this much of it was measured.
const LEAST_SECOND: f64 = 0.2;

/// One run, or several merged.
pub(crate) fn run(report: &Report) -> Result<String, String> {
    let mut body = cards(report);
    body.push_str(&curves(&[("all", report)])?);
    body.push_str(&over_time(&[("throughput", report)]));
    if !report.operations.is_empty() {
        body.push_str("<h2>Operations</h2>\n");
        let rows: Vec<Vec<String>> = report
            .operations
            .iter()
            .map(|one| figures_row(&one.name, &one.figures))
            .chain([figures_row("all", &report.figures)])
            .collect();
        body.push_str(&table(&["", "GB/s", "requests/s", "p50", "p99", "p99.9", "max", "errors"], &rows));
    }
    body.push_str("<h2>Percentiles</h2>\n");
    let (latency, first_byte) = (report.figures.latency_us, report.figures.first_byte_us);
    let rows: Vec<Vec<String>> = latency
        .named()
        .into_iter()
        .zip(first_byte.named())
        .map(|((name, latency), (_, first_byte))| {
            vec![name.to_owned(), show_time_us(latency), show_time_us(first_byte)]
        })
        .collect();
    body.push_str(&table(&["", "latency", "time to first byte"], &rows));
    body.push_str(&errors(&[("", report)]));
    body.push_str(&notes(report));
    body.push_str("<h2>Parameters</h2>\n");
    let rows: Vec<Vec<String>> = report
        .parameters
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            vec![name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)]
        })
        .collect();
    body.push_str(&table(&["", ""], &rows));
    Ok(page(&format!("loadgen {}", report.workload), &[&report.description, report.url()], &body))
}

/// Two reports side by side.
pub(crate) fn compare(a: &Report, b: &Report) -> Result<String, String> {
    let rows: Vec<Vec<String>> = compare::rows(a, b)
        .into_iter()
        .map(|row| {
            let shown =
                |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| row.unit.show(value));
            let ratio = row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
            vec![row.name.clone(), shown(row.a), shown(row.b), ratio]
        })
        .collect();
    let mut body = table(&["", "A", "B", "B/A"], &rows);
    body.push_str(&both(a, b)?);
    let subtitle = [format!("A: {} {}", a.description, a.url()), format!("B: {} {}", b.description, b.url())];
    Ok(page("loadgen compare", &[&subtitle[0], &subtitle[1]], &body))
}

/// Two servers in turn.
pub(crate) fn duel(outcome: &duel::Outcome) -> Result<String, String> {
    let rows: Vec<Vec<String>> = outcome
        .rows
        .iter()
        .map(|row| {
            let shown = |spread: &Option<duel::Spread>| {
                spread.as_ref().map_or_else(|| "-".to_owned(), |one| one.show(|value| row.unit.show(value)))
            };
            let ratio = row
                .ratio
                .as_ref()
                .map_or_else(|| "-".to_owned(), |one| one.show(|value| format!("{value:.3}")));
            vec![row.name.to_owned(), shown(&row.a), shown(&row.b), ratio]
        })
        .collect();
    let mut body = table(&["median (min..max)", "A", "B", "B/A of pairs"], &rows);
    body.push_str("<h2>Throughput by round</h2>\n");
    body.push_str(&rounds(outcome));
    body.push_str(&both(&outcome.a, &outcome.b)?);
    let (a, b) = (&outcome.a, &outcome.b);
    let subtitle = [
        format!("{}, {} rounds", a.description, outcome.rounds.len()),
        format!("A: {}", a.url()),
        format!("B: {}", b.url()),
    ];
    Ok(page("loadgen duel", &[&subtitle[0], &subtitle[1], &subtitle[2]], &body))
}

fn both(a: &Report, b: &Report) -> Result<String, String> {
    let sides = [("A", a), ("B", b)];
    Ok(curves(&sides)? + &over_time(&sides) + &errors(&sides) + &notes(a) + &notes(b))
}

fn cards(report: &Report) -> String {
    let figures = &report.figures;
    let mut cards = vec![
        ("throughput", format!("{:.3} GB/s", figures.gb_per_s)),
        ("requests", format!("{:.1} /s", figures.requests_per_s)),
        ("p50", show_time_us(figures.latency_us.p50)),
        ("p99", show_time_us(figures.latency_us.p99)),
        ("moved", format!("{} in {:.1} s", show_size(figures.bytes), report.window_s)),
        ("errors", format!("{} ({:.2} %)", report.failed(), 100.0 * report.error_rate)),
    ];
    if let Some(limit) = &report.limit {
        cards.push((&limit.name, format!("{:.1} %", 100.0 * limit.share)));
    }
    for (name, cpu) in [("server CPU", &report.server_cpu), ("client CPU", &report.client_cpu)] {
        if let Some(cost) = cpu.as_ref().and_then(|cpu| cpu.seconds_per_gb) {
            cards.push((name, format!("{cost:.3} s/GB")));
        }
    }
    if let Some(half_width) = report.stability.half_width {
        cards.push(("stable to", format!("\u{b1}{:.2} %", 100.0 * half_width)));
    }
    let mut out = String::from("<div class=\"figures\">\n");
    for (name, value) in cards {
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "<div><span class=\"soft\">{}</span><b>{}</b></div>", escape(name), escape(&value));
    }
    out + "</div>\n"
}

fn figures_row(name: &str, figures: &Figures) -> Vec<String> {
    let latency = &figures.latency_us;
    let mut row =
        vec![name.to_owned(), format!("{:.3}", figures.gb_per_s), format!("{:.1}", figures.requests_per_s)];
    row.extend([latency.p50, latency.p99, latency.p99_9, latency.max].map(show_time_us));
    row.push(figures.errors.values().sum::<u64>().to_string());
    row
}

/// Latency by percentile, both on scales that show the tail.
fn curves(reports: &[(&str, &Report)]) -> Result<String, String> {
    let mut lines = Vec::new();
    let (mut least, mut most, mut tens) = (f64::INFINITY, 0.0f64, 1.0f64);
    for (label, report) in reports {
        let (latency, first_byte) = report.figures.histograms.decode()?;
        for (kind, times) in [("latency", latency), ("first byte", first_byte)] {
            if times.count() == 0 || (kind == "first byte" && reports.len() > 1) {
                continue;
            }
            let reach = (times.count() as f64).log10().clamp(1.0, 6.0);
            least = least.min(times.quantile_us(0.0));
            most = most.max(times.min_mean_max_us().2);
            tens = tens.max(reach);
            let label = if reports.len() > 1 { (*label).to_owned() } else { kind.to_owned() };
            lines.push(curve(label, &times, reach));
        }
    }
    let names = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"];
    let ticks = names.iter().enumerate().map(|(n, name)| (n as f64, (*name).to_owned()));
    let ticks = ticks.filter(|(n, _)| *n <= tens.ceil()).collect();
    let x = Axis { label: "percentile", from: 0.0, to: tens.ceil(), ticks };
    let y = logarithmic("latency", least, most, show_time_us);
    Ok(format!(
        "<h2>Latency by percentile</h2>\n{}{}",
        legend(&lines),
        svg("latency by percentile", &x, &y, &lines)
    ))
}

fn curve(label: String, times: &Latency, reach: f64) -> Line {
    let place = |tens: f64| {
        let us = times.quantile_us(1.0 - 10f64.powf(-tens));
        (tens, us.max(1e-3).log10(), us)
    };
    let steps = (reach * f64::from(STEPS)).ceil() as u32;
    let tens = |step: u32| f64::from(step) / f64::from(STEPS);
    let mut points: Vec<(f64, f64)> = (0..steps).map(|step| (tens(step), place(tens(step)).1)).collect();
    let max = times.min_mean_max_us().2;
    points.push((reach, max.max(1e-3).log10()));
    let mut marks: Vec<(f64, f64, String)> = MARKS
        .iter()
        .filter(|(_, tens)| *tens < reach)
        .map(|(name, tens)| {
            let (x, y, us) = place(*tens);
            (x, y, format!("{name} {}", show_time_us(us)))
        })
        .collect();
    marks.push((reach, max.max(1e-3).log10(), format!("max {}", show_time_us(max))));
    Line { label, points, marks }
}

/// Throughput, second by second.
fn over_time(reports: &[(&str, &Report)]) -> String {
    let lines: Vec<Line> = reports
        .iter()
        .map(|(label, report)| {
            let points = rates(report);
            let marks = points.iter().map(|(x, y)| (*x, *y, format!("{x:.1} s: {y:.3} GB/s"))).collect();
            Line { label: (*label).to_owned(), points, marks }
        })
        .collect();
    let all = || lines.iter().flat_map(|line| &line.points);
    let x = linear("seconds", all().map(|point| point.0).fold(1.0, f64::max));
    let y = linear("GB/s", all().map(|point| point.1).fold(0.0, f64::max));
    format!(
        "<h2>Throughput over time</h2>\n{}{}",
        legend(&lines),
        svg("throughput over time", &x, &y, &lines)
    )
}

/// GB/s in the middle of each second; the last one is as long as it was measured.
fn rates(report: &Report) -> Vec<(f64, f64)> {
    let seconds = report.series.seconds();
    let whole = report.kind == "merge" || (report.window_s.ceil() as usize) != seconds.len();
    let length = |index: usize| {
        if whole || index + 1 < seconds.len() { 1.0 } else { report.window_s - index as f64 }
    };
    let rate = |(index, second): (usize, &crate::series::Second)| {
        let length = length(index);
        let shown = length >= LEAST_SECOND || seconds.len() == 1;
        (shown && length > 0.0).then(|| (index as f64 + length / 2.0, second.bytes as f64 / 1e9 / length))
    };
    seconds.iter().enumerate().filter_map(rate).collect()
}

fn rounds(outcome: &duel::Outcome) -> String {
    let line = |label: &str, of: fn(&duel::Round) -> &Report| {
        let points: Vec<(f64, f64)> = outcome
            .rounds
            .iter()
            .enumerate()
            .map(|(round, one)| (round as f64 + 1.0, of(one).figures.gb_per_s))
            .collect();
        let marks = points
            .iter()
            .map(|(round, rate)| (*round, *rate, format!("round {round}: {}", Unit::GbPerS.show(*rate))))
            .collect();
        Line { label: label.to_owned(), points, marks }
    };
    let lines = [line("A", |one| &one.a), line("B", |one| &one.b)];
    let most = lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(0.0, f64::max);
    let x = linear("round", outcome.rounds.len() as f64);
    legend(&lines) + &svg("throughput by round", &x, &linear("GB/s", most), &lines)
}

fn legend(lines: &[Line]) -> String {
    let mut out = String::from("<p>");
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let _ = write!(out, "<span class=\"{colour}\">&#9632; {}</span> ", escape(&line.label));
    }
    out + "</p>\n"
}

fn errors(reports: &[(&str, &Report)]) -> String {
    let rows: Vec<Vec<String>> = reports
        .iter()
        .flat_map(|(label, report)| {
            let row = |(name, count): (&String, &u64)| vec![format!("{label} {name}"), count.to_string()];
            report.figures.errors.iter().map(row).collect::<Vec<_>>()
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("<h2 class=\"bad\">Errors</h2>\n{}", table(&["kind", "count"], &rows))
}

fn notes(report: &Report) -> String {
    report.notes.iter().fold(String::new(), |mut out, note| {
        let _ = writeln!(out, "<p>Note: {}</p>", escape(note));
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Failure;
    use crate::report::tests::report;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);
    const EVIL: &str = "\"><script>alert(1)</script>";

    fn evil() -> Report {
        let mut report = report(1000, 5_000_000_000, 3 * MS, &[Failure::Reset], 4.5);
        report.description = EVIL.to_owned();
        report.workload = EVIL.to_owned();
        report.parameters.insert(EVIL.to_owned(), EVIL.into());
        report.parameters.insert("url".to_owned(), EVIL.into());
        report.figures.errors.insert(EVIL.to_owned(), 3);
        report.limit.as_mut().unwrap().name = EVIL.to_owned();
        report.notes.push(EVIL.to_owned());
        let figures = report.figures.clone();
        report.operations.push(crate::report::Operation { name: EVIL.to_owned(), figures });
        report
    }

    fn sound(page: &str) {
        assert!(!page.contains("<script"), "markup from outside");
        for outside in ["http-equiv", "src=", "href=", "url(", "@import", "http://", "https://"] {
            assert!(!page.contains(outside), "{outside} in the page");
        }
        for tag in ["svg", "table", "g", "tr", "p", "div", "body", "html"] {
            let open = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag} is not closed");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
        assert!(!page.contains("NaN") && !page.contains("inf\""), "a number that is none");
    }

    #[test]
    fn a_page_shows_the_values_and_nothing_from_outside_is_markup() {
        let page = run(&evil()).unwrap();
        sound(&page);
        for value in ["1.111 GB/s", "3.00 ms", "Latency by percentile", "Throughput over time", "<polyline"] {
            assert!(page.contains(value), "{value} is not in the page");
        }
    }

    #[test]
    fn comparisons_and_duels_have_a_line_for_each_side() {
        let (a, b) = (evil(), report(10, 1_000_000_000, MS, &[], 1.0));
        let page = compare(&a, &b).unwrap();
        sound(&page);
        assert_eq!(page.matches("<polyline").count(), 4);
        let rounds = vec![duel::Round { first: "a", a, b }];
        let page = duel(&duel::evaluate(rounds).unwrap()).unwrap();
        sound(&page);
        assert_eq!(page.matches("<polyline").count(), 6);
    }

    #[test]
    fn an_empty_report_is_a_page_too() {
        sound(&run(&report(0, 0, MS, &[], 0.0)).unwrap());
    }

    #[test]
    fn the_last_second_is_as_long_as_it_was() {
        let mut half = report(10, 0, MS, &[], 1.5);
        half.series.at(Duration::ZERO).bytes = 2_000_000_000;
        half.series.at(Duration::from_secs(1)).bytes = 1_000_000_000;
        assert_eq!(rates(&half), [(0.5, 2.0), (1.25, 2.0)]);
    }
}
