//! Items and digests. An item is the first half of a SHA-256 over what replicas must agree on; whether the chunks are here is not
//! part of it.

use crate::base::clock::Timestamp;
use crate::base::error::Result;
use crate::base::ids::BlobId;
use crate::base::sha256::Sha256;
use crate::wire::peer::sync::{Digest, Item, Items};
use crate::wire::peer::{Held, Row, encode};

/// What keeps the items of versions and of tombstones apart.
const VERSION: u8 = 1;
const TOMBSTONE: u8 = 2;

/// The item of a version.
///
/// # Errors
/// `Internal`, if the row cannot be encoded, which no row is.
pub fn version(row: &Row) -> Result<Item> {
    let Row { path, version, attempt, size, content, created_at, headers } = row;
    // The time as it is stored: one that no calendar has is stored as another.
    let mut bytes = encode(&(path, version, attempt, size, content, created_at.to_string(), headers))?;
    bytes.push(VERSION);
    Ok(item(&bytes))
}

/// The item of a tombstone.
pub fn tombstone(blob: BlobId, at: Timestamp) -> Item {
    let mut bytes = blob.to_u128().to_le_bytes().to_vec();
    bytes.extend(at.to_string().bytes());
    bytes.push(TOMBSTONE);
    item(&bytes)
}

/// The items of a version as a replica holds it.
///
/// # Errors
/// As [`version`].
pub fn items(held: &Held) -> Result<Items> {
    let blob = held.row.attempt.blob_id;
    let tombstone = held.tombstoned_at.map(|at| tombstone(blob, at));
    Ok(Items { blob, version: version(&held.row)?, tombstone })
}

fn item(bytes: &[u8]) -> Item {
    let mut half = [0; 16];
    half.copy_from_slice(&Sha256::digest(bytes)[..16]);
    Item::from_le_bytes(half)
}

impl Digest {
    /// Adds an item.
    pub fn add(&mut self, item: Item) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(item);
    }

    /// Takes an item away.
    pub fn remove(&mut self, item: Item) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(item);
    }

    /// Adds all items of another set, or a difference.
    pub fn merge(&mut self, other: Self) {
        self.count = self.count.wrapping_add(other.count);
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Adds the items of a blob.
    pub fn add_all(&mut self, items: &Items) {
        self.add(items.version);
        if let Some(tombstone) = items.tombstone {
            self.add(tombstone);
        }
    }
}
