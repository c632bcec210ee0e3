//! Clusters of three and five nodes under load while nodes are killed, stopped and wiped, links are cut, delayed and broken, and
//! registries stand still, die and come back empty: every answer is one that the contract allows, in an order that it allows, and the disks hold what was acknowledged.
//!
//! Invariants: `support/cluster/invariants.rs`, `state.rs` and `replicas.rs`. `CLUSTER_ROUNDS` sets the number of rounds,
//! `CLUSTER_SEED` what happens in them; both are printed. `CLUSTER_SETTLE` gives what is in doubt more seconds to be settled.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
mod support;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster::round::Round;
use cluster::store::Kind;
use cluster::workload::Load;
use cluster::{Cluster, Op, Shape, from_env, nemesis, replicas};
use support::{Random, skipped};

/// Of all rounds, one in so many has five nodes.
const FIVE: u64 = 5;
/// One round in so many may lose a disk; until then every replica must have everything again.
const LOSE: u64 = 3;
/// Every replica has everything again within this.
const REPAIR_DEADLINE: Duration = Duration::from_secs(60);

/// A machine of two processors carries one cluster at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The seed of this run.
fn seed() -> u64 {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    from_env("CLUSTER_SEED", clock)
}

fn rounds(shape: Shape, count: u64) {
    let (nodes, registry) = (shape.nodes, shape.registry);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = seed();
    println!("{nodes} nodes, registry {registry:?}, {count} rounds, CLUSTER_SEED={seed}");
    let mut random = Random::new(seed.wrapping_add(nodes as u64));
    let mut cluster = Cluster::start(shape);
    let mut history: Vec<Op> = Vec::new();
    for number in 0..count {
        let may_lose = number % LOSE == LOSE - 1 && is_whole(&cluster, &history);
        let plan = match registry {
            None => nemesis::plan(&mut random, nodes, may_lose),
            Some(_) => nemesis::plan_with_registry(&mut random, nodes, may_lose),
        };
        let load = Load { clients: 10, prefix: format!("faults/{number}/"), paths: 5, most: 700 };
        let what = format!("{nodes} nodes, registry {registry:?}, round {number}, CLUSTER_SEED={seed}");
        println!("round {number}:");
        plan.iter().for_each(|step| println!("    {step}"));
        let seen = Round { load, plan, what }.run(&mut cluster, &mut random);
        println!("    {}", seen.summary());
        assert!(seen.answered() > 100, "round {number}: hardly anything was answered");
        history.extend(seen.history);
    }
    cluster.terminate_all();
    let wrong = replicas::check(&cluster.disks(), &history, cluster.shape.write_quorum);
    assert!(
        wrong.is_empty(),
        "CLUSTER_SEED={seed}: {} findings on the disks, the first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
}

/// Whether another disk may be lost: every replica has everything that there is.
fn is_whole(cluster: &Cluster, history: &[Op]) -> bool {
    let paths: BTreeSet<String> = history.iter().map(|op| op.path.clone()).collect();
    match replicas::wait_whole(&cluster.disks(), &paths, cluster.shape.replicas, REPAIR_DEADLINE) {
        Ok(()) => true,
        Err(thin) => {
            skipped(&format!("no disk is lost: after {REPAIR_DEADLINE:?} some replicas lack copies: {thin}"));
            false
        }
    }
}

/// Rounds, unless `CLUSTER_ROUNDS` says otherwise.
fn count() -> u64 {
    from_env("CLUSTER_ROUNDS", 20)
}

#[test]
fn three_nodes_keep_their_promises_whatever_breaks() {
    rounds(Shape::of(3), count() - count() / FIVE);
}

#[test]
fn five_nodes_keep_their_promises_whatever_breaks() {
    rounds(Shape::of(5), count() / FIVE);
}

#[test]
fn a_cluster_keeps_its_promises_whatever_its_redis_does() {
    rounds(Shape { registry: Some(Kind::Redis), ..Shape::of(3) }, count() / FIVE);
}

#[test]
fn a_cluster_keeps_its_promises_whatever_its_etcd_does() {
    rounds(Shape { registry: Some(Kind::Etcd), ..Shape::of(3) }, count() / FIVE);
}
