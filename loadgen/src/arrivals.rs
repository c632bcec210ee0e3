//! When requests are due in an open loop: pure, in nanoseconds since the loop began.
//!
//! The times do not depend on how the server fares: that is what makes the loop open. Each thread has its own arrivals at its share of
//! the rate. Constant ones are staggered over the threads, so that together they are evenly spaced; Poisson ones add up to a Poisson
//! process whatever they are.

use crate::random::Random;

/// How the gaps between requests are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Spacing {
    /// Random, as independent users come: bursts and lulls
    Poisson,
    /// Evenly spaced
    Constant,
}

/// The arrivals of one thread.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    spacing: Spacing,
    /// Nanoseconds between two arrivals, on average.
    gap: f64,
    /// When the next one is due.
    next: f64,
    random: Random,
}

impl Arrivals {
    /// Thread `thread` of `threads` takes its share of `rate` requests a second.
    pub(crate) fn new(spacing: Spacing, rate: f64, thread: usize, threads: usize, seed: u64) -> Self {
        let gap = 1e9 * threads as f64 / rate;
        let mut random = Random::new(seed ^ ((thread as u64 + 1) << 40));
        let next = match spacing {
            Spacing::Poisson => gap * random.exponential(),
            Spacing::Constant => gap * thread as f64 / threads as f64,
        };
        Self { spacing, gap, next, random }
    }

    /// When the next request is due.
    pub(crate) fn next_at(&self) -> u64 {
        self.next as u64
    }

    /// Takes that request, if it is due at `now`.
    pub(crate) fn take_due(&mut self, now: u64) -> Option<u64> {
        let at = self.next_at();
        (at <= now).then(|| {
            self.next += match self.spacing {
                Spacing::Poisson => self.gap * self.random.exponential(),
                Spacing::Constant => self.gap,
            };
            at
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn until(arrivals: &mut Arrivals, end: u64) -> Vec<u64> {
        std::iter::from_fn(|| arrivals.take_due(end)).collect()
    }

    #[test]
    fn constant_arrivals_of_all_threads_together_are_evenly_spaced() {
        let mut all: Vec<u64> = (0..4)
            .flat_map(|thread| until(&mut Arrivals::new(Spacing::Constant, 1000.0, thread, 4, 1), SECOND - 1))
            .collect();
        all.sort_unstable();
        let expected: Vec<u64> = (0..1000).map(|i| i * 1_000_000).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_its_variance() {
        let mut arrivals = Arrivals::new(Spacing::Poisson, 1000.0, 0, 1, 1);
        let counts: Vec<f64> =
            (1..=200).map(|second| until(&mut arrivals, second * SECOND - 1).len() as f64).collect();
        let mean = counts.iter().sum::<f64>() / 200.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 200.0;
        assert!((mean - 1000.0).abs() < 10.0, "{mean}");
        assert!((500.0..1600.0).contains(&variance), "{variance}");
    }

    #[test]
    fn a_late_reader_finds_every_arrival_at_its_own_time() {
        let mut late = Arrivals::new(Spacing::Constant, 10.0, 0, 1, 1);
        assert_eq!(until(&mut late, SECOND / 2), [0, 1, 2, 3, 4, 5].map(|i| i * SECOND / 10));
        assert_eq!(late.take_due(SECOND / 2), None);
        assert_eq!(late.next_at(), 6 * SECOND / 10);
    }

    #[test]
    fn threads_do_not_arrive_in_step() {
        let first = |thread| Arrivals::new(Spacing::Poisson, 1000.0, thread, 2, 1).next_at();
        assert_ne!(first(0), first(1));
    }
}
