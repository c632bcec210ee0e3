//! Who holds what: the fixed list of nodes, and which of them are the replicas of a slot.
//!
//! The list and the two numbers are recorded when a cluster is formed and never change, so every node computes the same
//! table. Addresses are no part of it: a node may move.

use super::slot::Slot;
use xxhash_rust::xxh3::xxh3_64;

/// A node, by its place in the list of names in byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct NodeId(pub u8);

impl NodeId {
    /// As an index into a table of all nodes.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The nodes of a cluster and its quorums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    cluster: String,
    /// In byte order.
    names: Vec<String>,
    me: NodeId,
    replicas: usize,
    write_quorum: usize,
    /// By slot, the most preferred first.
    table: Vec<Vec<NodeId>>,
}

impl Topology {
    /// A cluster of at most [`NODES_MAX`](crate::limits::NODES_MAX) nodes with different names, of which `me` is one.
    ///
    /// # Errors
    /// One line: what contradicts what.
    pub fn new(
        cluster: &str,
        mut names: Vec<String>,
        me: &str,
        replicas: usize,
        write_quorum: usize,
    ) -> Result<Self, String> {
        names.sort_unstable();
        if names.is_empty() {
            return Err("cluster.nodes is empty".to_owned());
        }
        if let Some((twice, _)) = names.iter().zip(&names[1..]).find(|(one, other)| one == other) {
            return Err(format!("cluster.nodes names '{twice}' twice"));
        }
        if names.len() > crate::limits::NODES_MAX {
            return Err(format!(
                "cluster.nodes has {} nodes, more than the {} there can be",
                names.len(),
                crate::limits::NODES_MAX
            ));
        }
        let Some(me) = names.iter().position(|name| name == me) else {
            return Err(format!(
                "current_node is '{me}', which is not among cluster.nodes ({})",
                names.join(", ")
            ));
        };
        if replicas == 0 || replicas > names.len() {
            return Err(format!("cluster.replicas is {replicas}, but there are {} nodes", names.len()));
        }
        if write_quorum == 0 || write_quorum > replicas {
            return Err(format!("cluster.write_quorum is {write_quorum}, but there are {replicas} replicas"));
        }
        let table = Slot::all().map(|slot| rank(slot, &names, replicas)).collect();
        Ok(Self { cluster: cluster.to_owned(), me: NodeId(me as u8), names, replicas, write_quorum, table })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.names.len() as u8).map(NodeId)
    }

    /// All nodes but this one.
    pub fn others(&self) -> impl Iterator<Item = NodeId> + use<> {
        let me = self.me;
        self.nodes().filter(move |node| *node != me)
    }

    /// A node's name.
    pub fn name(&self, node: NodeId) -> &str {
        self.names.get(node.index()).map_or("", String::as_str)
    }

    /// The node of a name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.names.iter().position(|known| known == name).map(|index| NodeId(index as u8))
    }

    /// Replicas of every slot.
    pub fn replica_count(&self) -> usize {
        self.replicas
    }

    /// Replicas that a write must reach.
    pub fn write_quorum(&self) -> usize {
        self.write_quorum
    }

    /// The replicas of a slot, the most preferred first.
    pub fn replicas(&self, slot: Slot) -> &[NodeId] {
        &self.table[slot.index()]
    }

    /// Whether this node is a replica of a slot.
    pub fn is_mine(&self, slot: Slot) -> bool {
        self.replicas(slot).contains(&self.me)
    }
}

/// The nodes with the highest hashes of (slot, name) (rendezvous hashing, Thaler and Ravishankar 1998).
fn rank(slot: Slot, names: &[String], replicas: usize) -> Vec<NodeId> {
    let weight = |node: &NodeId| {
        let number = (slot.index() as u16).to_le_bytes();
        xxh3_64(&[&number[..], names[node.index()].as_bytes()].concat())
    };
    let mut nodes: Vec<NodeId> = (0..names.len() as u8).map(NodeId).collect();
    nodes.sort_by_cached_key(|node| std::cmp::Reverse(weight(node)));
    nodes.truncate(replicas);
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("node-{number}")).collect()
    }

    #[test]
    fn every_slot_has_its_replicas_and_every_node_a_fair_share() {
        let topology = Topology::new("c", names(5), "node-2", 3, 2).unwrap();
        let mut shares = [0; 5];
        for slot in Slot::all() {
            let mut replicas = topology.replicas(slot).to_vec();
            for node in &replicas {
                shares[node.index()] += 1;
            }
            replicas.sort_unstable();
            replicas.dedup();
            assert_eq!(replicas.len(), 3);
        }
        assert!(shares.iter().all(|share| (1100..1360).contains(share)), "{shares:?}");
        let reversed = Topology::new("c", names(5).into_iter().rev().collect(), "node-2", 3, 2).unwrap();
        assert_eq!(topology, reversed, "the order in the config does not matter");
    }

    #[test]
    fn contradictions_are_named() {
        for (names, me, replicas, quorum, part) in [
            (names(3), "node-7", 3, 2, "not among cluster.nodes"),
            (vec!["a".into(), "a".into()], "a", 1, 1, "twice"),
            (names(2), "node-0", 3, 2, "there are 2 nodes"),
            (names(3), "node-0", 3, 4, "there are 3 replicas"),
            (names(40), "node-0", 3, 2, "more than"),
        ] {
            let error = Topology::new("c", names, me, replicas, quorum).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
