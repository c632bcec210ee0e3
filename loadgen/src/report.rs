//! A run's figures: for people on standard output, for machines as JSON.
//!
//! GB are 10^9 bytes. CPU seconds per GB cover the same window as the bytes.

use crate::client::Outcome;
use crate::histogram::{Latency, QUANTILES, Tally};
use crate::units::show_size;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::time::Duration;

const GB: f64 = 1e9;

/// What a run was and what it found.
#[derive(Debug)]
pub(crate) struct Report {
    /// `get`, `put` or `prepare`.
    pub(crate) workload: &'static str,
    /// One line that says what was asked for.
    pub(crate) description: String,
    /// The parameters of the run, as they stand in the JSON.
    pub(crate) parameters: Map<String, Value>,
    pub(crate) outcome: Outcome,
}

impl Report {
    /// Bytes a second, in GB; 0 for an empty window.
    pub(crate) fn gb_per_second(&self) -> f64 {
        per_second(self.tally().bytes as f64 / GB, self.outcome.window)
    }

    /// Answered requests a second.
    pub(crate) fn requests_per_second(&self) -> f64 {
        per_second(self.tally().requests as f64, self.outcome.window)
    }

    /// The share of requests that failed; 0 if there were none at all.
    pub(crate) fn error_rate(&self) -> f64 {
        let failed = self.tally().failed();
        let all = failed + self.tally().requests;
        if all == 0 { 0.0 } else { failed as f64 / all as f64 }
    }

    /// Whether the run says anything, and all of it good.
    pub(crate) fn is_clean(&self) -> bool {
        self.tally().failed() == 0
    }

    /// Whether anything was moved in the window.
    pub(crate) fn is_empty(&self) -> bool {
        self.tally().requests == 0 && self.tally().bytes == 0
    }

    /// The whole report as JSON.
    pub(crate) fn json(&self) -> Value {
        let tally = self.tally();
        let errors: Map<String, Value> =
            tally.failures.iter().map(|(failure, count)| (failure.name(), json!(count))).collect();
        json!({
            "loadgen": env!("CARGO_PKG_VERSION"),
            "workload": self.workload,
            "parameters": self.parameters,
            "window_s": rounded(self.outcome.window.as_secs_f64()),
            "requests": tally.requests,
            "bytes": tally.bytes,
            "gb_per_s": rounded(self.gb_per_second()),
            "requests_per_s": rounded(self.requests_per_second()),
            "latency_us": latency_json(&tally.latency),
            "first_byte_us": latency_json(&tally.first_byte),
            "errors": errors,
            "error_rate": self.error_rate(),
            "reconnects": tally.reconnects,
            "client_cpu": self.cpu_json(self.outcome.client_cpu),
            "server_cpu": self.cpu_json(self.outcome.server_cpu),
        })
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let tally = self.tally();
        let mut out = String::new();
        let mut line = |label: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{label:<12}{value}");
        };
        line("workload", self.description.clone());
        line(
            "throughput",
            format!("{:.3} GB/s, {:.1} requests/s", self.gb_per_second(), self.requests_per_second()),
        );
        line(
            "moved",
            format!(
                "{} in {} requests, {:.2} s",
                show_size(tally.bytes),
                tally.requests,
                self.outcome.window.as_secs_f64()
            ),
        );
        line("latency", latency_text(&tally.latency));
        line("first byte", latency_text(&tally.first_byte));
        for (label, cpu) in [("client CPU", self.outcome.client_cpu), ("server CPU", self.outcome.server_cpu)]
        {
            if let Some(cpu) = cpu {
                let per_gb =
                    self.cpu_per_gb(cpu).map_or_else(String::new, |cost| format!(", {cost:.3} s/GB"));
                line(label, format!("{:.2} s{per_gb}", cpu.as_secs_f64()));
            }
        }
        if tally.reconnects > 0 {
            line("reconnects", tally.reconnects.to_string());
        }
        if tally.failures.is_empty() {
            line("errors", "none".to_owned());
        }
        for (failure, count) in &tally.failures {
            line(
                "errors",
                format!("{count} x {} ({:.2} % of all)", failure.name(), 100.0 * self.error_rate()),
            );
        }
        out
    }

    fn tally(&self) -> &Tally {
        &self.outcome.tally
    }

    fn cpu_json(&self, cpu: Option<Duration>) -> Value {
        cpu.map_or(Value::Null, |cpu| {
            json!({ "seconds": rounded(cpu.as_secs_f64()), "seconds_per_gb": self.cpu_per_gb(cpu).map(rounded) })
        })
    }

    fn cpu_per_gb(&self, cpu: Duration) -> Option<f64> {
        let bytes = self.tally().bytes;
        (bytes > 0).then(|| cpu.as_secs_f64() / (bytes as f64 / GB))
    }
}

