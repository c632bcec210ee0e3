//! The nodes of a cluster, and what they say of each other.

use std::time::Duration;

use serde_json::Value;

use super::store::Store;
use super::support::server::{Builder, Server};
use super::support::{poll, wait_until};

/// A node is found, or missed, within this, however busy the machine is.
pub const SOON: Duration = Duration::from_secs(30);

/// What the nodes of a cluster are told alike.
#[derive(Clone)]
pub struct Cluster {
    pub names: Vec<&'static str>,
    /// Further lines of `[cluster]`.
    pub cluster: String,
    /// Lines of `[registry]`.
    pub registry: String,
}

impl Cluster {
    /// Three nodes that find each other by `store`.
    pub fn by(store: &Store, lease: &str) -> Self {
        Self::by_url(store.kind.name(), &store.url(), lease)
    }

    /// The same with another way to the store.
    pub fn by_url(backend: &str, url: &str, lease: &str) -> Self {
        let registry = format!("backend = \"{backend}\"\nendpoints = [\"{url}\"]\nlease = \"{lease}\"\n");
        Self { names: vec!["node-1", "node-2", "node-3"], cluster: String::new(), registry }
    }

    pub fn config(&self) -> String {
        let mut text = format!("[storage]\ncache = \"64MiB\"\n[registry]\n{}", self.registry);
        text.push_str(&format!("[cluster]\nname = \"edge\"\n{}", self.cluster));
        for name in &self.names {
            text.push_str(&format!("[[cluster.nodes]]\nname = \"{name}\"\n"));
        }
        text
    }

    /// How a node of it is started; it is not waited for, since it is ready only with the others.
    pub fn node(&self, name: &str) -> Builder {
        let builder = Server::builder().cores(1).config(&self.config()).arg("--node").arg(name);
        builder.env("AMBERBLOB_LISTEN__PEER", "127.0.0.1:0").wait_ready(false)
    }

    /// Starts all of them, and waits until they have found each other and serve.
    pub fn start(&self) -> Vec<Server> {
        let servers: Vec<Server> = self.names.iter().map(|name| self.node(name).start()).collect();
        wait_all_alive(&servers, &self.names);
        wait_ready(&servers);
        servers
    }
}

/// What `/nodes` says.
#[track_caller]
pub fn nodes(server: &Server) -> Value {
    server.admin_get("/nodes").expect_status(200).json()
}

/// What it says of one node.
#[track_caller]
pub fn node_of(server: &Server, name: &str) -> Value {
    let all = nodes(server);
    let found = all["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {all}")).clone()
}

/// Whether `server` holds `name` for alive; none when it cannot tell.
#[track_caller]
pub fn alive(server: &Server, name: &str) -> Option<bool> {
    node_of(server, name)["alive"].as_bool()
}

#[track_caller]
pub fn wait_alive(server: &Server, name: &str, expected: Option<bool>) {
    wait_until(SOON, &format!("alive of {name} to be {expected:?}"), || alive(server, name) == expected);
}

/// Waits until every server holds every node for alive.
#[track_caller]
pub fn wait_all_alive(servers: &[Server], names: &[&str]) {
    for server in servers {
        names.iter().for_each(|name| wait_alive(server, name, Some(true)));
    }
}

/// Waits until every server holds itself for ready.
#[track_caller]
pub fn wait_ready(servers: &[Server]) {
    for server in servers {
        let mut last = String::new();
        let ready = poll(SOON, || {
            let answer = server.admin_get("/readyz");
            last = answer.text();
            (answer.status == 200).then_some(())
        });
        assert!(ready.is_some(), "not ready within {SOON:?}: {last}");
    }
}
