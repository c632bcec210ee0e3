//! What nodes say about themselves and their disks: forming a cluster, replacing a disk, handing rows over.

use serde::{Deserialize, Serialize};

use super::archive::ArchiveRow;
use super::{Held, Identity, Member};
use crate::base::slot_set::SlotSet;

/// What a cluster is made of, recorded on every disk when it is formed; a node whose config says otherwise is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charter {
    /// Name of the cluster.
    pub cluster: String,
    /// Names of all nodes in byte order.
    pub nodes: Vec<String>,
    /// Replicas of a slot.
    pub replicas: u32,
    /// Replicas that a write must reach.
    pub write_quorum: u32,
    /// Slots.
    pub slots: u32,
}

impl Charter {
    /// The first thing in which another one differs, in one line that begins with who `mine` and `theirs` are of.
    pub fn difference(&self, theirs: &Self, of_mine: &str, of_theirs: &str) -> Option<String> {
        let told = |key: &str, mine: String, theirs: String| {
            (mine != theirs).then(|| format!("{key} is {mine} {of_mine}, but {theirs} {of_theirs}"))
        };
        told("cluster.name", format!("'{}'", self.cluster), format!("'{}'", theirs.cluster))
            .or_else(|| told("cluster.nodes", self.nodes.join(", "), theirs.nodes.join(", ")))
            .or_else(|| told("cluster.replicas", self.replicas.to_string(), theirs.replicas.to_string()))
            .or_else(|| {
                told("cluster.write_quorum", self.write_quorum.to_string(), theirs.write_quorum.to_string())
            })
            .or_else(|| told("the number of slots", self.slots.to_string(), theirs.slots.to_string()))
    }
}

/// The disks of a node by number.
pub type Disks = Vec<Member>;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// What it takes the cluster for.
    pub charter: Charter,
    /// Identities of its own disks, by number.
    pub disks: Vec<Identity>,
    /// The disks of all nodes, in the order of the nodes, once the cluster is formed.
    pub members: Option<Vec<Disks>>,
    /// Slots for which it does not vote now: they recover, or are out of service.
    pub not_voting: Box<SlotSet>,
}

/// What a node asks another about the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Who it is, and what it knows.
    Hello,
    /// To record durably that a disk of the asker is another one now.
    Admit {
        /// Number of the disk.
        disk: u32,
        /// What it is now.
        member: Member,
    },
    /// To hand over the versions it has of a slot, from row number `after` on.
    Rows {
        /// The slot.
        slot: u16,
        /// What the asker's disk of that slot is now: it must have been recorded before anything is handed over.
        member: Member,
        /// The last row number that was seen.
        after: i64,
    },
    /// To hand over where the archive has chunks of a slot's versions, from row number `after` on.
    Archived {
        /// The slot.
        slot: u16,
        /// What the asker's disk of that slot is now.
        member: Member,
        /// The last row number that was seen.
        after: i64,
    },
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To `Hello`.
    Introduction(Introduction),
    /// To `Admit`: recorded.
    Admitted,
    /// To `Rows`.
    Rows {
        /// Whose disk they are on: they are taken over only while that is the node's disk, and only from one disk to the end.
        identity: Identity,
        /// Versions.
        held: Vec<Held>,
        /// Where to go on; none: that was all.
        next: Option<i64>,
        /// Whether it has all it ever knew; what one that has lost its memory has is true, but proves nothing.
        whole: bool,
    },
    /// To `Archived`.
    Archived {
        /// Whose disk they are on.
        identity: Identity,
        /// Rows of live versions, with their paths.
        rows: Vec<(String, ArchiveRow)>,
        /// Where to go on; none: that was all.
        next: Option<i64>,
        /// Whether it has all it ever knew.
        whole: bool,
    },
    /// Not now: the reason.
    No(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named_in_one_line() {
        let charter = Charter {
            cluster: "c".to_owned(),
            nodes: vec!["a".to_owned(), "b".to_owned()],
            replicas: 2,
            write_quorum: 2,
            slots: 2048,
        };
        assert_eq!(charter.difference(&charter, "here", "there"), None);
        let mut other = charter.clone();
        other.write_quorum = 1;
        assert_eq!(
            charter.difference(&other, "here", "there").unwrap(),
            "cluster.write_quorum is 2 here, but 1 there"
        );
        other.nodes.push("c".to_owned());
        assert_eq!(
            charter.difference(&other, "here", "there").unwrap(),
            "cluster.nodes is a, b here, but a, b, c there"
        );
    }
}
