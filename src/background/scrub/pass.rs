//! One pass over a disk: its slots in order, their versions by row number, the chunks of each, a page at a time.
//!
//! A version that is tombstoned, hollow, or of a slot that recovers is not looked at: the sweep removes the one, the filler fetches the
//! others. Nor is a chunk that the archive alone has. A chunk counts as damaged when a second look finds it so, and its version is still
//! there after that.

use std::time::Instant;

use futures_channel::oneshot;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::Scrubber;
use super::file::{Fault, Rate};
use super::progress::{self, Progress};
use crate::base::error::Result;
use crate::base::ids::ChunkId;
use crate::base::slot::Slot;
use crate::base::slot_set::SlotSet;
use crate::chunk::layout;
use crate::limits::{CHECK_RETRY, REPAIR_QUEUE, SCRUB_CHUNKS, SCRUB_NOTE, SCRUB_PATIENCE, SCRUB_ROWS};
use crate::meta::slots::State;
use crate::meta::types::Row;
use crate::meta::whole::Whole;
use crate::metrics::DiskLabels;
use crate::shard::archive::is_dropped;
use crate::shard::repair::damage::{Damage, Entered, Outcome, Place};

/// The first chunk that a pass has not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Of this slot, and further ones,
    pub(super) slot: u16,
    /// this version, and further ones,
    pub(super) row: i64,
    /// this chunk, and further ones.
    pub(super) chunk: u64,
}

/// What a pass has found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    chunks: u64,
    bytes: u64,
    damaged: u64,
    repaired: u64,
    unrepaired: u64,
    /// Slots that could not be looked at.
    unchecked: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.chunks += other.chunks;
        self.bytes += other.bytes;
        self.damaged += other.damaged;
        self.repaired += other.repaired;
        self.unrepaired += other.unrepaired;
        self.unchecked += other.unchecked;
    }

    /// Whether everything is good now.
    pub(super) fn is_good(&self) -> bool {
        self.unrepaired == 0 && self.unchecked == 0
    }

    pub(super) fn describe(&self) -> Value {
        json!({
            "chunks": self.chunks,
            "bytes": self.bytes,
            "damaged": self.damaged,
            "repaired": self.repaired,
            "unrepaired": self.unrepaired,
            "unchecked": self.unchecked,
        })
    }
}

/// A pass under way.
pub(super) struct Pass<'a> {
    scrubber: &'a Scrubber,
    disk: usize,
    label: DiskLabels,
    rate: Rate,
    tally: Tally,
    /// Repairs that are waited for.
    waiting: Vec<oneshot::Receiver<Outcome>>,
    /// What is noted on the disk now and then, where this is a pass that goes on after a restart.
    pub(super) note: Option<Progress>,
    noted: Instant,
    /// Whether another pass has looked at everything meanwhile.
    pub(super) overtaken: bool,
    /// Slots of which everything was looked at.
    looked: SlotSet,
}

impl<'a> Pass<'a> {
    pub(super) fn new(scrubber: &'a Scrubber, disk: usize, rate: Rate) -> Self {
        Self {
            scrubber,
            disk,
            label: scrubber.label(disk),
            rate,
            tally: Tally::default(),
            waiting: Vec::new(),
            note: None,
            noted: Instant::now(),
            overtaken: false,
            looked: SlotSet::default(),
        }
    }

    /// Looks at everything from `from` on; false: the node stops first.
    pub(super) async fn run(&mut self, from: Position) -> bool {
        let node = &self.scrubber.node;
        let mine =
            |slot: &Slot| node.slots.disk(*slot) == self.disk && slot.index() >= usize::from(from.slot);
        for slot in Slot::all().filter(mine).collect::<Vec<_>>() {
            if node.slots.is_recovering(slot) {
                continue;
            }
            let from = if slot.index() == usize::from(from.slot) { from } else { Position::default() };
            match node.slots.state(slot) {
                State::Unborn => {}
                State::Failed | State::Unchecked => self.tally.unchecked += 1,
                State::Ready => match self.slot(slot, from).await {
                    Ok(true) => self.looked.insert(slot),
                    Ok(false) => return false,
                    Err(error) => {
                        tracing::warn!(%slot, %error, "a slot cannot be scrubbed");
                        self.tally.unchecked += 1;
                    }
                },
            }
        }
        !node.is_stopping()
    }

    async fn slot(&mut self, slot: Slot, from: Position) -> Result<bool> {
        let node = &self.scrubber.node;
        let (mut after, mut chunk) = (Row(from.row - 1), from.chunk);
        loop {
            let page = node.readers.whole_above(slot, after, SCRUB_ROWS).await?;
            let Some(last) = page.last().map(|whole| whole.row) else { return Ok(true) };
            for whole in &page {
                let first = if whole.row.0 == from.row { std::mem::take(&mut chunk) } else { 0 };
                if !self.version(slot, whole, first).await? {
                    return Ok(false);
                }
            }
            after = last;
        }
    }

    async fn version(&mut self, slot: Slot, whole: &Whole, first: u64) -> Result<bool> {
        let node = &self.scrubber.node;
        let mut number = first;
        while number < whole.chunks() {
            let count = SCRUB_CHUNKS.min(whole.chunks() - number);
            let ids = match node.readers.chunk_ids(slot, whole.row, number, count).await {
                Ok(ids) => ids,
                // It may have been deleted, and its chunks dropped.
                Err(_) if node.readers.whole(slot, whole.row).await?.is_none() => return Ok(true),
                Err(error) => return Err(error),
            };
            for id in ids {
                self.note(slot, whole.row, number).await;
                if !self.wait_turn().await {
                    return Ok(false);
                }
                self.chunk(slot, whole, number, id).await?;
                number += 1;
            }
        }
        Ok(true)
    }

