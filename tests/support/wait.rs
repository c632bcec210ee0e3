//! Waiting for a condition, with a deadline: the only place of the tests that sleeps, and it never hopes.

use std::time::{Duration, Instant};

/// How long to rest between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks at `condition` until it holds; panics naming `what` when `deadline` has passed.
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    poll_until(deadline, what, || condition().then_some(()));
}

/// Asks `probe` until it has an answer; panics naming `what` when `deadline` has passed.
pub fn poll_until<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(started.elapsed() < deadline, "still waiting after {deadline:?} for: {what}");
        std::thread::sleep(PAUSE);
    }
}
