//! The nodes of a state: one alone, or a cluster of three.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::node::Node;
use super::cluster::{Cluster, Shape};
use super::device::Disk;
use super::support::Server;
use super::support::program::metric;

/// Nodes are ready again within this after a power cut.
const READY: Duration = Duration::from_secs(45);

/// What is done to a command before it is started.
pub type Prepare = Arc<dyn Fn(&mut Command) + Send + Sync>;

/// What runs on the disks.
#[derive(Clone)]
pub struct Kind {
    pub nodes: usize,
    /// Of each node.
    pub disks: usize,
    /// Of a cluster.
    pub write_quorum: usize,
    /// More lines for `[storage]`.
    pub storage: &'static str,
    /// What is done to the command of a single node.
    pub prepare: Option<Prepare>,
}

impl Kind {
    pub fn one() -> Self {
        Self { nodes: 1, disks: 1, write_quorum: 1, storage: "", prepare: None }
    }

    pub fn three() -> Self {
        Self { nodes: 3, disks: 1, write_quorum: 2, storage: "", prepare: None }
    }

    pub fn storage(mut self, storage: &'static str) -> Self {
        self.storage = storage;
        self
    }

    /// As it should be, whatever was planted into the nodes that were recorded.
    pub fn honest(&self) -> Self {
        Self { prepare: None, ..self.clone() }
    }
}

pub enum Nodes {
    One(Box<Server>),
    Three(Box<Cluster>, Vec<SocketAddr>),
}

impl Nodes {
    /// Starts them on their disks, all but one where that is lost; panics unless they get ready.
    pub fn start(kind: &Kind, disks: &[Disk], lost: Option<usize>) -> Self {
        let storage = format!("cache = \"32MiB\"\n{}", kind.storage);
        let data = |disk: &Disk| disk.path().join("data");
        if kind.nodes == 1 {
            let mut builder = Server::builder().cores(1);
            for disk in disks {
                builder = builder.data_dir(data(disk));
            }
            builder = builder.config(&format!("[storage]\n{storage}"));
            if let Some(prepare) = kind.prepare.clone() {
                builder = builder.prepared(move |command| prepare(command));
            }
            return Self::One(Box::new(builder.start()));
        }
        let mut shape = Shape::of(kind.nodes);
        shape.storage = storage;
        shape.write_quorum = kind.write_quorum;
        let disks: Vec<Vec<PathBuf>> =
            disks.chunks(kind.disks).map(|disks| disks.iter().map(data).collect()).collect();
        let mut cluster = Cluster::prepare_on(shape, Some(&disks));
        let there: Vec<usize> = (0..kind.nodes).filter(|index| Some(*index) != lost).collect();
        there.iter().for_each(|index| cluster.nodes[*index].spawn());
        cluster.wait_ready_of(&there, READY);
        let publics = there.iter().map(|index| cluster.nodes[*index].public).collect();
        Self::Three(Box::new(cluster), publics)
    }

    pub fn publics(&self) -> Vec<SocketAddr> {
        match self {
            Self::One(server) => vec![server.public()],
            Self::Three(_, publics) => publics.clone(),
        }
    }

    /// Deleted versions that have lost their chunks, counted on every node.
    pub fn dropped(&self) -> u64 {
        let pages = match self {
            Self::One(server) => vec![server.admin_get("/metrics").expect_status(200).text()],
            Self::Three(cluster, _) => {
                let page = |node: &Node| node.admin_page("/metrics").expect("a page").1;
                cluster.nodes.iter().map(page).collect()
            }
        };
        pages.iter().map(|page| metric(page, "amberblob_versions_dropped_total")).sum()
    }

    /// SIGKILL to all.
    pub fn kill(&mut self) {
        match self {
            Self::One(server) => server.kill9(),
            Self::Three(cluster, _) => cluster.nodes.iter_mut().for_each(|node| node.kill()),
        }
    }
}
