//! Every mistake that `mistake` lists is noticed: by the model, in a configuration that holds without the mistake, and mostly by
//! the simulator too. A checker that lets one of them pass would let a bug of the same kind pass.

use stateright::{Checker, HasDiscoveries, Model};

use super::explored::{PUT, before, budget, delete, describe, get};
use super::model::{Budget, Configuration};
use super::properties::Broken;
use super::seeds::first_failure;
use super::simulator::Failure;
use crate::replication::delete::Which;
use crate::replication::mistake::Mistake;

const ALL: [Mistake; 9] = [
    Mistake::NoCountsAsRefusal,
    Mistake::NextVersionWithoutRefusals,
    Mistake::SweepWithoutRefusal,
    Mistake::TombstonesLeftOutOfReads,
    Mistake::ReadsAboveTheSynced,
    Mistake::CommitBelowQuorum,
    Mistake::VoteBeforeSync,
    Mistake::HandOverWithoutBarrier,
    Mistake::WipedDiskVotes,
];

/// Of each configuration so many states are looked at, shortest ways first, by one thread: so it is the same every time.
const STATES: usize = 400_000;
/// Seeds of the simulator.
const SEEDS: u64 = 600;

/// What shows a mistake, and how.
fn shown_by(mistake: Mistake) -> (Configuration, Broken) {
    let put = || vec![PUT(0, 1)];
    let none = Budget { pauses: 0, ..budget() };
    match mistake {
        // The answer "no space" is no promise: with space, the same prepare gets a yes.
        Mistake::NoCountsAsRefusal | Mistake::NextVersionWithoutRefusals => {
            let budget = Budget { timers: 1, doubles: 1, settles: 1, rooms: 1, ..none };
            let model = Configuration { full: vec![1, 2], ..Configuration::new(put(), budget) };
            (model, Broken::RefusedAndStored)
        }
        Mistake::SweepWithoutRefusal => {
            (Configuration::new(put(), Budget { sweeps: 2, ..none }), Broken::AcknowledgedWithoutBytes)
        }
        Mistake::TombstonesLeftOutOfReads => {
            let steps = vec![delete(0, Which::Version(1), &[]), get(2, None, &[0])];
            let before = vec![before(1, &[0, 1, 2])];
            (Configuration { before, ..Configuration::new(steps, none) }, Broken::NotLinearizable)
        }
        Mistake::ReadsAboveTheSynced => {
            let steps = vec![PUT(0, 1), get(2, None, &[])];
            let model = Configuration::new(steps, Budget { crashes: 1, ..none });
            (Configuration { late_sync: true, ..model }, Broken::AcknowledgedAndLost)
        }
        Mistake::CommitBelowQuorum => (Configuration::new(put(), none), Broken::AcknowledgedAndLost),
        Mistake::VoteBeforeSync => {
            let model = Configuration::new(put(), Budget { crashes: 1, ..none });
            (Configuration { late_sync: true, ..model }, Broken::AcknowledgedWithoutBytes)
        }
        // A commit of the lost disk counts, and one that is not on disk yet when that node hands over its rows.
        Mistake::HandOverWithoutBarrier => {
            let model = Configuration::new(put(), Budget { wipes: 1, ..none });
            let model = Configuration { wipe: vec![1], late_sync: true, ..model };
            (model, Broken::AcknowledgedAndLost)
        }
        Mistake::WipedDiskVotes => {
            let model = Configuration::new(put(), Budget { wipes: 1, ..none });
            (Configuration { wipe: vec![1], ..model }, Broken::AcknowledgedAndLost)
        }
        Mistake::CondemnedByQuorum
        | Mistake::CondemnedKeyNamedAgain
        | Mistake::DroppedOnOwnRow
        | Mistake::HandOverWithoutArchive
        | Mistake::AnswersOfTwoViewsAdded => unreachable!("those of the archive have a world of their own"),
    }
}

#[test]
fn the_model_notices_every_mistake() {
    for mistake in ALL {
        let (model, broken) = shown_by(mistake);
        for planted in [Some(mistake), None] {
            let model = Configuration { mistake: planted, ..model.clone() };
            let checker = model.checker().target_state_count(STATES).finish_when(HasDiscoveries::AnyFailures);
            let checked = checker.spawn_bfs().join();
            let found = checked.discovery("everything holds").map(stateright::Path::into_vec);
            let last = found.as_ref().and_then(|trace| trace.last()?.0.world.broken);
            println!(
                "{mistake:?}, planted: {}: {} states, {last:?}",
                planted.is_some(),
                checked.state_count()
            );
            let trace = found.as_deref().map(describe).unwrap_or_default();
            assert_eq!(last, planted.map(|_| broken), "{mistake:?}, planted: {planted:?}\n{trace}");
        }
    }
}

#[test]
fn the_simulator_notices_most_of_them() {
    for mistake in ALL {
        // These need several things at once, and one of them within the few milliseconds of a sync.
        let is_rare = matches!(
            mistake,
            Mistake::NoCountsAsRefusal | Mistake::ReadsAboveTheSynced | Mistake::HandOverWithoutBarrier
        );
        if !is_rare {
            let found = first_failure(SEEDS, Some(mistake));
            println!("{mistake:?}: {found:?}");
            assert!(matches!(found, Some((_, Failure::Broken(_)))), "{mistake:?}: {found:?}");
        }
    }
}
