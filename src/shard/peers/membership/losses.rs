//! Slots that have lost their databases on disks that are kept: one that is gone, damaged, or older than it was.
//!
//! A slot that has lost its votes must not vote as if it had not, and votes are the disk's. So its disk gets another identity, and all
//! its slots recover; of the others nobody has forgotten anything, and they hand over to others what they have. In this order:
//! no slot of the disk counts any more; the disk has another identity, on disk; what was lost is written down; then only the
//! database is put aside. A crash in between leaves a slot that is found to be lost once more, on a disk of which nothing counts.
//!
//! What fails is tried again; until then the slot is out of service. A disk that has failed is left alone.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use monoio::time::timeout;

use super::{Cluster, Kept, Membership, Standing};
use crate::base::slot::Slot;
use crate::base::slot_set::SlotSet;
use crate::chunk::disk::Disk;
use crate::io::file::on_storage_thread;
use crate::limits::{CHORE_PAUSE, LOSSES_GATHERED, PUT_ASIDE_TIME};
use crate::meta::slots::{Slots, State};
use crate::shard::core::Core;
use crate::wire::peer::{Identity, Member};

/// What is under way.
#[derive(Default)]
pub(super) struct Losses {
    /// Slots that have lost their databases and whose disks have got another identity since, and which database that was.
    fenced: HashMap<Slot, u32>,
    /// Disks that are about to get another identity.
    fencing: HashMap<usize, Arc<AtomicBool>>,
    /// When the first of them was found.
    found: Option<Instant>,
    /// When something failed.
    failed: Option<Instant>,
}

impl Losses {
    /// Gives slots that have lost their databases empty ones, which recover.
    pub(super) async fn replace(&mut self, core: &Rc<Core>, cluster: &Arc<Cluster>) {
        if cluster.topology().replica_count() == 1
            || self.failed.is_some_and(|failed| failed.elapsed() < CHORE_PAUSE)
        {
            return;
        }
        let node = &core.node;
        let lost: SlotSet = Slot::all().filter(|slot| node.slots.is_lost(*slot)).collect();
        if lost.is_empty() {
            self.found = None;
            return;
        }
        // Those that are found together share an identity.
        let found = *self.found.get_or_insert_with(Instant::now);
        let unchecked = Slot::all().any(|slot| node.slots.state(slot) == State::Unchecked);
        if unchecked && found.elapsed() < LOSSES_GATHERED {
            return;
        }
        self.failed = None;
        for (number, disk) in node.disks.iter().enumerate() {
            let lost: SlotSet = lost.iter().filter(|slot| node.slots.disk(*slot) == number).collect();
            if lost.is_empty() || disk.health().has_failed() {
                continue;
            }
            if let Err(error) = self.replace_on(core, cluster, number, disk, &lost).await {
                tracing::error!(disk = %disk.root().display(), %error, "slots that have lost their databases cannot recover yet");
                self.failed = Some(Instant::now());
            }
        }
    }

    async fn replace_on(
        &mut self,
        core: &Rc<Core>,
        cluster: &Arc<Cluster>,
        number: usize,
        disk: &Arc<Disk>,
        lost: &SlotSet,
    ) -> Result<(), String> {
        let slots = &core.node.slots;
        // Before anything is written: a database that is lost later is another one.
        let databases: Vec<(Slot, u32)> = lost.iter().map(|slot| (slot, slots.incarnation(slot))).collect();
        if databases.iter().any(|(slot, database)| self.fenced.get(slot) != Some(database)) {
            self.fence(core, cluster, number, disk, lost).await?;
            self.fenced.extend(databases.iter().copied());
        }
        // Before a slot is in service again, and until stock is taken the next time.
        cluster.set_trouble(format!("recovering: disk {} has lost databases", disk.root().display()));
        for (slot, database) in databases {
            let put_aside = timeout(PUT_ASIDE_TIME, core.node.writers.put_aside(slot, database)).await;
            put_aside
                .map_err(|_| format!("slot {slot}: its writer does not answer"))?
                .map_err(|it| it.to_string())?;
            self.fenced.remove(&slot);
            core.node.metrics.databases_lost.inc();
        }
        Ok(())
    }

    /// Gives a disk another identity, one at a time.
    async fn fence(
        &mut self,
        core: &Rc<Core>,
        cluster: &Arc<Cluster>,
        number: usize,
        disk: &Arc<Disk>,
        lost: &SlotSet,
    ) -> Result<(), String> {
        let under_way = Arc::clone(self.fencing.entry(number).or_default());
        if under_way.swap(true, Ordering::AcqRel) {
            return Err("the disk does not answer".to_owned());
        }
        let (cluster, node, disk, lost) =
            (Arc::clone(cluster), Arc::clone(&core.node), Arc::clone(disk), *lost);
        let fence = move || {
            let fenced = cluster.membership.lose(number, &disk, &lost, &node.slots);
            under_way.store(false, Ordering::Release);
            Ok(fenced)
        };
        let fenced = timeout(PUT_ASIDE_TIME, on_storage_thread(fence)).await;
        let fenced = fenced.map_err(|_| "the disk does not answer".to_owned())?;
        fenced.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl Membership {
    /// What a disk has lost that has not lost everything.
    pub(super) fn kept(&self, disk: usize) -> Option<SlotSet> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(disk).copied().flatten()
    }

    pub(super) fn set_kept(&self, disk: usize, but: Option<&SlotSet>) {
        if let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get_mut(disk) {
            *kept = but.copied();
        }
    }

    /// Whether this replica of a slot has every row that it ever had. It may be one that does not count yet, on a disk that
    /// has lost other slots, when all nodes know the disk.
    pub(super) fn remembers(&self, slot: Slot, slots: &Slots) -> bool {
        let disk = slots.disk(slot);
        !slots.is_recovering(slot)
            || self.standing(disk) == Standing::Admitted
                && self.kept(disk).is_some_and(|but| !but.contains(slot))
    }

    /// Lets a slot count that has recovered, unless its disk has become another one meanwhile.
    pub(super) fn count_again(&self, slot: Slot, mine: Member, slots: &Slots) {
        let _counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = slots.disk(slot);
        if self.member(disk) == Some(mine)
            && self.standing(disk) == Standing::Admitted
            && self.confirmed.load(Ordering::Acquire)
            // One that is lost still has nothing to answer with.
            && matches!(slots.state(slot), State::Ready | State::Unborn)
        {
            slots.set_recovering(slot, false);
        }
    }

    /// Some slots of a disk have lost what they promised: none of it counts from now on, and what it signed does not count
    /// again. Blocks.
    pub(super) fn lose(
        &self,
        number: usize,
        disk: &Disk,
        lost: &SlotSet,
        slots: &Slots,
    ) -> Result<(), String> {
        let was = {
            let _counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
            let was = self.standing(number);
            self.set_standing(number, Standing::Lost);
            for slot in self.mine().filter(|slot| slots.disk(*slot) == number) {
                slots.set_recovering(slot, true);
            }
            was
        };
        let mut but = if was == Standing::Whole { Some(SlotSet::default()) } else { self.kept(number) };
        if let Some(but) = &mut but {
            but.extend(lost);
        }
        self.set_kept(number, but.as_ref());
        let identity: Identity = disk.renew()?.into();
        if let Some(known) = self.identities.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
            *known = identity;
        }
        self.change(|record| {
            record.recovering[number] = true;
            record.kept[number] = but.map(|but| Kept { identity, but });
            true
        })?;
        tracing::warn!(disk = %disk.root().display(), slots = %lost,
            "databases are gone, damaged or older than they were: the disk's slots recover from the other nodes");
        Ok(())
    }
}
