//! Reading chunks in place: the granules that are wanted and not in the cache, from another replica that has a file of the chunk, or
//! from the object that has it.
//!
//! Bounded in time, and in memory by budgets of the core that are the archive's own. A stretch takes its share of them once, and who
//! holds one waits for nothing but the store, so readers never wait for each other in a circle.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use lru::LruCache;
use monoio::time::timeout;

use super::desk::Desk;
use crate::base::checksum;
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::io::file::on_storage_thread;
use crate::limits::{ARCHIVE_READ_TIME, ARCHIVE_READS_FAILING, CHUNK_SIZE, ELSEWHERE_BLOBS, ELSEWHERE_PAUSE};
use crate::meta::archives::Archived;
use crate::shard::core::Core;
use crate::shard::node::Node;
use crate::shard::repair::{self, damage::Place};

/// Where the archive has a chunk whose file was not found, or why that is not known; none: it should have a file here.
pub(in crate::shard) async fn object_of(
    node: &Node,
    place: Place,
    file: PathBuf,
) -> Option<Result<Archived, String>> {
    match node.readers.archived_chunk(place.slot, place.row, place.number).await {
        Ok(Some(archived)) if archived.dropped => Some(Ok(archived)),
        Ok(Some(archived)) => {
            // It may have come back this instant, and its object is still there.
            let is_here = on_storage_thread(move || file.try_exists()).await;
            matches!(is_here, Ok(true)).then_some(Ok(archived))
        }
        // Nothing says that it is damaged.
        Err(error) if node.archive.is_some() => Some(Err(error.message.into_owned())),
        Ok(None) | Err(_) => None,
    }
}

/// Where bytes `range` of a blob, which lie in one chunk, are in the object that has the chunk.
pub(in crate::shard) fn in_object(object: &Archived, range: &Range<u64>) -> Range<u64> {
    let start = object.range.start + range.start % CHUNK_SIZE;
    start..start + (range.end - range.start)
}

/// Bytes `range` of a blob, which lie in one chunk and begin on a granule, good by `sums`.
///
/// # Errors
/// Why they cannot be had now.
pub(in crate::shard) async fn read(
    core: &Rc<Core>,
    slot: Slot,
    object: &Archived,
    range: &Range<u64>,
    sums: &[u32],
) -> Result<Vec<u8>, String> {
    let target = &object.target;
    let Some(desk) = &core.node.archive else {
        return Err(format!("it is in {target}, and this node has no [archive] in its config"));
    };
    let metrics = &core.node.metrics.archive;
    metrics.reads.inc();
    let fetch = async {
        let _waiting = Waiting::begin(core, desk)?;
        let _share = core.archived_reads.take((range.end - range.start) as usize).await;
        fetch_good(desk, (slot, target), &in_object(object, range), sums).await
    };
    let fetched = timeout(ARCHIVE_READ_TIME, fetch).await.unwrap_or_else(|_| Err(desk.silence(target)));
    if fetched.is_err() {
        metrics.read_failures.inc();
    }
    fetched
}

/// The same from the files of another replica, of a chunk that has none here; none: no replica that answers has one, or that
/// was found out a short while ago.
pub(in crate::shard) async fn read_elsewhere(
    core: &Rc<Core>,
    place: Place,
    blob: BlobId,
    range: &Range<u64>,
    sums: &[u32],
) -> Option<Vec<u8>> {
    let cluster = core.node.cluster.as_ref()?;
    // A node that answers again may have it.
    let returns = cluster.returns();
    if cluster.topology().replica_count() == 1 || core.nowhere.knows(blob, returns, Instant::now()) {
        return None;
    }
    let version = (place.slot, place.row);
    let bytes = Box::pin(repair::from_files(core, cluster, version, range.clone(), sums)).await;
    if bytes.is_some() {
        core.node.metrics.archive.reads_elsewhere.inc();
    } else {
        core.nowhere.note(blob, returns, Instant::now());
    }
    bytes
}

