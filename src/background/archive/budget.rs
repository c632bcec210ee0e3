//! What all orders together may ask of the line: bytes a second up, and uploads at once.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep_until;

use crate::limits::{ARCHIVE_PUT_TIME, CHUNK_SIZE};

/// Shared by all orders.
pub(super) struct Budget {
    pace: Option<Pace>,
    places: Semaphore,
    /// Whether a chunk at this pace takes so long that the store would give up on its upload.
    slow: bool,
}

/// Bytes or requests a second.
pub(super) struct Pace {
    rate: u64,
    next: Cell<Instant>,
}

impl Pace {
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        Self { rate, next: Cell::new(now) }
    }

    /// When `bytes` more are gone at this pace. Time that nobody used is not made up for.
    pub(super) fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let begin = self.next.get().max(now);
        let end = begin + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.next.set(end);
        end
    }
}

impl Budget {
    /// `rate` bytes a second, 0 for as many as can be; `uploads` at once.
    pub(super) fn new(rate: u64, uploads: usize) -> Self {
        let uploads = uploads.max(1);
        // All uploads share the rate.
        let slow = rate > 0 && uploads as u64 * CHUNK_SIZE / rate > ARCHIVE_PUT_TIME.as_secs() / 4;
        let pace = (rate > 0).then(|| Pace::new(rate, Instant::now()));
        Self { pace, places: Semaphore::new(uploads), slow }
    }

    /// Waits for a place for an upload; none: there is none any more.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.acquire().await.ok()
    }

    /// Before an upload of so many bytes: at a slow pace it waits for all of them, and goes in one.
    pub(super) async fn begin(&self, bytes: u64) {
        if self.slow {
            self.spend(bytes).await;
        }
    }

    /// Before the next bytes of an upload.
    pub(super) async fn go_on(&self, bytes: u64) {
        if !self.slow {
            self.spend(bytes).await;
        }
    }

    async fn spend(&self, bytes: u64) {
        if let Some(pace) = &self.pace {
            let until = pace.reserve(bytes, Instant::now());
            sleep_until(until.into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_send_together_keeps_the_rate() {
        let begin = Instant::now();
        let pace = Pace::new(1 << 20, begin);
        let after = |seconds: u64| begin + Duration::from_secs(seconds);
        assert_eq!(pace.reserve(1 << 20, begin), after(1));
        assert_eq!(pace.reserve(2 << 20, begin), after(3), "it waits for the one before");
        assert_eq!(pace.reserve(1 << 20, after(2)), after(4));
    }

    #[test]
    fn time_that_nobody_used_is_not_made_up_for() {
        let begin = Instant::now();
        let pace = Pace::new(1 << 20, begin);
        let late = begin + Duration::from_mins(1);
        assert_eq!(pace.reserve(1 << 20, late), late + Duration::from_secs(1));
    }

    #[test]
    fn an_upload_waits_before_it_begins_where_the_store_would_not_wait_for_it() {
        assert!(Budget::new(64 << 10, 1).slow);
        assert!(Budget::new(1 << 20, 4).slow, "four share it");
        assert!(!Budget::new(1 << 20, 1).slow);
        assert!(!Budget::new(0, 64).slow, "there is no rate");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nobody_waits() {
        let budget = Budget::new(0, 1);
        let begun = tokio::time::Instant::now();
        budget.begin(CHUNK_SIZE).await;
        budget.go_on(CHUNK_SIZE).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let _place = budget.place().await.unwrap();
        assert_eq!(budget.places.available_permits(), 0);
    }
}
