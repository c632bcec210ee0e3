//! What goes to the archive by itself: versions that were not read for long, and, while a disk is above its watermark, of two chosen
//! at random the one that was read longer ago (Mitzenmacher 2001, the power of two choices).
//!
//! By age all versions are walked through, since sampling would find the last cold one of a million by luck; in a cluster one of the
//! replicas that answer stores it, and the others follow, each when it finds it cold itself. By watermark each node sees to its own
//! disks, and takes what is stored already before other things, which costs no upload. With a store that fails nothing is picked.

use std::cell::RefCell;
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::task::{JoinSet, spawn_blocking, spawn_local};
use tokio::time::sleep;

use super::Archiver;
use crate::base::clock::Timestamp;
use crate::base::error::Result;
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::limits::{
    ARCHIVE_PAUSE_MIN, PACK_BYTES, PACK_CHUNKS, PICK_PAGE, PICK_PAUSE, PICK_RATE, PICK_REMEMBERED,
    PICK_TRIES, PICK_TURN_MIN, PRESSURE_PATIENCE, PRESSURE_TICK, READS_STEP_MAX, READS_STEP_MIN,
};
use crate::meta::archives::Candidate;
use crate::meta::slots::State;
use crate::shard::peers::cluster::Cluster;

/// Begins to pick, for as long as the node runs, if it is to.
pub(super) fn start(archiver: &Rc<Archiver>) {
    let rules = archiver.settings.rules;
    let picks = Rc::new(Picks::new());
    if let Some(after) = rules.after {
        spawn_local(by_age(Rc::clone(archiver), Rc::clone(&picks), after));
    }
    if let (Some(high), Some(low)) = (rules.high_watermark, rules.low_watermark) {
        for disk in 0..archiver.node.disks.len() {
            spawn_local(by_watermark(Rc::clone(archiver), Rc::clone(&picks), disk, high, low));
        }
    }
}

/// Versions that are not to be picked now.
struct Picks {
    /// They are being archived.
    moving: RefCell<HashSet<BlobId>>,
    /// It did not work, then.
    failed: RefCell<LruCache<BlobId, Instant>>,
}

impl Picks {
    fn new() -> Self {
        let room = NonZeroUsize::new(PICK_REMEMBERED).unwrap_or(NonZeroUsize::MIN);
        Self { moving: RefCell::default(), failed: RefCell::new(LruCache::new(room)) }
    }

    fn may_take(&self, blob: BlobId, now: Instant) -> bool {
        let failed = self.failed.borrow();
        let rests = failed.peek(&blob).is_some_and(|failed| now.duration_since(*failed) < PICK_PAUSE);
        !rests && !self.moving.borrow().contains(&blob)
    }

    fn begin(&self, blob: BlobId) {
        self.moving.borrow_mut().insert(blob);
    }

    fn end(&self, blob: BlobId, worked: bool) {
        self.moving.borrow_mut().remove(&blob);
        if !worked {
            self.failed.borrow_mut().put(blob, Instant::now());
        }
    }
}

/// Why a version is picked.
#[derive(Clone, Copy)]
enum Why {
    Age,
    Watermark,
}

/// Archives versions of a slot that were picked, small ones with a common object.
async fn take(archiver: Rc<Archiver>, picks: Rc<Picks>, slot: Slot, batch: Vec<Candidate>, why: Why) {
    if batch.len() > 1
        && let Err(why) = archiver.pack(slot, &batch).await
    {
        tracing::debug!(%slot, %why, "small chunks go one by one");
    }
    for candidate in batch {
        if archiver.desk.health.failing().is_some() {
            // The next round has it again.
            picks.end(candidate.blob, true);
            continue;
        }
        let picked = archiver.pick(&candidate.path, candidate.version).await;
        picks.end(candidate.blob, picked.is_some());
        if picked.is_some_and(|chunks| chunks > 0) {
            let metrics = &archiver.node.metrics.archive;
            match why {
                Why::Age => metrics.picked_by_age.inc(),
                Why::Watermark => metrics.picked_by_watermark.inc(),
            };
        }
    }
}

/// Small versions of a slot that are picked together.
#[derive(Default)]
struct Batch {
    candidates: Vec<Candidate>,
    bytes: u64,
}

impl Batch {
    /// Whether there is no room for another one of so many bytes.
    fn is_full(&self, size: u64) -> bool {
        self.candidates.len() >= PACK_CHUNKS || self.bytes + size > PACK_BYTES
    }

    fn add(&mut self, candidate: Candidate) {
        self.bytes += candidate.size;
        self.candidates.push(candidate);
    }

    fn take(&mut self) -> Vec<Candidate> {
        std::mem::take(self).candidates
    }
}

/// Versions on their way, as many as chunks go up at once.
struct Moving {
    archiver: Rc<Archiver>,
    picks: Rc<Picks>,
    tasks: JoinSet<()>,
}

