//! The open loop of one thread: which requests are due, and which of them wait for a connection.
//!
//! A request that is due while all connections are busy waits in a queue, first come, first served, and keeps the time at which it was
//! due: its latency counts from there. So a server that stalls is charged for everybody who would have come in the meantime, which a
//! closed loop never asks about. The queue is bounded; what finds it full is dropped and counted.

use crate::arrivals::Arrivals;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Requests that are due, in the order of their times.
#[derive(Debug)]
pub(crate) struct Schedule {
    began: Instant,
    arrivals: Arrivals,
    waiting: VecDeque<Instant>,
    /// How many may wait.
    bound: usize,
    /// How many more may come; none: any number.
    left: Option<u64>,
}

impl Schedule {
    pub(crate) fn new(began: Instant, arrivals: Arrivals, bound: usize, left: Option<u64>) -> Self {
        Self { began, arrivals, waiting: VecDeque::new(), bound, left }
    }

    /// When the next request is due; none: no more will be.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        (self.left != Some(0)).then(|| self.began + Duration::from_nanos(self.arrivals.next_at()))
    }

    /// Lets everything in that is due at `now` and before `end`; the times of those for whom there was no room go to `dropped`.
    pub(crate) fn admit(&mut self, now: Instant, end: Option<Instant>, mut dropped: impl FnMut(Instant)) {
        let now = u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX);
        while self.left != Some(0) && self.next_due().is_some_and(|due| end.is_none_or(|end| due < end)) {
            let Some(at) = self.arrivals.take_due(now) else { break };
            self.left = self.left.map(|left| left - 1);
            let due = self.began + Duration::from_nanos(at);
            if self.waiting.len() < self.bound {
                self.waiting.push_back(due);
            } else {
                dropped(due);
            }
        }
    }

    /// The request that has waited longest: the time at which it was due.
    pub(crate) fn take(&mut self) -> Option<Instant> {
        self.waiting.pop_front()
    }

    /// Whether a request waits for a connection.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrivals::Spacing;

    const MS: Duration = Duration::from_millis(1);

    fn every_millisecond(bound: usize, left: Option<u64>) -> (Instant, Schedule) {
        let began = Instant::now();
        (began, Schedule::new(began, Arrivals::new(Spacing::Constant, 1000.0, 0, 1, 1), bound, left))
    }

    #[test]
    fn who_waits_keeps_the_time_at_which_they_were_due() {
        let (began, mut schedule) = every_millisecond(1000, None);
        schedule.admit(began + 5 * MS, None, |_| panic!("there is room"));
        let due: Vec<Instant> = std::iter::from_fn(|| schedule.take()).collect();
        assert_eq!(due, (0..=5).map(|ms| began + ms * MS).collect::<Vec<_>>());
        assert_eq!(schedule.next_due(), Some(began + 6 * MS));
    }

    /// One connection, 1000 requests a second that take no time, and a server that stands still for 200 ms: computed, not timed.
    #[test]
    fn a_stall_of_the_server_is_charged_to_all_who_came_meanwhile() {
        let (began, mut schedule) = every_millisecond(1000, None);
        let mut latencies = Vec::new();
        for ms in (0..100).chain(300..=1000) {
            let now = began + ms * MS;
            schedule.admit(now, None, |_| panic!("there is room"));
            latencies.extend(std::iter::from_fn(|| schedule.take()).map(|due| now - due));
        }
        latencies.sort_unstable();
        assert_eq!(latencies.len(), 1001);
        assert_eq!(latencies[1000], 200 * MS);
        assert_eq!(
            latencies[950],
            150 * MS,
            "the 95th percentile: a closed loop would have counted one slow request"
        );
        assert_eq!(latencies.iter().filter(|latency| **latency >= 100 * MS).count(), 101);
    }

    #[test]
    fn the_queue_is_bounded_and_the_newest_are_turned_away() {
        let (began, mut schedule) = every_millisecond(3, None);
        let mut dropped = Vec::new();
        schedule.admit(began + 4 * MS, None, |due| dropped.push(due));
        assert_eq!(dropped, [began + 3 * MS, began + 4 * MS]);
        assert_eq!(schedule.take(), Some(began));
    }

    #[test]
    fn nothing_comes_after_the_end_or_the_last() {
        let (began, mut schedule) = every_millisecond(100, Some(3));
        schedule.admit(began + 50 * MS, Some(began + 2 * MS), |_| {});
        assert_eq!(std::iter::from_fn(|| schedule.take()).count(), 2, "the end is not inside");
        schedule.admit(began + 50 * MS, None, |_| {});
        assert_eq!(std::iter::from_fn(|| schedule.take()).count(), 1);
        assert_eq!((schedule.next_due(), schedule.has_waiting()), (None, false));
    }
}
