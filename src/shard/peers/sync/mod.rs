//! Anti-entropy as a node does it (RFC 0004): it looks at the digests of the other nodes' replicas, and pulls what it lacks.
//!
//! `state` is what all cores share; on core 0 one task for each other node decides when to `look`; the slots that differ are
//! pulled by any core; `answer` is the other side. Nothing is pushed and nothing that was said is believed but
//! rows, which come in like those that a read has found.
//!
//! On failure a slot stays as it is and is looked at again: what came until then does not differ any more.

mod answer;
mod limiter;
mod look;
mod pull;
mod state;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use monoio::time::{sleep, timeout};

use super::ask::ask_sync;
use super::cluster::Cluster;
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::{CHORES, SYNC_AGAIN, SYNC_SLOTS};
use crate::shard::core::Core;
use crate::wire::peer::sync::{Answer, Question};

pub(super) use self::answer::answer;
pub use self::limiter::Limiter;
pub use self::state::{Looked, Settings, Syncing};

/// Starts what runs for as long as the core does.
pub(super) fn start(core: &Rc<Core>, cluster: &Arc<Cluster>) {
    if cluster.topology().replica_count() == 1 {
        return;
    }
    for _ in 0..SYNC_SLOTS {
        monoio::spawn(pull::run(Rc::clone(core), Arc::clone(cluster)));
    }
    if core.number == 0 {
        for node in cluster.topology().others() {
            monoio::spawn(look_after(Rc::clone(core), Arc::clone(cluster), node));
        }
    }
}

/// The slots of which both nodes are replicas.
fn shared(cluster: &Cluster, node: NodeId) -> Vec<Slot> {
    let topology = cluster.topology();
    Slot::all().filter(|slot| topology.is_mine(*slot) && topology.replicas(*slot).contains(&node)).collect()
}

/// Looks at one other node whenever there is a reason to.
async fn look_after(core: Rc<Core>, cluster: Arc<Cluster>, node: NodeId) {
    let peer = cluster.syncing.peer(node);
    let slots = shared(&cluster, node);
    let mut due = Instant::now();
    let mut again = SYNC_AGAIN;
    loop {
        let wait = due.saturating_duration_since(Instant::now());
        // Whether it was woken or not: what there is to do stands in the state.
        let _ = timeout(wait, peer.woken()).await;
        let is_asked = peer.is_asked();
        if !cluster.roster.is_formed() || (!cluster.is_reachable(node) && !is_asked) {
            // It wakes this task when it answers again.
            due = Instant::now() + SYNC_AGAIN;
            sleep(CHORES).await;
            continue;
        }
        nudge(&core, &cluster, node).await;
        let all = peer.take_all() || is_asked || Instant::now() >= due;
        let asking = if all { peer.take_asking() } else { Vec::new() };
        let told = peer.take_told();
        let look_at = if all { slots.clone() } else { told };
        if look_at.is_empty() {
            sleep(CHORES).await;
            continue;
        }
        let looked = look::look(&core, &cluster, node, look_at).await;
        tracing::debug!(node = cluster.topology().name(node), ?looked, "compared with a node");
        if looked.is_even() {
            if all {
                due = Instant::now() + spread(cluster.syncing.settings.interval, node);
                again = SYNC_AGAIN;
            }
        } else {
            // Until it is even; but what never is costs no more than what is.
            due = Instant::now() + again.min(cluster.syncing.settings.interval);
            again = (again * 2).min(cluster.syncing.settings.interval.max(SYNC_AGAIN));
        }
        for asking in asking {
            // Who does not want to know any more is gone.
            let _ = asking.send(looked.clone());
        }
        sleep(CHORES.min(cluster.syncing.settings.interval)).await;
    }
}

/// Tells a node in which slots it has missed something, as far as it can be told.
async fn nudge(core: &Rc<Core>, cluster: &Arc<Cluster>, node: NodeId) {
    let peer = cluster.syncing.peer(node);
    let missed = peer.take_missed();
    if missed.is_empty() {
        return;
    }
    let numbers = missed.iter().map(|slot| slot.index() as u16).collect();
    match ask_sync(core, node, &Question::Nudge(numbers)).await {
        Ok(Answer::Nudged) => {}
        answer => {
            tracing::debug!(node = cluster.topology().name(node), ?answer, "a node cannot be told yet");
            for slot in missed {
                peer.miss(slot);
            }
        }
    }
}

/// An interval, up to a quarter longer or shorter, so that nodes do not look at the same moment.
fn spread(interval: Duration, node: NodeId) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = [&now.as_nanos().to_le_bytes()[..], &[node.0]].concat();
    let part = (xxhash_rust::xxh3::xxh3_64(&seed) % 1024) as u32;
    interval * 3 / 4 + interval / 2 * part / 1024
}