impl Moving {
    fn new(archiver: &Rc<Archiver>, picks: &Rc<Picks>) -> Self {
        Self { archiver: Rc::clone(archiver), picks: Rc::clone(picks), tasks: JoinSet::new() }
    }

    /// Begins with some of a slot as soon as there is a place.
    async fn begin(&mut self, slot: Slot, batch: Vec<Candidate>, why: Why) {
        if batch.is_empty() {
            return;
        }
        for candidate in &batch {
            self.picks.begin(candidate.blob);
        }
        while self.tasks.len() >= self.archiver.settings.uploads {
            self.tasks.join_next().await;
        }
        let (archiver, picks) = (Rc::clone(&self.archiver), Rc::clone(&self.picks));
        self.tasks.spawn_local(take(archiver, picks, slot, batch, why));
    }

    /// Whether a version may share an object with others.
    fn is_small(&self, candidate: &Candidate) -> bool {
        !candidate.archived && candidate.size < self.archiver.settings.pack_below
    }
}

async fn by_age(archiver: Rc<Archiver>, picks: Rc<Picks>, after: Duration) {
    let round = (after / 8).clamp(READS_STEP_MIN, READS_STEP_MAX);
    let mut moving = Moving::new(&archiver, &picks);
    loop {
        let begun = Instant::now();
        for slot in Slot::all() {
            if let Err(error) = walk(&archiver, &mut moving, slot, after).await {
                tracing::debug!(%slot, %error, "its versions are looked at in the next round");
            }
        }
        while moving.tasks.join_next().await.is_some() {}
        sleep(round.saturating_sub(begun.elapsed()).max(READS_STEP_MIN)).await;
    }
}

/// Picks what of a slot was not read for long.
async fn walk(archiver: &Archiver, moving: &mut Moving, slot: Slot, after: Duration) -> Result<()> {
    let (mut row, mut small) = (0, Batch::default());
    while archiver.node.slots.state(slot) == State::Ready {
        archiver.until_good().await;
        let page = archiver.node.readers.candidates(slot, row, PICK_PAGE).await?;
        let Some(last) = page.last() else { break };
        row = last.row.0;
        let is_last = page.len() < PICK_PAGE;
        let until = Timestamp::now().minus(after);
        let turn = (after / 8).max(PICK_TURN_MIN);
        let stores = is_first(archiver.node.cluster.as_deref(), slot, turn);
        let is_ours = |candidate: &Candidate| candidate.archived || stores;
        for candidate in page {
            if candidate.read > until
                || !is_ours(&candidate)
                || !moving.picks.may_take(candidate.blob, Instant::now())
            {
                continue;
            }
            if !moving.is_small(&candidate) {
                moving.begin(slot, vec![candidate], Why::Age).await;
                continue;
            }
            if small.is_full(candidate.size) {
                moving.begin(slot, small.take(), Why::Age).await;
            }
            small.add(candidate);
        }
        if is_last {
            break;
        }
        sleep(Duration::from_secs(1) * PICK_PAGE as u32 / PICK_RATE).await;
    }
    moving.begin(slot, small.take(), Why::Age).await;
    Ok(())
}

/// Whether this node is the one of a slot's replicas that answer which stores what is to go, by rendezvous hashing (Thaler and
/// Ravishankar 1998). Another one is in the next turn, in case that this one has no archive, or other rules. Nothing rests on there
/// being one: two that think so cost an upload.
pub(super) fn is_first(cluster: Option<&Cluster>, slot: Slot, turn: Duration) -> bool {
    let Some(cluster) = cluster else { return true };
    let turn = Timestamp::now().0 / turn.as_millis().max(1) as i64;
    let weight = |name: &str| xxhash_rust::xxh3::xxh3_64(format!("{slot}/{turn}/{name}").as_bytes());
    let topology = cluster.topology();
    let answering = topology.replicas(slot).iter().copied().filter(|node| cluster.is_reachable(*node));
    let first = answering.max_by_key(|node| (weight(topology.name(*node)), *node));
    first.is_none_or(|first| first == topology.me())
}

