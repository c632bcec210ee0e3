//! Handing the rows of a slot over to a replica that has lost its own.
//!
//! First everything is done that the slot's writer was asked for before the replica's new identity was recorded: it may rest on a
//! vote of the old one, and then the replica must hear of it. What comes after does not count that vote any more.
//! A replica that is recovering itself hands over what it has, since that is true, but says that it is not all; unless it recovers
//! only because another slot of its disk has lost its database.

use std::rc::Rc;
use std::sync::Arc;

use super::Cluster;
use crate::base::error::Result;
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::HANDOVER_ROWS;
use crate::shard::core::Core;
use crate::wire::peer::Member;
use crate::wire::peer::cluster::Answer;

/// A page of a slot's versions.
pub(super) async fn hand_over(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    from: NodeId,
    slot: u16,
    member: Member,
    after: i64,
) -> Result<Answer> {
    let no = |why: &str| Ok(Answer::No(why.to_owned()));
    let slot = match check(cluster, from, slot, member) {
        Ok(slot) => slot,
        Err(why) => return no(why),
    };
    let node = &core.node;
    let was_whole = cluster.membership.remembers(slot, &node.slots);
    if after == 0 {
        node.writers.barrier(slot).await?;
    }
    let (held, next) = node.readers.page(slot, after, HANDOVER_ROWS).await?;
    let Some(mine) = mine(cluster, slot) else { return no("the cluster is not formed") };
    let whole = was_whole && cluster.membership.remembers(slot, &node.slots);
    Ok(Answer::Rows { identity: mine.identity, held, next, whole })
}

/// A page of where the archive has chunks of a slot's versions.
pub(super) async fn hand_over_archived(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    from: NodeId,
    slot: u16,
    member: Member,
    after: i64,
) -> Result<Answer> {
    let slot = match check(cluster, from, slot, member) {
        Ok(slot) => slot,
        Err(why) => return Ok(Answer::No(why.to_owned())),
    };
    let node = &core.node;
    let was_whole = cluster.membership.remembers(slot, &node.slots);
    if after == 0 {
        node.writers.barrier(slot).await?;
    }
    let (rows, next) = node.readers.archive_page(slot, after, HANDOVER_ROWS).await?;
    let Some(mine) = mine(cluster, slot) else {
        return Ok(Answer::No("the cluster is not formed".to_owned()));
    };
    let whole = was_whole && cluster.membership.remembers(slot, &node.slots);
    Ok(Answer::Archived { identity: mine.identity, rows, next, whole })
}

/// The slot, if it is one of this node's and the asker's disk is the one that is known here.
fn check(
    cluster: &Cluster,
    from: NodeId,
    slot: u16,
    member: Member,
) -> std::result::Result<Slot, &'static str> {
    let Some(slot) = Slot::new(slot).filter(|slot| cluster.topology().is_mine(*slot)) else {
        return Err("this node is no replica of that slot");
    };
    if cluster.roster.members(slot).iter().any(|known| *known == member && known.node == from) {
        Ok(slot)
    } else {
        Err("this node knows another disk of yours")
    }
}

/// This node's disk of a slot.
fn mine(cluster: &Cluster, slot: Slot) -> Option<Member> {
    cluster.roster.members(slot).into_iter().find(|known| known.node == cluster.topology().me())
}
