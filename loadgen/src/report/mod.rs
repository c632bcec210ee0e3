//! What a run found: the form in which figures are written, read again, merged and compared.
//!
//! GB are 10^9 bytes. CPU seconds per GB cover the same window as the bytes. A report carries its raw histograms, so whatever is derived
//! from several reports is derived from all their measurements, never from their percentiles.

mod csv;
mod text;

use crate::cli::Run;
use crate::client::Outcome;
use crate::histogram::{Latency, QUANTILES};
use crate::series::Series;
use crate::tally::{Failures, OperationTally};
pub(crate) use csv::{figures_csv, series_csv};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};
pub(crate) use text::summary;

const GB: f64 = 1e9;
/// A report larger than this was not written by loadgen.
const MAX_FILE: u64 = 256 << 20;

/// What a run, or several merged, was and found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The version that wrote it.
    pub(crate) loadgen: String,
    /// `run`, or `merge` of several.
    #[serde(default = "run")]
    pub(crate) kind: String,
    /// `get`, `put`, `mix` or `prepare`.
    pub(crate) workload: String,
    /// One line that says what was asked for.
    #[serde(default)]
    pub(crate) description: String,
    pub(crate) parameters: Map<String, Value>,
    /// When the window opened, in seconds of Unix time.
    #[serde(default)]
    pub(crate) opened_at_unix_s: f64,
    pub(crate) window_s: f64,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// The share of requests that failed; 0 if there were none at all.
    pub(crate) error_rate: f64,
    pub(crate) reconnects: u64,
    pub(crate) client_cpu: Option<Cpu>,
    pub(crate) server_cpu: Option<Cpu>,
    #[serde(default)]
    pub(crate) limit: Option<Limit>,
    #[serde(default)]
    pub(crate) stability: Stability,
    /// The operations of a mix, one by one.
    #[serde(default)]
    pub(crate) operations: Vec<Operation>,
    #[serde(default)]
    pub(crate) series: Series,
    /// What a reader must know about how it came about.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

fn run() -> String {
    "run".to_owned()
}

/// Counts, rates and distributions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) gb_per_s: f64,
    pub(crate) requests_per_s: f64,
    pub(crate) latency_us: Quantiles,
    pub(crate) first_byte_us: Quantiles,
    /// By kind.
    pub(crate) errors: BTreeMap<String, u64>,
    #[serde(default)]
    pub(crate) histograms: Histograms,
}

/// The raw distributions, in HdrHistogram's compressed V2 encoding and base64, in nanoseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Histograms {
    pub(crate) latency_ns: String,
    pub(crate) first_byte_ns: String,
}

/// A distribution in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) min: f64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) p99_99: f64,
    pub(crate) max: f64,
}

/// One operation of a mix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

/// CPU time used while the window was open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cpu {
    pub(crate) seconds: f64,
    pub(crate) seconds_per_gb: Option<f64>,
    /// Of which processes; empty for the load generator's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pids: Vec<u32>,
}

/// What the throughput can at most be, and how much of it was reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) bytes_per_s: f64,
    pub(crate) share: f64,
}

/// How steady the figure was from second to second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Stability {
    /// Relative half-width of the 95 % confidence interval over one-second windows.
    pub(crate) half_width: Option<f64>,
    /// Whether the run was ended because of it.
    pub(crate) stopped_early: bool,
}

impl Report {
    /// The report of a run that was just made.
    pub(crate) fn new(run: &Run, outcome: &Outcome) -> Result<Self, String> {
        let (settings, tally) = (&run.settings, &outcome.tally);
        let total = tally.total()?;
        let window_s = outcome.window.as_secs_f64();
        let figures = Figures::new(&total, window_s)?;
        let mut operations = Vec::new();
        if tally.operations.len() > 1 {
            for (index, operation) in tally.operations.iter().enumerate() {
                let figures = Figures::new(operation, window_s)?;
                operations.push(Operation { name: settings.plan.name(index), figures });
            }
        }
        let opened_at = outcome.opened_at.duration_since(SystemTime::UNIX_EPOCH);
        let mut series = tally.series.clone();
        series.pad(window_s.ceil() as usize);
        let cpu = |time: Option<Duration>, pids: &[u32]| {
            time.map(|time| Cpu::new(rounded(time.as_secs_f64()), total.bytes, pids.to_vec()))
        };
        let mut report = Self {
            loadgen: env!("CARGO_PKG_VERSION").to_owned(),
            kind: "run".to_owned(),
            workload: run.workload.to_owned(),
            description: run.description.clone(),
            parameters: run.parameters.clone(),
            opened_at_unix_s: opened_at.map_or(0.0, |since| rounded(since.as_secs_f64())),
            window_s: rounded(window_s),
            figures,
            error_rate: 0.0,
            reconnects: tally.reconnects,
            client_cpu: cpu(outcome.client_cpu, &[]),
            server_cpu: cpu(outcome.server_cpu, &settings.server_pids),
            limit: run.limit.clone(),
            stability: Stability {
                half_width: outcome.stable.half_width.map(rounded),
                stopped_early: outcome.stable.stopped,
            },
            operations,
            series,
            notes: Vec::new(),
        };
        report.derive();
        Ok(report)
    }

