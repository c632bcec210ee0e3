//! What every disk of a node in a cluster has written down: what the cluster is made of, the disks of all nodes, and which of
//! this node's own have lost their memory. `<disk>/cluster.json`, the same on all disks.
//!
//! Every change has a number; of several files the one with the highest is right, since one that is not on all disks was
//! never acted upon. A file is written whole beside the old one, synced, and renamed. One that cannot be read is an error:
//! a node that does not know what it promised must not vote.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::base::slot_set::SlotSet;
use crate::base::topology::NodeId;
use crate::io::steps;
use crate::wire::peer::cluster::{Charter, Disks};
use crate::wire::peer::{Identity, Member};

/// Its name on a disk.
pub const FILE: &str = "cluster.json";
const NEW_FILE: &str = "cluster.json.tmp";
const FORMAT: u32 = 1;

/// What a node knows of its cluster, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Number of the last change.
    pub counter: u64,
    /// This node's name.
    pub node: String,
    /// What the cluster is made of.
    pub charter: Charter,
    /// The disks of all nodes, in the order of the nodes.
    pub members: Vec<Disks>,
    /// This node's disks that have lost their memory and do not have it back yet, by number.
    pub recovering: Vec<bool>,
    /// Of those, what they have not lost, by number; none: nothing.
    pub kept: Vec<Option<Kept>>,
}

/// A disk that has lost the databases of some of its slots, and has what it ever had of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The identity it got for that. One that has another has lost more.
    pub identity: Identity,
    /// What it has lost.
    pub but: SlotSet,
}

/// The file's form.
#[derive(Serialize, Deserialize)]
struct Form {
    format: u32,
    counter: u64,
    node: String,
    charter: Charter,
    nodes: Vec<NodeForm>,
    /// Numbers of disks.
    recovering: Vec<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kept: Vec<KeptForm>,
}

#[derive(Serialize, Deserialize)]
struct KeptForm {
    disk: usize,
    identity: Ulid,
    /// Slots.
    but: SlotSet,
}

#[derive(Serialize, Deserialize)]
struct NodeForm {
    name: String,
    disks: Vec<DiskForm>,
}

#[derive(Serialize, Deserialize)]
struct DiskForm {
    generation: u32,
    identity: Ulid,
}

impl Record {
    fn to_form(&self) -> Form {
        let disk = |member: &Member| DiskForm {
            generation: member.generation,
            identity: Ulid::from(member.identity),
        };
        let node = |(name, disks): (&String, &Disks)| NodeForm {
            name: name.clone(),
            disks: disks.iter().map(disk).collect(),
        };
        let recovering = self.recovering.iter().enumerate().filter(|(_, lost)| **lost);
        let kept = self.kept.iter().enumerate().filter_map(|(disk, kept)| Some((disk, (*kept)?)));
        let kept =
            kept.map(|(disk, Kept { identity, but })| KeptForm { disk, identity: identity.into(), but });
        Form {
            format: FORMAT,
            counter: self.counter,
            node: self.node.clone(),
            charter: self.charter.clone(),
            nodes: self.charter.nodes.iter().zip(&self.members).map(node).collect(),
            recovering: recovering.map(|(number, _)| number).collect(),
            kept: kept.collect(),
        }
    }

    /// From the file's form; an error says what contradicts what.
    fn from_form(form: Form) -> Result<Self, String> {
        let names: Vec<&String> = form.nodes.iter().map(|node| &node.name).collect();
        if names != form.charter.nodes.iter().collect::<Vec<_>>() {
            return Err("its nodes are not those of its charter".to_owned());
        }
        let Some(me) = form.nodes.iter().find(|node| node.name == form.node) else {
            return Err(format!("its node '{}' is not among its nodes", form.node));
        };
        let recovering: Vec<bool> =
            (0..me.disks.len()).map(|number| form.recovering.contains(&number)).collect();
        let kept_of = |(number, recovering): (usize, &bool)| {
            let kept = form.kept.iter().find(|kept| kept.disk == number && *recovering)?;
            Some(Kept { identity: kept.identity.into(), but: kept.but })
        };
        let kept = recovering.iter().enumerate().map(kept_of).collect();
        let members = (0..).map(NodeId).zip(&form.nodes).map(|(node, known)| {
            let member = |disk: &DiskForm| Member {
                node,
                generation: disk.generation,
                identity: disk.identity.into(),
            };
            known.disks.iter().map(member).collect()
        });
        let members = members.collect();
        Ok(Self { counter: form.counter, node: form.node, charter: form.charter, members, recovering, kept })
    }

    /// Writes it on all disks.
    ///
    /// # Errors
    /// Which disk, and those of the file steps. It may be on some disks then.
    pub fn save(&self, roots: &[PathBuf]) -> Result<(), String> {
        roots.iter().try_for_each(|root| {
            write(root, self)
                .map_err(|error| format!("{} cannot be written: {error}", root.join(FILE).display()))
        })
    }
}

