//! A cluster of real nodes, what can be done to it, and the proof that it kept its promises all the same.
//!
//! - [`formation`] starts the nodes, kills, stops, wipes and restarts them; [`node`] is one of them, [`ports`] gives them ports.
//! - [`store`] is the registry of those that have one.
//! - [`links`] stands on every directed link between two nodes; [`relay`] is its thread.
//! - [`nemesis`] breaks things in an order that a seed decides.
//! - [`workload`] writes and reads meanwhile, [`client`] is one of its threads, [`history`] what they were told and when.
//! - [`invariants`] need no search; [`problem`], [`state`] and [`search`] decide whether a history can be explained by operations
//!   that happened one after the other, and [`report`] shows the one that cannot.
//! - [`round`] is all of this once, from load to judgement.
//! - [`replicas`] holds the disks of all nodes against what was acknowledged, [`equal`] against each other; [`ending`] reads
//!   everything back before that.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "each test crate uses its own part of this module, and a failure in it is a failed test"
)]

use crate::support;

#[path = "../audit.rs"]
pub mod audit;
pub mod client;
pub mod ending;
pub mod equal;
pub mod formation;
pub mod history;
pub mod invariants;
#[path = "../ledger.rs"]
pub mod ledger;
pub mod links;
pub mod nemesis;
pub mod node;
pub mod ports;
pub mod problem;
pub mod relay;
pub mod replicas;
pub mod report;
pub mod round;
pub mod search;
pub mod state;
#[path = "../registry/store.rs"]
pub mod store;
pub mod workload;

pub use formation::{Cluster, Shape};
pub use history::{Ask, Condition, Op, Told, Which};
pub use ledger::Blob;
pub use links::{Links, Mode};

/// A number from the environment, for long runs and for repeating one.
pub fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}
