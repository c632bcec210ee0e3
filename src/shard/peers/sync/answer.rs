//! The other side: what this node says about its replicas. Only of slots that both nodes have, and only what is on disk; whatever
//! asks for more than there can be is refused.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::look::digest;
use super::pull::each_items;
use crate::antientropy::pieces::Summer;
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::{SLOTS, SYNC_CHUNKS, SYNC_DIGEST_TIME, SYNC_ITEMS, SYNC_PIECES, SYNC_ROWS};
use crate::shard::core::Core;
use crate::shard::peers::cluster::Cluster;
use crate::wire::peer::sync::{Answer, Question, Range};

/// Answers another node's question about what differs.
pub(in crate::shard::peers) async fn answer(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    from: NodeId,
    question: Question,
) -> Answer {
    try_answer(core, cluster, from, question).await.unwrap_or_else(Answer::No)
}

async fn try_answer(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    from: NodeId,
    question: Question,
) -> Result<Answer, String> {
    if !cluster.roster.is_formed() {
        return Err("the cluster is not formed".to_owned());
    }
    let shared = |number: u16| shared(cluster, from, number);
    match question {
        Question::Digests(numbers) => {
            let slots = shared_all(cluster, from, &numbers)?;
            let begun = Instant::now();
            let mut digests = Vec::with_capacity(slots.len());
            for slot in slots {
                let in_time = begun.elapsed() < SYNC_DIGEST_TIME;
                let made = if in_time { digest(core, slot).await } else { core.node.slots.digest(slot) };
                // One that is being recovered does not know how it compares.
                digests.push(made.filter(|_| !core.node.slots.is_recovering(slot)));
            }
            Ok(Answer::Digests(digests))
        }
        Question::Ranges { slot, firsts, last } => {
            let slot = shared(slot)?;
            let [first, ..] = firsts[..] else { return Err(too_much()) };
            let ascend = firsts.windows(2).all(|pair| pair[0] < pair[1]);
            if firsts.len() > SYNC_PIECES || !ascend || firsts.last().is_some_and(|begin| *begin > last) {
                return Err(too_much());
            }
            let mut summer = Summer::new(firsts);
            each_items(core, slot, Range { first, last }, |items| summer.push(items)).await?;
            Ok(Answer::Ranges(summer.finish()))
        }
        Question::Items { slot, range } => {
            let items = core.node.readers.items(shared(slot)?, range, SYNC_ITEMS + 1).await;
            let mut items = items.map_err(|error| error.message.into_owned())?;
            let next = items.get(SYNC_ITEMS).map(|items| items.blob);
            items.truncate(SYNC_ITEMS);
            Ok(Answer::Items { items, next })
        }
        Question::Rows { slot, blobs } => {
            let slot = shared(slot)?;
            if blobs.len() > SYNC_ROWS {
                return Err(too_much());
            }
            let held = core.node.readers.of_blobs(slot, blobs).await;
            let held = held.map_err(|error| error.message.into_owned())?;
            if core.node.slots.is_recovering(slot) {
                return Err("this replica is recovering".to_owned());
            }
            // After they were read: what is handed on as this disk's is on it.
            let me = cluster.topology().me();
            let members = cluster.roster.members(slot);
            let mine = members.iter().find(|member| member.node == me);
            let identity = mine.map(|mine| mine.identity).ok_or("the cluster is not formed")?;
            Ok(Answer::Rows { identity, held })
        }
        Question::Chunks { slot, blob, first } => chunks(core, shared(slot)?, blob, first).await,
        Question::Nudge(numbers) => {
            let slots = shared_all(cluster, from, &numbers)?;
            cluster.syncing.peer(from).tell(slots.into_iter());
            Ok(Answer::Nudged)
        }
    }
}

fn too_much() -> String {
    "it asks for more than there can be".to_owned()
}

/// A slot of which both nodes are replicas.
fn shared(cluster: &Cluster, from: NodeId, number: u16) -> Result<Slot, String> {
    let topology = cluster.topology();
    let slot =
        Slot::new(number).filter(|slot| topology.is_mine(*slot) && topology.replicas(*slot).contains(&from));
    slot.ok_or_else(|| "slots that not both nodes have".to_owned())
}

fn shared_all(cluster: &Cluster, from: NodeId, numbers: &[u16]) -> Result<Vec<Slot>, String> {
    if numbers.len() > usize::from(SLOTS) {
        return Err(too_much());
    }
    numbers.iter().map(|number| shared(cluster, from, *number)).collect()
}

/// Some chunk ids of a version whose chunks are here.
async fn chunks(core: &Rc<Core>, slot: Slot, blob: BlobId, first: u64) -> Result<Answer, String> {
    let readers = &core.node.readers;
    let look = async {
        let held = readers.of_blobs(slot, vec![blob]).await?;
        let Some(held) = held.first() else { return Ok(Vec::new()) };
        let found = readers.find(slot, &held.row.path, Some(held.row.version)).await?;
        let here = |record: &crate::meta::types::BlobMeta| !record.hollow && record.tombstoned_at.is_none();
        let Some(record) = found.record.filter(here) else { return Ok(Vec::new()) };
        let count = record.chunks().saturating_sub(first).min(SYNC_CHUNKS as u64);
        readers.chunk_ids(slot, record.row, first, count).await
    };
    look.await.map(Answer::Chunks).map_err(|error: crate::base::error::Error| error.message.into_owned())
}
