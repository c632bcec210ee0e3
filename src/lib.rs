//! AmberBlob: a leaderless, versioned blob server for tuned bare metal.

pub mod base;
pub mod limits;
