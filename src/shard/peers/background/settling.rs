//! Tries whose coordinator has not been heard of for a while are asked about, until they have an outcome.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use monoio::time::sleep;

use super::{Pauses, each};
use crate::base::clock::Timestamp;
use crate::base::error::Result;
use crate::base::slot::Slot;
use crate::limits::{CHORES, SETTLE_AFTER, SETTLE_BATCH, SETTLES};
use crate::replication::settle::{Outcome, Settle};
use crate::shard::core::Core;
use crate::shard::peers::cluster::Cluster;
use crate::shard::peers::drive;
use crate::wire::peer::InDoubt;

/// Settles tries of this core's slots for as long as it runs.
pub(super) async fn run(core: Rc<Core>, cluster: Arc<Cluster>) {
    let mut pauses = Pauses::new();
    loop {
        sleep(CHORES).await;
        let until = Timestamp::now().minus(SETTLE_AFTER);
        for slot in Slot::all().filter(|slot| core.owns(*slot)) {
            if !core.node.slots.has_prepared(slot, until) || !pauses.is_over(&slot) {
                continue;
            }
            match settle(&core, &cluster, slot, until).await {
                Ok(true) => pauses.end(&slot),
                Ok(false) => pauses.lengthen(slot),
                Err(error) => {
                    tracing::debug!(%slot, %error, "tries in doubt cannot be settled for now");
                    pauses.lengthen(slot);
                }
            }
        }
    }
}

/// Settles what a slot has in doubt; false: some of it has no outcome yet.
async fn settle(core: &Rc<Core>, cluster: &Arc<Cluster>, slot: Slot, until: Timestamp) -> Result<bool> {
    let tries = core.node.readers.in_doubt(slot, until, SETTLE_BATCH).await?;
    let all = Rc::new(Cell::new(true));
    let failed = Rc::new(RefCell::new(None));
    let (the_core, the_cluster, said, error) =
        (Rc::clone(core), Arc::clone(cluster), Rc::clone(&all), Rc::clone(&failed));
    each(tries, SETTLES, move |(path, in_doubt): (String, InDoubt)| {
        let (core, cluster) = (Rc::clone(&the_core), Arc::clone(&the_cluster));
        let (said, error) = (Rc::clone(&said), Rc::clone(&error));
        async move {
            match settle_one(&core, &cluster, slot, &path, &in_doubt).await {
                Ok(Outcome::Committed | Outcome::Aborted) => {}
                Ok(Outcome::Live | Outcome::Unknown) => said.set(false),
                Err(why) => *error.borrow_mut() = Some(why),
            }
        }
    })
    .await;
    match failed.take() {
        Some(error) => Err(error),
        None => Ok(all.get()),
    }
}

async fn settle_one(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    slot: Slot,
    path: &str,
    in_doubt: &InDoubt,
) -> Result<Outcome> {
    let group = cluster.group(slot)?;
    let worth = cluster.worth_asking(&group);
    let outcome = drive(core, cluster, worth, Settle::new(group, path, in_doubt, 0)).await;
    let attempt = in_doubt.attempt;
    tracing::debug!(%slot, blob = %attempt.blob_id, ballot = attempt.ballot, ?outcome, "a try in doubt");
    Ok(outcome)
}
