//! The archive: an S3 store that keeps chunks which have no file here any more.
//!
//! Only `target` talks to it, and only from the archive's own thread.

pub mod failure;
pub mod health;
pub mod location;
pub mod settings;
pub mod target;
