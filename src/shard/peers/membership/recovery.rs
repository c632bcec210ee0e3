//! Getting a disk's memory back: every other replica of a slot hands over its rows, and then the slot counts again.
//!
//! It begins when all other nodes have recorded the disk's new identity, and starts over after a crash. The rows come without their
//! chunks; those follow in the background. A slot needs rows from all others, and of them so many must have all they ever
//! knew that no write can have reached only those that have lost theirs.

use std::rc::Rc;
use std::sync::Arc;

use monoio::time::sleep;

use super::{Cluster, Membership, Standing};
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::{CHORE_PAUSE, CHORES, CLUSTER_TIME, RECOVERIES, SPREAD_ROWS};
use crate::replication::participant::Surroundings;
use crate::shard::core::Core;
use crate::shard::peers::ask::ask_cluster;
use crate::shard::peers::background::each;
use crate::wire::peer::cluster::{Answer, Question};
use crate::wire::peer::{Held, Member, Proven, Reply, Request, Response, Signed, archive};

/// Recovers slots of this core for as long as it runs.
pub(in crate::shard::peers) async fn run(core: Rc<Core>, cluster: Arc<Cluster>) {
    loop {
        sleep(CHORES).await;
        let slots = lost(&core, &cluster);
        if slots.is_empty() {
            continue;
        }
        let (core, cluster) = (Rc::clone(&core), Arc::clone(&cluster));
        each(slots, RECOVERIES, move |slot| {
            let (core, cluster) = (Rc::clone(&core), Arc::clone(&cluster));
            async move {
                if let Err(obstacle) = recover(&core, &cluster, slot).await {
                    tracing::debug!(%slot, %obstacle, "a slot cannot be recovered yet");
                    cluster.membership.set_obstacle(format!("slot {slot}: {obstacle}"));
                    sleep(CHORE_PAUSE).await;
                }
            }
        })
        .await;
    }
}

/// This core's slots that wait for rows.
fn lost(core: &Core, cluster: &Cluster) -> Vec<Slot> {
    let (node, membership) = (&core.node, &cluster.membership);
    if membership.disks(Standing::Admitted).is_empty() {
        return Vec::new();
    }
    let is_lost = |slot: &Slot| {
        core.owns(*slot)
            && node.slots.is_recovering(*slot)
            && membership.standing(node.slots.disk(*slot)) == Standing::Admitted
    };
    membership.mine().filter(is_lost).collect()
}

/// Takes over what all other replicas of a slot have; an error says what is in the way.
async fn recover(core: &Rc<Core>, cluster: &Arc<Cluster>, slot: Slot) -> Result<(), String> {
    let node = &core.node;
    let me = cluster.topology().me();
    let members = cluster.roster.members(slot);
    let Some(mine) = members.iter().find(|member| member.node == me).copied() else { return Ok(()) };
    let mut whole = 0;
    for other in members.iter().map(|member| member.node).filter(|node| *node != me) {
        if take_over(core, cluster, slot, mine, other).await? {
            whole += 1;
        }
    }
    let needed = sources_needed(members.len(), cluster.topology().write_quorum(), node.synced);
    if whole < needed {
        return Err(format!(
            "{whole} other replicas have all they ever knew, {needed} are needed: bring back a disk that is away"
        ));
    }
    cluster.membership.count_again(slot, mine, &node.slots);
    Ok(())
}

/// Of the other replicas, how many must have all they ever knew: every write that counted reached one of them. Without syncs
/// all may have lost what came last, and nobody is left to ask.
fn sources_needed(replicas: usize, write_quorum: usize, synced: bool) -> usize {
    let refusal_quorum = replicas - write_quorum + 1;
    if synced { write_quorum.max(refusal_quorum).min(replicas - 1) } else { 0 }
}

/// Takes over what one other replica has of a slot; whether that is all it ever knew.
async fn take_over(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    slot: Slot,
    member: Member,
    from: NodeId,
) -> Result<bool, String> {
    let name = cluster.topology().name(from);
    let (mut after, mut all_whole, mut disk) = (0, true, None);
    loop {
        let question = Question::Rows { slot: slot.index() as u16, member, after };
        let (identity, held, next, whole) = match ask_cluster(core, from, &question, CLUSTER_TIME).await {
            Ok(Answer::Rows { identity, held, next, whole }) => (identity, held, next, whole),
            Ok(Answer::No(why)) => return Err(format!("node '{name}' hands nothing over: {why}")),
            Ok(_) => return Err(format!("node '{name}' answers another question")),
            Err(error) => return Err(format!("node '{name}' does not answer: {error}")),
        };
        if *disk.get_or_insert(identity) != identity {
            return Err(format!("the disk of node '{name}' was replaced in the middle"));
        }
        all_whole &= whole;
        take(core, slot, held, (from, identity))
            .await
            .map_err(|error| format!("rows of node '{name}': {error}"))?;
        match next {
            None => break,
            Some(next) if next > after => after = next,
            Some(_) => return Err(format!("node '{name}' hands the same rows over again")),
        }
    }
    let Some(identity) = disk else { return Ok(all_whole) };
    Ok(all_whole & take_over_archived(core, cluster, slot, member, (from, identity)).await?)
}

