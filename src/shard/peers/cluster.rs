//! What all cores of a node share of its cluster.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use super::membership::Membership;
use super::sync::{self, Syncing};
use super::uploads::Uploads;
use crate::base::error::{Code, Error};
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::base::slot_set::SlotSet;
use crate::base::topology::{NodeId, Topology};
use crate::chunk::disk::Disk;
use crate::chunk::sweep::LiveUploads;
use crate::meta::slots::Slots;
use crate::registry::directory::Directory;
use crate::replication::machine::{Group, NodeSet, Time};
use crate::replication::roster::Roster;
use crate::tls::Connector;

/// A node's part in its cluster.
pub struct Cluster {
    /// The replicas of all slots.
    pub roster: Arc<Roster>,
    /// Whether reads that this node cannot answer itself are redirected instead of forwarded.
    pub redirect: bool,
    /// What is on disk of it.
    pub(super) membership: Membership,
    /// Where the nodes are.
    pub directory: Arc<Directory>,
    /// How they are reached, if not in plain.
    pub(super) tls: Option<Connector>,
    /// Nodes that do not answer, by node.
    suspect: Vec<AtomicBool>,
    /// How often a node that had not answered did again.
    returns: AtomicU64,
    /// Slots for which others said that they do not vote, by node.
    not_voting: RwLock<Vec<SlotSet>>,
    /// Uploads whose data is here and which wait for their votes.
    pub(super) uploads: Uploads,
    /// Blobs that this node coordinates.
    pub(super) coordinating: LiveUploads,
    /// How its replicas compare with those of other nodes.
    pub syncing: Syncing,
    /// Why the node is not ready; empty when it is.
    trouble: Mutex<String>,
    start: Instant,
}

impl Cluster {
    /// Of a node with these disks, by what is on them.
    ///
    /// # Errors
    /// One line: what on the disks contradicts the config, and what to do.
    pub fn open(
        directory: Arc<Directory>,
        tls: Option<Connector>,
        redirect: bool,
        disks: &[Disk],
        sync: sync::Settings,
    ) -> Result<Self, String> {
        let membership = Membership::open(directory.topology(), disks)?;
        let roster = Arc::clone(membership.roster());
        let syncing = Syncing::new(roster.topology(), sync);
        let suspect = roster.topology().nodes().map(|_| AtomicBool::new(false)).collect();
        let not_voting = RwLock::new(roster.topology().nodes().map(|_| SlotSet::default()).collect());
        Ok(Self {
            roster,
            membership,
            redirect,
            directory,
            tls,
            suspect,
            returns: AtomicU64::new(0),
            not_voting,
            uploads: Uploads::default(),
            coordinating: LiveUploads::default(),
            syncing,
            trouble: Mutex::new("no other node has been asked since the start".to_owned()),
            start: Instant::now(),
        })
    }

    /// Keeps every slot from voting that cannot answer for what it promised. To be done before anything is served.
    pub fn mark(&self, slots: &Slots) {
        self.membership.mark(slots);
    }

    /// The nodes.
    pub fn topology(&self) -> &Topology {
        self.roster.topology()
    }

    /// This node's name.
    pub(super) fn name(&self) -> &str {
        self.topology().name(self.topology().me())
    }

    /// Whether a node answers, as far as is known.
    pub fn is_reachable(&self, node: NodeId) -> bool {
        node == self.topology().me() || !self.suspect[node.index()].load(Ordering::Relaxed)
    }

    /// Notes whether a node answers.
    pub(in crate::shard) fn set_reachable(&self, node: NodeId, reachable: bool) {
        let was_suspect = self.suspect[node.index()].swap(!reachable, Ordering::Relaxed);
        if was_suspect == reachable {
            let name = self.topology().name(node);
            if reachable {
                // As loud as the bad news was.
                tracing::warn!(node = name, "the node answers again");
                self.syncing.look_at_all(node);
                self.returns.fetch_add(1, Ordering::Relaxed);
            } else {
                tracing::warn!(node = name, "the node does not answer");
            }
        }
    }

