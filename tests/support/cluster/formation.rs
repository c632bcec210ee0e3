//! Several nodes that form a cluster, a proxy on every directed link between them.
//!
//! Node `i` reaches node `j` through the proxy `i -> j`: its own configuration names that as the address of `j`. With a registry
//! it names no other address at all: nodes find each other by what they announce, and go past the proxies. A cluster, its
//! processes, its registry and its directory go with its handle.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::links::Links;
use super::node::{Node, STOP_DEADLINE};
use super::ports;
use super::store::{Kind, Store};
use super::support::{Connection, Request, Response, poll};

/// Every node is ready within this after the last fault.
pub const READY_DEADLINE: Duration = Duration::from_secs(60);

/// What a cluster is to be.
#[derive(Debug, Clone)]
pub struct Shape {
    pub nodes: usize,
    pub replicas: usize,
    pub write_quorum: usize,
    /// Of each node.
    pub disks: usize,
    /// Where nodes find each other; none: in their configuration.
    pub registry: Option<Kind>,
    /// More lines for `[storage]`.
    pub storage: String,
    /// More sections.
    pub sections: String,
}

impl Shape {
    /// So many nodes; three replicas and a quorum of two of them where there are that many nodes.
    pub fn of(nodes: usize) -> Self {
        let replicas = nodes.min(3);
        Self {
            nodes,
            replicas,
            write_quorum: replicas / 2 + 1,
            disks: 1,
            registry: None,
            storage: "cache = \"64MiB\"".to_owned(),
            sections: String::new(),
        }
    }
}

pub struct Cluster {
    pub shape: Shape,
    pub nodes: Vec<Node>,
    pub registry: Option<Store>,
    links: Links,
    home: TempDir,
}

impl Cluster {
    /// Starts all nodes and waits until they are ready.
    #[track_caller]
    pub fn start(shape: Shape) -> Self {
        let mut cluster = Self::prepare(shape);
        cluster.spawn_all();
        cluster.wait_ready(READY_DEADLINE);
        cluster
    }

    /// Configured, and not started.
    pub fn prepare(shape: Shape) -> Self {
        Self::prepare_on(shape, None)
    }

    /// As [`Self::prepare`], the nodes on these disks instead of ones of their own.
    pub fn prepare_on(shape: Shape, disks: Option<&[Vec<PathBuf>]>) -> Self {
        let home =
            tempfile::Builder::new().prefix("amberblob-cluster-").tempdir().expect("a temporary directory");
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut nodes: Vec<Node> = (0..shape.nodes)
            .map(|index| {
                let name = format!("node-{}", index + 1);
                let addrs = [ports::free(), ports::free(), ports::free()];
                let mut node =
                    Node::new(name.clone(), home.path().join(name), shape.disks, addrs, index % cpus);
                if let Some(disks) = disks {
                    node.disks.clone_from(&disks[index]);
                }
                node
            })
            .collect();
        let links = Links::between(&nodes.iter().map(|node| node.peer).collect::<Vec<_>>());
        let registry = shape.registry.map(Store::start);
        for index in 0..nodes.len() {
            nodes[index].config = config(&shape, &nodes, index, &links, registry.as_ref());
        }
        Self { shape, nodes, registry, links, home }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn links(&self) -> &Links {
        &self.links
    }

    pub fn publics(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.public).collect()
    }

    /// The disks of each node.
    pub fn disks(&self) -> Vec<Vec<PathBuf>> {
        self.nodes.iter().map(|node| node.disks.clone()).collect()
    }

    pub fn spawn_all(&mut self) {
        self.nodes.iter_mut().filter(|node| !node.is_running()).for_each(Node::spawn);
    }

    /// Ends every fault: links pass, stopped nodes go on, dead ones start again, as does the registry, which is the only one waited
    /// for.
    pub fn heal(&mut self) {
        self.links.heal();
        self.registry.iter_mut().for_each(Store::heal);
        self.nodes.iter_mut().for_each(Node::resume);
        self.spawn_all();
    }

    /// Waits until every node says that it is ready.
    #[track_caller]
    pub fn wait_ready(&mut self, within: Duration) {
        let all: Vec<usize> = (0..self.len()).collect();
        self.wait_ready_of(&all, within);
    }

