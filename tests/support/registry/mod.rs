//! Real registries, and nodes that find each other by them.
//!
//! - [`store`] is a Redis or an etcd of the test's own: stopped, killed, restarted empty.
//! - [`proxy`] stands between a node and it: slow, or cut off.
//! - [`nodes`] starts the nodes of a cluster and reads what they say of each other.
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

pub mod nodes;
pub mod proxy;
pub mod store;

pub use nodes::{Cluster, alive, node_of, nodes, wait_alive, wait_all_alive, wait_ready};
pub use proxy::Proxy;
pub use store::{BOTH, Kind, Store};
