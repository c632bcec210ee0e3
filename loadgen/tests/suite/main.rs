//! The binary against a small server made for the purpose.
//!
//! Each file is about one thing a user relies on; `server` is what they are tried on, `program` how they are called.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod answers;
mod mixes;
mod open_loop;
mod program;
mod reports;
mod server;
