//! What nodes tell each other through the registry, as JSON: a node's announcement, and the charter of the cluster.
//!
//! The charter is written once, by whoever comes first, and says what may never differ between nodes. An announcement
//! says where a node is, what is on its disks and how its slots are. Fields that a reader does not know are skipped; a
//! record that cannot be read counts as none.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::base::slot::Slot;
use crate::base::slot_set::SlotSet;
use crate::base::topology::Topology;
use crate::limits::{ANNOUNCEMENT_MAX, DISKS_MAX, NODE_NAME_MAX, NODES_MAX, PROTOCOL, SLOTS};

/// Of the records.
const FORMAT: u32 = 1;

/// Where a node is; what is not known is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// For clients.
    pub public: Option<SocketAddr>,
    /// For other nodes.
    pub peer: Option<SocketAddr>,
    /// For operators.
    pub admin: Option<SocketAddr>,
}

/// A node's announcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// Its name.
    pub node: String,
    /// Its cluster.
    pub cluster: String,
    /// Names this run of it.
    pub run: String,
    /// Counts the announcements of this run.
    pub beat: u64,
    /// When it was announced, by the node's own clock, RFC 3339.
    pub time: String,
    /// Where it is.
    #[serde(flatten)]
    pub addresses: Addresses,
    /// Its release.
    pub release: String,
    /// Version of the protocol that it speaks with its peers.
    pub protocol: u32,
    /// Of its charter.
    pub fingerprint: String,
    /// Its disks, by number.
    pub disks: Vec<DiskRecord>,
    /// How it is.
    pub health: Health,
}

/// A disk, and the slots whose replicas are on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Its identity.
    pub id: String,
    /// The slots.
    pub slots: SlotSet,
}

/// How a node and its replicas are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether it answers requests.
    pub serving: bool,
    /// Replicas that are neither of the following.
    pub healthy: usize,
    /// Slots that do not count yet.
    pub recovering: SlotSet,
    /// Slots out of service.
    pub failed: SlotSet,
}

/// How a replica of a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It counts.
    Healthy,
    /// It is there and does not count yet.
    Recovering,
    /// It is out of service.
    Failed,
    /// Its node is not there.
    Unreachable,
    /// Nobody has said.
    Unknown,
}

impl ReplicaState {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Recovering => "recovering",
            Self::Failed => "failed",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }
}

impl Health {
    /// From the state of each slot this node has a replica of.
    pub fn of(serving: bool, slots: impl Iterator<Item = (Slot, ReplicaState)>) -> Self {
        let mut health = Self { serving, ..Self::default() };
        for (slot, state) in slots {
            match state {
                ReplicaState::Healthy => health.healthy += 1,
                ReplicaState::Failed => health.failed.insert(slot),
                _ => health.recovering.insert(slot),
            }
        }
        health
    }

    /// How the replica of a slot is.
    pub fn state(&self, slot: Slot) -> ReplicaState {
        match (self.failed.contains(slot), self.recovering.contains(slot)) {
            (true, _) => ReplicaState::Failed,
            (_, true) => ReplicaState::Recovering,
            _ => ReplicaState::Healthy,
        }
    }
}

/// What a node says of itself in every announcement of a run.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Names this run.
    pub run: String,
    /// Where others find it.
    pub addresses: Addresses,
    /// Identities of its disks, by number.
    pub disks: Vec<String>,
}

