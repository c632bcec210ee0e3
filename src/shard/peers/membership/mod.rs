//! Who belongs to the cluster: what this node has on disk of it, and how its own disks stand.
//!
//! What always holds: the disks of all nodes are on this node's disks before anything rests on them; the generation of a disk only
//! grows; a slot counts for votes and reads only on a disk that has all it ever promised, and that another node has
//! confirmed since the start, because an old disk that was put back has no way to know that it is one.

mod forming;
mod handover;
mod losses;
mod recovery;
mod stock;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::cluster::Cluster;
use crate::base::error::{Code, Error};
use crate::base::slot::Slot;
use crate::base::slot_set::SlotSet;
use crate::base::topology::{NodeId, Topology};
use crate::chunk::charter::{self, Kept, Record};
use crate::chunk::disk::Disk;
use crate::io::file::on_storage_thread;
use crate::meta::slots::Slots;
use crate::replication::roster::Roster;
use crate::shard::core::Core;
use crate::wire::peer::cluster::{Answer, Charter, Disks, Introduction, Question};
use crate::wire::peer::{Identity, Member};

pub(super) use recovery::run as recover;
pub(super) use recovery::take;
pub(super) use stock::run as keep_stock;

/// How a disk of this node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has all it ever promised.
    Whole,
    /// It has not, and what it once signed may still be under way: it needs a new identity.
    Stale,
    /// It has not, and not all other nodes know.
    Lost,
    /// It has not, all other nodes know, and their rows come over.
    Admitted,
}

const STANDINGS: [Standing; 4] = [Standing::Whole, Standing::Stale, Standing::Lost, Standing::Admitted];

/// What this node has on disk of its cluster.
pub(super) struct Membership {
    roster: Arc<Roster>,
    /// What the cluster is made of, by this node's config.
    charter: Charter,
    roots: Vec<PathBuf>,
    /// Of this node's disks, by number.
    identities: Mutex<Vec<Identity>>,
    /// None while the cluster is not formed. Locked while it is written.
    record: Mutex<Option<Record>>,
    /// Of this node's disks, by number.
    standings: Vec<AtomicU8>,
    /// What those have lost that have not lost everything, by number.
    kept: Mutex<Vec<Option<SlotSet>>>,
    /// Held while slots begin to count, or cease to.
    counting: Mutex<()>,
    /// Whether another node has confirmed since the start that this node's disks are the ones it knows.
    confirmed: AtomicBool,
    /// What the last slot that could not be recovered waits for.
    obstacle: Mutex<String>,
}

impl Membership {
    /// That of a node with these disks.
    ///
    /// # Errors
    /// One line: what on the disks contradicts what, and what to do.
    pub(super) fn open(topology: &Topology, disks: &[Disk]) -> Result<Self, String> {
        let roots: Vec<PathBuf> = disks.iter().map(|disk| disk.root().to_path_buf()).collect();
        let charter = charter_of(topology);
        let record = charter::load(&roots)?;
        let name = topology.name(topology.me());
        match &record {
            Some(record) => check(record, &charter, name, &roots)?,
            None => check_new(disks)?,
        }
        if let Some(record) = &record {
            renew(record, topology, disks)?;
        }
        let identities: Vec<Identity> = disks.iter().map(|disk| disk.id().into()).collect();
        let members = record.as_ref().map_or_else(Vec::new, |record| record.members.clone());
        let membership = Self {
            roster: Arc::new(Roster::new(topology.clone(), members)),
            charter,
            roots,
            standings: identities.iter().map(|_| AtomicU8::new(Standing::Whole as u8)).collect(),
            kept: Mutex::new(vec![None; identities.len()]),
            counting: Mutex::new(()),
            identities: Mutex::new(identities),
            confirmed: AtomicBool::new(false),
            obstacle: Mutex::default(),
            record: Mutex::new(None),
        };
        if let Some(record) = &record {
            membership.judge(record);
        }
        *membership.lock() = record;
        Ok(membership)
    }

    pub(super) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    pub(super) fn charter(&self) -> &Charter {
        &self.charter
    }

    /// Keeps every slot from voting that cannot answer for what it promised. To be done before anything is served.
    pub(super) fn mark(&self, slots: &Slots) {
        if self.roster.is_formed() {
            for slot in self.mine() {
                if !self.may_vote(slot, slots) {
                    slots.set_recovering(slot, true);
                }
            }
        }
    }

