//! This node's place among others: where it listens for them, and its part in the registry.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use crate::chunk::disk::Disk;
use crate::config::Config;
use crate::config::Tls;
use crate::io::listen;
use crate::registry::directory::Directory;
use crate::registry::driver::{self, Member};
use crate::registry::record::{Addresses, Identity};
use crate::registry::settings::Backend;
use crate::shard::node::Node;
use crate::shard::peers::cluster::Cluster;
use crate::shard::peers::sync::Settings;
use crate::tls::{Files, Relay};

/// What all cores share of the cluster.
///
/// # Errors
/// One line: what on the disks contradicts the config, and what to do.
pub(super) fn compose(
    config: &Config,
    disks: &[Disk],
    member: &Member,
    relay: Option<&Relay>,
) -> Result<Arc<Cluster>, String> {
    let redirect = config.cluster.as_ref().is_some_and(|cluster| cluster.redirect);
    let tls = relay.map(Relay::connector);
    let sync = Settings { interval: config.sync.interval, rate: config.sync.rate };
    Cluster::open(Arc::clone(member.directory()), tls, redirect, disks, sync).map(Arc::new)
}

/// What ends TLS between the nodes, where it is wanted.
///
/// # Errors
/// One line: a file that cannot be used, what is wrong with it, the way out.
pub(super) fn start_tls(config: &Config, threads: usize) -> Result<Option<Relay>, String> {
    let Some((cluster, tls)) = config.cluster.as_ref().and_then(|it| Some((it, it.tls.clone()?))) else {
        return Ok(None);
    };
    let Tls { certificate, key, authority } = tls;
    let topology = &cluster.topology;
    let names: Vec<String> = topology.nodes().map(|node| topology.name(node).to_owned()).collect();
    let files = Files { certificate, key, authority };
    Relay::start(files, &names, topology.name(topology.me()), threads).map(Some)
}

/// Where the cores accept other nodes' connections; nowhere, where the relay does that for them.
///
/// # Errors
/// One line.
pub(super) fn listen_for_peers(
    node: &Arc<Node>,
    listeners: Vec<TcpListener>,
    relay: Option<&Relay>,
) -> Result<Vec<TcpListener>, String> {
    let Some(relay) = relay else { return Ok(listeners) };
    for listener in listeners {
        let node = Arc::clone(node);
        relay
            .listen(listener, move |peer| node.take_peer(peer.socket, &peer.name))
            .map_err(|error| format!("cannot listen for other nodes: {error}"))?;
    }
    Ok(Vec::new())
}

/// What a node of several has that a single one has not.
pub(super) struct Membership {
    /// For other nodes, one for each core. They are open from the start on, so that the port is taken, and so that peers that come
    /// early wait instead of being refused.
    pub(super) listeners: Vec<TcpListener>,
    /// Where those are.
    pub(super) peer: SocketAddr,
    /// Its part in the registry.
    pub(super) member: Member,
}

impl Membership {
    /// Listens for the other nodes and announces this one to them; none where there are no others.
    ///
    /// # Errors
    /// One line: what is in the way, and what to do.
    pub(super) fn open(
        config: &Config,
        (public, admin): (SocketAddr, SocketAddr),
        disks: &[Disk],
        run_id: &str,
        cores: usize,
    ) -> Result<Option<Self>, String> {
        let Some(cluster) = &config.cluster else {
            if config.registry.backend != Backend::Embedded {
                tracing::warn!(
                    "registry.backend = \"{}\" is not used: cluster.nodes names no other node to find",
                    config.registry.backend
                );
            }
            return Ok(None);
        };
        let listeners = listen::listen_all(config.listen.peer, cores)
            .map_err(|error| format!("cannot listen on {}: {error}", config.listen.peer))?;
        let peer = listeners[0].local_addr().map_err(|error| error.to_string())?;
        let listening = Addresses { public: Some(public), peer: Some(peer), admin: Some(admin) };
        let addresses = cluster.advertised(listening)?;
        let topology = Arc::new(cluster.topology.clone());
        let directory = Directory::new(topology, &cluster.known, addresses, cluster.may_cross_networks());
        let disks = disks.iter().map(|disk| disk.id().to_string()).collect();
        let identity = Identity { run: run_id.to_owned(), addresses, disks };
        let member = driver::join(config.registry.clone(), Arc::new(directory), &identity)?;
        Ok(Some(Self { listeners, peer, member }))
    }
}