    /// Works out what follows from the figures.
    pub(crate) fn derive(&mut self) {
        let failed = self.failed();
        let all = failed + self.figures.requests;
        self.error_rate = if all == 0 { 0.0 } else { (failed as f64 / all as f64 * 1e9).round() / 1e9 };
        if let Some(limit) = &mut self.limit {
            limit.share = rounded(self.figures.gb_per_s * GB / limit.bytes_per_s);
        }
    }

    /// Reads a report that `--json` wrote.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let failed = |why: String| format!("cannot read the report {}: {why}", path.display());
        let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
        if size > MAX_FILE {
            return Err(failed(format!("its {size} bytes are more than any report has")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let report: Self = serde_json::from_str(&text).map_err(|error| {
            failed(format!(
                "{error}; give a file that loadgen's get, put, mix, prepare or merge wrote with --json"
            ))
        })?;
        if !(report.window_s.is_finite() && report.figures.gb_per_s.is_finite()) {
            return Err(failed("its figures are not numbers".to_owned()));
        }
        Ok(report)
    }

    /// As JSON.
    pub(crate) fn json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .map_err(|error| format!("cannot write the report as JSON: {error}"))
    }

    /// Requests that failed, of all kinds.
    pub(crate) fn failed(&self) -> u64 {
        self.figures.errors.values().sum()
    }

    /// Whether nothing failed.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed() == 0
    }

    /// Whether nothing was moved in the window.
    pub(crate) fn is_empty(&self) -> bool {
        self.figures.requests == 0 && self.figures.bytes == 0
    }

    /// The URL that was loaded, or an empty text.
    pub(crate) fn url(&self) -> &str {
        self.parameters.get("url").and_then(Value::as_str).unwrap_or_default()
    }
}

impl Figures {
    /// The figures of a window of `seconds`.
    pub(crate) fn new(tally: &OperationTally, seconds: f64) -> Result<Self, String> {
        let mut figures = Self {
            requests: tally.requests,
            bytes: tally.bytes,
            gb_per_s: 0.0,
            requests_per_s: 0.0,
            latency_us: Quantiles::of(&tally.latency),
            first_byte_us: Quantiles::of(&tally.first_byte),
            errors: names(&tally.failures),
            histograms: Histograms::of(&tally.latency, &tally.first_byte)?,
        };
        figures.rate(seconds);
        Ok(figures)
    }

    /// Sets the rates of a window of `seconds`.
    pub(crate) fn rate(&mut self, seconds: f64) {
        let per_second = |amount: f64| if seconds > 0.0 { rounded(amount / seconds) } else { 0.0 };
        self.gb_per_s = per_second(self.bytes as f64 / GB);
        self.requests_per_s = per_second(self.requests as f64);
    }
}

fn names(failures: &Failures) -> BTreeMap<String, u64> {
    failures.iter().map(|(failure, &count)| (failure.name(), count)).collect()
}

impl Histograms {
    pub(crate) fn of(latency: &Latency, first_byte: &Latency) -> Result<Self, String> {
        Ok(Self { latency_ns: latency.encode()?, first_byte_ns: first_byte.encode()? })
    }

    /// Latency and time to first byte.
    pub(crate) fn decode(&self) -> Result<(Latency, Latency), String> {
        let decode = |text: &str| if text.is_empty() { Latency::new() } else { Latency::decode(text) };
        Ok((decode(&self.latency_ns)?, decode(&self.first_byte_ns)?))
    }
}

impl Quantiles {
    pub(crate) fn of(latency: &Latency) -> Self {
        let (min, mean, max) = latency.min_mean_max_us();
        let [p50, p90, p95, p99, p99_9, p99_99] =
            QUANTILES.map(|(_, quantile)| rounded(latency.quantile_us(quantile)));
        let count = latency.count();
        Self {
            count,
            min: rounded(min),
            mean: rounded(mean),
            p50,
            p90,
            p95,
            p99,
            p99_9,
            p99_99,
            max: rounded(max),
        }
    }

