//! Damaged chunks: known ones, their repair from other replicas or the archive, and reads that go on although they met one.
//!
//! What always holds: bytes that fail a checksum are never sent and never written over others; what another node or the archive sends
//! counts only if it has the CRC32C, and under a name only if it has the SHA-256. Where nobody has good bytes nothing is moved.

pub mod damage;
mod fetch;
mod mending;
mod rescue;

pub(super) use mending::run;
pub(super) use rescue::{from_files, rescue};