    /// Waits until these nodes say that they are ready.
    #[track_caller]
    pub fn wait_ready_of(&mut self, indexes: &[usize], within: Duration) {
        let started = Instant::now();
        for &index in indexes {
            let mut why = String::new();
            let left = within.saturating_sub(started.elapsed());
            let node = &mut self.nodes[index];
            let ready = poll(left, || match node.unready() {
                None => Some(()),
                Some(reason) => {
                    why = reason;
                    None
                }
            });
            assert!(ready.is_some(), "{} is not ready after {within:?}: {why}", node.name);
        }
    }

    /// Waits until a node's `/readyz` gives 503 with a reason that `fits`.
    #[track_caller]
    pub fn wait_unready(&mut self, index: usize, within: Duration, fits: impl Fn(&str) -> bool) {
        let mut last = None;
        let node = &mut self.nodes[index];
        let found = poll(within, || {
            last = node.unready();
            last.as_deref().is_some_and(|why| why.starts_with("503") && fits(why)).then_some(())
        });
        assert!(found.is_some(), "{}: /readyz after {within:?}: {last:?}", node.name);
    }

    /// Stops all nodes in good order, at the same time.
    pub fn terminate_all(&mut self) -> Vec<ExitStatus> {
        self.nodes.iter_mut().for_each(Node::ask_to_stop);
        // A second signal would end them at once.
        let running = self.nodes.iter_mut().filter(|node| node.is_running());
        running.map(|node| node.wait_gone(STOP_DEADLINE)).collect()
    }

    /// Starts a node that must refuse; what it wrote to stderr in this start.
    #[track_caller]
    pub fn refusal(&mut self, index: usize, within: Duration) -> String {
        let node = &mut self.nodes[index];
        let before = node.stderr().len();
        node.spawn();
        let status = node.wait_gone(within);
        assert!(!status.success(), "{} ended with {status}", node.name);
        node.stderr().get(before..).unwrap_or_default().to_owned()
    }

    /// One request through a node, on a connection of its own.
    #[track_caller]
    pub fn send(&self, index: usize, request: &Request) -> Response {
        let answer =
            Connection::try_open(self.nodes[index].public).and_then(|mut link| link.exchange(request));
        answer.unwrap_or_else(|error| panic!("{} to {}: {error}", request.method(), self.nodes[index].name))
    }
}

/// The configuration of node `me`: it sees the others through its own proxies, or by the registry.
fn config(shape: &Shape, nodes: &[Node], me: usize, links: &Links, registry: Option<&Store>) -> String {
    let list = |disks: &[PathBuf]| {
        disks.iter().map(|disk| format!("{:?}", disk.display().to_string())).collect::<Vec<_>>().join(", ")
    };
    let own = &nodes[me];
    let mut text = format!(
        "current_node = \"{}\"\n[listen]\npublic = \"{}\"\nadmin = \"{}\"\npeer = \"{}\"\n\
         [storage]\ndisks = [{}]\n{}\n\
         [cluster]\nname = \"test\"\nreplicas = {}\nwrite_quorum = {}\nunsafe_quorum = {}\n",
        own.name,
        own.public,
        own.admin,
        own.peer,
        list(&own.disks),
        shape.storage,
        shape.replicas,
        shape.write_quorum,
        shape.write_quorum <= shape.replicas / 2,
    );
    for (index, node) in nodes.iter().enumerate() {
        text.push_str(&format!("[[cluster.nodes]]\nname = \"{}\"\n", node.name));
        if registry.is_none() {
            let peer = if index == me { node.peer } else { links.addr(me, index) };
            text.push_str(&format!(
                "public = \"{}\"\npeer = \"{peer}\"\ndisks = [{}]\n",
                node.public,
                list(&node.disks),
            ));
        }
    }
    match registry {
        None => text.push_str("[registry]\nbackend = \"embedded\"\n"),
        Some(store) => text.push_str(&format!(
            "[registry]\nbackend = \"{}\"\nendpoints = [\"{}\"]\nlease = \"2s\"\n",
            store.kind.name(),
            store.url(),
        )),
    }
    text + &shape.sections
}
