//! Bytes per second, of all cores together (a leaky bucket): who takes bytes is told how long to wait.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::SYNC_BURST;

/// A rate that is kept on average; short bursts pass.
#[derive(Debug)]
pub struct Limiter {
    /// Bytes per second; 0: any.
    rate: u64,
    /// When what was taken so far is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Limiter {
    /// Of so many bytes per second; 0: any.
    pub fn new(rate: u64) -> Self {
        Self { rate, paid: Mutex::new(None) }
    }

    /// Takes bytes, and says how long to wait before the next are taken.
    pub fn take(&self, bytes: u64, now: Instant) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let cost = Duration::from_nanos((u128::from(bytes) * 1_000_000_000 / u128::from(self.rate)) as u64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = paid.map_or(now, |paid| paid.max(now));
        let paid = *paid.insert(from + cost);
        paid.saturating_duration_since(now).saturating_sub(SYNC_BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_by_all_together() {
        let limiter = Limiter::new(1000);
        let start = Instant::now();
        let mut now = start;
        for _ in 0..100 {
            now += limiter.take(100, now);
        }
        let took = now.duration_since(start);
        assert!((9_400..=10_000).contains(&took.as_millis()), "{took:?}");
        // Silence buys no more than a burst.
        now += Duration::from_mins(1);
        assert_eq!(limiter.take(500, now), Duration::ZERO);
        assert_eq!(limiter.take(500, now), Duration::from_millis(500));
        assert_eq!(Limiter::new(0).take(u64::MAX, now), Duration::ZERO);
    }
}