    /// The quantiles and the maximum, by the names people use.
    pub(crate) fn named(&self) -> [(&'static str, f64); 7] {
        [
            ("p50", self.p50),
            ("p90", self.p90),
            ("p95", self.p95),
            ("p99", self.p99),
            ("p99.9", self.p99_9),
            ("p99.99", self.p99_99),
            ("max", self.max),
        ]
    }
}

impl Cpu {
    pub(crate) fn new(seconds: f64, bytes: u64, pids: Vec<u32>) -> Self {
        let seconds_per_gb = (bytes > 0).then(|| rounded(seconds / (bytes as f64 / GB)));
        Self { seconds, seconds_per_gb, pids }
    }
}

/// To a millionth: more digits than any of the figures deserves.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::exchange::Failure;

    /// A report as of a run of `requests` requests of `latency`, without what only a run has.
    pub(crate) fn report(
        requests: u64,
        bytes: u64,
        latency: Duration,
        failures: &[Failure],
        window_s: f64,
    ) -> Report {
        let mut tally = OperationTally::new().unwrap();
        (tally.requests, tally.bytes) = (requests, bytes);
        for _ in 0..requests {
            tally.latency.record(latency);
            tally.first_byte.record(latency / 2);
        }
        for &failure in failures {
            *tally.failures.entry(failure).or_default() += 1;
        }
        let mut series = Series::default();
        for second in 0..window_s.ceil() as u64 {
            let second = series.at(Duration::from_secs(second));
            (second.bytes, second.requests) = (bytes / window_s.ceil() as u64, requests);
        }
        let mut report = Report {
            loadgen: "0".to_owned(),
            kind: "run".to_owned(),
            workload: "get".to_owned(),
            description: "a test".to_owned(),
            parameters: Map::new(),
            opened_at_unix_s: 1000.0,
            window_s,
            figures: Figures::new(&tally, window_s).unwrap(),
            error_rate: 0.0,
            reconnects: 0,
            client_cpu: None,
            server_cpu: Some(Cpu::new(1.0, bytes, vec![7])),
            limit: Some(Limit { name: "NIC".to_owned(), bytes_per_s: 4e9, share: 0.0 }),
            stability: Stability::default(),
            operations: Vec::new(),
            series,
            notes: Vec::new(),
        };
        report.derive();
        report
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn rates_are_decimal_and_over_the_window() {
        let json: Value =
            serde_json::from_str(&report(100, 4_000_000_000, 2 * MS, &[], 2.0).json().unwrap()).unwrap();
        assert_eq!(json["gb_per_s"], 2.0);
        assert_eq!(json["requests_per_s"], 50.0);
        assert_eq!(json["server_cpu"]["seconds_per_gb"], 0.25);
        assert_eq!(json["client_cpu"], Value::Null);
        assert_eq!(json["limit"]["share"], 0.5);
        assert_eq!(json["latency_us"]["count"], 100);
        let p99 = json["latency_us"]["p99"].as_f64().unwrap();
        assert!((p99 / 2000.0 - 1.0).abs() < 0.001, "{p99}");
    }

    #[test]
    fn failures_are_counted_by_kind() {
        let report = report(2, 10, MS, &[Failure::Status(503), Failure::Corrupt], 1.0);
        assert!(!report.is_clean());
        assert!((report.error_rate - 0.5).abs() < 1e-9);
        let json: Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["errors"], serde_json::json!({ "status_503": 1, "corrupt": 1 }));
        assert!(summary(&report).contains("1 x status_503"));
    }

    #[test]
    fn a_run_without_anything_divides_by_nothing() {
        let report = report(0, 0, MS, &[], 0.0);
        assert!(report.is_empty());
        let json: Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(
            (&json["gb_per_s"], &json["server_cpu"]["seconds_per_gb"]),
            (&Value::from(0.0), &Value::Null)
        );
        assert!(summary(&report).contains("nothing was finished"));
    }

    #[test]
    fn a_report_that_is_written_is_read_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let written = report(100, 1000, 3 * MS, &[Failure::Reset], 2.0);
        std::fs::write(&path, written.json().unwrap()).unwrap();
        let read = Report::read(&path).unwrap();
        assert_eq!(read.json().unwrap(), written.json().unwrap());
        assert_eq!(read.figures.histograms.decode().unwrap().0.count(), 100);
    }

    #[test]
    fn what_is_no_report_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.json");
        for text in ["", "{}", "[1]", "not JSON"] {
            std::fs::write(&path, text).unwrap();
            let why = Report::read(&path).unwrap_err();
            assert!(why.contains("other.json"), "{why}");
        }
        assert!(Report::read(&folder.path().join("nowhere")).unwrap_err().contains("nowhere"));
    }
}
