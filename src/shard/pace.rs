//! How long a connection waits for its client: a client must keep up a slow rate, and the time in which the server
//! itself is busy does not count.

use std::future::Future;
use std::time::{Duration, Instant};

use monoio::time::timeout;

use super::connection::Plane;
use crate::limits::{PEER_SILENCE, RATE_GRACE, RATE_MIN};

/// The patience left with one body.
#[derive(Debug)]
pub(super) struct Pace {
    credit: Duration,
    most: Duration,
}

/// The client was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooSlow;

impl Pace {
    /// Another node passes on what its own client sends, which is as slow as that one may be.
    pub(super) fn new(plane: Plane) -> Self {
        let most = if plane == Plane::Public { RATE_GRACE } else { PEER_SILENCE };
        Self { credit: most, most }
    }

    /// Waits for the client within the patience left, and at most for `limit`: none, when that has passed.
    pub(super) async fn wait<F: Future>(
        &mut self,
        limit: Duration,
        receive: F,
    ) -> Result<Option<F::Output>, TooSlow> {
        let start = Instant::now();
        let patience = self.credit.min(limit);
        let result = timeout(patience, receive).await;
        self.spend(start.elapsed());
        match result {
            Ok(received) => Ok(Some(received)),
            Err(_) if self.credit.is_zero() => Err(TooSlow),
            Err(_) => Ok(None),
        }
    }

    /// Notes bytes that came.
    pub(super) fn earn(&mut self, bytes: usize) {
        let earned = Duration::from_millis(bytes as u64 * 1000 / RATE_MIN);
        self.credit = self.credit.saturating_add(earned).min(self.most);
    }

    fn spend(&mut self, time: Duration) {
        self.credit = self.credit.saturating_sub(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_at_the_slowest_rate_is_never_cut_and_a_slower_one_is() {
        let mut pace = Pace::new(Plane::Public);
        for _ in 0..1000 {
            pace.spend(Duration::from_secs(1));
            pace.earn(RATE_MIN as usize);
        }
        assert!(pace.credit > Duration::ZERO);
        for _ in 0..25 {
            pace.spend(Duration::from_secs(1));
            pace.earn(RATE_MIN as usize / 2);
        }
        assert!(pace.credit < Duration::from_secs(1));
    }

    #[test]
    fn a_fast_start_buys_no_long_silence() {
        let mut pace = Pace::new(Plane::Public);
        pace.earn(1 << 30);
        assert_eq!(pace.credit, RATE_GRACE);
    }
}
