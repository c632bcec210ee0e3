//! The repair of damaged chunks: one at a time on each core, for the slots of that core.
//!
//! What is good of the chunk here is kept, granule by granule; the rest comes from other replicas or the archive; the whole counts if
//! it has the chunk's SHA-256. Where the chunk has it already, its checksums in the database are what is damaged, and made anew. A
//! chunk that cannot be repaired is tried again after a pause; one that went to the archive meanwhile needs no file.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use monoio::time::timeout;

use super::damage::{Outcome, Place};
use super::fetch::Others;
use crate::base::checksum;
use crate::base::error::{Code, Error, Result};
use crate::base::parts::{Part, Parts};
use crate::base::sha256::Sha256;
use crate::chunk::kept;
use crate::chunk::mend::{self, Mending};
use crate::io::buffer::Buffer;
use crate::io::file::{RingFile, on_storage_thread};
use crate::io::steps;
use crate::limits::{CHUNK_SIZE, GRANULE_SIZE, INLINE_MAX, PART_SIZE, PARTS_PER_CHUNK, REPAIR_PAUSE};
use crate::shard::archive::is_dropped;
use crate::shard::core::Core;
use crate::shard::peers::cluster::Cluster;

/// Repairs for as long as the core runs.
pub(in crate::shard) async fn run(core: Rc<Core>, cluster: Option<Arc<Cluster>>) {
    let node = &core.node;
    loop {
        let place = match timeout(REPAIR_PAUSE, node.damages.next(core.number)).await {
            Ok(Some(place)) => place,
            Ok(None) => return,
            Err(_) => {
                node.damages.try_again(core.number);
                continue;
            }
        };
        let (outcome, why) = match repair(&core, cluster.as_ref(), place).await {
            Ok(outcome) => (outcome, None),
            Err(error) => (Outcome::Failed, Some(error.message.into_owned())),
        };
        match outcome {
            Outcome::Repaired => {
                node.metrics.repaired.inc();
                tracing::warn!(slot = %place.slot, row = place.row.0, chunk = place.number, "a chunk was repaired");
            }
            Outcome::Failed => {
                node.metrics.repair_failures.inc();
                tracing::error!(
                    slot = %place.slot, row = place.row.0, chunk = place.number, why = why.as_deref().unwrap_or_default(),
                    "a chunk cannot be repaired yet"
                );
            }
            Outcome::Needless => {}
        }
        node.damages.end(place, outcome, why);
    }
}

async fn repair(core: &Rc<Core>, cluster: Option<&Arc<Cluster>>, place: Place) -> Result<Outcome> {
    let (node, slot) = (&core.node, place.slot);
    if node.slots.is_recovering(slot) {
        return Ok(Outcome::Needless);
    }
    let Some(whole) = node.readers.whole(slot, place.row).await? else { return Ok(Outcome::Needless) };
    let first = place.number * PARTS_PER_CHUNK;
    let count = whole.size.div_ceil(PART_SIZE).saturating_sub(first).min(PARTS_PER_CHUNK);
    let parts = node.readers.parts(slot, place.row, first, count).await?.parts;
    let Some(chunk) = parts.first().map(|part| part.chunk) else { return Ok(Outcome::Needless) };
    let file = mend::Place {
        slot_dir: node.slot_dir(slot).to_path_buf(),
        blob: whole.blob,
        number: place.number,
        chunk,
        len: whole.chunk_len(place.number),
    };
    let others = Others::new(core, cluster, slot, &whole);
    let has_file = file.len > INLINE_MAX || !whole.is_inline(place.number) && exists(&file).await?;
    if !has_file {
        return mend_inline(&others, place, &parts).await;
    }
    // From here on the blob is one that is worked on, whose files nobody sweeps.
    if !node.live.insert(whole.blob) {
        return Err(Error::new(Code::SlotUnavailable, "its blob is being written"));
    }
    let mended = mend_on_disk(&others, place, file, &parts).await;
    // Only now: a fill of the same blob may count the files that it finds.
    node.live.remove(whole.blob);
    mended
}

/// Of a chunk that is a file, unless the archive alone has it, by now or before.
async fn mend_on_disk(
    others: &Others<'_>,
    place: Place,
    file: mend::Place,
    parts: &[Part],
) -> Result<Outcome> {
    let node = &others.core.node;
    if is_dropped(node, place).await? {
        return Ok(Outcome::Needless);
    }
    let mut mended = mend_file(others, file.clone(), parts).await;
    if let Err(error) = &mended
        && error.raw_os_error().is_none()
        && let Some(outcome) = mend_sums(others, place, &file).await
    {
        mended = Ok(outcome);
    } else if let Ok(Outcome::Repaired) = mended {
        node.damages.note_replaced();
        // The version may have gone meanwhile; what it was is not known where its slot cannot be asked.
        let is_gone = matches!(node.readers.whole(place.slot, place.row).await, Ok(None));
        if is_gone || matches!(is_dropped(node, place).await, Ok(true)) {
            let withdraw = move || {
                mend::withdraw(&file);
                Ok(())
            };
            // What it leaves is the sweep's.
            let _ = on_storage_thread(withdraw).await;
        }
    }
    if mended.is_err() && matches!(is_dropped(node, place).await, Ok(true)) {
        return Ok(Outcome::Needless);
    }
    mended.map_err(|error| Error::new(Code::Internal, error.to_string()))
}

/// Whether a chunk has a file.
async fn exists(file: &mend::Place) -> Result<bool> {
    let path = file.file();
    let looked = on_storage_thread(move || path.try_exists()).await;
    looked.map_err(|error| Error::new(Code::Internal, error.to_string()))
}

