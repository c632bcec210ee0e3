//! When a figure is stable enough to stop: pure, on one sample for each second.
//!
//! The measure is the half-width of the 95 % confidence interval of the mean, relative to the mean, by Student's t. Neighbouring seconds
//! are not quite independent, so the interval is a little too narrow: a rule for stopping, not a proof.

/// Fewer samples say nothing about their spread.
const FEWEST: usize = 5;
/// Two-sided 95 % quantiles of Student's t for 4 to 30 degrees of freedom.
const STUDENT: [f64; 27] = [
    2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101,
    2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// The samples so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stability {
    count: usize,
    mean: f64,
    /// The sum of squared deviations, by Welford.
    squares: f64,
}

impl Stability {
    pub(crate) fn add(&mut self, sample: f64) {
        self.count += 1;
        let before = sample - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (sample - self.mean);
    }

    /// The relative half-width of the confidence interval; none as long as nothing can be said.
    pub(crate) fn half_width(&self) -> Option<f64> {
        if self.count < FEWEST || self.mean <= 0.0 {
            return None;
        }
        let n = self.count as f64;
        let deviation = (self.squares / (n - 1.0)).sqrt();
        Some(student(self.count - 1) * deviation / n.sqrt() / self.mean)
    }
}

fn student(freedom: usize) -> f64 {
    // Beyond the table the next larger known value would do; this is closer and never below the limit of 1.96.
    STUDENT.get(freedom - 4).copied().unwrap_or(1.96 + 2.5 / freedom as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: &[f64]) -> Option<f64> {
        let mut stability = Stability::default();
        for &sample in samples {
            stability.add(sample);
        }
        stability.half_width()
    }

    #[test]
    fn the_half_width_is_the_textbook_one() {
        // Mean 10, deviation sqrt(2.5), t(4) = 2.776.
        let expected = 2.776 * 2.5f64.sqrt() / 5f64.sqrt() / 10.0;
        assert!((of(&[8.0, 9.0, 10.0, 11.0, 12.0]).unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn few_samples_and_nothing_at_all_are_never_stable() {
        assert_eq!(of(&[10.0; 4]), None);
        assert_eq!(of(&[0.0; 50]), None);
        assert_eq!(of(&[10.0; 5]), Some(0.0));
    }

    #[test]
    fn more_seconds_of_the_same_noise_narrow_it() {
        let noise: Vec<f64> = (0..200).map(|i| 100.0 + f64::from(i % 7) * 5.0).collect();
        let widths: Vec<f64> = [10, 50, 200].iter().map(|&n| of(&noise[..n]).unwrap()).collect();
        assert!(widths[0] > widths[1] && widths[1] > widths[2], "{widths:?}");
        assert!((student(30) - student(31)).abs() < 0.01);
    }
}
