//! What to ask for next: pure, and a function of the seed alone.
//!
//! A [`Plan`] is the same for all connections; each has a [`Picker`] with its own random sequence and its own place in the objects. So a
//! run with the same seed and connections asks for the same ranges, whatever the number of threads.

use crate::payload::scramble;

/// How the starts of ranges are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pattern {
    /// Any start at which the whole range lies inside the object
    Random,
    /// Random starts at multiples of the range size
    AlignedRandom,
    /// One range after the other; each connection starts at another place and wraps around
    Sequential,
}

/// What the requests of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    Ranges { range_size: u64, object_size: u64, objects: u64, pattern: Pattern },
    Whole { object_size: Option<u64>, objects: u64 },
    Put { size: u64 },
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) object: u64,
    pub(crate) action: Action,
}

/// What a request does with its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    GetRange { start: u64, len: u64 },
    GetWhole { size: Option<u64> },
    Put { size: u64 },
}

/// A workload that has been checked, spread over a number of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    workload: Workload,
    connections: u64,
    seed: u64,
}

/// One connection's place in the plan.
#[derive(Clone, Debug)]
pub(crate) struct Picker {
    random: Random,
    object: u64,
    offset: u64,
}

impl Plan {
    /// Checks that `workload` can be done at all.
    pub(crate) fn new(workload: Workload, connections: usize, seed: u64) -> Result<Self, String> {
        match workload {
            Workload::Ranges { range_size: 0, .. } => {
                return Err("--range-size must be at least 1".to_owned());
            }
            Workload::Ranges { range_size, object_size, .. } if range_size > object_size => {
                return Err(format!("--range-size {range_size} is larger than --object-size {object_size}"));
            }
            Workload::Ranges { objects: 0, .. } | Workload::Whole { objects: 0, .. } => {
                return Err("--objects must be at least 1".to_owned());
            }
            _ => {}
        }
        Ok(Self { workload, connections: connections as u64, seed })
    }

    /// Where connection `connection` begins.
    pub(crate) fn picker(&self, connection: usize) -> Picker {
        let connection = connection as u64;
        let mut picker = Picker {
            random: Random::new(scramble(self.seed).wrapping_add(connection)),
            object: 0,
            offset: 0,
        };
        if let Workload::Ranges { range_size, object_size, objects, .. } = self.workload {
            let ranges_per_object = object_size / range_size;
            let range = share(ranges_per_object.saturating_mul(objects), connection, self.connections);
            picker.object = range / ranges_per_object;
            picker.offset = range % ranges_per_object * range_size;
        }
        picker
    }

    /// The next request of `picker`; `number` counts the requests of the whole run, and names what a PUT makes.
    pub(crate) fn next(&self, picker: &mut Picker, number: u64) -> Job {
        match self.workload {
            Workload::Put { size } => Job { object: number, action: Action::Put { size } },
            Workload::Whole { object_size, objects } => {
                Job { object: picker.random.below(objects), action: Action::GetWhole { size: object_size } }
            }
            Workload::Ranges { range_size, object_size, objects, pattern } => {
                let (object, start) = match pattern {
                    Pattern::Random => {
                        (picker.random.below(objects), picker.random.below(object_size - range_size + 1))
                    }
                    Pattern::AlignedRandom => (
                        picker.random.below(objects),
                        picker.random.below(object_size / range_size) * range_size,
                    ),
                    Pattern::Sequential => picker.walk(range_size, object_size, objects),
                };
                Job { object, action: Action::GetRange { start, len: range_size.min(object_size - start) } }
            }
        }
    }
}

impl Picker {
    /// The range here, then one step on: through the object, its short last range included, then through the next one.
    fn walk(&mut self, range_size: u64, object_size: u64, objects: u64) -> (u64, u64) {
        let here = (self.object, self.offset);
        self.offset = self.offset.saturating_add(range_size);
        if self.offset >= object_size {
            self.offset = 0;
            self.object = (self.object + 1) % objects;
        }
        here
    }
}

/// The start of part `part` when `total` is dealt out to `parts` as evenly as can be.
fn share(total: u64, part: u64, parts: u64) -> u64 {
    (u128::from(total) * u128::from(part) / u128::from(parts.max(1))) as u64
}

/// Splitmix64.
#[derive(Clone, Debug)]
struct Random {
    state: u64,
}

impl Random {
    fn new(seed: u64) -> Self {
        Self { state: scramble(seed) }
    }

