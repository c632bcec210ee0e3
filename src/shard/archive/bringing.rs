//! Bringing archived chunks back, one at a time on each core, for the slots of that core.
//!
//! Order: the file written beside, hashed, synced and renamed if it has the chunk's SHA-256, directories synced; then the row. A crash
//! in between leaves a file that no row names, which the next attempt counts, or the sweep removes. From before the first byte
//! until the row says that it is here the blob is one of those whose files nobody sweeps. A chunk that has its SHA-256 and not the
//! checksums of the database comes back with new ones.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use monoio::time::sleep;

use super::desk::{Bring, Brought, Desk};
use super::reading::in_object;
use crate::base::checksum::{GranuleSums, first_mismatch};
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error, Result};
use crate::base::ids::BlobId;
use crate::base::parts::{Part, Parts};
use crate::base::slot::Slot;
use crate::chunk::kept;
use crate::chunk::mend::{self, Mending};
use crate::io::buffer::Buffer;
use crate::io::file::on_storage_thread;
use crate::limits::{
    ARCHIVE_READ_TIME, ARCHIVE_RESTORES, CHECK_RETRY, CHUNK_SIZE, PART_SIZE, PARTS_PER_CHUNK,
};
use crate::meta::archives::Archived;
use crate::meta::whole::Whole;
use crate::shard::core::Core;
use crate::shard::node::Node;
use crate::shard::repair::damage::Place;

/// Brings back what is asked for, for as long as the core runs.
pub(in crate::shard) async fn run(core: Rc<Core>, desk: Arc<Desk>) {
    while let Some(Bring { place, reply }) = desk.next(core.number).await {
        if reply.is_canceled() {
            continue;
        }
        let brought = Box::pin(bring_back(&core, &desk, place)).await;
        if let Ok(Brought::Back(_)) = brought {
            core.node.metrics.archive.chunks_restored.inc();
            // It would go again at once.
            if let Some(reads) = &core.reads {
                reads.note(place.slot, place.row, Timestamp::now());
            }
        }
        // Whoever asked may have gone.
        let _ = reply.send(brought);
    }
}

async fn bring_back(core: &Rc<Core>, desk: &Arc<Desk>, place: Place) -> Result<Brought> {
    let node = &core.node;
    let Some(whole) = node.readers.whole(place.slot, place.row).await? else { return Ok(Brought::Needless) };
    enter(node, whole.blob).await?;
    let brought = bring_file(core, desk, place, &whole).await;
    // Only now: the sweep asks what is named once it has the blob to itself.
    node.live.remove(whole.blob);
    brought
}

/// Waits until nobody writes or repairs files of a blob, or sweeps them.
async fn enter(node: &Node, blob: BlobId) -> Result<()> {
    let until = Instant::now() + ARCHIVE_READ_TIME;
    while !node.live.insert(blob) {
        if Instant::now() >= until {
            let message = "its blob is being repaired: try again when that has ended";
            return Err(Error::new(Code::SlotUnavailable, message));
        }
        sleep(CHECK_RETRY).await;
    }
    Ok(())
}

async fn bring_file(core: &Rc<Core>, desk: &Arc<Desk>, place: Place, whole: &Whole) -> Result<Brought> {
    let (node, Place { slot, row, number }) = (&core.node, place);
    let archived = node.readers.archived_chunk(slot, row, number).await?;
    let Some(object) = archived.filter(|archived| archived.dropped) else { return Ok(Brought::Needless) };
    let first = number * PARTS_PER_CHUNK;
    let count = whole.size.div_ceil(PART_SIZE).saturating_sub(first).min(PARTS_PER_CHUNK);
    let known = node.readers.parts(slot, row, first, count).await?.parts;
    let file = mend::Place {
        slot_dir: node.slot_dir(slot).to_path_buf(),
        blob: whole.blob,
        number,
        chunk: object.chunk,
        len: whole.chunk_len(number),
    };
    let parts = match kept_file(node, &file).await? {
        Some(parts) => parts,
        None => write(core, desk, (place, &object), &file, &known).await?,
    };
    node.damages.note_replaced();
    let named = name(node, place, &object, &known, parts).await?;
    if !named {
        let withdraw = move || {
            mend::withdraw(&file);
            Ok(())
        };
        // What it leaves is the sweep's.
        let _ = on_storage_thread(withdraw).await;
        return Ok(Brought::Needless);
    }
    let (blob, bytes) = (whole.blob, whole.chunk_len(number));
    tracing::info!(%slot, %blob, chunk = number, bytes, "a chunk was brought back from the archive");
    Ok(Brought::Back(bytes))
}

