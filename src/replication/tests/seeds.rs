//! Seeds of the simulator.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::simulator::{Failure, Simulator};
use crate::replication::mistake::{self, Mistake};

/// Seeds, unless `AMBERBLOB_SIM_SEEDS` says otherwise.
const SEEDS: u64 = 3000;

/// Runs seeds, and gives the first that fails.
pub(super) fn first_failure(seeds: u64, mistake: Option<Mistake>) -> Option<(u64, Failure)> {
    let (next, steps, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let work = || {
        let mut found = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.min(failed.load(Ordering::Relaxed)) {
                return found;
            }
            match mistake::with(mistake, || Simulator::new(seed, false).run()) {
                Ok(taken) => drop(steps.fetch_add(taken, Ordering::Relaxed)),
                Err(failure) => {
                    failed.fetch_min(seed, Ordering::Relaxed);
                    found = found.or(Some((seed, failure)));
                }
            }
        }
    };
    let began = Instant::now();
    let found = std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.map(|worker| worker.join().expect("a simulation does not panic"))
    });
    let steps = steps.load(Ordering::Relaxed);
    println!("{} seeds, {steps} steps, {:.1?}", next.load(Ordering::Relaxed).min(seeds), began.elapsed());
    found.into_iter().flatten().min_by_key(|(seed, _)| *seed)
}

#[test]
fn clusters_in_bad_weather() {
    if let Ok(seed) = std::env::var("AMBERBLOB_SIM_SEED") {
        let outcome = Simulator::new(seed.parse().expect("a number"), true).run();
        panic!("{outcome:?}");
    }
    let seeds = std::env::var("AMBERBLOB_SIM_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    if let Some((seed, failure)) = first_failure(seeds, None) {
        panic!("{failure:?}; AMBERBLOB_SIM_SEED={seed} shows it");
    }
}
