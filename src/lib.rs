//! AmberBlob: a leaderless, versioned blob server for tuned bare metal.

pub mod base;
pub mod chunk;
pub mod io;
pub mod limits;
pub mod meta;
pub mod wire;
