//! What all cores of a node share of its cluster.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use super::uploads::Uploads;
use crate::base::error::{Code, Error};
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::base::topology::{NodeId, Topology};
use crate::chunk::sweep::LiveUploads;
use crate::replication::machine::{Group, NodeSet, Time};
use crate::replication::roster::Roster;
use crate::wire::peer::Identity;
use crate::wire::peer::cluster::{Charter, Disks};

/// Where a node is reached; what is not known yet is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// By clients.
    pub public: Option<SocketAddr>,
    /// By other nodes.
    pub peer: Option<SocketAddr>,
}

/// A node's part in its cluster.
pub struct Cluster {
    /// The replicas of all slots.
    pub roster: Arc<Roster>,
    /// What the cluster is made of.
    pub charter: Charter,
    /// Whether reads that this node cannot answer itself are redirected instead of forwarded.
    pub redirect: bool,
    /// Identities of this node's disks, by number.
    pub disks: Vec<Identity>,
    /// By node.
    addresses: RwLock<Vec<Addresses>>,
    /// Nodes that do not answer, by node.
    suspect: Vec<AtomicBool>,
    /// Uploads whose data is here and which wait for their votes.
    pub(super) uploads: Uploads,
    /// Blobs that this node coordinates.
    pub(super) coordinating: LiveUploads,
    /// Held while the list of members is changed on disk.
    pub(super) recording: Mutex<()>,
    /// Why the node is not ready; empty when it is.
    trouble: Mutex<String>,
    start: Instant,
}

impl Cluster {
    /// Of a node with these disks; addresses are by node.
    pub fn new(roster: Arc<Roster>, addresses: Vec<Addresses>, redirect: bool, disks: Vec<Identity>) -> Self {
        let charter = charter(roster.topology());
        let suspect = roster.topology().nodes().map(|_| AtomicBool::new(false)).collect();
        Self {
            roster,
            charter,
            redirect,
            disks,
            addresses: RwLock::new(addresses),
            suspect,
            uploads: Uploads::default(),
            coordinating: LiveUploads::default(),
            recording: Mutex::default(),
            trouble: Mutex::default(),
            start: Instant::now(),
        }
    }

    /// The nodes.
    pub fn topology(&self) -> &Topology {
        self.roster.topology()
    }

    /// This node's name.
    pub(super) fn name(&self) -> &str {
        self.topology().name(self.topology().me())
    }

    /// Where a node is reached.
    pub fn addresses(&self, node: NodeId) -> Addresses {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        addresses.get(node.index()).copied().unwrap_or_default()
    }

    /// Notes where a node is reached; what is none here stays as it was.
    pub fn set_addresses(&self, node: NodeId, new: Addresses) {
        let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = addresses.get_mut(node.index()) {
            *known = Addresses { public: new.public.or(known.public), peer: new.peer.or(known.peer) };
        }
    }

    /// Whether a node answers, as far as is known.
    pub fn is_reachable(&self, node: NodeId) -> bool {
        node == self.topology().me() || !self.suspect[node.index()].load(Ordering::Relaxed)
    }

    /// Notes whether a node answers.
    pub(super) fn set_reachable(&self, node: NodeId, reachable: bool) {
        let was_suspect = self.suspect[node.index()].swap(!reachable, Ordering::Relaxed);
        if was_suspect == reachable {
            let name = self.topology().name(node);
            if reachable {
                tracing::info!(node = name, "the node answers again");
            } else {
                tracing::warn!(node = name, "the node does not answer");
            }
        }
    }

    /// Which of a slot's replicas to ask: without those that do not answer, if a quorum remains.
    pub(in crate::shard) fn worth_asking(&self, group: &Group) -> NodeSet {
        let reachable: NodeSet = group.nodes().filter(|node| self.is_reachable(*node)).collect();
        if reachable.len() >= group.write_quorum { reachable } else { group.all() }
    }

    /// What a coordinator on this node goes by.
    ///
    /// # Errors
    /// `QuorumUnavailable` while the cluster is not formed.
    pub(in crate::shard) fn group(&self, slot: Slot) -> Result<Group, Error> {
        let group = self.roster.group(slot);
        if group.members.is_empty() {
            let message = format!("the cluster is not formed yet: {}", self.trouble());
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

    /// The members on disk and from now on.
    pub(super) fn install(&self, members: Vec<Disks>) {
        self.roster.set(members);
    }
}

fn charter(topology: &Topology) -> Charter {
    Charter {
        cluster: topology.cluster().to_owned(),
        nodes: topology.nodes().map(|node| topology.name(node).to_owned()).collect(),
        replicas: topology.replica_count() as u32,
        write_quorum: topology.write_quorum() as u32,
        slots: u32::from(crate::limits::SLOTS),
    }
}
