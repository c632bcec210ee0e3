//! Taking stock: core 0 asks every other node twice a second who it is, and does what follows from the answers. It forms the
//! cluster, takes over what others know of replaced disks, has this node's own replaced disks recorded everywhere, and says
//! what keeps the node from being ready.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use monoio::time::sleep;

use super::forming::{self, Heard, Next};
use super::losses::Losses;
use super::{Cluster, Membership, Standing, change, record};
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::chunk::charter::Kept;
use crate::io::file::on_storage_thread;
use crate::limits::{CHORES, CLUSTER_TIME, HEARTBEAT, HEARTBEAT_REFUSED};
use crate::shard::core::Core;
use crate::shard::peers::ask::ask_cluster;
use crate::wire::peer::Member;
use crate::wire::peer::cluster::{Answer, Disks, Question};

/// What was last heard, by node.
type Table = Rc<RefCell<Vec<Heard>>>;

/// Runs for as long as core 0 does.
pub(in crate::shard::peers) async fn run(core: Rc<Core>, cluster: Arc<Cluster>) {
    let heard: Table = Rc::new(RefCell::new(cluster.topology().nodes().map(|_| Heard::Nothing).collect()));
    for node in cluster.topology().others() {
        monoio::spawn(listen_to(Rc::clone(&core), Arc::clone(&cluster), node, Rc::clone(&heard)));
    }
    let mut stock = Stock { core, cluster, heard, losses: Losses::default() };
    loop {
        stock.take().await;
        stock.cluster.set_trouble(stock.troubles().join("; "));
        sleep(CHORES).await;
    }
}

/// Asks one node again and again who it is.
async fn listen_to(core: Rc<Core>, cluster: Arc<Cluster>, node: NodeId, heard: Table) {
    let name = cluster.topology().name(node);
    let mut known_contradiction = None;
    loop {
        let (now, pause) = match ask_cluster(&core, node, &Question::Hello, CLUSTER_TIME).await {
            Ok(Answer::Introduction(said)) => {
                let is_ours = said.charter == *cluster.membership.charter();
                let is_one_of_us = is_ours && said.members.is_some();
                cluster.set_not_voting(node, *said.not_voting);
                cluster.set_reachable(node, is_one_of_us);
                // It is about to be: who is ready counts on it.
                let pause = if is_ours && !is_one_of_us { HEARTBEAT / 8 } else { HEARTBEAT };
                (Heard::Said(said), pause)
            }
            Ok(_) => (Heard::Refused("it answers another question".to_owned()), HEARTBEAT_REFUSED),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                (Heard::Refused(error.to_string()), HEARTBEAT_REFUSED)
            }
            Err(_) => (Heard::Nothing, HEARTBEAT),
        };
        let contradiction = match &now {
            Heard::Said(said) => forming::difference(cluster.membership.charter(), &said.charter, name),
            Heard::Refused(why) => Some(format!("it refuses this node: {why}")),
            Heard::Nothing => None,
        };
        if contradiction != known_contradiction {
            if let Some(why) = &contradiction {
                tracing::warn!(node = name, %why, "the node is none of this cluster");
            }
            known_contradiction = contradiction;
        }
        if let Some(table) = heard.borrow_mut().get_mut(node.index()) {
            *table = now;
        }
        sleep(pause).await;
    }
}

struct Stock {
    core: Rc<Core>,
    cluster: Arc<Cluster>,
    heard: Table,
    losses: Losses,
}

impl Stock {
    fn membership(&self) -> &Membership {
        &self.cluster.membership
    }

    async fn take(&mut self) {
        if !self.cluster.roster.is_formed() {
            return self.form().await;
        }
        let lists = self.lists();
        self.learn(&lists).await;
        self.confirm(&lists);
        self.losses.replace(&self.core, &self.cluster).await;
        for disk in self.membership().disks(Standing::Stale) {
            self.renew(disk).await;
        }
        for disk in self.membership().disks(Standing::Lost) {
            self.have_admitted(disk, &lists).await;
        }
        for disk in self.membership().disks(Standing::Admitted) {
            self.finish(disk).await;
        }
    }

