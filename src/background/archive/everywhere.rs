//! Orders in a cluster: every replica of a path does its own part, and the report is about all of them.
//!
//! One alone goes first, and stores what the others then find stored. A prefix concerns all nodes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::report::Running;
use super::{Archiver, Order};
use crate::base::error::{Code, Error, Result};
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::{ARCHIVE_FAILED_SHOWN, ARCHIVE_READ_TIME, ARCHIVE_RETRY_PAUSE};
use crate::shard::peers::cluster::Cluster;
use crate::wire::peer::archive;

/// What a node reports.
type Part = (NodeId, Result<Value>);

impl Order {
    /// The path that it is about; none: it is about many.
    fn path(&self) -> Option<&str> {
        match self {
            Self::Archive { path, .. } | Self::Restore { path, .. } => Some(path),
            Self::RestorePrefix { .. } | Self::Check => None,
        }
    }

    /// About one version, where it was about the newest.
    fn with_version(self, number: Option<u64>) -> Self {
        match self {
            Self::Archive { path, version: None } => Self::Archive { path, version: number },
            Self::Restore { path, version: None } => Self::Restore { path, version: number },
            other => other,
        }
    }
}

impl Order {
    /// As other nodes are told; none: it concerns this one alone.
    fn told(self) -> Option<archive::Order> {
        Some(match self {
            Self::Archive { path, version } => archive::Order::Archive { path, version },
            Self::Restore { path, version } => archive::Order::Restore { path, version },
            Self::RestorePrefix { prefix } => archive::Order::RestorePrefix { prefix },
            Self::Check => return None,
        })
    }
}

impl From<archive::Order> for Order {
    fn from(order: archive::Order) -> Self {
        match order {
            archive::Order::Archive { path, version } => Self::Archive { path, version },
            archive::Order::Restore { path, version } => Self::Restore { path, version },
            archive::Order::RestorePrefix { prefix } => Self::RestorePrefix { prefix },
        }
    }
}

impl Archiver {
    /// Has all nodes that an order concerns carry it out.
    ///
    /// # Errors
    /// `BlobNotFound` when none of them has such a version.
    pub(super) async fn order_all(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        mut order: Order,
        running: &Arc<Running>,
    ) -> Result<Value> {
        let (topology, begun) = (cluster.topology(), Instant::now());
        let mut nodes: Vec<NodeId> = match order.path() {
            Some(path) => topology.replicas(Slot::of(path)).to_vec(),
            None => topology.nodes().collect(),
        };
        nodes.sort_by_key(|node| (*node != topology.me(), !cluster.is_reachable(*node)));
        let (mut parts, mut others, mut is_there) = (Vec::<Part>::new(), Vec::new(), false);
        for node in nodes {
            if is_there {
                others.push(node);
                continue;
            }
            let part = self.part(cluster, node, order.clone(), running).await;
            if let Ok(report) = &part {
                is_there = true;
                // The newest version is that of the first one: the others may have another one by then.
                order = order.with_version(report["version"].as_u64());
                others.extend(parts.extract_if(.., |part| is_missing(part)).map(|(node, _)| node));
            }
            parts.push((node, part));
        }
        let mut doing = JoinSet::new();
        for node in others {
            let (archiver, cluster, running) = (Rc::clone(self), Arc::clone(cluster), Arc::clone(running));
            let order = order.clone();
            doing.spawn_local(
                async move { (node, archiver.part_in_time(&cluster, node, order, &running).await) },
            );
        }
        while let Some(part) = doing.join_next().await {
            parts.push(part.map_err(|error| Error::new(Code::Internal, error.to_string()))?);
        }
        parts.sort_by_key(|(node, _)| *node);
        sum_up(&parts, |node| topology.name(node), begun.elapsed().as_secs_f64())
    }

    /// What a node does of an order about a version that another one has: it may be on its way there, and is waited for.
    async fn part_in_time(
        self: &Rc<Self>,
        cluster: &Cluster,
        node: NodeId,
        order: Order,
        running: &Running,
    ) -> Result<Value> {
        let until = Instant::now() + ARCHIVE_READ_TIME;
        loop {
            let part = self.part(cluster, node, order.clone(), running).await;
            match part {
                Err(error) if error.code == Code::BlobNotFound && Instant::now() < until => {
                    sleep(ARCHIVE_RETRY_PAUSE).await;
                }
                part => return part,
            }
        }
    }

    async fn part(
        self: &Rc<Self>,
        cluster: &Cluster,
        node: NodeId,
        order: Order,
        running: &Running,
    ) -> Result<Value> {
        match order.clone().told() {
            Some(told) if node != cluster.topology().me() => self.desk.order_at(node, told).await,
            _ => {
                self.carry_out(order, running).await?;
                Ok(running.describe())
            }
        }
    }
}