fn per_second(amount: f64, window: Duration) -> f64 {
    if window.is_zero() { 0.0 } else { amount / window.as_secs_f64() }
}

/// To a millionth: more digits than any of the figures deserves.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn latency_json(latency: &Latency) -> Value {
    let (min, mean, max) = latency.min_mean_max_us();
    let mut fields = Map::new();
    fields.insert("count".to_owned(), json!(latency.count()));
    fields.insert("min".to_owned(), json!(rounded(min)));
    fields.insert("mean".to_owned(), json!(rounded(mean)));
    for (name, quantile) in QUANTILES {
        fields.insert(name.to_owned(), json!(rounded(latency.quantile_us(quantile))));
    }
    fields.insert("max".to_owned(), json!(rounded(max)));
    Value::Object(fields)
}

fn latency_text(latency: &Latency) -> String {
    if latency.count() == 0 {
        return "nothing was finished".to_owned();
    }
    let shown = |us: f64| match us {
        us if us >= 1e6 => format!("{:.2} s", us / 1e6),
        us if us >= 1e3 => format!("{:.2} ms", us / 1e3),
        us => format!("{us:.0} us"),
    };
    let mut parts: Vec<String> = QUANTILES
        .iter()
        .map(|(name, quantile)| {
            format!("{} {}", name.replace('_', "."), shown(latency.quantile_us(*quantile)))
        })
        .collect();
    parts.push(format!("max {}", shown(latency.min_mean_max_us().2)));
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Failure;

    fn report(requests: u64, bytes: u64, failures: &[Failure], window: Duration) -> Report {
        let mut tally = Tally::new().unwrap();
        tally.requests = requests;
        tally.bytes = bytes;
        for _ in 0..requests {
            tally.latency.record(Duration::from_millis(2));
        }
        for &failure in failures {
            tally.fail(failure);
        }
        let outcome = Outcome { tally, window, client_cpu: None, server_cpu: Some(Duration::from_secs(1)) };
        Report { workload: "get", description: "a test".to_owned(), parameters: Map::new(), outcome }
    }

    #[test]
    fn rates_are_decimal_and_over_the_window() {
        let json = report(100, 4_000_000_000, &[], Duration::from_secs(2)).json();
        assert_eq!(json["gb_per_s"], json!(2.0));
        assert_eq!(json["requests_per_s"], json!(50.0));
        assert_eq!(json["server_cpu"]["seconds_per_gb"], json!(0.25));
        assert_eq!(json["client_cpu"], Value::Null);
        assert_eq!(json["latency_us"]["count"], json!(100));
        let p99 = json["latency_us"]["p99"].as_f64().unwrap();
        assert!((p99 / 2000.0 - 1.0).abs() < 0.001, "{p99}");
    }

    #[test]
    fn failures_are_counted_by_kind() {
        let report = report(2, 10, &[Failure::Status(503), Failure::Corrupt], Duration::from_secs(1));
        assert!(!report.is_clean());
        assert!((report.error_rate() - 0.5).abs() < 1e-9);
        assert_eq!(report.json()["errors"], json!({ "status_503": 1, "corrupt": 1 }));
        assert!(report.text().contains("1 x status_503"));
    }

    #[test]
    fn a_run_without_anything_divides_by_nothing() {
        let report = report(0, 0, &[], Duration::ZERO);
        assert!(report.is_empty());
        let json = report.json();
        assert_eq!(json["gb_per_s"], json!(0.0));
        assert_eq!(json["server_cpu"]["seconds_per_gb"], Value::Null);
        assert!(report.text().contains("nothing was finished"));
    }
}