    /// The slots of which this node is a replica.
    fn mine(&self) -> impl Iterator<Item = Slot> + use<'_> {
        let topology = self.roster.topology();
        Slot::all().filter(|slot| topology.is_mine(*slot))
    }

    fn may_vote(&self, slot: Slot, slots: &Slots) -> bool {
        let is_confirmed =
            self.confirmed.load(Ordering::Acquire) || self.roster.topology().replica_count() == 1;
        self.standing(slots.disk(slot)) == Standing::Whole && is_confirmed
    }

    fn standing(&self, disk: usize) -> Standing {
        STANDINGS[usize::from(self.standings[disk].load(Ordering::Acquire))]
    }

    fn set_standing(&self, disk: usize, standing: Standing) {
        self.standings[disk].store(standing as u8, Ordering::Release);
    }

    /// This node's disks that stand so.
    fn disks(&self, standing: Standing) -> Vec<usize> {
        (0..self.standings.len()).filter(|disk| self.standing(*disk) == standing).collect()
    }

    fn identities(&self) -> Vec<Identity> {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives a disk a new identity. Blocks.
    fn renew(&self, number: usize, disk: &Disk) -> Result<(), String> {
        let new = disk.renew()?;
        if let Some(known) = self.identities.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
            *known = new.into();
        }
        self.set_standing(number, Standing::Lost);
        Ok(())
    }

    /// What this node's disk is by what is on disk.
    fn member(&self, disk: usize) -> Option<Member> {
        let me = self.roster.topology().me();
        self.roster.disks().get(me.index())?.get(disk).copied()
    }

    /// Which disks have lost what they promised, by a record.
    fn judge(&self, record: &Record) {
        let me = self.roster.topology().me();
        let Some(mine) = record.members.get(me.index()) else { return };
        for (disk, (known, identity)) in mine.iter().zip(self.identities()).enumerate() {
            let lost = known.identity != identity || record.recovering.get(disk) == Some(&true);
            let kept = record.kept.get(disk).copied().flatten().filter(|kept| kept.identity == identity);
            self.set_kept(disk, kept.as_ref().map(|kept| &kept.but));
            self.set_standing(disk, if lost { Standing::Lost } else { Standing::Whole });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Record>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record: on disk first, then for every transaction that begins after this. `change` says whether it
    /// changed anything. Blocks.
    fn change(&self, change: impl FnOnce(&mut Record) -> bool) -> Result<(), String> {
        let mut record = self.lock();
        let mut new = record.clone().ok_or_else(|| "the cluster is not formed yet".to_owned())?;
        if change(&mut new) {
            new.counter += 1;
            new.save(&self.roots)?;
            self.roster.set(new.members.clone());
            *record = Some(new);
        }
        Ok(())
    }

    /// Writes the first record: the cluster is formed from now on. Blocks.
    fn found(&self, members: Vec<Disks>, slots: &Slots) -> Result<(), String> {
        let mut record = self.lock();
        if record.is_some() {
            return Ok(());
        }
        let topology = self.roster.topology();
        let mut new = Record {
            counter: 1,
            node: topology.name(topology.me()).to_owned(),
            charter: self.charter.clone(),
            members,
            recovering: vec![false; self.standings.len()],
            kept: vec![None; self.standings.len()],
        };
        self.judge(&new);
        for disk in self.disks(Standing::Lost) {
            new.recovering[disk] = true;
        }
        new.save(&self.roots)?;
        // Until it is formed nothing votes; then only what may.
        self.confirmed.store(true, Ordering::Release);
        for slot in self.mine().filter(|slot| !self.may_vote(*slot, slots)) {
            slots.set_recovering(slot, true);
        }
        self.roster.set(new.members.clone());
        *record = Some(new);
        Ok(())
    }

    /// Of this node, for others.
    fn introduction(&self, slots: &Slots) -> Introduction {
        let members = self.roster.is_formed().then(|| Vec::clone(&self.roster.disks()));
        let mut not_voting = Box::<SlotSet>::default();
        self.mine().filter(|slot| !slots.votes(*slot)).for_each(|slot| not_voting.insert(slot));
        Introduction { charter: self.charter.clone(), disks: self.identities(), members, not_voting }
    }
}

/// Whether a record is one of this node and this config.
fn check(record: &Record, charter: &Charter, name: &str, roots: &[PathBuf]) -> Result<(), String> {
    let root = roots.first().map(|root| root.display().to_string()).unwrap_or_default();
    if let Some(difference) =
        charter.difference(&record.charter, "in the config", "when the cluster was formed")
    {
        return Err(format!(
            "{root}: {difference}: what a cluster was formed with cannot change: set the config back, or name other disks"
        ));
    }
    if record.node != name {
        return Err(format!(
            "{root}: belongs to node '{}', but current_node is '{name}': name the disks of this node",
            record.node
        ));
    }
    if record.recovering.len() != roots.len() {
        return Err(format!(
            "{root}: this node had {} disks when the cluster was formed, but {} are given: name all of them, and no others",
            record.recovering.len(),
            roots.len()
        ));
    }
    Ok(())
}

/// An old disk that was put back beside another one of its node has signed things that must not count again. An empty one
/// has not.
fn renew(record: &Record, topology: &Topology, disks: &[Disk]) -> Result<(), String> {
    let mine = record.members.get(topology.me().index()).into_iter().flatten();
    for ((disk, known), kept) in disks.iter().zip(mine).zip(&record.kept) {
        let describe = |error: std::io::Error| format!("{}: {error}", disk.root().display());
        let identity = Identity::from(disk.id());
        // One that has just got it signs nothing before all know it.
        let is_new = kept.is_some_and(|kept| kept.identity == identity);
        if known.identity != identity && !is_new && disk.has_slots().map_err(describe)? {
            disk.renew()?;
        }
    }
    Ok(())
}

/// Refuses disks with data that no cluster knows of.
fn check_new(disks: &[Disk]) -> Result<(), String> {
    for disk in disks {
        let root = disk.root().display();
        if disk.has_slots().map_err(|error| format!("{root}: {error}"))? {
            return Err(format!(
                "{root}: holds the data of a node that ran alone, which a cluster cannot take over: name an empty directory, \
                 and copy the blobs over HTTP"
            ));
        }
    }
    Ok(())
}

fn charter_of(topology: &Topology) -> Charter {
    Charter {
        cluster: topology.cluster().to_owned(),
        nodes: topology.nodes().map(|node| topology.name(node).to_owned()).collect(),
        replicas: topology.replica_count() as u32,
        write_quorum: topology.write_quorum() as u32,
        slots: u32::from(crate::limits::SLOTS),
    }
}

/// The same, without blocking the core.
async fn change(
    cluster: &Arc<Cluster>,
    change: impl FnOnce(&mut Record) -> bool + Send + 'static,
) -> Result<(), Error> {
    let cluster = Arc::clone(cluster);
    let write = move || Ok(cluster.membership.change(change));
    let written = on_storage_thread(write).await.unwrap_or_else(|error| Err(error.to_string()));
    written.map_err(|error| {
        tracing::error!(%error, "the members of the cluster cannot be recorded");
        Error::new(Code::SlotUnavailable, error)
    })
}

/// Takes over what another node knows of replaced disks, on disk before anything rests on it; what this node's own disks
/// are it knows better.
///
/// # Errors
/// When it cannot be written.
pub(super) async fn learn(cluster: &Arc<Cluster>, slot: Slot, members: &[Member]) -> Result<(), Error> {
    let me = cluster.topology().me();
    let disks = cluster.roster.disks();
    let number_of = |node: NodeId| disks.get(node.index()).map(|theirs| slot.disk(theirs.len()));
    let news = members.iter().filter_map(|member| Some((number_of(member.node)?, *member)));
    let news = news.filter(|(disk, member)| {
        member.node != me && disks[member.node.index()][*disk].generation < member.generation
    });
    record(cluster, news.collect()).await
}

/// Records newer disks.
async fn record(cluster: &Arc<Cluster>, news: Vec<(usize, Member)>) -> Result<(), Error> {
    if news.is_empty() {
        return Ok(());
    }
    change(cluster, move |record| {
        let mut changed = false;
        for (disk, member) in news {
            let known = record.members.get_mut(member.node.index()).and_then(|disks| disks.get_mut(disk));
            if let Some(known) = known.filter(|known| known.generation < member.generation) {
                *known = member;
                changed = true;
            }
        }
        changed
    })
    .await
}

/// Answers another node's question about the cluster.
pub(super) async fn answer(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    from: NodeId,
    question: Question,
) -> Answer {
    let answered = match question {
        Question::Hello => Ok(Answer::Introduction(cluster.membership.introduction(&core.node.slots))),
        Question::Admit { disk, member } => admit(cluster, from, disk as usize, member).await,
        Question::Archived { slot, member, after } => {
            handover::hand_over_archived(core, cluster, from, slot, member, after).await
        }
        Question::Rows { slot, member, after } => {
            handover::hand_over(core, cluster, from, slot, member, after).await
        }
    };
    answered.unwrap_or_else(|error| Answer::No(error.message.into_owned()))
}

/// Records that a disk of another node is another one now.
async fn admit(cluster: &Arc<Cluster>, from: NodeId, disk: usize, member: Member) -> Result<Answer, Error> {
    let known = || cluster.roster.disks().get(from.index())?.get(disk).copied();
    if member.node != from || known().is_none() {
        return Ok(Answer::No("this node knows no such disk of yours, or is not formed yet".to_owned()));
    }
    record(cluster, vec![(disk, member)]).await?;
    Ok(match known() {
        Some(known) if known == member => Answer::Admitted,
        Some(known) => Answer::No(format!("this node knows generation {} of the disk", known.generation)),
        None => Answer::No("this node knows no such disk".to_owned()),
    })
}

#[cfg(test)]
mod tests;
