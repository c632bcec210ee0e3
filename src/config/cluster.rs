//! `[cluster]`: the nodes, the quorums, and how the nodes talk to each other.
//!
//! What is accepted here keeps its promise: a cluster that stores fewer copies than it is told to, or whose peers' traffic
//! anyone on the network could read or forge without the operator having said so, does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::Listen;
use crate::base::topology::{NodeId, Topology};
use crate::limits::NODE_NAME_MAX;
use crate::registry::directory::Known;
use crate::registry::record::Addresses;
use crate::registry::settings::Backend;

/// The section as it is written.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Section {
    name: Option<String>,
    replicas: Option<usize>,
    write_quorum: Option<usize>,
    unsafe_quorum: bool,
    redirect: bool,
    insecure: bool,
    tls: Option<TlsSection>,
    nodes: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TlsSection {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    authority: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    name: Option<String>,
    public: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    disks: Option<Vec<PathBuf>>,
}

/// The cluster this node is one of several nodes of.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Who holds what.
    pub topology: Topology,
    /// What the config says of each node, by [`NodeId`].
    pub known: Vec<Known>,
    /// Whether a read that other nodes must answer is sent there (307) instead of forwarded.
    pub redirect: bool,
    /// Whether peers may talk over plain TCP beyond the loopback.
    pub insecure: bool,
    /// With what peers prove themselves to each other.
    pub tls: Option<Tls>,
}

/// PEM files for the traffic between peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// This node's certificate, and those up to the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whose certificates are believed.
    pub authority: PathBuf,
}

impl Section {
    /// What it says, checked; none where the node is alone.
    ///
    /// # Errors
    /// One line: which key, what contradicts what, what to do.
    pub(super) fn check(
        self,
        me: &str,
        listen: &Listen,
        backend: Backend,
    ) -> Result<Option<Cluster>, String> {
        let mut names = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let name = node.name.as_deref().ok_or_else(|| {
                format!("cluster.nodes: node {} has no name: every node has one", number + 1)
            })?;
            check_name("cluster.nodes.name", name)?;
            names.push(name.to_owned());
        }
        let alone = names.len() <= 1;
        if names.is_empty() {
            names.push(me.to_owned());
        }
        let name = match &self.name {
            Some(name) => check_name("cluster.name", name).map(|()| name.as_str())?,
            None if alone => "",
            None => return Err("cluster.name is missing: nodes find each other by it".to_owned()),
        };
        let replicas = self.replicas.unwrap_or(names.len().min(3));
        let majority = replicas / 2 + 1;
        let quorum = self.write_quorum.unwrap_or(majority);
        let topology = Topology::new(name, names, me, replicas, quorum)?;
        if quorum < majority && !self.unsafe_quorum {
            return Err(format!(
                "cluster.write_quorum is {quorum}, less than a majority of {replicas} replicas ({majority}): \
                 reads could miss acknowledged writes; set cluster.unsafe_quorum = true to have it so"
            ));
        }
        let tls = self.tls.map(TlsSection::check).transpose()?;
        if alone {
            return Ok(None);
        }
        let mut known = vec![Known::default(); topology.nodes().count()];
        for node in &self.nodes {
            let Some(id) = node.name.as_deref().and_then(|name| topology.find(name)) else { continue };
            known[id.index()] = Known {
                addresses: Addresses { public: node.public, peer: node.peer, admin: node.admin },
                disks: node.disks.as_ref().map(Vec::len),
            };
        }
        check_addresses(&topology, &known, backend)?;
        let cluster = Cluster { topology, known, redirect: self.redirect, insecure: self.insecure, tls };
        if !cluster.may_cross_networks() {
            cluster.check_loopback(listen)?;
        }
        Ok(Some(cluster))
    }
}

impl Cluster {
    /// Whether peers may be reached beyond the loopback.
    pub fn may_cross_networks(&self) -> bool {
        self.insecure || self.tls.is_some()
    }