/// What the disks of a node say, the newest of it; none: nothing. A disk that lacks it gets it.
///
/// # Errors
/// One line: which file, what is wrong with it, and what to do.
pub fn load(roots: &[PathBuf]) -> Result<Option<Record>, String> {
    let found = roots.iter().map(|root| read(root)).collect::<Result<Vec<_>, _>>()?;
    let Some(newest) = found.iter().flatten().max_by_key(|record| record.counter).cloned() else {
        return Ok(None);
    };
    for (root, record) in roots.iter().zip(&found) {
        if let Some(record) = record
            && (record.node != newest.node || record.charter.cluster != newest.charter.cluster)
        {
            return Err(format!(
                "{}: belongs to node '{}' of cluster '{}', another disk to node '{}' of cluster '{}': name the disks of one node",
                root.display(),
                record.node,
                record.charter.cluster,
                newest.node,
                newest.charter.cluster
            ));
        }
        if record.as_ref() != Some(&newest) {
            newest.save(std::slice::from_ref(root))?;
        }
    }
    Ok(Some(newest))
}

/// Refuses the disks of a node of a cluster to one that runs alone.
///
/// # Errors
/// One line.
pub fn check_alone(roots: &[PathBuf]) -> Result<(), String> {
    match load(roots)? {
        None => Ok(()),
        Some(record) => Err(format!(
            "{} holds the data of node '{}' of cluster '{}': give the config its [cluster] section, or name other disks",
            roots.first().map_or(Path::new(""), PathBuf::as_path).display(),
            record.node,
            record.charter.cluster
        )),
    }
}

fn read(root: &Path) -> Result<Option<Record>, String> {
    let path = root.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    let damaged = |what: String| {
        format!(
            "{} is damaged: {what}: copy it from another disk of this node, or empty the disk, so that it recovers",
            path.display()
        )
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64);
    if let Some(format) = format.filter(|format| *format != u64::from(FORMAT)) {
        return Err(format!(
            "{}: written by another release (format {format}, this one reads {FORMAT})",
            path.display()
        ));
    }
    let form: Form = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
    Record::from_form(form).map(Some).map_err(damaged)
}

fn write(root: &Path, record: &Record) -> io::Result<()> {
    let mut file = File::create(root.join(NEW_FILE))?;
    file.write_all(serde_json::to_string_pretty(&record.to_form())?.as_bytes())?;
    file.sync_all()?;
    fs::rename(root.join(NEW_FILE), root.join(FILE))?;
    steps::sync_dir(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(counter: u64) -> Record {
        let member =
            |node, generation| Member { node: NodeId(node), generation, identity: Ulid::generate().into() };
        Record {
            counter,
            node: "b".to_owned(),
            charter: Charter {
                cluster: "c".to_owned(),
                nodes: vec!["a".to_owned(), "b".to_owned()],
                replicas: 2,
                write_quorum: 2,
                slots: 2048,
            },
            members: vec![vec![member(0, 0)], vec![member(1, 3), member(1, 0)]],
            recovering: vec![false, true],
            kept: vec![None, Some(Kept { identity: 7, but: "3,5-9".parse().unwrap() })],
        }
    }

    fn roots(count: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let roots: Vec<PathBuf> = (0..count).map(|number| dir.path().join(number.to_string())).collect();
        for root in &roots {
            fs::create_dir(root).unwrap();
        }
        (dir, roots)
    }

    #[test]
    fn a_record_is_read_back_as_written() {
        let (_dir, roots) = roots(2);
        assert_eq!(load(&roots).unwrap(), None);
        check_alone(&roots).unwrap();
        let record = record(7);
        record.save(&roots).unwrap();
        assert_eq!(load(&roots).unwrap(), Some(record));
        assert!(check_alone(&roots).unwrap_err().contains("of node 'b' of cluster 'c'"));
    }

    #[test]
    fn the_newest_record_is_right_and_a_disk_without_it_gets_it() {
        let (_dir, roots) = roots(3);
        let (old, new) = (record(7), Record { counter: 8, ..record(8) });
        old.save(&roots[..1]).unwrap();
        new.save(&roots[1..2]).unwrap();
        assert_eq!(load(&roots).unwrap(), Some(new.clone()));
        for root in &roots {
            assert_eq!(load(std::slice::from_ref(root)).unwrap(), Some(new.clone()));
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let (_dir, roots) = roots(2);
        record(1).save(&roots).unwrap();
        let good = fs::read_to_string(roots[0].join(FILE)).unwrap();
        for (bad, part) in [
            (good[..good.len() / 2].to_owned(), "is damaged"),
            (good.replace("\"format\": 1", "\"format\": 9"), "another release (format 9"),
            (good.replace("\"node\": \"b\"", "\"node\": \"x\""), "'x' is not among its nodes"),
            (good.replace("\"name\": \"a\"", "\"name\": \"z\""), "not those of its charter"),
        ] {
            fs::write(roots[1].join(FILE), bad).unwrap();
            let error = load(&roots).unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
        Record { node: "a".to_owned(), recovering: vec![false], kept: vec![None], ..record(2) }
            .save(&roots[1..])
            .unwrap();
        assert!(load(&roots).unwrap_err().contains("belongs to node"));
    }
}
