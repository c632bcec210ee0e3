//! Reading chunks in place: the granules that are wanted and not in the cache, from the object that has the chunk.
//!
//! Bounded in time, and in memory by budgets of the core that are the archive's own. A stretch takes its share of them once, and who
//! holds one waits for nothing but the store, so readers never wait for each other in a circle.

use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use monoio::time::timeout;

use super::desk::Desk;
use crate::base::checksum;
use crate::io::file::on_storage_thread;
use crate::limits::{ARCHIVE_READ_TIME, ARCHIVE_READS_FAILING, CHUNK_SIZE};
use crate::meta::archives::Archived;
use crate::shard::core::Core;
use crate::shard::node::Node;
use crate::shard::repair::damage::Place;

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
        fetch_good(desk, target, &in_object(object, range), sums).await
    };
    let fetched = timeout(ARCHIVE_READ_TIME, fetch).await.unwrap_or_else(|_| Err(desk.silence(target)));
    if fetched.is_err() {
        metrics.read_failures.inc();
    }
    fetched
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
async fn fetch_good(desk: &Desk, target: &str, range: &Range<u64>, sums: &[u32]) -> Result<Vec<u8>, String> {
    for _ in 0..2 {
        let bytes = desk.fetch(target, range.clone()).await?;
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
    fn bytes_of_a_blob_are_found_in_the_object_of_their_chunk() {
        let object = Archived {
            chunk: ChunkId([1; 32]),
            length: CHUNK_SIZE,
            target: "s3://bucket/key".to_owned(),
            range: 1000..1000 + CHUNK_SIZE,
            dropped: true,
        };
        assert_eq!(in_object(&object, &(0..10)), 1000..1010);
        assert_eq!(in_object(&object, &(3 * CHUNK_SIZE + 5..4 * CHUNK_SIZE)), 1005..1000 + CHUNK_SIZE);
    }
}
