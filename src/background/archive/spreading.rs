//! Rows that not all replicas hold: they are pushed until all do, so that nobody who comes back misses one for long.
//!
//! At the start every slot is looked at, later those that somebody noted, those in which something was left after a while, and
//! these at once when a node answers again.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use tokio::time::sleep;

use super::Archiver;
use crate::base::error::Result;
use crate::base::slot::Slot;
use crate::limits::{ARCHIVE_PAUSE_MIN, SPREAD_PAUSE, SPREAD_ROWS, VERIFY_PAUSE};
use crate::meta::slots::State;
use crate::shard::peers::cluster::Cluster;
use crate::wire::peer::archive::ArchiveRow;

/// Pushes for as long as the node runs, in a cluster.
pub(super) async fn run(archiver: Rc<Archiver>) {
    let Some(cluster) = archiver.node.cluster.clone() else { return };
    let mine = |slot: &Slot| cluster.topology().is_mine(*slot);
    let now = Instant::now();
    let mut due: HashMap<Slot, Instant> = Slot::all().filter(mine).map(|slot| (slot, now)).collect();
    let mut returns = cluster.returns();
    loop {
        sleep(ARCHIVE_PAUSE_MIN).await;
        let now = Instant::now();
        if std::mem::replace(&mut returns, cluster.returns()) != returns {
            for at in due.values_mut() {
                *at = now.min(*at);
            }
        }
        enter(&mut due, archiver.desk.take_slots_with_unspread(), now);
        let slots: Vec<Slot> = due.iter().filter(|(_, at)| **at <= now).map(|(slot, _)| *slot).collect();
        for slot in slots {
            due.remove(&slot);
            let left = match archiver.node.slots.state(slot) {
                State::Unborn => false,
                State::Unchecked | State::Failed => true,
                State::Ready => archiver.push(&cluster, slot).await.unwrap_or_else(|error| {
                    tracing::debug!(%slot, %error, "archive rows are pushed later");
                    true
                }),
            };
            if left {
                due.entry(slot).or_insert_with(|| Instant::now() + SPREAD_PAUSE);
            }
            sleep(VERIFY_PAUSE).await;
        }
    }
}

/// Enters slots that were noted. One that waits for its time goes on waiting: whoever is told of rows, this node too, notes their
/// slot, so that with a node away they would be pushed without a pause.
fn enter(due: &mut HashMap<Slot, Instant>, noted: Vec<Slot>, now: Instant) {
    for slot in noted {
        due.entry(slot).or_insert(now);
    }
}

impl Archiver {
    /// Pushes the rows of a slot; whether some are left.
    async fn push(&self, cluster: &Cluster, slot: Slot) -> Result<bool> {
        let (mut after, mut left) = (0, false);
        loop {
            let page = self.node.readers.unspread(slot, after, SPREAD_ROWS).await?;
            let is_last = page.len() < SPREAD_ROWS;
            after = page.last().map_or(after, |(number, ..)| *number);
            for rows in page.chunk_by(|(_, one, _), (_, other, _)| one == other) {
                let Some((_, path, _)) = rows.first() else { continue };
                let rows = rows.iter().map(|(.., row)| row.clone()).collect();
                left |= self.push_rows(slot, path, rows).await?;
            }
            if is_last {
                return Ok(left);
            }
            if left && cluster.topology().replicas(slot).iter().any(|node| !cluster.is_reachable(*node)) {
                // The rest would be left, too.
                return Ok(true);
            }
        }
    }

    /// Pushes rows of versions of a path; whether some are left.
    async fn push_rows(&self, slot: Slot, path: &str, rows: Vec<ArchiveRow>) -> Result<bool> {
        let told = self.desk.spread(slot, path, rows.clone()).await?;
        let (mut spread, mut successors, mut left) = (Vec::new(), Vec::new(), false);
        for (row, told) in rows.into_iter().zip(told) {
            match told.successor {
                // It is the one that counts, here too.
                Some(successor) => successors.push(successor),
                None if told.all => spread.push(row),
                // A tombstone is on its way here. Of one that is condemned the chunk is stored anew when it is archived next.
                None => left |= !told.gone,
            }
        }
        if !successors.is_empty() {
            left = true;
            self.desk.spread(slot, path, successors).await?;
        }
        if !spread.is_empty() {
            self.node.writers.mark_spread(slot, spread).await?;
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_waits_is_not_pushed_sooner_for_being_noted_again() {
        let (now, slots) = (Instant::now(), Slot::all().take(2).collect::<Vec<_>>());
        let mut due = HashMap::from([(slots[0], now + SPREAD_PAUSE)]);
        enter(&mut due, slots.clone(), now);
        assert_eq!(due, HashMap::from([(slots[0], now + SPREAD_PAUSE), (slots[1], now)]));
    }
}
