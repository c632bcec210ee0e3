//! What to ask for next: pure, and a function of the seed alone.
//!
//! A [`Plan`] is the same for all connections; each has a [`Picker`] with its own random sequence and its own place in the objects. So a
//! closed-loop run with the same seed and connections asks for the same ranges, whatever the number of threads.

use crate::dataset::DataSet;
use crate::payload::{TELLING, scramble};
use crate::random::Random;
use crate::units::show_size;

/// How the starts of ranges are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pattern {
    /// Any start at which the whole range lies inside the object
    Random,
    /// Random starts at multiples of the range size
    AlignedRandom,
    /// One range after the other; each connection starts at another place and wraps around
    Sequential,
    /// The same start for all, that of --offset
    Fixed,
}

impl Pattern {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::AlignedRandom => "aligned-random",
            Self::Sequential => "sequential",
            Self::Fixed => "fixed",
        }
    }
}

/// Where PUTs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Each to an object of its own, counted up from here.
    New { first: u64 },
    /// To one of `count` objects from `first` on, again and again.
    Among { first: u64, count: u64 },
    /// To the objects that are read, each keeping its size.
    Set,
}

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A range of an object of the set; `offset` is where a fixed one starts.
    Range { size: u64, pattern: Pattern, offset: u64 },
    /// A whole object of the set.
    Whole,
    /// An object of `size` bytes, or of the size it has in the set.
    Put { size: Option<u64>, names: Names },
}

/// An operation and its share of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weighted {
    pub(crate) weight: u64,
    pub(crate) operation: Operation,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// Which of the plan's operations it is.
    pub(crate) operation: usize,
    pub(crate) object: u64,
    pub(crate) action: Action,
}

/// What a request does with its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    GetRange {
        start: u64,
        len: u64,
    },
    GetWhole {
        size: Option<u64>,
    },
    /// `overwrites` where the object may have been written before.
    Put {
        size: u64,
        overwrites: bool,
    },
}

/// A workload that has been checked, spread over a number of connections.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    set: DataSet,
    operations: Vec<Weighted>,
    total_weight: u64,
    connections: u64,
    seed: u64,
}

/// One connection's place in the plan.
#[derive(Clone, Debug)]
pub(crate) struct Picker {
    random: Random,
    /// One for each operation.
    cursors: Vec<Cursor>,
}

/// Where a sequential reader is.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    object: u64,
    offset: u64,
}

impl Plan {
    /// Checks that the operations can be done at all on `set`.
    pub(crate) fn new(
        set: DataSet,
        operations: Vec<Weighted>,
        connections: usize,
        seed: u64,
    ) -> Result<Self, String> {
        for &Weighted { weight, operation } in &operations {
            if weight == 0 {
                return Err("a weight of 0 means never: leave that operation out".to_owned());
            }
            check(&set, operation)?;
        }
        let total_weight = operations.iter().try_fold(0u64, |sum, one| sum.checked_add(one.weight));
        let total_weight =
            total_weight.filter(|&sum| sum > 0).ok_or("the weights must add up to 1 or more")?;
        Ok(Self { set, operations, total_weight, connections: connections as u64, seed })
    }

    pub(crate) fn operations(&self) -> &[Weighted] {
        &self.operations
    }

    /// What operation `index` is called in reports.
    pub(crate) fn name(&self, index: usize) -> String {
        match self.operations[index].operation {
            Operation::Range { size, pattern, .. } => {
                format!("GET {} ranges of {}", pattern.name(), show_size(size))
            }
            Operation::Whole => "GET whole objects".to_owned(),
            Operation::Put { size, names } => {
                let size = size.map_or_else(|| "objects of the set".to_owned(), show_size);
                match names {
                    Names::New { .. } | Names::Set => format!("PUT {size}"),
                    Names::Among { count, .. } => format!("PUT {size} to {count} objects"),
                }
            }
        }
    }

    /// All of it, for people.
    pub(crate) fn describe(&self) -> String {
        let reads = self.operations.iter().any(|one| !matches!(one.operation, Operation::Put { .. }));
        let names: Vec<String> = (0..self.operations.len())
            .map(|index| match &self.operations[..] {
                [_] => self.name(index),
                all => format!("{} x {}", all[index].weight, self.name(index)),
            })
            .collect();
        let set = if reads { format!(", set of {}", self.set.describe()) } else { String::new() };
        format!("{}{set}", names.join(", "))
    }

