//! What a thread counted while the window was open, by operation of the mix.

use crate::exchange::Failure;
use crate::histogram::Latency;
use crate::series::Series;
use std::collections::BTreeMap;
use std::time::Duration;

/// Failures by kind.
pub(crate) type Failures = BTreeMap<Failure, u64>;

/// One operation's figures.
#[derive(Clone, Debug)]
pub(crate) struct OperationTally {
    /// Requests answered as asked.
    pub(crate) requests: u64,
    /// Body bytes: read as they came, written once acknowledged.
    pub(crate) bytes: u64,
    pub(crate) latency: Latency,
    pub(crate) first_byte: Latency,
    pub(crate) failures: Failures,
}

/// All of a thread's, or of a run's, figures.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) operations: Vec<OperationTally>,
    /// Failures before it was known what to ask for: of connecting, of waiting.
    pub(crate) failures: Failures,
    /// Kept-alive connections that the server closed between two requests, which is its right.
    pub(crate) reconnects: u64,
    pub(crate) series: Series,
    /// Of all answered requests, for the live line and the automatic stop.
    pub(crate) latency_sum: Duration,
}

impl OperationTally {
    pub(crate) fn new() -> Result<Self, String> {
        Ok(Self {
            requests: 0,
            bytes: 0,
            latency: Latency::new()?,
            first_byte: Latency::new()?,
            failures: Failures::new(),
        })
    }

    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), String> {
        self.requests += other.requests;
        self.bytes += other.bytes;
        merge_failures(&mut self.failures, &other.failures);
        self.latency.merge(&other.latency)?;
        self.first_byte.merge(&other.first_byte)
    }
}

impl Tally {
    pub(crate) fn new(operations: usize) -> Result<Self, String> {
        Ok(Self {
            operations: (0..operations).map(|_| OperationTally::new()).collect::<Result<_, _>>()?,
            failures: Failures::new(),
            reconnects: 0,
            series: Series::default(),
            latency_sum: Duration::ZERO,
        })
    }

    pub(crate) fn fail(&mut self, failure: Failure, operation: Option<usize>) {
        let failures = operation
            .and_then(|operation| self.operations.get_mut(operation))
            .map_or(&mut self.failures, |operation| &mut operation.failures);
        *failures.entry(failure).or_default() += 1;
    }

    /// All operations together.
    pub(crate) fn total(&self) -> Result<OperationTally, String> {
        let mut total = OperationTally::new()?;
        for operation in &self.operations {
            total.merge(operation)?;
        }
        merge_failures(&mut total.failures, &self.failures);
        Ok(total)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.operations.iter().map(|operation| operation.requests).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.operations.iter().map(|operation| operation.bytes).sum()
    }

    pub(crate) fn failed(&self) -> u64 {
        let by_operation = self.operations.iter().flat_map(|operation| operation.failures.values());
        by_operation.chain(self.failures.values()).sum()
    }

    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), String> {
        for (mine, others) in self.operations.iter_mut().zip(&other.operations) {
            mine.merge(others)?;
        }
        merge_failures(&mut self.failures, &other.failures);
        self.reconnects += other.reconnects;
        self.series.add(&other.series, 0);
        self.latency_sum += other.latency_sum;
        Ok(())
    }
}

fn merge_failures(into: &mut Failures, from: &Failures) {
    for (&failure, count) in from {
        *into.entry(failure).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_counts_everything_once() {
        let mut one = Tally::new(2).unwrap();
        one.operations[1].requests = 2;
        one.operations[1].bytes = 100;
        one.operations[1].latency.record(Duration::from_millis(1));
        one.fail(Failure::Status(503), Some(1));
        one.fail(Failure::Connect, None);
        let mut other = one.clone();
        other.operations[0].latency.record(Duration::from_millis(9));
        other.fail(Failure::Status(503), Some(0));
        one.merge(&other).unwrap();
        let total = one.total().unwrap();
        assert_eq!((total.requests, total.bytes, total.latency.count(), one.failed()), (4, 200, 3, 5));
        assert_eq!(total.failures[&Failure::Status(503)], 3);
        assert_eq!(total.failures[&Failure::Connect], 2);
        assert_eq!(one.operations[0].failures.get(&Failure::Connect), None);
    }
}
