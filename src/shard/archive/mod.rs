//! Chunks that the archive alone has, as the cores see them: read in place, and brought back.
//!
//! What always holds: a core never talks to the store, it asks the archive's thread across the [desk]; and bytes from there count
//! only if they have the checksums of the database, or the chunk's SHA-256. A chunk is away once its row says so: a file that
//! is missing without that is damage.

mod bringing;
pub mod desk;
mod errands;
pub(super) mod heat;
pub mod pressure;
mod reading;
pub(super) mod reads;

pub(super) use bringing::run as bring_back;
pub(super) use errands::{obey, run as run_errands};
pub(super) use reading::{Nowhere, in_object, object_of, read, read_elsewhere};

use super::node::Node;
use super::repair::damage::Place;
use crate::base::error::Result;

/// Whether the archive alone has a chunk.
///
/// # Errors
/// Those of the metadata.
pub async fn is_dropped(node: &Node, place: Place) -> Result<bool> {
    let archived = node.readers.archived_chunk(place.slot, place.row, place.number).await?;
    Ok(archived.is_some_and(|archived| archived.dropped))
}
