//! What nodes say about themselves and their disks: forming a cluster, replacing a disk, handing rows over.

use serde::{Deserialize, Serialize};

use super::{Attempt, Held, Identity, Member, Proposal};

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
    /// To hand over what it knows of a slot, from row number `after` on.
    Rows {
        /// The slot.
        slot: u16,
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
        /// Versions.
        held: Vec<Held>,
        /// Tries it voted yes for; with the last page.
        prepared: Vec<Proposal>,
        /// Tries it refused; with the last page.
        refused: Vec<Attempt>,
        /// Where to go on; none: that was all.
        next: Option<i64>,
    },
    /// Not now: the reason.
    No(String),
}
