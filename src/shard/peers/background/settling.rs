//! Tries whose coordinator has not been heard of for a while are asked about, until they have an outcome.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use monoio::time::sleep;

use super::{Pauses, each};
use crate::base::clock::Timestamp;
use crate::base::error::Result;
use crate::base::slot::Slot;
use crate::limits::{CHORES, SETTLE_AFTER, SETTLE_BATCH, SETTLE_PAUSE_MAX, SETTLES, SETTLES_GATHERED};
use crate::replication::settle::{Outcome, Settle};
use crate::shard::core::Core;
use crate::shard::peers::cluster::Cluster;
use crate::shard::peers::drive;
use crate::wire::peer::InDoubt;

/// Settles tries of this core's slots for as long as it runs.
pub(super) async fn run(core: Rc<Core>, cluster: Arc<Cluster>) {
    let pauses = Rc::new(RefCell::new(Pauses::new(SETTLE_PAUSE_MAX)));
    loop {
        sleep(CHORES).await;
        let tries = in_doubt(&core, &pauses).await;
        let (core, cluster, pauses) = (Rc::clone(&core), Arc::clone(&cluster), Rc::clone(&pauses));
        each(tries, SETTLES, move |(slot, path, in_doubt): (Slot, String, InDoubt)| {
            let (core, cluster, pauses) = (Rc::clone(&core), Arc::clone(&cluster), Rc::clone(&pauses));
            async move {
                match settle(&core, &cluster, slot, &path, &in_doubt).await {
                    Ok(Outcome::Committed | Outcome::Aborted) => pauses.borrow_mut().end(&slot),
                    Ok(Outcome::Live | Outcome::Unknown) => pauses.borrow_mut().lengthen(slot),
                    Err(error) => {
                        tracing::debug!(%slot, %error, "a try in doubt cannot be settled for now");
                        pauses.borrow_mut().lengthen(slot);
                    }
                }
            }
        })
        .await;
    }
}

/// Tries that have waited for long enough, of slots in which nothing failed just now.
async fn in_doubt(core: &Rc<Core>, pauses: &RefCell<Pauses<Slot>>) -> Vec<(Slot, String, InDoubt)> {
    let until = Timestamp::now().minus(SETTLE_AFTER);
    let mut found = Vec::new();
    for slot in Slot::all().filter(|slot| core.owns(*slot)) {
        if !core.node.slots.has_prepared(slot, until) || !pauses.borrow().is_over(&slot) {
            continue;
        }
        match core.node.readers.in_doubt(slot, until, SETTLE_BATCH).await {
            Ok(tries) => found.extend(tries.into_iter().map(|(path, in_doubt)| (slot, path, in_doubt))),
            Err(error) => {
                tracing::debug!(%slot, %error, "cannot look for tries in doubt");
                pauses.borrow_mut().lengthen(slot);
            }
        }
        if found.len() >= SETTLES_GATHERED {
            break;
        }
    }
    found
}

async fn settle(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    slot: Slot,
    path: &str,
    in_doubt: &InDoubt,
) -> Result<Outcome> {
    let group = cluster.group(slot)?;
    let worth = cluster.worth_asking(slot, &group);
    let outcome = drive(core, cluster, worth, Settle::new(group, path, in_doubt, 0)).await;
    let attempt = in_doubt.attempt;
    tracing::debug!(%slot, blob = %attempt.blob_id, ballot = attempt.ballot, ?outcome, "a try in doubt");
    Ok(outcome)
}
