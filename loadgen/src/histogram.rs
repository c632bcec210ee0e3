//! The distribution of a time: merged over threads and machines, never averaged.
//!
//! Times are kept in nanoseconds with three significant digits from one microsecond to an hour; what lies outside is counted at the edge
//! and never lost. Between machines a distribution travels as HdrHistogram's compressed V2 encoding in base64, which the tools of every
//! language's HdrHistogram read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use std::time::Duration;

/// The quantiles of every report, and their names.
pub(crate) const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.9999)];

const LOWEST: u64 = 1_000;
const HIGHEST: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;
/// A report with a longer histogram than this was not written by loadgen.
const MAX_ENCODED: usize = 4 << 20;

/// The distribution of a time.
#[derive(Clone, Debug, PartialEq)]
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

    /// As text that [`Latency::decode`] reads.
    pub(crate) fn encode(&self) -> Result<String, String> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.times, &mut bytes)
            .map_err(|error| format!("cannot write a histogram: {error}"))?;
        Ok(STANDARD.encode(bytes))
    }

    /// From text, into the bounds of this program.
    pub(crate) fn decode(text: &str) -> Result<Self, String> {
        if text.len() > MAX_ENCODED {
            return Err(format!("a histogram of {} bytes is too long", text.len()));
        }
        let bytes = STANDARD.decode(text).map_err(|error| format!("a histogram is not base64: {error}"))?;
        let decoded: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| format!("a histogram is damaged: {error}"))?;
        let mut latency = Self::new()?;
        // Value by value, as the other's bounds may be wider: what is outside ours is counted at the edge.
        for value in decoded.iter_recorded() {
            latency.times.saturating_record_n(value.value_iterated_to(), value.count_at_value());
        }
        Ok(latency)
    }
}

fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
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
    fn a_distribution_survives_the_journey_bucket_by_bucket() {
        let mut latency = Latency::new().unwrap();
        for i in 0..10_000u64 {
            latency.record(Duration::from_nanos(i * i * 37));
        }
        latency.record(Duration::from_secs(100_000));
        let text = latency.encode().unwrap();
        assert!(text.starts_with("HISTF"), "not what other tools read: {text}");
        let back = Latency::decode(&text).unwrap();
        assert_eq!(back, latency);
        assert_eq!(back.quantile_us(0.999), latency.quantile_us(0.999));
        assert_eq!(Latency::decode(&Latency::new().unwrap().encode().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn two_halves_merge_to_the_whole() {
        let times: Vec<Duration> = (1..=5000u64).map(|i| Duration::from_micros(i * i % 9973 + 1)).collect();
        let of = |times: &[Duration]| {
            let mut latency = Latency::new().unwrap();
            for &time in times {
                latency.record(time);
            }
            latency
        };
        let mut half = Latency::decode(&of(&times[..1234]).encode().unwrap()).unwrap();
        half.merge(&of(&times[1234..])).unwrap();
        assert_eq!(half, of(&times));
    }

    #[test]
    fn rubbish_is_no_distribution() {
        for text in ["", "not base64!", "HISTFAAA", "AAAAAAAA"] {
            assert!(Latency::decode(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn an_empty_distribution_is_all_zeros() {
        let latency = Latency::new().unwrap();
        assert_eq!(latency.min_mean_max_us(), (0.0, 0.0, 0.0));
        assert!(latency.quantile_us(0.99) < 0.001);
    }
}
