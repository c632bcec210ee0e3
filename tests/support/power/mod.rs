//! Power cuts: nodes under load on disks that log what they are asked for, and then every node once more on what would be left
//! if the power had gone at some moment.
//!
//! - [`clients`] write and read, and note the moment of each question and answer in the order of the disks' log.
//! - [`recording`] is a run of nodes with its log; [`cuts`] chooses where the power goes and what is lost.
//! - [`nodes`] starts one node or three on such disks, and [`judge`] holds what they show against what had been answered by then.
//! - [`lies`] lets a node believe that something is synced which is not, so that it can be shown that the judge notices.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure in it is a failed test"
)]

pub mod clients;
pub mod cuts;
pub mod judge;
pub mod lies;
pub mod nodes;
pub mod recording;

use crate::{cluster, device, ledger, load, support};
