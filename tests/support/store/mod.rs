//! A real S3 store, what can go wrong on the way to it, and a node that archives to it.
//!
//! - [`server`] is the store: it checks signatures and keeps objects as files, so that a test can look at them and damage them.
//! - [`proxy`] stands between a node and it: counts what passes, and misbehaves as told.
//! - [`node`] starts a node with an archive, and reads what it says of it.
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

pub mod node;
pub mod proxy;
pub mod server;

pub use node::{DEADLINE, Node};
pub use proxy::{Fault, Proxy};
pub use server::{ACCESS_KEY, BUCKET, SECRET_KEY, Store};
