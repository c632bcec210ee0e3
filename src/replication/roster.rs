//! The disks of all nodes as this node has them recorded: which replicas a slot has, and under which identities they vote.
//!
//! What is here is on disk; whoever changes it writes it there first. A change is seen by every transaction that begins
//! after it, so a replica that has recorded a new identity counts no vote of the old one from then on.

use std::sync::{Arc, PoisonError, RwLock};

use super::machine::Group;
use super::participant::Context;
use crate::base::slot::Slot;
use crate::base::topology::{NodeId, Topology};
use crate::wire::peer::cluster::Disks;
use crate::wire::peer::{Member, Members};

/// The replicas of all slots.
#[derive(Debug)]
pub struct Roster {
    topology: Topology,
    /// By node; empty while the cluster is not formed.
    disks: RwLock<Arc<Vec<Disks>>>,
}

impl Roster {
    /// That of a cluster, with what is on disk.
    pub fn new(topology: Topology, disks: Vec<Disks>) -> Self {
        Self { topology, disks: RwLock::new(Arc::new(disks)) }
    }

    /// The cluster.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The disks of all nodes; none while the cluster is not formed.
    pub fn disks(&self) -> Arc<Vec<Disks>> {
        Arc::clone(&self.disks.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the cluster is formed.
    pub fn is_formed(&self) -> bool {
        !self.disks().is_empty()
    }

    /// What is on disk now.
    pub fn set(&self, disks: Vec<Disks>) {
        *self.disks.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(disks);
    }

    /// The replicas of a slot, in the order of their nodes; empty while the cluster is not formed.
    pub fn members(&self, slot: Slot) -> Members {
        let disks = self.disks();
        let member = |node: &NodeId| {
            let theirs = disks.get(node.index())?;
            theirs.get(slot.disk(theirs.len())).copied()
        };
        let mut members: Members = self.topology.replicas(slot).iter().filter_map(member).collect();
        members.sort_unstable();
        members
    }

    /// What the replica of a slot on this node goes by.
    pub fn context(&self, slot: Slot, recovering: bool) -> Context {
        Context {
            me: self.topology.me(),
            members: self.members(slot),
            write_quorum: self.topology.write_quorum(),
            recovering: recovering || !self.is_formed(),
        }
    }

    /// What a coordinator on this node goes by.
    pub fn group(&self, slot: Slot) -> Group {
        Group {
            me: self.topology.me(),
            members: self.members(slot),
            write_quorum: self.topology.write_quorum(),
        }
    }

    /// All disks with one of them replaced by a newer one; none if that is no news.
    pub fn with(&self, number: usize, member: Member) -> Option<Vec<Disks>> {
        let mut disks = Vec::clone(&self.disks());
        let known = disks.get_mut(member.node.index())?.get_mut(number)?;
        if member.generation <= known.generation {
            return None;
        }
        *known = member;
        Some(disks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster() -> Roster {
        let names = (0..4).map(|number| format!("n{number}")).collect();
        let topology = Topology::new("c", names, "n1", 3, 2).unwrap();
        let disk = |node: u8, disk: u128| Member {
            node: NodeId(node),
            generation: 0,
            identity: u128::from(node) * 10 + disk,
        };
        Roster::new(topology, (0..4).map(|node| vec![disk(node, 0), disk(node, 1)]).collect())
    }

    #[test]
    fn a_slot_has_one_disk_of_each_of_its_replicas() {
        let roster = roster();
        for slot in Slot::all() {
            let members = roster.members(slot);
            assert_eq!(members.len(), 3);
            for member in members {
                assert_eq!(member.identity, u128::from(member.node.0) * 10 + slot.disk(2) as u128);
            }
        }
    }

    #[test]
    fn only_a_newer_disk_replaces_one() {
        let roster = roster();
        let member = |generation| Member { node: NodeId(2), generation, identity: 99 };
        assert_eq!(roster.with(1, member(0)), None);
        roster.set(roster.with(1, member(1)).unwrap());
        assert_eq!(roster.with(1, member(1)), None);
        assert_eq!(roster.disks()[2][1].identity, 99);
    }
}
