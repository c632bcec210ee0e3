//! Waiting for a condition, with a deadline: the only place of the tests that sleeps, and it never hopes.

use std::time::{Duration, Instant};

/// How long to rest between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks at `condition` until it holds; panics naming `what` when `deadline` has passed.
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    poll_until(deadline, what, || condition().then_some(()));
}

/// Asks `probe` until it has an answer; panics naming `what` when `deadline` has passed.
pub fn poll_until<T>(deadline: Duration, what: &str, probe: impl FnMut() -> Option<T>) -> T {
    poll(deadline, probe).unwrap_or_else(|| panic!("still waiting after {deadline:?} for: {what}"))
}

/// Asks `probe` until it has an answer; nothing when `deadline` has passed.
pub fn poll<T>(deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if started.elapsed() >= deadline {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}
