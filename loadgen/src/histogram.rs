//! Latencies, and what a thread counted: merged over threads, never averaged.
//!
//! Times are kept in nanoseconds with three significant digits from one microsecond to an hour; what lies outside is counted at the edge
//! and never lost.

use crate::exchange::Failure;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// The quantiles of every report, and their names.
pub(crate) const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.9999)];

const LOWEST: u64 = 1_000;
const HIGHEST: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// The distribution of a time.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    times: Histogram<u64>,
}

impl Latency {
    pub(crate) fn new() -> Result<Self, String> {
        let times = Histogram::new_with_bounds(LOWEST, HIGHEST, DIGITS)
            .map_err(|error| format!("cannot make a histogram: {error}"))?;
        Ok(Self { times })
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.times.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(HIGHEST));
    }

    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), String> {
        self.times.add(&other.times).map_err(|error| format!("cannot merge histograms: {error}"))
    }

    /// How many times were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.times.len()
    }

    /// The quantile, in microseconds.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        microseconds(self.times.value_at_quantile(quantile))
    }

    /// Minimum, mean and maximum, in microseconds; zeros when nothing was recorded.
    pub(crate) fn min_mean_max_us(&self) -> (f64, f64, f64) {
        if self.times.is_empty() {
            return (0.0, 0.0, 0.0);
        }
        (microseconds(self.times.min()), self.times.mean() / 1e3, microseconds(self.times.max()))
    }
}

fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

/// What was counted while the window was open.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Requests answered as asked.
    pub(crate) requests: u64,
    /// Body bytes: read as they came, written once acknowledged.
    pub(crate) bytes: u64,
    pub(crate) latency: Latency,
    pub(crate) first_byte: Latency,
    pub(crate) failures: BTreeMap<Failure, u64>,
    /// Kept-alive connections that the server closed between two requests, which is its right.
    pub(crate) reconnects: u64,
}

impl Tally {
    pub(crate) fn new() -> Result<Self, String> {
        Ok(Self {
            requests: 0,
            bytes: 0,
            latency: Latency::new()?,
            first_byte: Latency::new()?,
            failures: BTreeMap::new(),
            reconnects: 0,
        })
    }

    pub(crate) fn fail(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), String> {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.reconnects += other.reconnects;
        for (&failure, count) in &other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
        self.latency.merge(&other.latency)?;
        self.first_byte.merge(&other.first_byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_thousandth() {
        let mut latency = Latency::new().unwrap();
        for ms in 1..=1000 {
            latency.record(Duration::from_millis(ms));
        }
        for (quantile, expected) in [(0.5, 500e3), (0.9, 900e3), (0.99, 990e3), (0.9999, 1000e3)] {
            let got = latency.quantile_us(quantile);
            assert!((got / expected - 1.0).abs() < 0.001, "{quantile}: {got} instead of {expected}");
        }
        let (min, mean, max) = latency.min_mean_max_us();
        assert!(
            (min / 1e3 - 1.0).abs() < 0.001
                && (mean / 500.5e3 - 1.0).abs() < 0.001
                && (max / 1000e3 - 1.0).abs() < 0.001
        );
    }

    #[test]
    fn times_outside_the_scale_are_kept_at_its_edge() {
        let mut latency = Latency::new().unwrap();
        latency.record(Duration::ZERO);
        latency.record(Duration::from_secs(100_000));
        assert_eq!(latency.count(), 2);
        assert!(latency.quantile_us(1.0) >= 3.6e9);
    }

    #[test]
    fn merging_counts_everything_once() {
        let mut one = Tally::new().unwrap();
        one.requests = 2;
        one.bytes = 100;
        one.latency.record(Duration::from_millis(1));
        one.fail(Failure::Status(503));
        let mut other = one.clone();
        other.latency.record(Duration::from_millis(9));
        other.fail(Failure::Status(503));
        other.fail(Failure::Closed);
        one.merge(&other).unwrap();
        assert_eq!((one.requests, one.bytes, one.latency.count(), one.failed()), (4, 200, 3, 4));
        assert_eq!(one.failures[&Failure::Status(503)], 3);
    }

    #[test]
    fn an_empty_distribution_is_all_zeros() {
        let latency = Latency::new().unwrap();
        assert_eq!(latency.min_mean_max_us(), (0.0, 0.0, 0.0));
        assert!(latency.quantile_us(0.99) < 0.001);
    }
}
