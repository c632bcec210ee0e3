//! Disks that can lose power and fail: block devices whose blocks a process of ours keeps, with a file system mounted on them.
//!
//! A [`Rig`] is one process that serves files through FUSE, with a loop device over each. A loop device opens its file with
//! direct IO, so what a file system writes arrives as a write and what it syncs arrives as a flush, in that order, and nothing
//! waits in a page cache in between. The process logs every write and every flush of all its devices in one order ([`log`]),
//! can make a new device out of what would be left if the power had gone at some moment, and lets any request fail, wait or
//! never be answered ([`faults`]).
//!
//! ```ignore
//! let Some(rig) = Rig::or_skip("what is not tested without it") else { return };
//! let disk = rig.disk("one", FileSystem::Ext4);      // made, mounted at disk.path()
//! disk.set_faults(&[Fault::fail(&[Op::Flush])]);
//! disk.set_faults(&[]);
//! ```
//!
//! **Nothing here may hang a test run.** A file system whose device does not answer blocks, beyond every signal, whoever touches
//! it: tests, nodes, and any `sync` on the machine. Therefore:
//!
//! - no request waits for ever: after [`faults::LONGEST_WAIT`] the device is gone for good;
//! - the blocks are kept by a process that touches no file system of its own, takes no memory that would have to be written back
//!   first (`PR_SET_IO_FLUSHER`, where it may), and holds the only descriptor of the FUSE connection: when it ends, however it
//!   ends, the kernel aborts the connection, and everything that waits gets an error;
//! - it ends when its [`Rig`] goes, when the test process goes or was killed, and in any case after [`Rig::LIFETIME`]; should it
//!   be unable to end, the test process aborts the connection;
//! - it holds no pipe of the test's, which would keep whoever reads the test's output waiting;
//! - every command is bounded in time ([`command`]), and one that cannot be killed is left behind;
//! - mounts and loop devices of a test process that was killed are removed by the process that serves them, or else by the
//!   next [`Rig`] on the machine ([`leftovers`]).
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

mod blocks;
mod command;
mod control;
mod daemon;
mod disk;
mod faults;
mod image;
mod leftovers;
mod log;
mod parked;
mod rig;

pub use disk::{Disk, FileSystem};
pub use faults::{Fault, Op};
pub use log::{Event, Loss, What};
pub use rig::Rig;

use super::support;