    /// A number in `0..bound`, by multiplication instead of division; the bias is below 2^-20 for any object that exists.
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(1);
        ((u128::from(scramble(self.state)) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(pattern: Pattern, range_size: u64, object_size: u64, objects: u64) -> Workload {
        Workload::Ranges { range_size, object_size, objects, pattern }
    }

    fn starts(plan: &Plan, connection: usize, count: u64) -> Vec<(u64, u64, u64)> {
        let mut picker = plan.picker(connection);
        (0..count)
            .map(|number| match plan.next(&mut picker, number) {
                Job { object, action: Action::GetRange { start, len } } => (object, start, len),
                other => unreachable!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn random_ranges_stay_inside_and_reach_both_ends() {
        let plan = Plan::new(ranges(Pattern::Random, 10, 100, 3), 1, 1).unwrap();
        let seen = starts(&plan, 0, 10_000);
        assert!(seen.iter().all(|&(object, start, len)| object < 3 && len == 10 && start + len <= 100));
        assert!(seen.iter().any(|&(.., start, _)| start == 0));
        assert!(seen.iter().any(|&(.., start, _)| start == 90));
        assert!(seen.iter().any(|&(.., start, _)| start % 10 != 0));
        assert!((0..3).all(|object| seen.iter().any(|&(o, ..)| o == object)));
    }

    #[test]
    fn aligned_ranges_are_multiples_and_never_short() {
        let plan = Plan::new(ranges(Pattern::AlignedRandom, 16, 100, 1), 1, 1).unwrap();
        let seen = starts(&plan, 0, 10_000);
        assert!(seen.iter().all(|&(_, start, len)| start % 16 == 0 && len == 16 && start + len <= 100));
        assert!(seen.iter().any(|&(_, start, _)| start == 80));
    }

    #[test]
    fn a_sequential_reader_sees_every_byte_once_a_lap() {
        let plan = Plan::new(ranges(Pattern::Sequential, 40, 100, 2), 1, 1).unwrap();
        assert_eq!(
            starts(&plan, 0, 7),
            [(0, 0, 40), (0, 40, 40), (0, 80, 20), (1, 0, 40), (1, 40, 40), (1, 80, 20), (0, 0, 40)]
        );
    }

    #[test]
    fn sequential_readers_start_apart() {
        let plan = Plan::new(ranges(Pattern::Sequential, 10, 100, 2), 4, 1).unwrap();
        let first: Vec<_> = (0..4).map(|connection| starts(&plan, connection, 1)[0]).collect();
        assert_eq!(first, [(0, 0, 10), (0, 50, 10), (1, 0, 10), (1, 50, 10)]);
    }

    #[test]
    fn the_same_seed_asks_the_same_and_another_does_not() {
        let plan = |seed| Plan::new(ranges(Pattern::Random, 10, 1 << 30, 9), 2, seed).unwrap();
        assert_eq!(starts(&plan(5), 1, 100), starts(&plan(5), 1, 100));
        assert_ne!(starts(&plan(5), 1, 100), starts(&plan(6), 1, 100));
        assert_ne!(starts(&plan(5), 0, 100), starts(&plan(5), 1, 100));
    }

    #[test]
    fn a_range_as_large_as_the_object_is_the_object() {
        for pattern in [Pattern::Random, Pattern::AlignedRandom, Pattern::Sequential] {
            let plan = Plan::new(ranges(pattern, 64, 64, 1), 3, 1).unwrap();
            assert_eq!(starts(&plan, 2, 3), [(0, 0, 64); 3], "{pattern:?}");
        }
    }

    #[test]
    fn puts_are_numbered_through() {
        let plan = Plan::new(Workload::Put { size: 5 }, 2, 1).unwrap();
        let mut picker = plan.picker(1);
        assert_eq!(plan.next(&mut picker, 17), Job { object: 17, action: Action::Put { size: 5 } });
    }

    #[test]
    fn impossible_workloads_are_refused() {
        assert!(Plan::new(ranges(Pattern::Random, 0, 10, 1), 1, 1).is_err());
        assert!(Plan::new(ranges(Pattern::Random, 11, 10, 1), 1, 1).is_err());
        assert!(Plan::new(ranges(Pattern::Random, 1, 10, 0), 1, 1).is_err());
        assert!(Plan::new(Workload::Whole { object_size: None, objects: 0 }, 1, 1).is_err());
    }
}
