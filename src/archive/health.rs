//! How the store is, by what became of the requests to it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::failure::{Failure, Kind};
use crate::limits::{ARCHIVE_PAUSE_MAX, ARCHIVE_PAUSE_MIN};

/// How the store is: good until a request says otherwise, and again with the first that succeeds.
#[derive(Debug, Default)]
pub struct Health {
    failing: Mutex<Option<Failing>>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    /// When the pause began.
    paused: Instant,
    pause: Duration,
    said: String,
}

impl Health {
    /// That of a store which nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what became of a request. Objects that are missing or wrong say nothing about the store.
    pub fn note(&self, outcome: Result<(), &Failure>, now: Instant) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => *failing = None,
            Err(failure) if matches!(failure.kind, Kind::Missing | Kind::Wrong) => {}
            Err(failure) => match failing.as_mut() {
                Some(failing) => failing.again(failure, now),
                None => *failing = Some(Failing::new(failure, now)),
            },
        }
    }

    /// Since when the store fails and what it said, in one line: `since 12 s: ...`.
    pub fn failing(&self) -> Option<String> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing
            .as_ref()
            .map(|failing| format!("since {} s: {}", failing.since.elapsed().as_secs(), failing.said))
    }

    /// How long background work waits before it asks the store again: not at all while it is good.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = failing.as_ref()?;
        let left = failing.pause.saturating_sub(now.saturating_duration_since(failing.paused));
        (!left.is_zero()).then_some(left)
    }
}

impl Failing {
    fn new(failure: &Failure, now: Instant) -> Self {
        Self { since: now, paused: now, pause: ARCHIVE_PAUSE_MIN, said: failure.message.clone() }
    }

    /// The pause doubles when it is over and did not help: what was under way meanwhile fails by the same cause.
    fn again(&mut self, failure: &Failure, now: Instant) {
        self.said.clone_from(&failure.message);
        if now.saturating_duration_since(self.paused) >= self.pause {
            self.pause = (self.pause * 2).min(ARCHIVE_PAUSE_MAX);
            self.paused = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: Kind) -> Failure {
        Failure::new(kind, "GET s3://b/k", "no")
    }

    #[test]
    fn a_store_fails_until_a_request_succeeds() {
        let (health, now) = (Health::new(), Instant::now());
        assert_eq!((health.failing(), health.pause(now)), (None, None));
        for kind in [Kind::Denied, Kind::Busy, Kind::Unavailable] {
            health.note(Err(&failure(kind)), now);
            let told = health.failing().unwrap();
            assert!(told.starts_with("since ") && told.ends_with(" s: GET s3://b/k: no"), "{told}");
            assert_eq!(health.pause(now), Some(ARCHIVE_PAUSE_MIN));
            health.note(Ok(()), now);
            assert_eq!((health.failing(), health.pause(now)), (None, None));
        }
    }

    #[test]
    fn objects_that_are_missing_or_wrong_say_nothing_about_the_store() {
        let (health, now) = (Health::new(), Instant::now());
        for kind in [Kind::Missing, Kind::Wrong] {
            health.note(Err(&failure(kind)), now);
            assert_eq!((health.failing(), health.pause(now)), (None, None));
        }
        health.note(Err(&failure(Kind::Busy)), now);
        health.note(Err(&failure(Kind::Missing)), now);
        assert!(health.failing().is_some(), "nor that it is good again");
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_only_when_it_was_waited_for() {
        let (health, mut now) = (Health::new(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            // Several requests fail together.
            for _ in 0..5 {
                health.note(Err(&failure(Kind::Unavailable)), now);
            }
            let pause = health.pause(now).unwrap();
            pauses.push(pause.as_secs());
            now += pause;
            assert_eq!(health.pause(now), None, "it may be asked again");
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        health.note(Ok(()), now);
        health.note(Err(&failure(Kind::Unavailable)), now);
        assert_eq!(health.pause(now), Some(ARCHIVE_PAUSE_MIN), "it begins anew");
        assert_eq!(health.pause(now + ARCHIVE_PAUSE_MIN / 4), Some(ARCHIVE_PAUSE_MIN * 3 / 4));
    }
}
