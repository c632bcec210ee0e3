//! `POST /sync`: every other node that answers is compared with, and what is lacking here is fetched before the report is given.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::base::error::{Code, Error, Result};
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::{CHORES, SYNC_LOOKS, SYNC_PATIENCE};
use crate::shard::node::Node;
use crate::shard::peers::cluster::Cluster;
use crate::shard::peers::sync::Looked;

/// Does it.
///
/// # Errors
/// Where there is nobody to compare with.
pub(super) async fn run(node: &Arc<Node>) -> Result<Value> {
    let Some(cluster) = node.cluster.as_ref().map(Arc::clone) else {
        return Err(Error::new(
            Code::BadRequest,
            "this node runs alone: there is no other one to compare with",
        ));
    };
    if !cluster.roster.is_formed() {
        return Err(Error::new(Code::QuorumUnavailable, "the cluster is not formed yet: see /readyz"));
    }
    let (begun, fetched) = (Instant::now(), node.metrics.sync_fetched.get());
    let look = |other: NodeId| -> (NodeId, JoinHandle<Looked>) {
        (other, tokio_uring::spawn(compare(Arc::clone(&cluster), other)))
    };
    let looking: Vec<_> = cluster.topology().others().map(look).collect();
    let mut all = Looked::default();
    let (mut compared, mut silent) = (Vec::new(), Vec::new());
    for (other, looking) in looking {
        let name = cluster.topology().name(other);
        let looked = looking.await.map_err(|error| Error::new(Code::Internal, error.to_string()))?;
        match &looked.silent {
            Some(why) => {
                tracing::warn!(node = name, %why, "cannot be compared with");
                silent.push(name);
            }
            None => compared.push(name),
        }
        all.differed += looked.differed;
        all.unsure += looked.unsure + looked.failed;
        all.found.versions += looked.found.versions;
        all.found.tombstones += looked.found.tombstones;
    }
    let lacking = filled(node).await;
    Ok(json!({
        "good": silent.is_empty() && lacking == 0 && all.unsure == 0,
        "seconds": begun.elapsed().as_secs_f64(),
        "compared": compared,
        "silent": silent,
        "differed": all.differed,
        "unsure": all.unsure,
        "versions": all.found.versions,
        "tombstones": all.found.tombstones,
        "bytes": node.metrics.sync_fetched.get() - fetched,
        "lacking": lacking,
    }))
}

/// Looks at another node until it has nothing that is lacking here; what could not be compared is waited for as long as that
/// becomes less.
async fn compare(cluster: Arc<Cluster>, other: NodeId) -> Looked {
    let mut all = Looked::default();
    let (mut left, mut since) = (usize::MAX, Instant::now());
    for _ in 0..SYNC_LOOKS {
        let looked = loop {
            let looked = match cluster.syncing.look(other).await {
                Ok(looked) => looked,
                Err(_) => Looked { silent: Some("this node stops".to_owned()), ..Looked::default() },
            };
            let unsure = looked.unsure + looked.failed;
            if unsure < left {
                (left, since) = (unsure, Instant::now());
            }
            if looked.silent.is_some() || unsure == 0 || since.elapsed() > SYNC_PATIENCE {
                break looked;
            }
            all.add(&looked);
            sleep(CHORES).await;
        };
        let found = looked.found.versions + looked.found.tombstones;
        all.add(&looked);
        if found == 0 || looked.silent.is_some() {
            break;
        }
    }
    all
}

/// Waits until no version lacks its chunks, for as long as there is progress; how many lack them still.
async fn filled(node: &Arc<Node>) -> u64 {
    let state = || {
        let lacking: u64 = Slot::all().map(|slot| node.slots.hollow(slot)).sum();
        (lacking, node.metrics.sync_fetched.get())
    };
    let (mut before, mut since) = (state(), Instant::now());
    while before.0 > 0 && since.elapsed() < SYNC_PATIENCE {
        sleep(CHORES).await;
        let now = state();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
    before.0
}
