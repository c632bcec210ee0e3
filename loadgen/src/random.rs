//! Random numbers that are a function of a seed alone, so that a run can be had again.

use crate::payload::scramble;

/// Splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: scramble(seed) }
    }

    /// A number in `0..bound`, by multiplication instead of division; the bias is below 2^-20 for any object that exists.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number with an exponential distribution of mean 1: the gap between two arrivals of a Poisson process.
    pub(crate) fn exponential(&mut self) -> f64 {
        // 53 bits, shifted by half a step so that the logarithm never sees 0.
        let uniform = ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -uniform.ln()
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(1);
        scramble(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut random = Random::new(1);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[random.below(10) as usize] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn exponential_gaps_have_mean_and_deviation_one() {
        let mut random = Random::new(7);
        let gaps: Vec<f64> = (0..100_000).map(|_| random.exponential()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 1.0).abs() < 0.02 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        assert!(gaps.iter().all(|gap| gap.is_finite() && *gap > 0.0));
    }
}