/// The parts of a file that is there and has its bytes, although no row names it: an earlier attempt was cut off, or a removal.
async fn kept_file(node: &Node, file: &mend::Place) -> Result<Option<Vec<Part>>> {
    let (file, synced) = (file.clone(), node.synced);
    let verify = move || kept::verify(&file.slot_dir, file.blob, file.chunk, file.len, synced);
    on_storage_thread(verify).await.map_err(|error| failed(&error))
}

/// Notes in the row that the file is here; false: the version is gone.
async fn name(
    node: &Node,
    place: Place,
    object: &Archived,
    known: &[Part],
    parts: Vec<Part>,
) -> Result<bool> {
    let Place { slot, row, number } = place;
    // It may have gone meanwhile; what it was is not known where its slot cannot be asked.
    if node.readers.whole(slot, row).await?.is_none() {
        return Ok(false);
    }
    if parts != known {
        let parts = Parts { first: number * PARTS_PER_CHUNK, parts, ..Parts::default() };
        if !node.writers.resum(slot, row, parts).await? {
            return Ok(false);
        }
    }
    node.writers.brought_back(slot, row, object.chunk).await?;
    Ok(true)
}

/// Writes the file anew from the archive; the parts that it has.
async fn write(
    core: &Rc<Core>,
    desk: &Arc<Desk>,
    (place, object): (Place, &Archived),
    file: &mend::Place,
    known: &[Part],
) -> Result<Vec<Part>> {
    let to = Arc::clone(core.node.disk(place.slot));
    let begun = Mending::begin(to, file.clone(), core.hashing.clone()).await;
    let mut new = begun.map_err(|error| failed(&error))?;
    match fill(desk, (place.slot, object), file, known, &mut new).await {
        Ok(parts) => {
            let is_it = new.finish(core.node.synced).await.map_err(|error| failed(&error))?;
            is_it.then_some(parts).ok_or_else(|| {
                away(&format!("{} has other bytes than the chunk: its SHA-256 is wrong", object.target))
            })
        }
        Err(error) => {
            new.discard().await;
            Err(error)
        }
    }
}

/// Fetches all parts in order, some at once.
async fn fill(
    desk: &Arc<Desk>,
    (slot, object): (Slot, &Archived),
    file: &mend::Place,
    known: &[Part],
    new: &mut Mending,
) -> Result<Vec<Part>> {
    let mut wanted = (0..).zip(known);
    let (mut coming, mut parts) = (VecDeque::new(), Vec::with_capacity(known.len()));
    let start = file.number * CHUNK_SIZE;
    loop {
        while coming.len() < ARCHIVE_RESTORES
            && let Some((number, part)) = wanted.next()
        {
            let at: u64 = number * PART_SIZE;
            let range = start + at..start + file.len.min(at + PART_SIZE);
            let (desk, target, sums) = (Arc::clone(desk), object.target.clone(), part.sums.clone());
            let fetch = fetch_part(desk, (slot, target), in_object(object, &range), sums);
            coming.push_back(monoio::spawn(fetch));
        }
        let Some(fetch) = coming.pop_front() else { return Ok(parts) };
        let (bytes, sums) = fetch.await.map_err(|why| away(&why))?;
        let mut buffer = Buffer::new(PART_SIZE as usize);
        buffer.extend(&bytes);
        drop(bytes);
        new.write(buffer).await.map_err(|error| failed(&error))?;
        parts.push(Part { chunk: file.chunk, sums });
    }
}

/// The bytes of a part, and the checksums that they have: others than those of the database only when they had them twice.
async fn fetch_part(
    desk: Arc<Desk>,
    (slot, target): (Slot, String),
    range: Range<u64>,
    sums: Vec<u32>,
) -> std::result::Result<(Vec<u8>, Vec<u32>), String> {
    let mut bytes = Vec::new();
    for _ in 0..2 {
        bytes = desk.fetch(slot, &target, range.clone()).await?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(format!("{target} is shorter than the chunk"));
        }
        if first_mismatch(&bytes, &sums).is_none() {
            return Ok((bytes, sums));
        }
    }
    let mut others = GranuleSums::default();
    others.update(&bytes);
    Ok((bytes, others.take()))
}

/// What the store does not give.
fn away(why: &str) -> Error {
    Error::new(Code::SlotUnavailable, format!("a chunk cannot be brought back from the archive: {why}"))
}

/// What the disk does not take.
fn failed(error: &io::Error) -> Error {
    if error.raw_os_error() == Some(libc::ENOSPC) {
        return Error::new(
            Code::DiskFull,
            "the disk has no room for a chunk from the archive: add space, then try again",
        );
    }
    Error::new(Code::Internal, format!("a chunk from the archive cannot be written: {error}"))
}