/// Takes over what the same replica knows of the archive, before any chunk is judged missing; whether that is all it ever knew.
async fn take_over_archived(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    slot: Slot,
    member: Member,
    (from, disk): Signed,
) -> Result<bool, String> {
    let name = cluster.topology().name(from);
    let (mut after, mut all_whole) = (0, true);
    loop {
        let question = Question::Archived { slot: slot.index() as u16, member, after };
        let (rows, next) = match ask_cluster(core, from, &question, CLUSTER_TIME).await {
            Ok(Answer::Archived { identity, .. }) if identity != disk => {
                return Err(format!("the disk of node '{name}' was replaced in the middle"));
            }
            Ok(Answer::Archived { rows, next, whole, .. }) => {
                all_whole &= whole;
                (rows, next)
            }
            Ok(Answer::No(why)) => return Err(format!("node '{name}' hands nothing over: {why}")),
            Ok(_) => return Err(format!("node '{name}' answers another question")),
            Err(error) => return Err(format!("node '{name}' does not answer: {error}")),
        };
        for rows in
            rows.chunk_by(|(one, _), (other, _)| one == other).flat_map(|rows| rows.chunks(SPREAD_ROWS))
        {
            let Some((path, _)) = rows.first() else { continue };
            if Slot::of(path) != slot || !rows.iter().all(|(_, row)| row.is_sound()) {
                return Err(format!("node '{name}' hands over archive rows that can be none"));
            }
            let rows = rows.iter().map(|(_, row)| row.clone()).collect();
            let request = Request::Archive(archive::Request::Rows { path: path.clone(), rows });
            let around = Surroundings { has_data: false, has_room: false, is_live: false };
            let taken = core.node.writers.peer(slot, request, None, around).await;
            taken.map_err(|error| format!("rows of node '{name}': {}", error.message))?;
        }
        match next {
            None => break,
            Some(next) if next > after => after = next,
            Some(_) => return Err(format!("node '{name}' hands the same rows over again")),
        }
    }
    if let Some(desk) = &core.node.archive {
        desk.note_unspread(slot);
    }
    Ok(all_whole)
}

/// Writes rows that others have.
pub(in crate::shard::peers) async fn take(
    core: &Rc<Core>,
    slot: Slot,
    held: Vec<Held>,
    on: Signed,
) -> Result<(), String> {
    let Some(first) = held.first() else { return Ok(()) };
    if held.iter().any(|held| Slot::of(&held.row.path) != slot) {
        return Err("they are of another slot".to_owned());
    }
    let path = first.row.path.clone();
    let versions = held.into_iter().map(|held| Proven { held, on: vec![on] }).collect();
    let request = Request::Finish { path, versions };
    let around = Surroundings { has_data: false, has_room: false, is_live: false };
    match core.node.writers.peer(slot, request, None, around).await {
        Ok(Response { reply: Reply::Done { .. }, .. }) => Ok(()),
        Ok(Response { reply, .. }) => Err(format!("not taken: {reply:?}")),
        Err(error) => Err(error.message.into_owned()),
    }
}

impl Membership {
    fn set_obstacle(&self, obstacle: String) {
        *self.obstacle.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = obstacle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_write_can_have_reached_only_those_that_are_not_asked() {
        for replicas in 1..=7 {
            for quorum in 1..=replicas {
                let needed = sources_needed(replicas, quorum, true);
                assert!(needed < replicas);
                // The disks that were lost, with this one's: the write may have been on all of them.
                let lost = replicas - needed;
                assert!(lost < quorum || needed == replicas - 1, "n = {replicas}, W = {quorum}");
            }
        }
        assert_eq!(sources_needed(3, 2, true), 2);
        assert_eq!(sources_needed(5, 3, true), 3, "two disks may be lost at once");
        assert_eq!(sources_needed(3, 2, false), 0);
    }
}
