//! What every black-box test stands on: a server process, a client written independently of it, and waiting with a deadline.
//!
//! - [`server`] starts the real binary on free ports over a fresh directory, stops it, kills it, starts it again.
//! - [`http`] speaks HTTP/1.1 by hand, so that no parser of the server can hide its own mistakes.
//! - [`wait`] polls a condition until a deadline; nothing here sleeps and hopes.
//! - [`data`] makes bytes from a seed, so that a failure can be repeated.
//! - [`observe`] looks at what a server shows of itself, over HTTP and on its disks.
//! - [`process`] sends signals and reads `/proc`.
//!
//! Everything panics with the cause on a failure: a test has nobody to hand an error to.
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

pub mod damage;
pub mod data;
pub mod http;
pub mod observe;
pub mod process;
pub mod program;
pub mod server;
pub mod wait;

pub use data::{Random, bytes, hex, sha256, sha256_base64, sha256_hex};
pub use http::{
    Connection, Framing, Headers, Request, Response, assert_error, encode_path, error_code, object,
};
pub use observe::{assert_never_written, chunk_files, plain_files, slot_dir, versions};
pub use server::{Builder, Refused, Server};
pub use wait::{poll, poll_until, wait_until};

/// The size of a chunk: all but a blob's last are this long.
pub const CHUNK: usize = 64 << 20;

/// A chunk of at most this many bytes may live in the slot's database.
pub const SMALL_CHUNK: usize = 64 << 10;

/// The number of slots of a node.
pub const SLOTS: u64 = 2048;

/// The slot that a path belongs to.
pub fn slot_of(path: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(path.as_bytes()) % SLOTS
}

/// Says that something was not tested here, and why. Past the test runner, which hides what a passing test prints.
pub fn skipped(why: &str) {
    use std::io::Write as _;
    let mut stderr = std::io::stderr();
    writeln!(stderr, "\nSKIPPED: {why}").unwrap();
}
