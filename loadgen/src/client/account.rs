//! What one thread counts, and in which window: time is an argument.
//!
//! Throughput is what was finished while the window was open. Latencies in a closed loop are those of the same requests; in an open loop
//! those of the requests that were due in the window, whenever they were answered. Failures of the warm-up count, too: a run that hid
//! them would call a broken server fast.

use crate::clock::Window;
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::tally::Tally;
use std::time::Instant;

/// A thread's figures.
pub(super) struct Account {
    pub(super) tally: Tally,
    /// None while the connections are being made.
    pub(super) window: Option<Window>,
    open_loop: bool,
}

impl Account {
    pub(super) fn new(operations: usize, open_loop: bool) -> Result<Self, String> {
        Ok(Self { tally: Tally::new(operations)?, window: None, open_loop })
    }

    /// Body bytes came in.
    pub(super) fn bytes(&mut self, now: Instant, operation: usize, bytes: u64) {
        if bytes > 0
            && let Some(window) = self.open_at(now)
        {
            self.tally.operations[operation].bytes += bytes;
            self.tally.series.at(window.since_opening(now)).bytes += bytes;
        }
    }

    /// A request was answered as asked.
    pub(super) fn answered(&mut self, now: Instant, exchange: &Exchange) {
        let latency = now.saturating_duration_since(exchange.started);
        let operation = exchange.job.operation;
        if let Some(window) = self.open_at(now) {
            let figures = &mut self.tally.operations[operation];
            figures.requests += 1;
            figures.bytes += exchange.body_len();
            self.tally.latency_sum += latency;
            let second = self.tally.series.at(window.since_opening(now));
            second.requests += 1;
            second.bytes += exchange.body_len();
            let latency_us = latency.as_nanos() as f64 / 1e3;
            second.latency_sum_us += latency_us;
            second.latency_max_us = second.latency_max_us.max(latency_us);
        }
        if self.open_at(if self.open_loop { exchange.started } else { now }).is_some() {
            let figures = &mut self.tally.operations[operation];
            figures.latency.record(latency);
            if let Some(first_byte) = exchange.first_byte {
                figures.first_byte.record(first_byte.saturating_duration_since(exchange.started));
            }
        }
    }

    /// A request failed, or a connection could not be made for one.
    pub(super) fn failed(&mut self, now: Instant, failure: Failure, operation: Option<usize>) {
        self.tally.fail(failure, operation);
        if let Some(window) = self.open_at(now) {
            self.tally.series.at(window.since_opening(now)).errors += 1;
        }
    }

    /// A kept-alive connection was closed by the server between two requests.
    pub(super) fn lost(&mut self, now: Instant) {
        self.tally.reconnects += u64::from(self.open_at(now).is_some());
    }

    /// A request that was due is not answered at the end of the run: it counts with the time it has waited so far, since to leave it out
    /// would flatter the percentiles.
    pub(super) fn left(&mut self, now: Instant, due: Instant, operation: Option<usize>) {
        if self.open_at(due).is_some() {
            self.tally.fail(Failure::Unfinished, operation);
            let tally = &mut self.tally;
            let latency =
                operation.map_or(&mut tally.unsent, |operation| &mut tally.operations[operation].latency);
            latency.record(now.saturating_duration_since(due));
        }
    }

    fn open_at(&self, at: Instant) -> Option<Window> {
        self.window.filter(|window| window.counts(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Content;
    use crate::plan::{Action, Job};
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    /// A warm-up of a second, then a window of two.
    fn account(open_loop: bool) -> (Instant, Account) {
        let now = Instant::now();
        let mut account = Account::new(1, open_loop).unwrap();
        account.window = Some(Window::new(now, SECOND, Some(2 * SECOND)));
        (now, account)
    }

    fn put(started: Instant) -> Exchange {
        let job = Job { operation: 0, object: 0, action: Action::Put { size: 10, overwrites: false } };
        Exchange::new(job, Content::Ignored, started)
    }

    fn counted(account: &Account) -> (u64, u64, u64) {
        let figures = &account.tally.operations[0];
        (figures.requests, figures.bytes, figures.latency.count())
    }

    #[test]
    fn a_closed_loop_counts_what_is_answered_in_the_window() {
        let (now, mut account) = account(false);
        account.answered(now + SECOND / 2, &put(now));
        account.answered(now + 3 * SECOND, &put(now + 2 * SECOND));
        assert_eq!(counted(&account), (0, 0, 0));
        account.answered(now + 2 * SECOND, &put(now));
        assert_eq!(counted(&account), (1, 10, 1));
    }

    #[test]
    fn an_open_loop_counts_the_latency_of_all_who_were_due_in_the_window() {
        let (now, mut account) = account(true);
        account.answered(now + 2 * SECOND, &put(now));
        assert_eq!(counted(&account), (1, 10, 0), "due in the warm-up: throughput, but no latency");
        account.answered(now + 5 * SECOND, &put(now + 2 * SECOND));
        assert_eq!(counted(&account), (1, 10, 1), "answered too late: latency, but no throughput");
        let latency = account.tally.operations[0].latency.min_mean_max_us().2;
        assert!((latency / 3e6 - 1.0).abs() < 0.001, "{latency}");
    }

    #[test]
    fn who_is_left_counts_with_the_time_it_waited() {
        let (now, mut account) = account(true);
        account.left(now + 8 * SECOND, now + 2 * SECOND, None);
        account.left(now + 8 * SECOND, now + 4 * SECOND, None);
        account.left(now + 8 * SECOND, now + 2 * SECOND, Some(0));
        assert_eq!((account.tally.unsent.count(), account.tally.operations[0].latency.count()), (1, 1));
        assert!((account.tally.unsent.quantile_us(0.5) / 6e6 - 1.0).abs() < 0.001);
        assert_eq!(account.tally.failed(), 2);
    }

    #[test]
    fn failures_count_before_the_window_too_but_not_in_its_seconds() {
        let (now, mut account) = account(false);
        account.failed(now, Failure::Connect, None);
        account.failed(now + 2 * SECOND, Failure::Reset, Some(0));
        assert_eq!(account.tally.failed(), 2);
        assert_eq!(account.tally.series.seconds().iter().map(|second| second.errors).sum::<u64>(), 1);
    }
}
