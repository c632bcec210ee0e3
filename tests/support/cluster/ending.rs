//! After the last fault: everything is settled, every node shows the same, and all of it can be read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::client::Client;
use super::formation::Cluster;
use super::history::{Ask, Op};
use super::problem::Listed;
use super::support::{Connection, Request, encode_path, object, poll};

/// All nodes show the same within this.
const AGREE_DEADLINE: Duration = Duration::from_secs(30);
/// What is listed may change between so many reads of everything, however long they take.
const ROUNDS: u32 = 3;
/// An answer in a cluster without faults.
const PATIENCE: Duration = Duration::from_secs(15);

/// All versions of a path as one node lists them, newest first; or why it does not.
pub fn list(link: &mut Connection, path: &str) -> Result<Vec<Listed>, String> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let target = format!("{}?versions&limit=500{cursor}", object(path));
        let answer = link.exchange(&Request::new("GET", &target)).map_err(|error| error.to_string())?;
        if answer.status == 404 && rows.is_empty() {
            return Ok(rows);
        }
        if answer.status != 200 {
            return Err(format!("GET {target}: {answer:?}"));
        }
        let page = answer.json();
        for row in page["versions"].as_array().ok_or("no list of versions")? {
            let number = |key: &str| row[key].as_u64().ok_or_else(|| format!("no {key} in {row}"));
            rows.push(Listed {
                version: number("version")?,
                blob_id: row["blob_id"].as_str().ok_or("no blob_id")?.to_owned(),
                size: number("size")?,
                tombstoned: row["tombstoned_at"].is_string(),
            });
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encode_path(next)),
            None => return Ok(rows),
        }
    }
}

/// What every node lists of each path, once all list the same.
#[track_caller]
fn agreed(cluster: &Cluster, paths: &[String]) -> BTreeMap<String, Vec<Listed>> {
    let mut found = BTreeMap::new();
    for path in paths {
        let mut last = Vec::new();
        let agreed = poll(AGREE_DEADLINE, || {
            last = (0..cluster.len())
                .map(|node| {
                    let link = Connection::try_open(cluster.nodes[node].public);
                    link.map_err(|error| error.to_string()).and_then(|mut link| list(&mut link, path))
                })
                .collect();
            last[0].as_ref().ok().filter(|_| last.iter().all(|rows| *rows == last[0])).cloned()
        });
        let Some(rows) = agreed else { panic!("{path}: the nodes do not agree: {}", differences(&last)) };
        assert!(rows.is_sorted_by(|a, b| a.version > b.version), "{path}: not newest first: {rows:?}");
        found.insert(path.clone(), rows);
    }
    found
}

fn differences(lists: &[Result<Vec<Listed>, String>]) -> String {
    let shown = lists.iter().enumerate().map(|(node, rows)| match rows {
        Err(error) => format!("\n  node {}: {error}", node + 1),
        Ok(rows) => {
            let others = |row: &&Listed| {
                lists.iter().any(|other| other.as_ref().is_ok_and(|other| !other.contains(row)))
            };
            format!(
                "\n  node {}: {} rows, alone: {:?}",
                node + 1,
                rows.len(),
                rows.iter().filter(others).collect::<Vec<_>>()
            )
        }
    });
    shown.collect()
}

/// What all nodes list in the end, and what is read back then: more of the history, and what is wrong with single answers.
///
/// A write whose client went away is in doubt in memory and in journals only, where `wait_settled` does not see it, and may take
/// effect between the listing and the reads. So it is listed again, until nothing changes any more.
#[track_caller]
pub fn settled(
    cluster: &Cluster,
    paths: &[String],
    began: Instant,
    within: Duration,
) -> (BTreeMap<String, Vec<Listed>>, Vec<Op>, Vec<String>) {
    let (mut history, mut findings) = (Vec::new(), Vec::new());
    let (mut listed, ending) = (agreed(cluster, paths), Instant::now());
    for round in 1.. {
        let (more, wrong) = read_back(cluster, &listed, began);
        history.extend(more);
        findings.extend(wrong);
        let before = std::mem::replace(&mut listed, agreed(cluster, paths));
        if before == listed {
            break;
        }
        let slow = round < ROUNDS || ending.elapsed() < within;
        assert!(slow, "what the nodes list still changes after {within:?}");
    }
    (listed, history, findings)
}

/// Reads the newest and every listed version through every node, as more of the history; what is wrong with single answers.
fn read_back(
    cluster: &Cluster,
    listed: &BTreeMap<String, Vec<Listed>>,
    began: Instant,
) -> (Vec<Op>, Vec<String>) {
    let readers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cluster.len())
            .map(|node| {
                let mut client = Client::new(1000 + node, &cluster.publics(), began, PATIENCE);
                scope.spawn(move || {
                    for (path, rows) in listed {
                        let versions = rows.iter().map(|row| Some(row.version));
                        for version in std::iter::once(None).chain(versions) {
                            if client.perform(node, path, Ask::Get { version, head: false }).is_none() {
                                let last = client.journal.last().map_or_else(String::new, Op::to_string);
                                let what = format!("{path} through node {}: no answer, no faults", node + 1);
                                client.findings.push(format!("{what}:\n  {last}"));
                            }
                        }
                    }
                    client
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a reader")).collect()
    });
    let (mut history, mut findings) = (Vec::new(), Vec::new());
    for reader in readers {
        history.extend(reader.journal);
        findings.extend(reader.findings);
    }
    (history, findings)
}