/// Blobs of which no other replica had a file when it was asked last, and how often a node had come back by then.
pub(in crate::shard) struct Nowhere(RefCell<LruCache<BlobId, (u64, Instant)>>);

impl Nowhere {
    pub(in crate::shard) fn new() -> Self {
        Self(RefCell::new(LruCache::new(NonZeroUsize::new(ELSEWHERE_BLOBS).unwrap_or(NonZeroUsize::MIN))))
    }

    fn knows(&self, blob: BlobId, returns: u64, now: Instant) -> bool {
        let mut blobs = self.0.borrow_mut();
        let knows = blobs
            .get(&blob)
            .is_some_and(|(then, noted)| *then == returns && now.duration_since(*noted) < ELSEWHERE_PAUSE);
        if !knows {
            blobs.pop(&blob);
        }
        knows
    }

    fn note(&self, blob: BlobId, returns: u64, now: Instant) {
        self.0.borrow_mut().put(blob, (returns, now));
    }
}

/// A read that waits for the archive.
struct Waiting<'a>(&'a Core);

impl<'a> Waiting<'a> {
    /// While the store fails only a few ask it, which notice when it is good again: each holds a block for as long as it waits.
    fn begin(core: &'a Core, desk: &Desk) -> Result<Self, String> {
        let waiting = core.reads_away.get();
        if waiting >= ARCHIVE_READS_FAILING
            && let Some(trouble) = desk.trouble()
        {
            return Err(trouble);
        }
        core.reads_away.set(waiting + 1);
        Ok(Self(core))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.reads_away.set(self.0.reads_away.get() - 1);
    }
}

/// Asks twice: the first bytes may have been changed on their way.
async fn fetch_good(
    desk: &Desk,
    (slot, target): (Slot, &str),
    range: &Range<u64>,
    sums: &[u32],
) -> Result<Vec<u8>, String> {
    for _ in 0..2 {
        let bytes = desk.fetch(slot, target, range.clone()).await?;
        if bytes.len() as u64 == range.end - range.start && checksum::first_mismatch(&bytes, sums).is_none() {
            return Ok(bytes);
        }
    }
    let Range { start, end } = range;
    Err(format!("bytes {start} to {end} of {target} have other checksums than in the database"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ChunkId;

    #[test]
    fn a_blob_that_nobody_has_is_asked_about_again_after_a_while() {
        let (nowhere, now) = (Nowhere::new(), Instant::now());
        let [blob, other] = [1, 2].map(BlobId::from_u128);
        assert!(!nowhere.knows(blob, 0, now));
        nowhere.note(blob, 0, now);
        assert!(nowhere.knows(blob, 0, now + ELSEWHERE_PAUSE / 2) && !nowhere.knows(other, 0, now));
        assert!(!nowhere.knows(blob, 0, now + ELSEWHERE_PAUSE));
        nowhere.note(blob, 0, now);
        assert!(!nowhere.knows(blob, 1, now), "a node has come back");
        for number in 0..=ELSEWHERE_BLOBS as u128 {
            nowhere.note(BlobId::from_u128(10 + number), 0, now);
        }
        assert_eq!(nowhere.0.borrow().len(), ELSEWHERE_BLOBS);
    }

    #[test]
    fn bytes_of_a_blob_are_found_in_the_object_of_their_chunk() {
        let object = Archived {
            chunk: ChunkId([1; 32]),
            length: CHUNK_SIZE,
            target: "s3://bucket/key".to_owned(),
            range: 1000..1000 + CHUNK_SIZE,
            dropped: true,
            generation: 1,
            spread: true,
        };
        assert_eq!(in_object(&object, &(0..10)), 1000..1010);
        assert_eq!(in_object(&object, &(3 * CHUNK_SIZE + 5..4 * CHUNK_SIZE)), 1005..1000 + CHUNK_SIZE);
    }
}
