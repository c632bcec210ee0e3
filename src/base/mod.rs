//! Words that every layer shares: identities, slots, paths, checksums, time, errors. No IO.

pub mod checksum;
pub mod clock;
pub mod error;
pub mod hashes;
pub mod ids;
pub mod parts;
pub mod path;
pub mod seal;
pub mod sha256;
pub mod slot;
pub mod slot_set;
pub mod topology;