    /// How many objects, from 0 on, are both read and written.
    pub(crate) fn rewritten(&self) -> u64 {
        let written = |one: &Weighted| match one.operation {
            Operation::Put { names: Names::Set, .. } => self.set.objects(),
            Operation::Put { names: Names::Among { first, count }, .. } if first < self.set.objects() => {
                self.set.objects().min(first + count)
            }
            _ => 0,
        };
        self.operations.iter().map(written).max().unwrap_or(0)
    }

    /// The same operations with other random choices, and with names behind those that a turn with `new_names` has used.
    pub(crate) fn another_turn(&self, new_names: u64) -> Self {
        let mut plan = self.clone();
        plan.seed = next_seed(plan.seed);
        for one in &mut plan.operations {
            if let Operation::Put { names: Names::New { first }, .. } = &mut one.operation {
                *first += new_names;
            }
        }
        plan
    }

    /// Where connection `connection` begins.
    pub(crate) fn picker(&self, connection: usize) -> Picker {
        let connection = connection as u64;
        let cursors = self.operations.iter().map(|one| self.cursor(one.operation, connection)).collect();
        Picker { random: Random::new(scramble(self.seed).wrapping_add(connection)), cursors }
    }

    fn cursor(&self, operation: Operation, connection: u64) -> Cursor {
        let Operation::Range { size, .. } = operation else { return Cursor::default() };
        let objects = self.set.objects();
        if let [object_size] = *self.set.sizes() {
            let ranges = object_size / size;
            let range = share(ranges.saturating_mul(objects), connection, self.connections);
            return Cursor { object: range / ranges, offset: range % ranges * size };
        }
        Cursor { object: share(objects, connection, self.connections), offset: 0 }
    }

    /// The next request of `picker`; `new_name` counts the objects that were not there before.
    pub(crate) fn next(&self, picker: &mut Picker, new_name: impl FnOnce() -> u64) -> Job {
        let operation = self.pick(picker);
        let objects = self.set.objects();
        let random = &mut picker.random;
        let (object, action) = match self.operations[operation].operation {
            Operation::Whole => {
                let object = random.below(objects);
                (object, Action::GetWhole { size: self.set.size(object) })
            }
            Operation::Range { size, pattern: Pattern::Sequential, .. } => {
                picker.cursors[operation].walk(size, &self.set)
            }
            Operation::Range { size, pattern, offset } => {
                let object = random.below(objects);
                let whole = self.set.size(object).unwrap_or(size);
                let start = match pattern {
                    Pattern::Random => random.below(whole - size + 1),
                    Pattern::AlignedRandom => random.below(whole / size) * size,
                    Pattern::Sequential | Pattern::Fixed => offset,
                };
                (object, Action::GetRange { start, len: size })
            }
            Operation::Put { size, names } => {
                let object = match names {
                    Names::New { first } => first + new_name(),
                    Names::Among { first, count } => first + random.below(count),
                    Names::Set => random.below(objects),
                };
                let size = size.or_else(|| self.set.size(object)).unwrap_or(0);
                // What is too short to tell its generation has but one.
                let overwrites = !matches!(names, Names::New { .. }) && size >= TELLING as u64;
                (object, Action::Put { size, overwrites })
            }
        };
        Job { operation, object, action }
    }

    fn pick(&self, picker: &mut Picker) -> usize {
        if self.operations.len() == 1 {
            return 0;
        }
        let mut at = picker.random.below(self.total_weight);
        self.operations
            .iter()
            .position(|one| {
                let here = at < one.weight;
                at = at.saturating_sub(one.weight);
                here
            })
            .unwrap_or(0)
    }
}

fn check(set: &DataSet, operation: Operation) -> Result<(), String> {
    match operation {
        Operation::Range { size: 0, .. } => Err("a range must have at least 1 byte".to_owned()),
        Operation::Range { size, pattern, offset } => {
            let smallest = set.smallest().ok_or("ranges need --object-size")?;
            if size > smallest {
                return Err(format!(
                    "a range of {} is larger than the object of {} it is to be taken from: make --range-size smaller or --object-size larger",
                    show_size(size),
                    show_size(smallest)
                ));
            }
            if pattern == Pattern::Fixed && offset > smallest - size {
                return Err(format!(
                    "a range of {} at --offset {offset} ends behind the object of {}",
                    show_size(size),
                    show_size(smallest)
                ));
            }
            Ok(())
        }
        Operation::Put { names: Names::Among { count: 0, .. }, .. } => {
            Err("PUTs to 0 objects are none at all: name at least 1".to_owned())
        }
        Operation::Put { names: Names::Among { first, count }, .. } if first.checked_add(count).is_none() => {
            Err(format!("objects from {first} on cannot be {count}"))
        }
        Operation::Put { size: None, .. } if set.smallest().is_none() => {
            Err("PUTs need a size or --object-size".to_owned())
        }
        Operation::Put { size: Some(_), names: Names::Set } => {
            Err("PUTs to the set keep its sizes: leave their size out".to_owned())
        }
        _ => Ok(()),
    }
}

