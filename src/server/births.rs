//! What each disk has of its slots, held against the list of those that were born there.
//!
//! A slot that was born and has no database has lost it. Where other replicas have its rows it recovers; a node that has nobody to
//! ask keeps it out of service, since an empty slot would give version numbers twice. A list that is missing although the disk
//! promises one, or that is damaged, is a disk that forgot: it gets another identity, or the start is refused.

use std::path::PathBuf;

use crate::base::slot::Slot;
use crate::base::slot_set::SlotSet;
use crate::chunk::disk::Disk;
use crate::chunk::layout;
use crate::meta::births;
use crate::meta::schema;
use crate::meta::slots::{Slots, State};

/// What is on disk of a slot.
pub(super) struct SlotFound {
    slot: Slot,
    disk: usize,
    dir: PathBuf,
    found: schema::Found,
}

/// The slots that were born, by disk.
pub(super) type Born = Vec<SlotSet>;

/// Looks at all slots, in order; what a birth that was cut off has left is removed.
///
/// # Errors
/// One line: which directory, and why.
pub(super) fn look(disks: &[Disk]) -> Result<Vec<SlotFound>, String> {
    let look = |slot: Slot| {
        let disk = slot.disk(disks.len());
        let dir = layout::slot_dir(disks[disk].root(), slot);
        let describe = |error: std::io::Error| format!("{}: {error}", dir.display());
        let found = schema::find(&dir).map_err(describe)?;
        if found == schema::Found::Nothing {
            schema::clear(&dir).map_err(describe)?;
        }
        Ok(SlotFound { slot, disk, dir, found })
    };
    Slot::all().map(look).collect()
}

/// The slots that were born on each disk: those of its list, and those that have a database. `replicated`: other replicas can
/// give a disk its memory back.
///
/// # Errors
/// One line: which list, what is wrong with it, and what to do.
pub(super) fn open(disks: &[Disk], found: &[SlotFound], replicated: bool) -> Result<Born, String> {
    disks.iter().enumerate().map(|(number, disk)| open_one(number, disk, found, replicated)).collect()
}

fn open_one(number: usize, disk: &Disk, found: &[SlotFound], replicated: bool) -> Result<SlotSet, String> {
    let root = disk.root();
    let path = root.join(births::FILE);
    let promised = disk.promises_births()?;
    let listed = births::read(root).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let mut born = match listed {
        Ok(listed) if promised => listed,
        Err(what) if promised => {
            if !replicated {
                return Err(format!(
                    "{} {what}, and without it nothing tells which slots have lost their databases: put it back, or, to take \
                     those that are there for all there are, set \"births\" to false in amberblob.json",
                    path.display()
                ));
            }
            tracing::warn!(list = %path.display(), "{what}: the disk has forgotten, and recovers from the other nodes");
            disk.renew()?;
            SlotSet::default()
        }
        _ => SlotSet::default(),
    };
    let on_disk: SlotSet = found
        .iter()
        .filter(|it| it.disk == number && it.found == schema::Found::Database)
        .map(|it| it.slot)
        .collect();
    born.extend(&on_disk);
    if listed != Ok(born) {
        births::write(root, &born)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    }
    if !promised {
        disk.promise_births()?;
    }
    Ok(born)
}

/// The table of all slots, each in the state that what is on disk of it allows.
pub(super) fn table(found: Vec<SlotFound>, born: &Born) -> Slots {
    let state = |it: &SlotFound| match it.found {
        schema::Found::Database => State::Unchecked,
        schema::Found::Nothing if !born[it.disk].contains(it.slot) => State::Unborn,
        schema::Found::Nothing | schema::Found::Remains => State::Failed,
    };
    let lost: Vec<(Slot, PathBuf)> = found
        .iter()
        .filter(|it| state(it) == State::Failed)
        .map(|it| (it.slot, it.dir.join(schema::FILE)))
        .collect();
    let slots = Slots::new(found.into_iter().map(|it| {
        let state = state(&it);
        (it.disk, it.dir, state)
    }));
    for (slot, file) in lost {
        slots.lose(slot, format!("{} is gone", file.display()));
    }
    slots
}