    fn check_loopback(&self, listen: &Listen) -> Result<(), String> {
        let peers = self.topology.nodes().filter_map(|id| {
            let peer = self.known[id.index()].addresses.peer?;
            Some((format!("peer of '{}' in cluster.nodes", self.topology.name(id)), peer))
        });
        let own = std::iter::once(("listen.peer".to_owned(), listen.peer));
        match own.chain(peers).find(|(_, address)| !address.ip().is_loopback()) {
            None => Ok(()),
            Some((what, address)) => Err(format!(
                "{what} is {address}, and peers would talk over plain TCP: name certificate, key and \
                 authority in [cluster.tls], or set cluster.insecure = true where nobody else is on that network"
            )),
        }
    }

    /// Where others find this node, which listens on these addresses: what the config says of it, else where it listens.
    ///
    /// # Errors
    /// One line, when others could not reach it there.
    pub fn advertised(&self, listening: Addresses) -> Result<Addresses, String> {
        let known = self.known[self.topology.me().index()].addresses;
        let reachable =
            |address: Option<SocketAddr>| address.filter(|address| !address.ip().is_unspecified());
        let say = |key: &str, said: Option<SocketAddr>, listening: Option<SocketAddr>| {
            said.or_else(|| reachable(listening)).map(Some).ok_or_else(|| {
                format!(
                    "listen.{key} is every address of this machine: name the one that others reach it by, as \
                     {key} of '{}' in cluster.nodes",
                    self.topology.name(self.topology.me())
                )
            })
        };
        Ok(Addresses {
            public: say("public", known.public, listening.public)?,
            peer: say("peer", known.peer, listening.peer)?,
            admin: known.admin.or_else(|| reachable(listening.admin)),
        })
    }
}

impl TlsSection {
    fn check(self) -> Result<Tls, String> {
        match (self.certificate, self.key, self.authority) {
            (Some(certificate), Some(key), Some(authority)) => {
                for (what, file) in [("certificate", &certificate), ("key", &key), ("authority", &authority)]
                {
                    std::fs::File::open(file)
                        .map_err(|error| format!("cluster.tls.{what}: {}: {error}", file.display()))?;
                }
                Ok(Tls { certificate, key, authority })
            }
            _ => {
                Err("cluster.tls: certificate, key and authority belong together: name all three".to_owned())
            }
        }
    }
}

/// Names stand in keys, URLs and logs as they are.
fn check_name(key: &str, name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > NODE_NAME_MAX || !name.chars().all(good) {
        return Err(format!(
            "{key} is '{}': a name has 1 to {NODE_NAME_MAX} of the characters a-z A-Z 0-9 . _ -",
            name.escape_debug()
        ));
    }
    Ok(())
}

fn check_addresses(topology: &Topology, known: &[Known], backend: Backend) -> Result<(), String> {
    let of = |id: NodeId| {
        let addresses = known[id.index()].addresses;
        [("public", addresses.public), ("peer", addresses.peer), ("admin", addresses.admin)]
    };
    let mut taken: Vec<(SocketAddr, &str, &str)> = Vec::new();
    for id in topology.nodes() {
        let name = topology.name(id);
        for (key, address) in of(id) {
            let Some(address) = address else {
                if backend == Backend::Embedded && key != "admin" && id != topology.me() {
                    return Err(format!(
                        "cluster.nodes: '{name}' has no {key} address: with registry.backend = \"embedded\" \
                         every node needs one"
                    ));
                }
                continue;
            };
            if address.port() == 0 || address.ip().is_unspecified() {
                return Err(format!(
                    "cluster.nodes: {key} of '{name}' is {address}, where nobody can reach it: name the \
                     address that others use, and where it listens in listen.{key}"
                ));
            }
            if let Some((_, other, other_key)) = taken.iter().find(|(taken, ..)| *taken == address) {
                return Err(format!(
                    "cluster.nodes: {key} of '{name}' and {other_key} of '{other}' are both {address}"
                ));
            }
            taken.push((address, name, key));
        }
    }
    Ok(())
}
