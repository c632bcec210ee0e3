//! Reports as CSV (RFC 4180): one line for each run, or one for each second.

use super::{Report, rounded};
use std::borrow::Cow;
use std::fmt::Write as _;

/// One line of figures for each of the reports, each under its label.
pub(crate) fn figures_csv(reports: &[(&str, &Report)]) -> String {
    let mut out =
        String::from("run,workload,description,url,window_s,requests,bytes,gb_per_s,requests_per_s");
    for of in ["latency", "first_byte"] {
        for name in ["min", "mean", "p50", "p90", "p95", "p99", "p99_9", "p99_99", "max"] {
            let _ = write!(out, ",{of}_{name}_us");
        }
    }
    out.push_str(",errors,error_rate,reconnects,client_cpu_s,client_cpu_s_per_gb,server_cpu_s,server_cpu_s_per_gb,limit_share\r\n");
    for (label, report) in reports {
        let figures = &report.figures;
        let mut fields: Vec<String> = [label, report.workload.as_str(), &report.description, report.url()]
            .map(|text| field(text).into())
            .into();
        fields.extend([report.window_s.to_string(), figures.requests.to_string(), figures.bytes.to_string()]);
        fields.extend([figures.gb_per_s.to_string(), figures.requests_per_s.to_string()]);
        for of in [&figures.latency_us, &figures.first_byte_us] {
            fields.extend([of.min.to_string(), of.mean.to_string()]);
            fields.extend(of.named().map(|(_, value)| value.to_string()));
        }
        fields.extend([report.failed().to_string(), rounded(report.error_rate).to_string()]);
        fields.push(report.reconnects.to_string());
        for cpu in [&report.client_cpu, &report.server_cpu] {
            fields.push(or_empty(cpu.as_ref().map(|cpu| cpu.seconds)));
            fields.push(or_empty(cpu.as_ref().and_then(|cpu| cpu.seconds_per_gb)));
        }
        fields.push(or_empty(report.limit.as_ref().map(|limit| limit.share)));
        out.push_str(&fields.join(","));
        out.push_str("\r\n");
    }
    out
}

/// One line for each second of each of the reports, each under its label.
pub(crate) fn series_csv(reports: &[(&str, &Report)]) -> String {
    let mut out = String::from("run,second,bytes,requests,errors,latency_mean_us,latency_max_us\r\n");
    for (label, report) in reports {
        for (index, second) in report.series.seconds().iter().enumerate() {
            let _ = write!(
                out,
                "{},{index},{},{},{},{},{}\r\n",
                field(label),
                second.bytes,
                second.requests,
                second.errors,
                rounded(second.latency_mean_us()),
                rounded(second.latency_max_us)
            );
        }
    }
    out
}

fn or_empty(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// A field, in quotes where it needs them.
fn field(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\r', '\n']) {
        return format!("\"{}\"", text.replace('"', "\"\"")).into();
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;
    use std::time::Duration;

    #[test]
    fn every_line_has_the_fields_of_the_first() {
        let mut one = report(10, 1000, Duration::from_millis(1), &[], 2.0);
        one.description = "plain".to_owned();
        let csv = figures_csv(&[("a", &one), ("b", &one)]);
        let lines: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|fields| *fields == lines[0]), "{csv}");
        let column =
            csv.lines().next().unwrap().split(',').position(|name| name == "latency_p99_us").unwrap();
        let p99: f64 = csv.lines().nth(1).unwrap().split(',').nth(column).unwrap().parse().unwrap();
        assert!((p99 / 1000.0 - 1.0).abs() < 0.001, "{p99}");
    }

    #[test]
    fn seconds_are_lines() {
        let csv = series_csv(&[("a", &report(10, 1000, Duration::from_millis(1), &[], 2.0))]);
        assert_eq!(csv.lines().count(), 3);
        assert!(csv.lines().nth(2).unwrap().starts_with("a,1,500,10,0,"), "{csv}");
    }

    #[test]
    fn what_would_break_a_line_is_quoted() {
        assert_eq!(field("a,b"), "\"a,b\"");
        assert_eq!(field("say \"x\"\n"), "\"say \"\"x\"\"\n\"");
        assert_eq!(field("plain"), "plain");
    }
}