async fn by_watermark(archiver: Rc<Archiver>, picks: Rc<Picks>, number: usize, high: u64, low: u64) {
    let Some(disk) = archiver.node.disks.get(number).map(Arc::clone) else { return };
    let look = async || {
        let disk = Arc::clone(&disk);
        let looked = spawn_blocking(move || disk.look()).await;
        if let Ok(Err(error)) = looked {
            tracing::debug!(disk = number, %error, "how full the disk is cannot be found out");
        }
    };
    let mut begun = false;
    loop {
        look().await;
        if !disk.is_above(high) {
            begun = false;
            sleep(PRESSURE_TICK).await;
            continue;
        }
        // Each file that goes says so, too: where none does, nobody waits.
        if !std::mem::replace(&mut begun, true) {
            archiver.desk.pressure.note(number);
        }
        let (mut moving, mut is_bare) = (Moving::new(&archiver, &picks), false);
        while disk.is_above(low) && archiver.desk.health.failing().is_none() && !archiver.node.is_stopping() {
            match pick(&archiver, &picks, number).await {
                Some((slot, candidate)) => {
                    let batch = with_neighbours(&moving, slot, candidate).await;
                    moving.begin(slot, batch, Why::Watermark).await;
                }
                None if moving.tasks.join_next().await.is_some() => {}
                None => {
                    is_bare = true;
                    break;
                }
            }
            look().await;
        }
        while moving.tasks.join_next().await.is_some() {}
        // What cannot go now may be able to later; to find out that there is nothing takes a question to each slot.
        if disk.is_above(low) {
            sleep(if is_bare { PRESSURE_PATIENCE } else { ARCHIVE_PAUSE_MIN }).await;
        }
    }
}

/// Of two versions on a disk the one to go; none: there is nothing more.
async fn pick(archiver: &Archiver, picks: &Picks, disk: usize) -> Option<(Slot, Candidate)> {
    let slots = &archiver.node.slots;
    let is_here = |slot: &Slot| slots.disk(*slot) == disk && slots.state(*slot) == State::Ready;
    let ready: Vec<Slot> = Slot::all().filter(is_here).collect();
    let mut two = Vec::new();
    for _ in 0..PICK_TRIES {
        let Some(slot) = ready.get(random(ready.len() as u64) as usize).copied() else { break };
        if let Some(candidate) = sample(archiver, picks, slot).await {
            two.push((slot, candidate));
            if two.len() == 2 {
                break;
            }
        }
    }
    if two.is_empty() {
        // Few slots have something left: they are looked for.
        let start = random(ready.len() as u64) as usize;
        for slot in ready.iter().cycle().skip(start).take(ready.len()) {
            if let Some(candidate) = sample(archiver, picks, *slot).await {
                return Some((*slot, candidate));
            }
        }
    }
    two.into_iter().min_by_key(|(_, candidate)| (!candidate.archived, candidate.read))
}

/// A version, and if it is small others of its slot that are and were not read later, with which it shares an object.
async fn with_neighbours(moving: &Moving, slot: Slot, picked: Candidate) -> Vec<Candidate> {
    let mut batch = Batch::default();
    let (row, read) = (picked.row.0, picked.read);
    let is_small = moving.is_small(&picked);
    batch.add(picked);
    if is_small && let Ok(page) = moving.archiver.node.readers.candidates(slot, row, PICK_PAGE).await {
        for other in page {
            let fits = moving.is_small(&other) && other.read <= read && !batch.is_full(other.size);
            if fits && moving.picks.may_take(other.blob, Instant::now()) {
                batch.add(other);
            }
        }
    }
    batch.take()
}

/// A version of a slot at random.
async fn sample(archiver: &Archiver, picks: &Picks, slot: Slot) -> Option<Candidate> {
    let readers = &archiver.node.readers;
    let last = readers.last_row(slot).await.ok().filter(|last| *last > 0)?;
    let from = random(last.cast_unsigned()).cast_signed();
    for after in [from, 0] {
        let page = readers.candidates(slot, after, PICK_PAGE).await.ok()?;
        let now = Instant::now();
        if let Some(found) = page.into_iter().find(|candidate| picks.may_take(candidate.blob, now)) {
            return Some(found);
        }
    }
    None
}

/// A number below `bound`, 0 where that is 0. The keys of the standard library's hash maps are random, and differ from each other.
fn random(bound: u64) -> u64 {
    RandomState::new().hash_one(bound).checked_rem(bound).unwrap_or(0)
}

impl Archiver {
    /// Waits until the store does not fail.
    async fn until_good(&self) {
        while self.desk.health.failing().is_some() {
            sleep(ARCHIVE_PAUSE_MIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_or_failed_just_now_is_not_taken() {
        let (picks, now) = (Picks::new(), Instant::now());
        let blob = BlobId::from_u128(1);
        assert!(picks.may_take(blob, now));
        picks.begin(blob);
        assert!(!picks.may_take(blob, now) && picks.may_take(BlobId::from_u128(2), now));
        picks.end(blob, true);
        assert!(picks.may_take(blob, now));
        picks.begin(blob);
        picks.end(blob, false);
        assert!(!picks.may_take(blob, Instant::now()));
        assert!(picks.may_take(blob, Instant::now() + PICK_PAUSE));
    }

    #[test]
    fn random_numbers_stay_below_their_bound_and_differ() {
        assert_eq!(random(0), 0);
        assert!((0..100).all(|_| random(7) < 7));
        let some: HashSet<u64> = (0..100).map(|_| random(u64::MAX)).collect();
        assert!(some.len() > 90);
    }
}
