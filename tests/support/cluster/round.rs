//! One round: load, faults, healing, and judgement of all that clients saw.
//!
//! The load goes on through the healing, so nodes recover under it. Then everything must settle within a time, every node must show
//! the same, and the whole history, what was read back in the end included, must be one that the contract allows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::ending;
use super::formation::{Cluster, READY_DEADLINE};
use super::from_env;
use super::history::{Op, Told};
use super::invariants;
use super::nemesis::Step;
use super::problem::Listed;
use super::replicas;
use super::report::{Judgement, judge};
use super::support::{Random, poll, skipped};
use super::workload::{Load, by_path};

/// Load before the first fault and after the last.
const CALM: Duration = Duration::from_millis(400);
/// Nothing is in doubt so many seconds after the last fault, unless `CLUSTER_SETTLE` says otherwise.
const SETTLE_SECONDS: u64 = 10;

#[derive(Debug, Clone)]
pub struct Round {
    pub load: Load,
    pub plan: Vec<Step>,
    /// How to repeat it.
    pub what: String,
}

/// What was seen of a round that went well.
#[derive(Debug)]
pub struct Seen {
    pub history: Vec<Op>,
    pub lenient: usize,
    pub undecided: usize,
    pub took: Duration,
    /// From the healing until all nodes were ready.
    pub healed: Duration,
}

impl Seen {
    /// Operations with a certain outcome.
    pub fn answered(&self) -> usize {
        self.history.iter().filter(|op| op.told != Told::Unknown).count()
    }

    pub fn summary(&self) -> String {
        let all = self.history.len();
        format!(
            "{all} operations, {} unknown, {} paths judged leniently, {} undecided; ready {:.1} s after healing; {:.1} s",
            all - self.answered(),
            self.lenient,
            self.undecided,
            self.healed.as_secs_f64(),
            self.took.as_secs_f64()
        )
    }
}

/// The judgement of the histories of several paths.
#[derive(Debug, Default)]
pub struct Judged {
    pub wrong: Vec<String>,
    pub lenient: usize,
    pub undecided: usize,
}

/// Judges a history of any paths.
pub fn judge_all(history: &[Op], listed: &BTreeMap<String, Vec<Listed>>) -> Judged {
    let mut judged = Judged::default();
    for (path, ops) in by_path(history) {
        let rows = listed.get(&path).map_or(&[][..], Vec::as_slice);
        let found = invariants::check(&ops, rows);
        judged.wrong.extend(found.into_iter().map(|wrong| format!("{path}: {wrong}")));
        match judge(&ops, rows) {
            Judgement::Right => {}
            Judgement::RightIfLenient => judged.lenient += 1,
            Judgement::Undecided => judged.undecided += 1,
            Judgement::Wrong(report) => judged.wrong.push(format!("{path}: {report}")),
        }
    }
    judged
}

impl Round {
    /// Runs it; panics with everything that is wrong.
    #[track_caller]
    pub fn run(&self, cluster: &mut Cluster, random: &mut Random) -> Seen {
        let began = Instant::now();
        let nodes = cluster.publics();
        let mut healed = Duration::ZERO;
        let mut outcome = self.load.run(&nodes, random, began, || {
            wait(CALM);
            for step in &self.plan {
                step.fault.strike(cluster);
                wait(step.lasts);
                if step.heals {
                    cluster.heal();
                }
            }
            cluster.heal();
            let healing = Instant::now();
            cluster.wait_ready(READY_DEADLINE);
            healed = healing.elapsed();
            wait(CALM);
        });
        let paths: Vec<String> = (0..self.load.paths).map(|index| self.load.path(index)).collect();
        let set: BTreeSet<String> = paths.iter().cloned().collect();
        let patience = Duration::from_secs(from_env("CLUSTER_SETTLE", SETTLE_SECONDS));
        replicas::wait_settled(&cluster.disks(), &set, patience);
        let (listed, more, findings) = ending::settled(cluster, &paths, began, patience);
        outcome.history.extend(more);
        let judged = judge_all(&outcome.history, &listed);
        let mut wrong = outcome.findings;
        wrong.extend(findings);
        wrong.extend(judged.wrong);
        if !wrong.is_empty() {
            let plan: Vec<String> = self.plan.iter().map(Step::to_string).collect();
            let shown = &wrong[..wrong.len().min(12)];
            panic!(
                "{}: {} findings, the first:\n{}\nplan:\n  {}",
                self.what,
                wrong.len(),
                shown.join("\n"),
                plan.join("\n  ")
            );
        }
        if judged.undecided > 0 {
            skipped(&format!("{}: {} histories too large to search", self.what, judged.undecided));
        }
        let Judged { lenient, undecided, .. } = judged;
        Seen { history: outcome.history, lenient, undecided, took: began.elapsed(), healed }
    }
}

/// A fault lasts for a time: there is nothing to wait for but the clock.
fn wait(time: Duration) {
    poll(time, || None::<()>);
}
