//! What a device can be told to do wrong.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::support::Random;

/// No request waits longer than this, whatever it was told: then the device is gone for good, so that what would wait next, and
/// after that, does not.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What a device is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Read,
    Write,
    Flush,
}

/// How a request goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// EIO, and nothing was done.
    Fail,
    /// It is done after so many milliseconds.
    Wait(u64),
    /// It is not answered until the faults are changed (then it is done), at most for [`LONGEST_WAIT`].
    Never,
}

/// Requests that go wrong. The first fault that a request fits is its.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    ops: Vec<Op>,
    deed: Deed,
    /// Bytes of the device; a flush has no place and fits every range.
    range: Option<(u64, u64)>,
    /// Of a thousand requests that fit otherwise.
    permille: u64,
}

impl Fault {
    fn new(ops: &[Op], deed: Deed) -> Self {
        Self { ops: ops.to_vec(), deed, range: None, permille: 1000 }
    }

    /// EIO for each request of these kinds.
    pub fn fail(ops: &[Op]) -> Self {
        Self::new(ops, Deed::Fail)
    }

    /// Each request of these kinds is answered so much later.
    pub fn slow(ops: &[Op], by: Duration) -> Self {
        Self::new(ops, Deed::Wait(by.min(LONGEST_WAIT).as_millis() as u64))
    }

    /// No request of these kinds is answered: see [`Deed::Never`].
    pub fn never(ops: &[Op]) -> Self {
        Self::new(ops, Deed::Never)
    }

    /// EIO for everything.
    pub fn gone() -> Self {
        Self::fail(&[Op::Read, Op::Write, Op::Flush])
    }

    /// Only requests that touch these bytes of the device.
    pub fn within(mut self, from: u64, to: u64) -> Self {
        self.range = Some((from, to));
        self
    }

    /// Only so many of a thousand.
    pub fn permille(mut self, permille: u64) -> Self {
        self.permille = permille;
        self
    }

    /// What happens to a request, if it fits.
    pub fn deed(&self, op: Op, offset: u64, len: u64, random: &mut Random) -> Option<Deed> {
        let place =
            self.range.is_none_or(|(from, to)| op == Op::Flush || (offset < to && offset + len > from));
        let fits = self.ops.contains(&op) && place;
        (fits && (self.permille >= 1000 || random.below(1000) < self.permille)).then_some(self.deed)
    }
}