    /// Waits while somebody waits for another pass, which leaves this one nothing to do; false: that, or the node stops.
    async fn wait_turn(&mut self) -> bool {
        while self.note.is_some() && self.scrubber.awaited.get() && !self.scrubber.node.is_stopping() {
            self.overtaken = true;
            sleep(CHECK_RETRY).await;
        }
        !self.overtaken && !self.scrubber.node.is_stopping()
    }

    /// Notes where the pass is, if it is time.
    async fn note(&mut self, slot: Slot, row: Row, chunk: u64) {
        let Some(progress) = &mut self.note else { return };
        let first = progress.position.is_none();
        progress.position = Some(Position { slot: slot.index() as u16, row: row.0, chunk });
        if first || self.noted.elapsed() >= SCRUB_NOTE {
            progress::save(&self.scrubber.node.disks[self.disk], progress).await;
            self.noted = Instant::now();
        }
    }

    async fn chunk(&mut self, slot: Slot, whole: &Whole, number: u64, id: ChunkId) -> Result<()> {
        let (node, len) = (&self.scrubber.node, whole.chunk_len(number));
        let place = Place { slot, row: whole.row, number };
        let fault = match whole.inline.filter(|_| whole.is_inline(number)) {
            Some(good) => {
                self.rate.spend(len).await;
                (!good).then(|| "the bytes in the database have another SHA-256".to_owned())
            }
            None => match self.look(slot, whole, (id, len)).await {
                Ok(()) => None,
                Err(_) if is_dropped(node, place).await? => return Ok(()),
                // Another one may have taken its name, or the disk thinks better of it, or it has come back from the archive.
                Err(_) => match self.look(slot, whole, (id, len)).await {
                    Ok(()) => None,
                    Err(_) if is_dropped(node, place).await? => return Ok(()),
                    Err(fault) => Some(fault.to_string()),
                },
            },
        };
        self.tally.chunks += 1;
        self.tally.bytes += len;
        node.metrics.scrub.chunks.get_or_create(&self.label).inc();
        node.metrics.scrub.bytes.get_or_create(&self.label).inc_by(len);
        let Some(what) = fault else {
            node.damages.found_good(place);
            return Ok(());
        };
        // The files of one that was deleted meanwhile may be gone.
        if node.readers.whole(slot, whole.row).await?.is_none() || node.slots.is_recovering(slot) {
            return Ok(());
        }
        self.tally.damaged += 1;
        node.metrics.scrub.damaged.get_or_create(&self.label).inc();
        self.enter(Damage { place, blob: whole.blob, what: format!("chunk {id}: {what}") }).await;
        Ok(())
    }

    async fn look(
        &mut self,
        slot: Slot,
        whole: &Whole,
        chunk: (ChunkId, u64),
    ) -> std::result::Result<(), Fault> {
        let node = &self.scrubber.node;
        let path = layout::chunk_file(node.slot_dir(slot), whole.blob, chunk.0);
        let direct = node.disks[self.disk].direct();
        self.scrubber.buffers.check(path, direct, chunk, &mut self.rate).await
    }

    /// Has damage repaired, behind the pass; waits while too much of it is.
    async fn enter(&mut self, damage: Damage) {
        let damages = &self.scrubber.node.damages;
        let until = Instant::now() + SCRUB_PATIENCE;
        loop {
            match damages.enter(damage.clone()) {
                Entered::Queued(outcome) => {
                    self.waiting.push(outcome);
                    if self.waiting.len() >= REPAIR_QUEUE / 2 {
                        self.await_repairs().await;
                    }
                    return;
                }
                Entered::NoPlace if !self.waiting.is_empty() => self.await_repairs().await,
                Entered::NoPlace if Instant::now() < until && !self.scrubber.node.is_stopping() => {
                    sleep(CHECK_RETRY).await;
                }
                Entered::Known | Entered::NoPlace => return self.count(Some(Outcome::Failed)),
            }
        }
    }

    async fn await_repairs(&mut self) {
        let until = Instant::now() + SCRUB_PATIENCE;
        for repair in std::mem::take(&mut self.waiting) {
            let outcome = timeout(until.saturating_duration_since(Instant::now()), repair).await;
            self.count(outcome.ok().and_then(std::result::Result::ok));
        }
    }

    fn count(&mut self, outcome: Option<Outcome>) {
        let metrics = &self.scrubber.node.metrics.scrub;
        match outcome {
            Some(Outcome::Repaired) => {
                self.tally.repaired += 1;
                metrics.repaired.get_or_create(&self.label).inc();
            }
            // It was not damaged after all, or is not needed any more.
            Some(Outcome::Needless) => self.tally.damaged = self.tally.damaged.saturating_sub(1),
            Some(Outcome::Failed) | None => {
                self.tally.unrepaired += 1;
                metrics.unrepaired.get_or_create(&self.label).inc();
            }
        }
    }

    /// Waits for what is being repaired, and says what there was, and of which slots all was looked at.
    pub(super) async fn settle(mut self) -> (Tally, SlotSet) {
        self.await_repairs().await;
        (self.tally, self.looked)
    }
}