fn lacking(others: &Others<'_>) -> Error {
    let no_replica = "no replica that answers has its damaged bytes in good order: bring one back";
    match others.lacking() {
        (_, None) => Error::new(Code::QuorumUnavailable, no_replica),
        (true, Some(why)) => {
            Error::new(Code::QuorumUnavailable, format!("{no_replica}; nor does the archive help: {why}"))
        }
        (false, Some(why)) => Error::new(
            Code::SlotUnavailable,
            format!("the archive does not have its damaged bytes in good order: {why}: put back a good copy"),
        ),
    }
}

/// Of a chunk that lives in the database.
async fn mend_inline(others: &Others<'_>, place: Place, parts: &[Part]) -> Result<Outcome> {
    let node = &others.core.node;
    let sums = parts.first().map_or(&[][..], |part| &part.sums);
    let start = place.number * CHUNK_SIZE;
    let fetched = others.fetch(start..others.whole.size, sums).await;
    let bytes = fetched.ok_or_else(|| lacking(others))?;
    if parts.first().is_none_or(|part| part.chunk.0 != Sha256::digest(&bytes)) {
        return Err(Error::new(Code::Internal, "its checksums in the database are damaged, too"));
    }
    let mended = node.writers.mend(place.slot, place.row, place.number, bytes.into()).await?;
    Ok(if mended { Outcome::Repaired } else { Outcome::Needless })
}

/// Of a chunk that is a file.
async fn mend_file(others: &Others<'_>, file: mend::Place, parts: &[Part]) -> io::Result<Outcome> {
    let (node, disk) = (&others.core.node, others.core.node.disk(others.slot));
    let old = open(&file, disk.direct()).await?;
    let hashing = others.core.hashing.clone();
    let begun = Mending::begin(Arc::clone(disk), file.clone(), hashing.clone()).await;
    let mut new = match begun {
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
            // What is in quarantine is worth less than a chunk.
            let root = disk.root().to_path_buf();
            on_storage_thread(move || mend::empty_quarantine(&root, std::time::Duration::ZERO)).await?;
            Mending::begin(Arc::clone(disk), file.clone(), hashing).await?
        }
        begun => begun?,
    };
    let damaged = || io::Error::other("its checksums in the database are damaged, too");
    match assemble(others, &file, old.as_ref(), parts, &mut new).await {
        // Whoever met it as damaged had a file that was replaced since, or a disk that thought better of it.
        Ok(true) => new.discard_checked().await?.then_some(Outcome::Needless).ok_or_else(damaged),
        Ok(false) => new.finish(node.synced).await?.then_some(Outcome::Repaired).ok_or_else(damaged),
        Err(error) => {
            new.discard().await;
            Err(error)
        }
    }
}

/// Of a chunk whose file has its SHA-256, so that what is damaged is its checksums in the database; none: it has not.
async fn mend_sums(others: &Others<'_>, place: Place, file: &mend::Place) -> Option<Outcome> {
    let (node, first) = (&others.core.node, place.number * PARTS_PER_CHUNK);
    let (file, synced) = (file.clone(), node.synced);
    let verify = move || kept::verify(&file.slot_dir, file.blob, file.chunk, file.len, synced);
    let parts = on_storage_thread(verify).await.ok().flatten()?;
    let parts = Parts { first, parts, ..Parts::default() };
    let mended = node.writers.resum(place.slot, place.row, parts).await.ok()?;
    Some(if mended { Outcome::Repaired } else { Outcome::Needless })
}

/// The damaged file, and whether its length is right; none: it is missing, or cannot be opened.
async fn open(file: &mend::Place, direct: bool) -> io::Result<Option<(RingFile, bool)>> {
    let (path, len) = (file.file(), file.len);
    let opened = on_storage_thread(move || {
        let file = steps::open_file(&path, direct)?;
        let right = file.metadata()?.len() == len;
        Ok((file, right))
    });
    match opened.await {
        Ok((file, right)) => Ok(Some((RingFile::new(file)?, right))),
        Err(error) => {
            tracing::debug!(chunk = %file.chunk, %error, "a damaged chunk cannot be opened");
            Ok(None)
        }
    }
}

/// Writes the chunk anew, part by part; true: all of it was good where it was.
async fn assemble(
    others: &Others<'_>,
    file: &mend::Place,
    old: Option<&(RingFile, bool)>,
    parts: &[Part],
    new: &mut Mending,
) -> io::Result<bool> {
    let mut good = old.is_some_and(|(_, right)| *right);
    let start = file.number * CHUNK_SIZE;
    for (number, part) in (0..).zip(parts) {
        let at = number * PART_SIZE;
        let len = file.len.saturating_sub(at).min(PART_SIZE) as usize;
        let mut buffer = Buffer::new(PART_SIZE as usize);
        let granules = len.div_ceil(GRANULE_SIZE as usize);
        let mut read = false;
        if let Some((old, _)) = old {
            let (result, back) = old.read(buffer, at, len).await;
            (read, buffer) = (result.is_ok(), back);
        }
        buffer.set_len(len);
        // What comes before the end of a file that is cut off is as good as it is.
        let none = || std::iter::once(0..granules).collect();
        let bad = if old.is_some() { checksum::mismatches(&buffer, &part.sums) } else { none() };
        good &= read && bad.is_empty();
        for run in bad {
            let bytes = run.start * GRANULE_SIZE as usize..len.min(run.end * GRANULE_SIZE as usize);
            let range = start + at + bytes.start as u64..start + at + bytes.end as u64;
            let sums = part.sums.get(run).unwrap_or_default();
            let fetched = others.fetch(range, sums).await;
            let fetched = fetched.ok_or_else(|| io::Error::other(lacking(others).message.into_owned()))?;
            buffer[bytes].copy_from_slice(&fetched);
        }
        new.write(buffer).await?;
    }
    Ok(good)
}
