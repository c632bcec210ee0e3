//! What happened second by second, from the opening of the window on.
//!
//! Series of threads and machines are added place by place, so only what can be added, or of which the larger can be kept, stands in
//! them. A run longer than [`MOST_SECONDS`] counts the rest in the last second.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A week.
pub(crate) const MOST_SECONDS: usize = 7 * 24 * 3600;

/// One second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Second {
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) latency_sum_us: f64,
    pub(crate) latency_max_us: f64,
}

impl Second {
    fn add(&mut self, other: &Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.latency_sum_us += other.latency_sum_us;
        self.latency_max_us = self.latency_max_us.max(other.latency_max_us);
    }

    /// The mean latency of the requests answered in it.
    pub(crate) fn latency_mean_us(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.latency_sum_us / self.requests as f64 }
    }
}

/// All seconds of a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Series {
    seconds: Vec<Second>,
}

impl Series {
    pub(crate) fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    /// The second `since` the window opened.
    pub(crate) fn at(&mut self, since: Duration) -> &mut Second {
        let index = usize::try_from(since.as_secs()).unwrap_or(MOST_SECONDS).min(MOST_SECONDS - 1);
        if index >= self.seconds.len() {
            self.seconds.resize(index + 1, Second::default());
        }
        &mut self.seconds[index]
    }

    /// Adds `other`, whose window opened `later` seconds after this one's.
    pub(crate) fn add(&mut self, other: &Self, later: usize) {
        for (index, second) in other.seconds.iter().enumerate() {
            self.at(Duration::from_secs((index + later) as u64)).add(second);
        }
    }

    /// Makes it at least so long, with seconds in which nothing happened.
    pub(crate) fn pad(&mut self, seconds: usize) {
        if seconds > 0 {
            self.at(Duration::from_secs(seconds as u64 - 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(bytes: &[u64]) -> Series {
        let mut series = Series::default();
        for (second, &bytes) in bytes.iter().enumerate() {
            let at = series.at(Duration::from_secs(second as u64));
            (at.bytes, at.requests, at.latency_sum_us, at.latency_max_us) = (bytes, 1, 5.0, bytes as f64);
        }
        series
    }

    #[test]
    fn series_are_added_where_their_seconds_meet() {
        let mut one = series(&[1, 2, 3]);
        one.add(&series(&[10, 20, 30]), 2);
        assert_eq!(one.seconds().iter().map(|s| s.bytes).collect::<Vec<_>>(), [1, 2, 13, 20, 30]);
        assert_eq!(one.seconds()[2].requests, 2);
        assert!((one.seconds()[2].latency_max_us - 10.0).abs() < 1e-9);
        assert!((one.seconds()[2].latency_mean_us() - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_second_in_which_nothing_happened_is_there_all_the_same() {
        let mut one = Series::default();
        one.at(Duration::from_millis(2500)).bytes = 1;
        one.pad(5);
        assert_eq!(one.seconds().iter().map(|s| s.bytes).collect::<Vec<_>>(), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn no_length_of_run_takes_more_than_its_bound() {
        let mut one = Series::default();
        one.at(Duration::MAX).bytes += 1;
        one.at(Duration::MAX).bytes += 1;
        assert_eq!((one.seconds().len(), one.seconds()[MOST_SECONDS - 1].bytes), (MOST_SECONDS, 2));
    }
}