    /// How often a node that had not answered did again: what it missed is worth another try then.
    pub fn returns(&self) -> u64 {
        self.returns.load(Ordering::Relaxed)
    }

    /// Notes for which slots a node says that it does not vote.
    pub(super) fn set_not_voting(&self, node: NodeId, slots: SlotSet) {
        self.not_voting.write().unwrap_or_else(PoisonError::into_inner)[node.index()] = slots;
    }

    /// Which of a slot's replicas to ask: without those that do not answer, if a quorum remains.
    pub(in crate::shard) fn worth_asking(&self, slot: Slot, group: &Group) -> NodeSet {
        if !self.has_quorum(slot) {
            return group.all();
        }
        group.nodes().filter(|node| self.is_reachable(*node)).collect()
    }

    /// Whether a write quorum of a slot's replicas answers and votes, as far as is known.
    pub(in crate::shard) fn has_quorum(&self, slot: Slot) -> bool {
        let (topology, not_voting) = (self.topology(), self.not_voting());
        let votes = |node: &&NodeId| self.is_reachable(**node) && !not_voting[node.index()].contains(slot);
        topology.replicas(slot).iter().filter(votes).count() >= topology.write_quorum()
    }

    fn not_voting(&self) -> RwLockReadGuard<'_, Vec<SlotSet>> {
        self.not_voting.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an operator is told of the cluster; empty when nothing is wrong.
    pub fn troubles(&self) -> Vec<String> {
        let topology = self.topology();
        let mut troubles: Vec<String> =
            Some(self.trouble()).filter(|trouble| !trouble.is_empty()).into_iter().collect();
        let lost = Slot::all().filter(|slot| !self.has_quorum(*slot));
        let lost = lost.count();
        if lost > 0 {
            let not_voting = self.not_voting();
            let why = |node: NodeId| match (self.is_reachable(node), not_voting[node.index()].is_empty()) {
                (false, _) => Some(format!("{} does not answer", topology.name(node))),
                (true, false) => Some(format!("{} does not vote for all slots", topology.name(node))),
                (true, true) => None,
            };
            let whys: Vec<String> = topology.nodes().filter_map(why).collect();
            troubles.push(format!("no quorum for {lost} slots: {}", whys.join(", ")));
        }
        troubles
    }

    /// What a coordinator on this node goes by.
    ///
    /// # Errors
    /// `QuorumUnavailable` while the cluster is not formed.
    pub(in crate::shard) fn group(&self, slot: Slot) -> Result<Group, Error> {
        let group = self.roster.group(slot);
        if group.members.is_empty() {
            let message = Some(self.trouble()).filter(|trouble| !trouble.is_empty());
            let message = message.unwrap_or_else(|| "the cluster is not formed yet: try again".to_owned());
            return Err(Error::new(Code::QuorumUnavailable, message));
        }
        Ok(group)
    }

    /// The other replicas of a slot, those that answer first.
    pub(in crate::shard) fn others(&self, slot: Slot) -> Vec<NodeId> {
        let me = self.topology().me();
        let others = self.topology().replicas(slot).iter().copied().filter(|node| *node != me);
        let (mut good, bad): (Vec<_>, Vec<_>) = others.partition(|node| self.is_reachable(*node));
        good.extend(bad);
        good
    }

    /// Notes that this node begins to coordinate a blob, or does not any more.
    pub(in crate::shard) fn coordinate(&self, blob: BlobId, does: bool) {
        if does {
            self.coordinating.insert(blob);
        } else {
            self.coordinating.remove(blob);
        }
    }

    /// Forgets the data of a blob that has its outcome.
    pub(in crate::shard) fn forget_upload(&self, blob: BlobId) {
        self.uploads.remove(blob);
    }

    /// Why the node is not ready; empty when it is.
    pub fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_trouble(&self, trouble: impl Into<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble.into();
    }

    /// Time as coordinators know it.
    pub(super) fn now(&self) -> Time {
        self.start.elapsed().as_millis() as Time
    }
}