impl Cursor {
    /// The range here, then one step on: through the object, its short last range included, then through the next one.
    fn walk(&mut self, size: u64, set: &DataSet) -> (u64, Action) {
        let Self { object, offset: start } = *self;
        let whole = set.size(object).unwrap_or(size);
        let len = size.min(whole - start);
        self.offset += len;
        if self.offset >= whole {
            *self = Self { object: (object + 1) % set.objects(), offset: 0 };
        }
        (object, Action::GetRange { start, len })
    }
}

/// The seed of the turn after the one of `seed`.
pub(crate) fn next_seed(seed: u64) -> u64 {
    seed.wrapping_add(1)
}

/// The start of part `part` when `total` is dealt out to `parts` as evenly as can be.
fn share(total: u64, part: u64, parts: u64) -> u64 {
    (u128::from(total) * u128::from(part) / u128::from(parts.max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(
        operations: &[Operation],
        sizes: &[u64],
        objects: u64,
        connections: usize,
    ) -> Result<Plan, String> {
        let operations = operations.iter().map(|&operation| Weighted { weight: 1, operation }).collect();
        Plan::new(DataSet::new(sizes, objects)?, operations, connections, 1)
    }

    fn ranges(pattern: Pattern, size: u64) -> Operation {
        Operation::Range { size, pattern, offset: 0 }
    }

    fn starts(plan: &Plan, connection: usize, count: u64) -> Vec<(u64, u64, u64)> {
        let mut picker = plan.picker(connection);
        (0..count)
            .map(|_| match plan.next(&mut picker, || 0) {
                Job { object, action: Action::GetRange { start, len }, .. } => (object, start, len),
                other => unreachable!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn random_ranges_stay_inside_and_reach_both_ends() {
        let plan = plan(&[ranges(Pattern::Random, 10)], &[100], 3, 1).unwrap();
        let seen = starts(&plan, 0, 10_000);
        assert!(seen.iter().all(|&(object, start, len)| object < 3 && len == 10 && start + len <= 100));
        assert!(seen.iter().any(|&(.., start, _)| start == 0));
        assert!(seen.iter().any(|&(.., start, _)| start == 90));
        assert!(seen.iter().any(|&(.., start, _)| start % 10 != 0));
        assert!((0..3).all(|object| seen.iter().any(|&(o, ..)| o == object)));
    }

    #[test]
    fn aligned_ranges_are_multiples_and_never_short() {
        let plan = plan(&[ranges(Pattern::AlignedRandom, 16)], &[100], 1, 1).unwrap();
        let seen = starts(&plan, 0, 10_000);
        assert!(seen.iter().all(|&(_, start, len)| start % 16 == 0 && len == 16 && start + len <= 100));
        assert!(seen.iter().any(|&(_, start, _)| start == 80));
    }

    #[test]
    fn fixed_ranges_are_where_they_were_put() {
        let fixed = Operation::Range { size: 10, pattern: Pattern::Fixed, offset: 7 };
        let plan = plan(&[fixed], &[100], 1, 1).unwrap();
        assert_eq!(starts(&plan, 0, 3), [(0, 7, 10); 3]);
    }

    #[test]
    fn a_sequential_reader_sees_every_byte_once_a_lap() {
        let plan = plan(&[ranges(Pattern::Sequential, 40)], &[100], 2, 1).unwrap();
        assert_eq!(
            starts(&plan, 0, 7),
            [(0, 0, 40), (0, 40, 40), (0, 80, 20), (1, 0, 40), (1, 40, 40), (1, 80, 20), (0, 0, 40)]
        );
    }

    #[test]
    fn sequential_readers_start_apart() {
        let plan = plan(&[ranges(Pattern::Sequential, 10)], &[100], 2, 4).unwrap();
        let first: Vec<_> = (0..4).map(|connection| starts(&plan, connection, 1)[0]).collect();
        assert_eq!(first, [(0, 0, 10), (0, 50, 10), (1, 0, 10), (1, 50, 10)]);
    }

    #[test]
    fn ranges_of_objects_of_several_sizes_stay_inside_each() {
        for pattern in [Pattern::Random, Pattern::AlignedRandom, Pattern::Sequential] {
            let plan = plan(&[ranges(pattern, 10)], &[10, 35], 4, 3).unwrap();
            for (object, start, len) in starts(&plan, 2, 1000) {
                assert!(start + len <= if object % 2 == 0 { 10 } else { 35 }, "{pattern:?} {object} {start}");
            }
        }
    }

    #[test]
    fn the_same_seed_asks_the_same_and_another_does_not() {
        let plan = |seed| {
            let operation = Weighted { weight: 1, operation: ranges(Pattern::Random, 10) };
            Plan::new(DataSet::new(&[1 << 30], 9).unwrap(), vec![operation], 2, seed).unwrap()
        };
        assert_eq!(starts(&plan(5), 1, 100), starts(&plan(5), 1, 100));
        assert_ne!(starts(&plan(5), 1, 100), starts(&plan(6), 1, 100));
        assert_ne!(starts(&plan(5), 0, 100), starts(&plan(5), 1, 100));
    }

    #[test]
    fn a_range_as_large_as_the_object_is_the_object() {
        for pattern in [Pattern::Random, Pattern::AlignedRandom, Pattern::Sequential, Pattern::Fixed] {
            let plan = plan(&[ranges(pattern, 64)], &[64], 1, 3).unwrap();
            assert_eq!(starts(&plan, 2, 3), [(0, 0, 64); 3], "{pattern:?}");
        }
    }

    #[test]
    fn a_mix_follows_its_weights() {
        let operations = vec![
            Weighted { weight: 8, operation: Operation::Whole },
            Weighted {
                weight: 2,
                operation: Operation::Put { size: Some(5), names: Names::New { first: 3 } },
            },
        ];
        let plan = Plan::new(DataSet::new(&[9], 3).unwrap(), operations, 1, 1).unwrap();
        let mut picker = plan.picker(0);
        let mut made = 0;
        let jobs: Vec<Job> = (0..10_000)
            .map(|_| {
                plan.next(&mut picker, || {
                    made += 1;
                    made - 1
                })
            })
            .collect();
        assert!((1_850..2_150).contains(&made), "{made}");
        let written: Vec<u64> = jobs.iter().filter(|job| job.operation == 1).map(|job| job.object).collect();
        assert_eq!(written, (3..3 + made).collect::<Vec<_>>(), "new objects are numbered without gaps");
    }

    #[test]
    fn what_is_both_read_and_written_is_known() {
        let put =
            |names, size| plan(&[Operation::Whole, Operation::Put { size, names }], &[9], 10, 1).unwrap();
        assert_eq!(put(Names::Set, None).rewritten(), 10);
        assert_eq!(put(Names::New { first: 10 }, Some(9)).rewritten(), 0);
        assert_eq!(put(Names::Among { first: 10, count: 5 }, Some(9)).rewritten(), 0);
    }

    #[test]
    fn another_turn_asks_for_others_and_makes_others() {
        let put = Operation::Put { size: Some(1), names: Names::New { first: 2 } };
        let first = plan(&[put], &[100], 3, 1).unwrap();
        let second = first.another_turn(40);
        let object = |plan: &Plan| plan.next(&mut plan.picker(0), || 0).object;
        assert_eq!((object(&first), object(&second)), (2, 42));
        let first = plan(&[ranges(Pattern::Random, 1)], &[1 << 40], 1, 1).unwrap();
        assert_ne!(starts(&first, 0, 10), starts(&first.another_turn(0), 0, 10));
    }

    #[test]
    fn impossible_workloads_are_refused() {
        let fixed = Operation::Range { size: 5, pattern: Pattern::Fixed, offset: 6 };
        let put = |size, names| Operation::Put { size, names };
        for (operations, sizes) in [
            (&[ranges(Pattern::Random, 0)][..], &[10][..]),
            (&[ranges(Pattern::Random, 11)], &[10]),
            (&[ranges(Pattern::Random, 11)], &[10, 20]),
            (&[ranges(Pattern::Random, 1)], &[]),
            (&[fixed], &[10]),
            (&[put(None, Names::Set)], &[]),
            (&[put(Some(1), Names::Set)], &[10]),
            (&[put(Some(1), Names::Among { first: 0, count: 0 })], &[10]),
            (&[put(Some(1), Names::Among { first: 2, count: u64::MAX })], &[10]),
            (&[], &[10]),
        ] {
            assert!(plan(operations, sizes, 2, 1).is_err(), "{operations:?} {sizes:?} was taken");
        }
        let never = Weighted { weight: 0, operation: Operation::Whole };
        assert!(Plan::new(DataSet::new(&[1], 1).unwrap(), vec![never], 1, 1).is_err());
    }
}
