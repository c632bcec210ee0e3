//! Power cuts at any moment, of one node and of all nodes of a cluster at once: what was acknowledged is there, nothing is half
//! there, and every node comes back by itself.
//!
//! A state is a moment in the log of all disks: what was flushed before is there, and of what was not, some part. It is mounted,
//! started, and held against what clients had been told by then. That the harness would notice a mistake is shown by planting
//! some.
//!
//! `POWER_CUT_STATES` sets the number of states, `POWER_CUT_SEED` which.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
#[path = "support/device/mod.rs"]
mod device;
#[path = "support/load.rs"]
mod load;
#[path = "support/power/mod.rs"]
mod power;
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cluster::{from_env, ledger};
use device::{FileSystem, Rig};
use power::clients::Load;
use power::lies::{Liar, Lie};
use power::nodes::Kind;
use power::recording::Recording;

/// States of one recording; its disks live as long as these take.
const STATES: u64 = 60;
/// Chunks and versions that go while the power does.
const SWEEPING: &str = "tombstone_grace = \"1s\"";

const ONE: Load =
    Load { clients: 8, requests: 240, paths: 24, files: 30, heavy: false, sweeps: false, may_refuse: false };
const THREE: Load = Load { clients: 6, requests: 120, paths: 16, files: 25, may_refuse: true, ..ONE };
/// More than a segment of the journal.
const HEAVY: Load = Load { clients: 12, requests: 3600, paths: 48, files: 2, heavy: true, ..ONE };

/// One of these tests at a time: each uses all processors.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn possible(what: &str) -> bool {
    Rig::or_skip(what).is_some()
}

/// Looks at `percent` of all states, in recordings of some each.
fn survives(what: &str, percent: u64, kind: &Kind, files: FileSystem, load: Load) {
    let _alone = alone();
    if !possible(what) {
        return;
    }
    if !files.is_known() {
        return support::skipped(&format!("{what}: the kernel does not know it"));
    }
    let seed = from_env("POWER_CUT_SEED", 1);
    let all = (from_env("POWER_CUT_STATES", 500) * percent).div_ceil(100);
    let mut left = all;
    for number in 0.. {
        let states = left.min(STATES);
        if states == 0 {
            break;
        }
        left -= states;
        let (started, seed) = (Instant::now(), seed + number);
        let (mut kind, mut load) = (kind.clone(), load);
        if number % 2 == 1 && !load.heavy {
            kind = kind.storage(SWEEPING);
            load.sweeps = true;
        }
        let recording = Recording::make(&kind, files, load, seed).expect("disks to record on");
        let recorded = started.elapsed();
        let wrong = recording.check(states as usize, 3, seed);
        println!(
            "POWER_CUT_SEED={seed}: {}; recorded in {recorded:?}, {states} states in {:?}",
            recording.describe(),
            started.elapsed() - recorded
        );
        assert!(wrong.is_empty(), "after a power cut:\n{}", wrong.join("\n"));
    }
    println!("{all} states");
}

#[test]
fn one_node_on_ext4_keeps_what_it_acknowledged() {
    survives("power cuts of one node on ext4", 60, &Kind::one(), FileSystem::Ext4, ONE);
}

#[test]
fn one_node_on_two_disks_keeps_what_it_acknowledged() {
    let kind = Kind { disks: 2, ..Kind::one() };
    survives("power cuts of one node on two disks", 10, &kind, FileSystem::Ext4, ONE);
}

#[test]
fn one_node_whose_journal_turns_over_keeps_what_it_acknowledged() {
    survives("power cuts of one node with much in its journal", 4, &Kind::one(), FileSystem::Ext4, HEAVY);
}

#[test]
fn one_node_on_xfs_keeps_what_it_acknowledged() {
    survives("power cuts of one node on xfs", 8, &Kind::one(), FileSystem::Xfs, ONE);
}

#[test]
fn one_node_on_btrfs_keeps_what_it_acknowledged() {
    survives("power cuts of one node on btrfs", 8, &Kind::one(), FileSystem::Btrfs, ONE);
}

#[test]
fn a_cluster_whose_nodes_all_lose_power_and_one_its_disk_keeps_what_it_acknowledged() {
    survives("power cuts of a cluster", 10, &Kind::three(), FileSystem::Ext4, THREE);
}

/// States that a planted mistake must be noticed in, of one of so many recordings: which moments there are depends on the machine.
const PLANTED: usize = 60;
const PLANTED_TRIES: u64 = 4;

/// Whether a mistake is noticed; says how.
fn notices(kind: &Kind, load: Load) -> bool {
    (1..=PLANTED_TRIES).any(|seed| {
        let recording = Recording::make(kind, FileSystem::Ext4, load, seed).expect("disks to record on");
        let wrong = recording.check(PLANTED, 1, seed);
        if let Some(first) = wrong.first() {
            println!("recording {seed}: {}", first.lines().next().unwrap_or_default());
        }
        !wrong.is_empty()
    })
}

fn is_noticed(lie: Lie, storage: &'static str, load: Load) {
    let _alone = alone();
    if !possible("whether a sync that is left out is noticed") {
        return;
    }
    let liar = Liar::new(lie);
    let mut kind = Kind::one().storage(storage);
    kind.prepare = Some(liar.prepare());
    let noticed = notices(&kind, load);
    assert!(liar.told() > 0, "nothing of it was synced anyway");
    assert!(noticed, "{lie:?}: {} syncs less, and nobody noticed", liar.told());
}

#[test]
fn a_chunk_that_is_not_synced_is_noticed() {
    is_noticed(Lie::Chunks, "io = \"buffered\"", Load { files: 80, ..ONE });
}

#[test]
fn directories_that_are_not_synced_are_noticed() {
    is_noticed(Lie::Directories, "", Load { files: 80, ..ONE });
}

#[test]
fn a_commit_that_is_answered_before_its_sync_is_noticed() {
    // Few slots at a time: these commits do not go through the journal.
    is_noticed(Lie::Logs, "", Load { clients: 2, files: 0, ..ONE });
}

#[test]
fn a_journal_that_is_not_synced_is_noticed() {
    is_noticed(Lie::Journal, "", Load { clients: 12, files: 0, ..ONE });
}

#[test]
fn an_answer_below_the_quorum_is_noticed_when_a_disk_is_lost() {
    let _alone = alone();
    if !possible("whether an answer below the quorum is noticed") {
        return;
    }
    let kind = Kind { write_quorum: 1, ..Kind::three() };
    // One client: nobody else could be given the same version, so only a disk can be what is missed.
    let load = Load { clients: 1, ..THREE };
    assert!(notices(&kind, load), "answers of one replica of three survived everything");
}
