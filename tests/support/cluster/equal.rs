//! Whether the replicas of all slots are equal: the same versions, the same tombstones, and every chunk with its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::formation::Cluster;
use super::node::Node;
use super::replicas;
use super::support::poll;

/// What replicas must agree on of a version, as text, by path and version.
type Rows = BTreeMap<(String, u64), String>;

/// The versions on one disk.
fn rows(disk: &Path, into: &mut Rows) -> rusqlite::Result<()> {
    let slots = std::fs::read_dir(disk.join("slots")).into_iter().flatten().map_while(Result::ok);
    for file in slots.map(|slot| slot.path().join("meta.sqlite3")).filter(|file| file.is_file()) {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(file, flags)?;
        db.busy_timeout(Duration::from_secs(5))?;
        let mut all = db.prepare(
            "SELECT path, version, blob_id, ballot, size, hex(content), created_at, headers,
               ifnull(tombstoned_at, 'live'), tombstoned_at IS NULL AND hollow FROM blobs",
        )?;
        let mut found = all.query([])?;
        while let Some(row) = found.next()? {
            let text = (2..10).map(|column| row.get_ref(column).map(|value| format!("{value:?}")));
            let text: Vec<String> = text.collect::<rusqlite::Result<_>>()?;
            into.insert((row.get(0)?, row.get(1)?), text.join(" "));
        }
    }
    Ok(())
}

fn of_node(disks: &[PathBuf]) -> Result<Rows, String> {
    let mut all = Rows::new();
    disks.iter().try_for_each(|disk| rows(disk, &mut all)).map_err(|error| error.to_string())?;
    Ok(all)
}

/// What differs between these nodes of a cluster in which every node has every slot; nothing when they are equal.
pub fn difference(nodes: &[Node]) -> Option<String> {
    let all: Result<Vec<Rows>, String> = nodes.iter().map(|node| of_node(&node.disks)).collect();
    let all = match all {
        Ok(all) => all,
        Err(error) => return Some(error),
    };
    for (node, rows) in all.iter().enumerate() {
        for (key, row) in rows {
            // One that lacks its chunks says so at its end.
            if !row.ends_with("Integer(0)") {
                return Some(format!("{key:?} lacks its chunks on {}", nodes[node].name));
            }
            if let Some((other, _)) = all.iter().enumerate().find(|(_, other)| other.get(key) != Some(row)) {
                let theirs = all[other].get(key);
                return Some(format!(
                    "{key:?}: {row} on node {}, {theirs:?} on node {}",
                    node + 1,
                    other + 1
                ));
            }
        }
    }
    None
}

/// Waits until all nodes have the same, and looks at every byte of it then. How many versions there are.
#[track_caller]
pub fn wait_equal(cluster: &Cluster, within: Duration) -> usize {
    let mut last = None;
    let equal = poll(within, || {
        last = difference(&cluster.nodes);
        last.is_none().then_some(())
    });
    assert!(equal.is_some(), "not equal after {within:?}: {}", last.unwrap_or_default());
    let rows = of_node(&cluster.nodes[0].disks).expect("the versions of the first node");
    let paths: BTreeSet<String> = rows.keys().map(|(path, _)| path.clone()).collect();
    let copies = replicas::copies(&cluster.disks(), &paths, true).expect("all copies");
    for (key, copies) in copies {
        assert_eq!(copies.len(), cluster.len(), "{key:?}: {copies:?}");
        assert!(copies.iter().all(|copy| copy.lacks.is_none()), "{key:?}: {copies:?}");
    }
    rows.len()
}

/// A number that a node counts.
#[track_caller]
pub fn metric(cluster: &Cluster, node: usize, name: &str) -> u64 {
    let page = cluster.nodes[node].admin_page("/metrics");
    let (_, text) = page.unwrap_or_else(|error| panic!("/metrics of node {}: {error}", node + 1));
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}