impl Record {
    /// The first announcement of a run.
    pub fn new(topology: &Topology, identity: &Identity) -> Self {
        let count = identity.disks.len();
        let on =
            |disk: usize| Slot::all().filter(move |slot| topology.is_mine(*slot) && slot.disk(count) == disk);
        let disk =
            |(number, id): (usize, &String)| DiskRecord { id: id.clone(), slots: on(number).collect() };
        Self {
            format: FORMAT,
            node: topology.name(topology.me()).to_owned(),
            cluster: topology.cluster().to_owned(),
            run: identity.run.clone(),
            beat: 0,
            time: String::new(),
            addresses: identity.addresses,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            fingerprint: Charter::of(topology).fingerprint(),
            disks: identity.disks.iter().enumerate().map(disk).collect(),
            health: Health::default(),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// One line.
    pub fn read(text: &str) -> Result<Self, String> {
        let record: Self = read(text)?;
        if record.format != FORMAT {
            return Err(format!("format {}, this release reads {FORMAT}", record.format));
        }
        let names = [&record.node, &record.cluster, &record.run];
        if record.disks.len() > DISKS_MAX || names.iter().any(|name| name.len() > NODE_NAME_MAX) {
            return Err("more than a node has to say".to_owned());
        }
        Ok(record)
    }

    /// As JSON.
    pub fn write(&self) -> String {
        // Nothing in it can fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The number of the disk that the node has a slot on.
    pub fn disk(&self, slot: Slot) -> Option<usize> {
        self.disks.iter().position(|disk| disk.slots.contains(slot))
    }

    /// Whether both come from the same disks, and so from one node after another: a disk is locked by its node.
    pub fn same_disks(&self, other: &Self) -> bool {
        let ids = |record: &Self| record.disks.iter().map(|disk| disk.id.clone()).collect::<Vec<_>>();
        ids(self) == ids(other)
    }
}

/// What may never differ between the nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charter {
    format: u32,
    cluster: String,
    nodes: Vec<String>,
    replicas: usize,
    write_quorum: usize,
    slots: u16,
}

impl Charter {
    /// As the config has it.
    pub fn of(topology: &Topology) -> Self {
        Self {
            format: FORMAT,
            cluster: topology.cluster().to_owned(),
            nodes: topology.nodes().map(|id| topology.name(id).to_owned()).collect(),
            replicas: topology.replica_count(),
            write_quorum: topology.write_quorum(),
            slots: SLOTS,
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// One line.
    pub fn read(text: &str) -> Result<Self, String> {
        let charter: Self = read(text)?;
        if charter.nodes.len() > NODES_MAX {
            return Err("more nodes than there can be".to_owned());
        }
        Ok(charter)
    }

    /// As JSON, the same on every node.
    pub fn write(&self) -> String {
        // Nothing in it can fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A short name for it.
    pub fn fingerprint(&self) -> String {
        format!("{:016x}", xxh3_64(self.write().as_bytes()))
    }

    /// What `recorded` says otherwise.
    pub fn difference(&self, recorded: &Self) -> Option<String> {
        let mut parts = Vec::new();
        if self.nodes != recorded.nodes {
            parts.push(format!(
                "its nodes are {}, the config names {}",
                recorded.nodes.join(", "),
                self.nodes.join(", ")
            ));
        }
        for (what, recorded, mine) in [
            ("replicas", recorded.replicas, self.replicas),
            ("write_quorum", recorded.write_quorum, self.write_quorum),
            ("slots", recorded.slots.into(), self.slots.into()),
            ("record format", recorded.format as usize, self.format as usize),
        ] {
            if recorded != mine {
                parts.push(format!("its {what} is {recorded}, here it is {mine}"));
            }
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    if text.len() > ANNOUNCEMENT_MAX {
        return Err(format!("more than {ANNOUNCEMENT_MAX} bytes"));
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(names: &[&str], replicas: usize) -> Topology {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Topology::new("c", names, "a", replicas, replicas / 2 + 1).unwrap()
    }

    fn identity(disks: usize) -> Identity {
        let addresses = Addresses { public: Some(([127, 0, 0, 1], 80).into()), ..Addresses::default() };
        let disks = (0..disks).map(|disk| format!("01ARZ3NDEKTSV4RRFFQ69G5F{disk:02}")).collect();
        Identity { run: "run".to_owned(), addresses, disks }
    }

    #[test]
    fn an_announcement_is_read_back_and_places_every_replica_on_one_disk() {
        let topology = topology(&["a", "b", "c", "d"], 3);
        for disks in [1, 3, 16] {
            let mut record = Record::new(&topology, &identity(disks));
            let state = |slot: Slot| match slot.index() % 3 {
                0 => ReplicaState::Recovering,
                1 => ReplicaState::Failed,
                _ => ReplicaState::Healthy,
            };
            let mine = Slot::all().filter(|slot| topology.is_mine(*slot));
            record.health = Health::of(true, mine.map(|slot| (slot, state(slot))));
            let text = record.write();
            assert!(text.len() < ANNOUNCEMENT_MAX / 2, "{} bytes", text.len());
            let back = Record::read(&text).unwrap();
            assert_eq!(back, record);
            for slot in Slot::all() {
                assert_eq!(back.disk(slot), topology.is_mine(slot).then(|| slot.disk(disks)));
                if topology.is_mine(slot) {
                    assert_eq!(back.health.state(slot), state(slot));
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let record = Record::new(&topology(&["a", "b"], 2), &identity(1)).write();
        assert!(
            Record::read(&record.replacen("\"format\":1", "\"format\":9", 1))
                .unwrap_err()
                .contains("format 9")
        );
        assert!(Record::read(&record.replace("0-2047", "0-2048")).unwrap_err().contains("no set of slots"));
        assert!(Record::read("").is_err() && Record::read("rubbish").is_err());
        assert!(Record::read(&" ".repeat(ANNOUNCEMENT_MAX + 1)).unwrap_err().contains("bytes"));
        let newer = record.replacen('{', "{\"colour\":\"amber\",", 1);
        assert!(Record::read(&newer).is_ok(), "a newer release may say more");
    }

    #[test]
    fn charters_differ_in_what_counts() {
        let mine = Charter::of(&topology(&["a", "b", "c"], 3));
        assert_eq!(Charter::read(&mine.write()).map(|same| mine.difference(&same)), Ok(None));
        let others = Charter::of(&topology(&["a", "b", "d"], 2));
        let difference = mine.difference(&others).unwrap();
        for part in ["its nodes are a, b, d, the config names a, b, c", "replicas is 2, here it is 3"] {
            assert!(difference.contains(part), "{difference}");
        }
        assert_ne!(mine.fingerprint(), others.fingerprint());
    }
}
