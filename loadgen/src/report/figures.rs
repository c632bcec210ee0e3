//! Counts, rates and distributions, as they stand in a report.

use crate::histogram::{Latency, QUANTILES};
use crate::report::{GB, rounded};
use crate::tally::{Failures, OperationTally};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
