//! The measured window of a run.
//!
//! A run has a warm-up that is not counted and then a window that is; or, when it is bounded by a number of requests, a window that is
//! open from the start until the last answer. Time is read where something happens and handed on as an argument.

use std::time::{Duration, Instant};

/// When things count, and when to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    began: Instant,
    opens: Instant,
    closes: Option<Instant>,
}

impl Window {
    /// A window that opens `warmup` after `now`, and closes after `duration` if there is one.
    pub(crate) fn new(now: Instant, warmup: Duration, duration: Option<Duration>) -> Self {
        let opens = now + warmup;
        Self { began: now, opens, closes: duration.map(|duration| opens + duration) }
    }

    /// When the run began, the warm-up included.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// When it must stop, if it is bounded by time.
    pub(crate) fn closes(&self) -> Option<Instant> {
        self.closes
    }

    /// Closes earlier than was planned; never later.
    pub(crate) fn close_at(&mut self, at: Instant) {
        self.closes = Some(self.closes.map_or(at, |closes| closes.min(at)));
    }

    /// How long it has been open.
    pub(crate) fn since_opening(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opens)
    }

    /// When counting begins.
    pub(crate) fn opens(&self) -> Instant {
        self.opens
    }

    /// Whether what happens at `now` counts.
    pub(crate) fn counts(&self, now: Instant) -> bool {
        now >= self.opens && !self.is_over(now)
    }

    /// Whether the run must stop.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.closes.is_some_and(|closes| now >= closes)
    }

    /// How long was counted in a run that ended at `end`.
    pub(crate) fn length(&self, end: Instant) -> Duration {
        self.closes.map_or(end, |closes| closes.min(end)).saturating_duration_since(self.opens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_what_happens_after_the_warm_up_and_before_the_end_counts() {
        let now = Instant::now();
        let window = Window::new(now, SECOND, Some(2 * SECOND));
        let at = |ms| now + Duration::from_millis(ms);
        assert_eq!(
            [0, 999, 1000, 2999, 3000].map(|ms| window.counts(at(ms))),
            [false, false, true, true, false]
        );
        assert_eq!([0, 2999, 3000].map(|ms| window.is_over(at(ms))), [false, false, true]);
        assert_eq!(window.closes(), Some(at(3000)));
        assert_eq!(window.length(at(3500)), 2 * SECOND);
        assert_eq!(window.length(at(2000)), SECOND, "a run cut short counts what it had");
    }

    #[test]
    fn a_window_can_be_closed_early_and_never_late() {
        let now = Instant::now();
        let mut window = Window::new(now, SECOND, Some(2 * SECOND));
        window.close_at(now + 9 * SECOND);
        assert_eq!(window.length(now + 9 * SECOND), 2 * SECOND);
        window.close_at(now + 2 * SECOND);
        assert_eq!(window.length(now + 9 * SECOND), SECOND);
        assert_eq!(window.since_opening(now + 3 * SECOND), 2 * SECOND);
        assert_eq!(window.since_opening(now), Duration::ZERO);
    }

    #[test]
    fn without_a_duration_the_end_is_when_the_work_is_done() {
        let now = Instant::now();
        let window = Window::new(now, Duration::ZERO, None);
        assert!(window.counts(now + 1000 * SECOND));
        assert_eq!(window.closes(), None);
        assert_eq!(window.length(now + 5 * SECOND), 5 * SECOND);
    }
}
