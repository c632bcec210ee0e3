//! AmberBlob: a leaderless, versioned blob server for tuned bare metal.
//!
//! `rfc/` says how it is built and why; each module says what it is for.

pub mod antientropy;
pub mod archive;
pub mod background;
pub mod base;
pub mod chunk;
pub mod cli;
pub mod client;
pub mod compat;
pub mod config;
pub mod doctor;
pub mod io;
pub mod limits;
pub mod meta;
pub mod metrics;
pub mod registry;
pub mod replication;
pub mod server;
pub mod shard;
pub mod tls;
pub mod wire;
