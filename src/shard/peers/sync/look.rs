//! One look at another node: the digests of slots, and a pull of those that differ.

use std::rc::Rc;
use std::sync::Arc;

use monoio::time::timeout;

use super::state::{Job, Looked};
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::CLUSTER_TIME;
use crate::meta::slots::State;
use crate::shard::core::Core;
use crate::shard::peers::ask::ask_sync;
use crate::shard::peers::cluster::Cluster;
use crate::wire::peer::sync::{Answer, Digest, Question};

/// The digest of a slot here, made if it was not; none while it cannot be said.
pub(super) async fn digest(core: &Rc<Core>, slot: Slot) -> Option<Digest> {
    let node = &core.node;
    if node.slots.is_recovering(slot) {
        return None;
    }
    while node.slots.state(slot) == State::Ready && node.slots.digest(slot).is_none() {
        // A disk that does not answer holds up its own slots only.
        timeout(CLUSTER_TIME, node.writers.digest(slot)).await.ok()?.ok()?;
    }
    node.slots.digest(slot)
}

/// Compares slots with those of a node, and pulls what differs.
pub(super) async fn look(core: &Rc<Core>, cluster: &Arc<Cluster>, node: NodeId, slots: Vec<Slot>) -> Looked {
    let mut looked = Looked::default();
    let mut mine = Vec::with_capacity(slots.len());
    for slot in slots {
        match digest(core, slot).await {
            Some(digest) => mine.push((slot, digest)),
            None => looked.unsure += 1,
        }
    }
    let question = Question::Digests(mine.iter().map(|(slot, _)| slot.index() as u16).collect());
    let theirs = match ask_sync(core, node, &question).await {
        Ok(Answer::Digests(theirs)) if theirs.len() == mine.len() => theirs,
        Ok(_) => return Looked { silent: Some("it answers another question".to_owned()), ..looked },
        Err(error) => return Looked { silent: Some(error.to_string()), ..looked },
    };
    core.node.metrics.sync_rounds.inc();
    let peer = cluster.syncing.peer(node);
    let mut jobs = Vec::new();
    let (done, results) = async_channel::unbounded();
    for ((slot, mine), theirs) in mine.into_iter().zip(theirs) {
        let Some(theirs) = theirs else {
            looked.unsure += 1;
            continue;
        };
        looked.compared += 1;
        peer.note(slot, theirs == mine);
        if theirs != mine {
            looked.differed += 1;
            // Where it has nothing, nothing is lacking here.
            if theirs.count > 0 {
                jobs.push(Job { node, slot, theirs, done: done.clone() });
            }
        }
    }
    drop(done);
    // Not in the order in which they are pulled from another node at the same time.
    let nodes = cluster.topology().nodes().count();
    let first = jobs.len() * node.index() / nodes;
    jobs.rotate_left(first);
    for job in jobs {
        // The receivers are here: the channel is open.
        let _ = cluster.syncing.jobs.0.try_send(job);
    }
    while let Ok((slot, result)) = results.recv().await {
        match result {
            Ok(found) => {
                looked.found.versions += found.versions;
                looked.found.tombstones += found.tombstones;
                looked.found.contradictions += found.contradictions;
            }
            Err(why) => {
                looked.failed += 1;
                tracing::debug!(%slot, node = cluster.topology().name(node), %why, "a slot cannot be pulled yet");
            }
        }
    }
    looked
}
