//! What a running thread lets others see: totals for the live line and the automatic stop.
//!
//! Each thread has a meter of its own and is the only one to write to it, so a total costs it a plain store, once for a batch of events.

use crate::tally::Tally;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One thread's totals; a cache line of its own, or the threads would slow one another down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Meter {
    bytes: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    latency_sum_ns: AtomicU64,
}

/// Totals at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) latency_sum_ns: u64,
}

impl Meter {
    pub(crate) fn publish(&self, tally: &Tally) {
        self.bytes.store(tally.bytes(), Relaxed);
        self.requests.store(tally.requests(), Relaxed);
        self.errors.store(tally.failed(), Relaxed);
        self.latency_sum_ns.store(u64::try_from(tally.latency_sum.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Reading {
    /// All threads together.
    pub(crate) fn of(meters: &[Meter]) -> Self {
        meters.iter().fold(Self::default(), |sum, meter| Self {
            bytes: sum.bytes + meter.bytes.load(Relaxed),
            requests: sum.requests + meter.requests.load(Relaxed),
            errors: sum.errors + meter.errors.load(Relaxed),
            latency_sum_ns: sum.latency_sum_ns.saturating_add(meter.latency_sum_ns.load(Relaxed)),
        })
    }

    /// What was added after `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(earlier.bytes),
            requests: self.requests.saturating_sub(earlier.requests),
            errors: self.errors.saturating_sub(earlier.errors),
            latency_sum_ns: self.latency_sum_ns.saturating_sub(earlier.latency_sum_ns),
        }
    }

    /// The mean latency, in microseconds; 0 if nothing was answered.
    pub(crate) fn latency_mean_us(self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.latency_sum_ns as f64 / 1e3 / self.requests as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn readings_add_up_over_threads_and_subtract_over_time() {
        let meters = [Meter::default(), Meter::default()];
        let mut tally = Tally::new(1).unwrap();
        tally.operations[0].bytes = 100;
        tally.operations[0].requests = 2;
        tally.latency_sum = Duration::from_micros(30);
        for meter in &meters {
            meter.publish(&tally);
        }
        let before = Reading::of(&meters);
        assert_eq!((before.bytes, before.requests), (200, 4));
        tally.operations[0].bytes = 150;
        tally.operations[0].requests = 3;
        tally.latency_sum = Duration::from_micros(90);
        meters[1].publish(&tally);
        let since = Reading::of(&meters).since(before);
        assert_eq!((since.bytes, since.requests), (50, 1));
        assert!((since.latency_mean_us() - 60.0).abs() < 1e-9);
    }
}