    /// What the other nodes know of all disks.
    fn lists(&self) -> Vec<(NodeId, Vec<Disks>)> {
        let (heard, charter) = (self.heard.borrow(), self.membership().charter());
        let list = |node: NodeId| match heard.get(node.index()) {
            Some(Heard::Said(said)) if said.charter == *charter => Some((node, said.members.clone()?)),
            _ => None,
        };
        self.cluster.topology().others().filter_map(list).collect()
    }

    async fn form(&self) {
        let mine = self.membership().introduction(&self.core.node.slots);
        let next = forming::next(self.cluster.topology(), &mine, &self.heard.borrow());
        let Next::Found(members) = next else { return };
        let (cluster, slots) = (Arc::clone(&self.cluster), Arc::clone(&self.core.node.slots));
        let write = move || Ok(cluster.membership.found(members, &slots));
        match on_storage_thread(write).await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => tracing::info!("the cluster is formed"),
            Err(error) => tracing::error!(%error, "what the cluster is made of cannot be recorded"),
        }
    }

    /// Takes over newer disks of other nodes.
    async fn learn(&self, lists: &[(NodeId, Vec<Disks>)]) {
        let (me, known) = (self.cluster.topology().me(), self.cluster.roster.disks());
        let all = lists.iter().flat_map(|(_, list)| list.iter().flat_map(|disks| disks.iter().enumerate()));
        let news = all.filter(|(disk, member)| {
            let mine = known.get(member.node.index()).and_then(|disks| disks.get(*disk));
            member.node != me && mine.is_some_and(|mine| mine.generation < member.generation)
        });
        // What cannot be written is logged there, and tried again.
        let _ = record(&self.cluster, news.map(|(disk, member)| (disk, *member)).collect()).await;
    }

    /// Once another node has said which disks it knows of this one: those that are others have lost what they promised, and
    /// the rest counts.
    fn confirm(&self, lists: &[(NodeId, Vec<Disks>)]) {
        let (membership, slots) = (self.membership(), &self.core.node.slots);
        let me = self.cluster.topology().me();
        for disk in membership.disks(Standing::Whole) {
            let Some(mine) = membership.member(disk) else { continue };
            let theirs = lists.iter().filter_map(|(_, list)| list.get(me.index())?.get(disk));
            if theirs.clone().any(|theirs| *theirs != mine && theirs.generation >= mine.generation) {
                tracing::warn!(disk, "other nodes know another disk here: its slots recover from them");
                membership.set_standing(disk, Standing::Stale);
                for slot in membership.mine().filter(|slot| slots.disk(*slot) == disk) {
                    slots.set_recovering(slot, true);
                }
            }
        }
        let alone = self.cluster.topology().others().next().is_none();
        if (!lists.is_empty() || alone) && !membership.confirmed.swap(true, Ordering::AcqRel) {
            for slot in membership.mine().filter(|slot| membership.may_vote(*slot, slots)) {
                slots.set_recovering(slot, false);
            }
        }
    }

    /// Gives an old disk that was put back a new identity: what it signed before must not count again.
    async fn renew(&self, number: usize) {
        let Some(disk) = self.core.node.disks.get(number).map(Arc::clone) else { return };
        let cluster = Arc::clone(&self.cluster);
        let renewed = on_storage_thread(move || Ok(cluster.membership.renew(number, &disk))).await;
        if let Err(error) = renewed.unwrap_or_else(|error| Err(error.to_string())) {
            tracing::error!(%error, "a disk cannot be given a new identity");
        }
    }

    /// Has a disk that has lost its memory recorded everywhere: here first, so that no vote of the old one counts here either.
    async fn have_admitted(&self, disk: usize, lists: &[(NodeId, Vec<Disks>)]) {
        let (membership, me) = (self.membership(), self.cluster.topology().me());
        if lists.len() < self.cluster.topology().others().count() {
            return;
        }
        let identity = membership.identities().get(disk).copied();
        let (Some(known), Some(identity)) = (membership.member(disk), identity) else { return };
        let theirs = lists.iter().filter_map(|(_, list)| list.get(me.index())?.get(disk).copied());
        if theirs.clone().any(|other| {
            other.generation >= known.generation && ![known.identity, identity].contains(&other.identity)
        }) {
            // An old one that was put back: what it has of any slot is not all.
            membership.set_kept(disk, None);
        }
        let kept = membership.kept(disk).map(|but| Kept { identity, but });
        let all: Vec<Member> = theirs.chain([known]).collect();
        let highest = all.iter().map(|member| member.generation).max().unwrap_or_default();
        // Those of the highest generation may all be what a crash cut off.
        let begun = all
            .iter()
            .filter(|member| member.generation == highest)
            .all(|member| member.identity == identity && highest > 0);
        let generation = if begun { highest } else { highest + 1 };
        let member = Member { node: me, generation, identity };
        let recorded = change(&self.cluster, move |record| {
            let (Some(known), Some(mark), Some(was_kept)) = (
                record.members[me.index()].get_mut(disk),
                record.recovering.get_mut(disk),
                record.kept.get_mut(disk),
            ) else {
                return false;
            };
            let is_news = *known != member || !*mark || *was_kept != kept;
            (*known, *mark, *was_kept) = (member, true, kept);
            is_news
        });
        if recorded.await.is_err() {
            return;
        }
        for node in self.cluster.topology().others() {
            let question = Question::Admit { disk: disk as u32, member };
            match ask_cluster(&self.core, node, &question, CLUSTER_TIME).await {
                Ok(Answer::Admitted) => {}
                Ok(Answer::No(why)) => {
                    let name = self.cluster.topology().name(node);
                    tracing::warn!(disk, node = name, %why, "the new disk is not recorded yet");
                    return;
                }
                Ok(_) | Err(_) => return,
            }
        }
        tracing::info!(disk, generation, "all nodes have recorded the new disk: its slots recover");
        membership.confirmed.store(true, Ordering::Release);
        membership.set_standing(disk, Standing::Admitted);
    }

    /// Takes the mark off a disk whose slots have all recovered.
    async fn finish(&self, disk: usize) {
        if self.left(disk) > 0 {
            return;
        }
        let recorded = change(&self.cluster, move |record| {
            record.kept[disk] = None;
            record.recovering.get_mut(disk).is_some_and(|mark| std::mem::replace(mark, false))
        });
        if recorded.await.is_ok() {
            tracing::info!(disk, "the disk has recovered");
            self.membership().set_standing(disk, Standing::Whole);
        }
    }

    /// Slots of a disk that have not recovered.
    fn left(&self, disk: usize) -> usize {
        let slots = &self.core.node.slots;
        let is_lost = |slot: &Slot| slots.disk(*slot) == disk && slots.is_recovering(*slot);
        self.membership().mine().filter(is_lost).count()
    }

    /// What keeps the node from being ready.
    fn troubles(&self) -> Vec<String> {
        let (membership, topology) = (self.membership(), self.cluster.topology());
        if !self.cluster.roster.is_formed() {
            let mine = membership.introduction(&self.core.node.slots);
            return match forming::next(topology, &mine, &self.heard.borrow()) {
                Next::Wait(why) => vec![format!("the cluster is not formed: {why}")],
                Next::Found(_) => vec!["the cluster is being formed".to_owned()],
            };
        }
        let mut troubles = Vec::new();
        if !membership.confirmed.load(Ordering::Acquire) && topology.replica_count() > 1 {
            troubles.push("no other node of the cluster has answered since the start".to_owned());
        }
        let lost = [membership.disks(Standing::Stale), membership.disks(Standing::Lost)].concat();
        for disk in lost {
            troubles.push(format!(
                "recovering: disk {} has lost what it had, and waits for all other nodes to record that",
                membership.roots[disk].display()
            ));
        }
        for disk in membership.disks(Standing::Admitted) {
            let mut trouble = format!(
                "recovering: disk {} waits for the rows of {} slots",
                membership.roots[disk].display(),
                self.left(disk)
            );
            let obstacle = membership.obstacle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if !obstacle.is_empty() {
                trouble = format!("{trouble}; {obstacle}");
            }
            troubles.push(trouble);
        }
        troubles
    }
}