fn is_missing(part: &Part) -> bool {
    matches!(&part.1, Err(error) if error.code == Code::BlobNotFound)
}

/// One report of all.
fn sum_up<'a>(parts: &[Part], name: impl Fn(NodeId) -> &'a str, seconds: f64) -> Result<Value> {
    if let Some((_, Err(error))) = parts.first()
        && parts.iter().all(is_missing)
    {
        return Err(error.clone());
    }
    let mut nodes = Vec::new();
    let (mut failed, mut more, mut why) = (Vec::new(), 0, None);
    let [mut chunks, mut bytes, mut kept, mut already, mut versions] = [0; 5];
    let version = parts.iter().filter_map(|(_, part)| part.as_ref().ok()?["version"].as_u64()).max();
    for (node, part) in parts {
        let name = name(*node);
        let report = match part {
            Ok(report) => report,
            Err(error) => {
                why.get_or_insert_with(|| format!("node '{name}': {}", error.message));
                nodes.push(json!({ "node": name, "good": false, "why": error.message }));
                continue;
            }
        };
        let number = |key: &str| report[key].as_u64().unwrap_or(0);
        chunks += number("chunks");
        bytes += number("bytes");
        already += number("already");
        kept = kept.max(number("kept"));
        versions = versions.max(number("versions"));
        more += number("more_failed");
        for one in report["failed"].as_array().into_iter().flatten() {
            if failed.len() < ARCHIVE_FAILED_SHOWN {
                let mut one = one.clone();
                one["node"] = json!(name);
                failed.push(one);
            } else {
                more += 1;
            }
        }
        if let Some(told) = report["why"].as_str() {
            why.get_or_insert_with(|| format!("node '{name}': {told}"));
        }
        let mut told = json!({
            "node": name,
            "good": report["good"],
            "chunks": number("chunks"),
            "bytes": number("bytes"),
            "kept": number("kept"),
            "already": number("already"),
        });
        if let Some(why) = report.get("why") {
            told["why"] = why.clone();
        }
        nodes.push(told);
    }
    let mut report = json!({
        "good": why.is_none(),
        "versions": versions,
        "version": version,
        "chunks": chunks,
        "bytes": bytes,
        "kept": kept,
        "already": already,
        "failed": failed,
        "seconds": seconds,
        "nodes": nodes,
    });
    if more > 0 {
        report["more_failed"] = json!(more);
    }
    if let Some(why) = why {
        report["why"] = json!(why);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(node: NodeId) -> &'static str {
        ["a", "b", "c"][node.index()]
    }

    fn good() -> Value {
        json!({
            "good": true, "versions": 1, "version": 7, "chunks": 2, "bytes": 10, "kept": 1, "already": 3, "failed": [],
        })
    }

    #[test]
    fn reports_of_nodes_are_one() {
        let parts = [(NodeId(0), Ok(good())), (NodeId(1), Ok(good()))];
        let report = sum_up(&parts, name, 1.5).unwrap();
        assert_eq!(
            (&report["good"], &report["chunks"], &report["bytes"]),
            (&json!(true), &json!(4), &json!(20))
        );
        assert_eq!((&report["kept"], &report["versions"]), (&json!(1), &json!(1)), "they are the same ones");
        assert_eq!((&report["version"], &report["nodes"][1]["node"]), (&json!(7), &json!("b")));
        assert!(report.get("why").is_none());
    }

    #[test]
    fn a_node_that_did_not_do_its_part_is_named() {
        let lost = Error::new(Code::SlotUnavailable, "it does not answer");
        let mut bad = good();
        bad["good"] = json!(false);
        bad["why"] = json!("no");
        bad["failed"] = json!([{ "path": "p", "version": 1, "chunk": 0, "why": "no" }]);
        let report = sum_up(&[(NodeId(0), Ok(bad)), (NodeId(2), Err(lost))], name, 0.0).unwrap();
        assert_eq!((&report["good"], &report["why"]), (&json!(false), &json!("node 'a': no")));
        assert_eq!(report["failed"][0]["node"], "a");
        assert_eq!(report["nodes"][1], json!({ "node": "c", "good": false, "why": "it does not answer" }));
    }

    #[test]
    fn what_no_node_has_is_not_there() {
        let missing = || Err(Error::new(Code::BlobNotFound, "there is no blob 'p'"));
        let parts = [(NodeId(0), missing()), (NodeId(1), missing())];
        assert_eq!(sum_up(&parts, name, 0.0).unwrap_err().code, Code::BlobNotFound);
        let parts = [(NodeId(0), Ok(good())), (NodeId(1), missing())];
        assert_eq!(sum_up(&parts, name, 0.0).unwrap()["good"], false);
    }
}
