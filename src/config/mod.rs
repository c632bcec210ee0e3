//! The configuration: defaults, then the file, then the environment, then the command line.
//!
//! Unknown keys are refused with the nearest known name. A value is checked where it is read, so that a wrong one is
//! found at the start. One file can serve all nodes of a cluster: see `source`.

mod archive;
mod cluster;
pub mod effective;
mod registry;
mod source;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use self::cluster::{Cluster, Tls};
use self::source::{Said, one_line};
pub use self::values::CacheSize;
use crate::archive::settings::Settings as Archive;
use crate::io::send_mode::Mode;
use crate::limits::SYNC_INTERVAL_MIN;
use crate::meta::schema::Durability;
use crate::registry::settings::Settings;

/// What a node is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name.
    pub current_node: String,
    /// Where it listens.
    pub listen: Listen,
    /// How it sends.
    pub network: Network,
    /// Where and how it stores.
    pub storage: Storage,
    /// How stored chunks are checked.
    pub scrub: Scrub,
    /// The cluster it belongs to, if it is not alone.
    pub cluster: Option<Cluster>,
    /// How the nodes of the cluster find each other.
    pub registry: Settings,
    /// How replicas that differ become equal again.
    pub sync: Sync,
    /// The store that chunks go to, if there is one.
    pub archive: Option<Archive>,
}

/// The sections as they are written.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Sections {
    listen: Listen,
    network: Network,
    storage: Storage,
    scrub: Scrub,
    cluster: cluster::Section,
    registry: registry::Section,
    sync: Sync,
    archive: Option<archive::Section>,
}

/// Where a node listens.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Listen {
    /// For clients.
    pub public: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
    /// For the other nodes of the cluster.
    pub peer: SocketAddr,
}

/// How a node sends.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Whether the kernel copies what is sent.
    #[serde(deserialize_with = "values::send")]
    pub send: Mode,
}

/// Where and how a node stores.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// Its disks, each a directory.
    pub disks: Vec<PathBuf>,
    /// What an acknowledgement promises.
    #[serde(deserialize_with = "values::durability")]
    pub durability: Durability,
    /// Whether files are read and written around the page cache.
    pub io: Io,
    /// Size of the block cache.
    pub cache: CacheSize,
    /// How long the chunks of a deleted version stay.
    #[serde(deserialize_with = "values::duration")]
    pub tombstone_grace: Duration,
    /// Live versions a path keeps; 0: all.
    pub keep_versions: u64,
}

/// How stored chunks are checked.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default)]
pub struct Scrub {
    /// From the begin of one pass to that of the next.
    #[serde(deserialize_with = "values::duration")]
    pub interval: Duration,
    /// The most that such a pass reads, in bytes per second.
    #[serde(deserialize_with = "values::rate")]
    pub rate: u64,
    /// How long damaged files are kept after their repair.
    #[serde(deserialize_with = "values::duration")]
    pub quarantine: Duration,
}

/// How replicas that differ become equal again.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Sync {
    /// How often replicas are compared without any other reason.
    #[serde(deserialize_with = "values::duration")]
    pub interval: Duration,
    /// Bytes of chunks that the node fetches per second; 0: any.
    #[serde(deserialize_with = "values::bytes")]
    pub rate: u64,
}

/// Whether files are read and written around the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// Around it, where the file system can.
    Direct,
    /// Through it.
    Buffered,
}

impl Default for Listen {
    fn default() -> Self {
        let local = |port: u16| ([127, 0, 0, 1], port).into();
        Self { public: local(8080), admin: local(8081), peer: local(8082) }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self { send: Mode::Auto }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            disks: vec![PathBuf::from("./amberblob-data")],
            durability: Durability::Full,
            io: Io::Direct,
            cache: CacheSize::Percent(25),
            tombstone_grace: Duration::from_hours(24),
            keep_versions: 0,
        }
    }
}

impl Default for Scrub {
    fn default() -> Self {
        let days = |days: u64| Duration::from_hours(days * 24);
        Self { interval: days(30), rate: 100 << 20, quarantine: days(7) }
    }
}

impl Default for Sync {
    fn default() -> Self {
        Self { interval: Duration::from_mins(1), rate: 0 }
    }
}

impl Config {
    /// Reads the file, if one is named, the environment, and which node this is, if the command line says so.
    ///
    /// # Errors
    /// One line: which file or variable, which key, what is wrong with it.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        node: Option<&str>,
    ) -> Result<Self, String> {
        let environment: Vec<(String, String)> = environment.collect();
        let variables = archive::Variables::of(&environment);
        let Said { table, source, node, .. } = source::gather(file, environment.into_iter(), node)?;
        let sections: Sections = table.try_into().map_err(|error| one_line(&format!("{source}: {error}")))?;
        sections.check(node, variables).map_err(|error| format!("{source}: {error}"))
    }
}

impl Sections {
    fn check(self, current_node: String, variables: archive::Variables) -> Result<Config, String> {
        if self.scrub.interval.is_zero() {
            return Err(
                "scrub.interval is 0: it is the time for one pass and the pause after it, like \"30d\""
                    .to_owned(),
            );
        }
        if self.storage.disks.is_empty() {
            return Err("storage.disks is empty: name at least one directory".to_owned());
        }
        if self.sync.interval < SYNC_INTERVAL_MIN {
            return Err(format!(
                "sync.interval is {:?}: replicas are compared at most every {SYNC_INTERVAL_MIN:?}",
                self.sync.interval
            ));
        }
        let registry = self.registry.check()?;
        let cluster = self.cluster.check(&current_node, &self.listen, registry.backend)?;
        let Self { listen, network, storage, scrub, sync, archive, .. } = self;
        let archive = archive.map(|section| section.check(variables, storage.durability)).transpose()?;
        Ok(Config { current_node, listen, network, storage, scrub, cluster, registry, sync, archive })
    }
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Direct { "direct" } else { "buffered" })
    }
}

#[cfg(test)]
mod tests;
