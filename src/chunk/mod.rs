//! Chunks on disk: where they lie, how they are written, read and removed. It knows nothing of metadata.

pub mod charter;
pub mod disk;
pub mod files;
pub mod incoming;
pub mod kept;
pub mod layout;
pub mod mend;
pub mod read;
pub mod sweep;
mod write;
