//! Pulling one slot: what another node's replica has and this one lacks is found, asked for, and taken over.

use std::rc::Rc;
use std::sync::Arc;

use monoio::time::timeout;

use super::look::digest;
use super::state::Job;
use crate::antientropy::pieces::Cutter;
use crate::antientropy::reconcile::{Event, Found, Next, Reconcile};
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::{SYNC_PULL_TIME, SYNC_SCAN};
use crate::shard::core::Core;
use crate::shard::peers::ask::ask_sync;
use crate::shard::peers::cluster::Cluster;
use crate::shard::peers::membership::take;
use crate::wire::peer::sync::{Answer, Items, Question, Range};

/// Pulls slots for as long as the core runs.
pub(super) async fn run(core: Rc<Core>, cluster: Arc<Cluster>) {
    while let Ok(Job { node, slot, theirs, done }) = cluster.syncing.jobs.1.recv().await {
        // Another node may have had the same, and it is here by now.
        let result = if digest(&core, slot).await == Some(theirs) {
            Ok(Found::default())
        } else {
            // What was taken over until then stays.
            let pulled = timeout(SYNC_PULL_TIME, pull(&core, node, slot)).await;
            pulled.unwrap_or_else(|_| Err(format!("it takes more than {SYNC_PULL_TIME:?}")))
        };
        if let Ok(found) = &result {
            core.node.metrics.sync_versions.inc_by(found.versions);
            core.node.metrics.sync_tombstones.inc_by(found.tombstones);
            if found.contradictions > 0 {
                let name = cluster.topology().name(node);
                tracing::error!(%slot, node = name, blobs = found.contradictions, "a replica has other versions under the same ids");
            }
        }
        // Who does not want to know any more is gone.
        let _ = done.try_send((slot, result));
    }
}

async fn pull(core: &Rc<Core>, node: NodeId, slot: Slot) -> Result<Found, String> {
    let number = slot.index() as u16;
    let mut search = Reconcile::default();
    let mut event = Event::Begin;
    loop {
        let next = search.step(event).map_err(|error| error.to_string())?;
        event = match next {
            Next::Cut(range) => {
                let mut cutter = Cutter::new(range.first);
                each_items(core, slot, range, |items| cutter.push(items)).await?;
                Event::Cut(cutter.finish())
            }
            Next::Ranges(firsts, last) => {
                let question = Question::Ranges { slot: number, firsts, last };
                match ask(core, node, &question).await? {
                    Answer::Ranges(digests) => Event::Ranges(digests),
                    _ => return Err(other_question()),
                }
            }
            Next::Items(range) => match ask(core, node, &Question::Items { slot: number, range }).await? {
                Answer::Items { items, next } => {
                    let last =
                        next.map_or(range.last, |next| BlobId::from_u128(next.to_u128().saturating_sub(1)));
                    let mut mine = Vec::new();
                    let range = Range { first: range.first, last };
                    each_items(core, slot, range, |items| mine.push(*items)).await?;
                    Event::Items { theirs: items, next, mine }
                }
                _ => return Err(other_question()),
            },
            Next::Rows(blobs) => {
                rows(core, node, slot, blobs).await?;
                Event::Taken
            }
            Next::Done => return Ok(search.found()),
        };
    }
}

fn other_question() -> String {
    "it answers another question".to_owned()
}

async fn ask(core: &Rc<Core>, node: NodeId, question: &Question) -> Result<Answer, String> {
    ask_sync(core, node, question).await.map_err(|error| error.to_string())
}

/// Hands the items of all rows of a range to `take`, in order.
pub(super) async fn each_items(
    core: &Rc<Core>,
    slot: Slot,
    range: Range,
    mut take: impl FnMut(&Items),
) -> Result<(), String> {
    let mut range = range;
    loop {
        let items = core.node.readers.items(slot, range, SYNC_SCAN).await;
        let items = items.map_err(|error| error.message.into_owned())?;
        items.iter().for_each(&mut take);
        let last = items.last().filter(|_| items.len() == SYNC_SCAN);
        match last.and_then(|items| crate::antientropy::pieces::after(items.blob)) {
            Some(first) if first <= range.last => range.first = first,
            _ => return Ok(()),
        }
    }
}

/// Asks for rows and takes them over.
async fn rows(core: &Rc<Core>, node: NodeId, slot: Slot, blobs: Vec<BlobId>) -> Result<(), String> {
    let question = Question::Rows { slot: slot.index() as u16, blobs };
    let answer = ask(core, node, &question).await?;
    let (Question::Rows { blobs, .. }, Answer::Rows { identity, held }) = (question, answer) else {
        return Err(other_question());
    };
    if held.len() > blobs.len()
        || !held.iter().all(|held| blobs.binary_search(&held.row.attempt.blob_id).is_ok())
    {
        return Err("it sends rows that nobody asked for".to_owned());
    }
    take(core, slot, held, (node, identity)).await
}
