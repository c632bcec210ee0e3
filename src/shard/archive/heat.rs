//! Archived chunks that are read again and again: they are brought back behind the read, if the disk has room to spare.
//!
//! Counted by request, and bounded: of many chunks those that were read longest ago are forgotten.

use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Instant;

use lru::LruCache;

use crate::base::ids::BlobId;
use crate::io::file::on_storage_thread;
use crate::io::steps;
use crate::limits::{ARCHIVE_HEAT_CHUNKS, ARCHIVE_HEAT_DISK, ARCHIVE_HOT, ARCHIVE_HOT_TIME};
use crate::shard::core::Core;
use crate::shard::repair::damage::Place;

/// A chunk of a blob, by its number.
type Key = (BlobId, u64);

/// When chunks were read, as far as that matters.
pub(super) struct Heat(LruCache<Key, Vec<Instant>>);

impl Heat {
    pub(super) fn new() -> Self {
        Self(LruCache::new(NonZeroUsize::new(ARCHIVE_HEAT_CHUNKS).unwrap_or(NonZeroUsize::MIN)))
    }

    /// Counts a request that reads a chunk; true: it has become hot, and is counted afresh.
    pub(super) fn count(&mut self, chunk: Key, now: Instant) -> bool {
        let reads = self.0.get_or_insert_mut(chunk, Vec::new);
        reads.retain(|read| now.duration_since(*read) < ARCHIVE_HOT_TIME);
        reads.push(now);
        let is_hot = reads.len() >= ARCHIVE_HOT as usize;
        if is_hot {
            self.0.pop(&chunk);
        }
        is_hot
    }
}

/// Notes that a request reads a chunk that the archive alone has.
pub(in crate::shard) fn note(core: &Rc<Core>, place: Place, blob: BlobId) {
    let Some(desk) = &core.node.archive else { return };
    // Counted by the node: the connections of one client are on several cores.
    if desk.heat().count((blob, place.number), Instant::now()) && !core.is_stopping() {
        monoio::spawn(bring_back(Rc::clone(core), place, blob));
    }
}

/// Has a hot chunk brought back, unless something speaks against it: it will be read again.
async fn bring_back(core: Rc<Core>, place: Place, blob: BlobId) {
    let Some(desk) = &core.node.archive else { return };
    let Some(_working) = desk.work_on(blob) else { return };
    let mark = desk.rules.low_watermark.unwrap_or(ARCHIVE_HEAT_DISK);
    let root = core.node.disk(place.slot).root().to_path_buf();
    match on_storage_thread(move || steps::space(&root)).await {
        Ok(space) if is_below_mark(space.total, space.free, mark) => {}
        _ => return,
    }
    if let Some(Err(error)) = desk.bring_back_if_quiet(place).await {
        tracing::warn!(slot = %place.slot, %blob, chunk = place.number, %error, "a chunk that is read often stays archived");
    }
}

/// Whether less of a disk is used than what leaves room to spare.
fn is_below_mark(total: u64, free: u64, percent: u64) -> bool {
    u128::from(total.saturating_sub(free)) * 100 < u128::from(total) * u128::from(percent)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(number: u64) -> Key {
        (BlobId::from_u128(1), number)
    }

    #[test]
    fn the_last_of_enough_requests_within_the_time_makes_a_chunk_hot() {
        let (mut heat, begin) = (Heat::new(), Instant::now());
        let step = ARCHIVE_HOT_TIME / (ARCHIVE_HOT + 1);
        for round in 0..2 {
            for read in 1..=ARCHIVE_HOT {
                let is_hot = heat.count(key(0), begin + step * (round * ARCHIVE_HOT + read));
                assert_eq!(is_hot, read == ARCHIVE_HOT, "it begins again after that");
            }
        }
    }

    #[test]
    fn requests_that_are_far_apart_or_of_other_chunks_do_not_add_up() {
        let (mut heat, begin) = (Heat::new(), Instant::now());
        let step = ARCHIVE_HOT_TIME / (ARCHIVE_HOT - 1);
        assert!((0..10 * ARCHIVE_HOT).all(|read| !heat.count(key(0), begin + step * read)));
        let later = begin + step * 100;
        assert!((0..10).all(|number| !heat.count(key(number), later)));
        assert!((0..10).all(|number| !heat.count((BlobId::from_u128(2), number), later)));
    }

    #[test]
    fn a_time_that_was_long_ago_does_not_count_beside_later_ones() {
        let (mut heat, begin) = (Heat::new(), Instant::now());
        heat.count(key(0), begin);
        let later = begin + ARCHIVE_HOT_TIME;
        let reads: Vec<bool> = (0..ARCHIVE_HOT)
            .map(|read| heat.count(key(0), later + Duration::from_secs(read.into())))
            .collect();
        assert_eq!(reads.iter().position(|hot| *hot), Some(ARCHIVE_HOT as usize - 1));
    }

    #[test]
    fn no_more_chunks_are_counted_than_there_is_room_for() {
        let (mut heat, now) = (Heat::new(), Instant::now());
        for number in 0..=ARCHIVE_HEAT_CHUNKS as u64 {
            heat.count(key(number), now);
        }
        assert_eq!(heat.0.len(), ARCHIVE_HEAT_CHUNKS);
        assert!(!heat.0.contains(&key(0)), "the one that was read longest ago is forgotten");
    }

    #[test]
    fn a_disk_that_fills_up_takes_nothing_back() {
        assert!(is_below_mark(1000, 1000, 75));
        assert!(is_below_mark(1000, 251, 75));
        assert!(!is_below_mark(1000, 250, 75));
        assert!(!is_below_mark(0, 0, 75), "nothing is known of it");
    }
}
