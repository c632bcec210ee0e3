//! The configuration: defaults, then the file, then the environment, then the command line.
//!
//! Unknown keys are refused with the nearest known name. A value is checked where it is read, so that a wrong one is
//! found at the start.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;
use toml::{Table, Value};

use crate::io::send_mode::Mode;
use crate::limits::BLOCK_CACHE_MIN;
use crate::meta::schema::Durability;

/// Every key there is. Those of `cluster`, `registry` and `archive` belong to a cluster or an archive.
const KEYS: [&str; 29] = [
    "current_node",
    "listen.public",
    "listen.admin",
    "listen.peer",
    "network.send",
    "storage.disks",
    "storage.durability",
    "storage.io",
    "storage.cache",
    "storage.tombstone_grace",
    "storage.keep_versions",
    "cluster.name",
    "cluster.replicas",
    "cluster.write_quorum",
    "cluster.unsafe_quorum",
    "cluster.nodes",
    "cluster.nodes.name",
    "cluster.nodes.public",
    "cluster.nodes.peer",
    "cluster.nodes.disks",
    "registry.backend",
    "registry.endpoints",
    "archive.target",
    "archive.bucket",
    "archive.region",
    "archive.endpoint",
    "archive.prefix",
    "archive.after",
    "archive.high_watermark",
];
const ENVIRONMENT: &str = "AMBERBLOB_";

/// What a node is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// This node's name.
    pub current_node: String,
    /// Where it listens.
    pub listen: Listen,
    /// How it sends.
    pub network: Network,
    /// Where and how it stores.
    pub storage: Storage,
    cluster: Option<Table>,
    registry: Registry,
    archive: Option<Table>,
}

/// Where a node listens.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Listen {
    /// For clients.
    pub public: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
}

/// How a node sends.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Whether the kernel copies what is sent.
    #[serde(deserialize_with = "send")]
    pub send: Mode,
}

/// Where and how a node stores.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// Its disks, each a directory.
    pub disks: Vec<PathBuf>,
    /// What an acknowledgement promises.
    #[serde(deserialize_with = "durability")]
    pub durability: Durability,
    /// Whether files are read and written around the page cache.
    pub io: Io,
    /// Size of the block cache.
    pub cache: CacheSize,
    /// How long the chunks of a deleted version stay.
    #[serde(deserialize_with = "duration")]
    pub tombstone_grace: Duration,
    /// Live versions a path keeps; 0: all.
    pub keep_versions: u64,
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

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Registry {
    backend: Option<String>,
}

/// Size of the block cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSize {
    /// Percent of the memory.
    Percent(u64),
    /// Bytes.
    Bytes(u64),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            current_node: "node-1".to_owned(),
            listen: Listen::default(),
            network: Network::default(),
            storage: Storage::default(),
            cluster: None,
            registry: Registry::default(),
            archive: None,
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self { public: ([127, 0, 0, 1], 8080).into(), admin: ([127, 0, 0, 1], 8081).into() }
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

impl Config {
    /// Reads the file, if one is named, and the environment.
    ///
    /// # Errors
    /// One line: which file or variable, which key, what is wrong with it.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, String> {
        let (mut table, source) = match file {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| format!("cannot read the config {}: {error}", file.display()))?;
                let table =
                    text.parse().map_err(|error| one_line(&format!("{}: {error}", file.display())))?;
                (table, file.display().to_string())
            }
            None => (Table::new(), "the environment".to_owned()),
        };
        for (name, value) in environment {
            set_from_environment(&mut table, &name, &value)?;
        }
        check_keys(&table, "").map_err(|error| format!("{source}: {error}"))?;
        let config: Self = table.try_into().map_err(|error| one_line(&format!("{source}: {error}")))?;
        config.check().map_err(|error| format!("{source}: {error}"))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let backend = self.registry.backend.as_deref().unwrap_or("embedded");
        if backend != "embedded" {
            return Err(format!(
                "registry.backend = \"{backend}\": this release runs a single node: use \"embedded\""
            ));
        }
        let nodes = self.cluster.as_ref().and_then(|cluster| cluster.get("nodes")?.as_array().map(Vec::len));
        if nodes.is_some_and(|nodes| nodes > 1) {
            return Err("cluster.nodes names several nodes: this release runs a single one".to_owned());
        }
        if self.archive.is_some() {
            return Err("[archive]: this release has no archive: leave the section out".to_owned());
        }
        if self.storage.disks.is_empty() {
            return Err("storage.disks is empty: name at least one directory".to_owned());
        }
        Ok(())
    }
}

impl CacheSize {
    /// In bytes, for a machine with `memory` bytes.
    pub fn bytes(self, memory: u64) -> u64 {
        match self {
            Self::Percent(percent) => memory / 100 * percent,
            Self::Bytes(bytes) => bytes,
        }
        .max(BLOCK_CACHE_MIN)
    }
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `AMBERBLOB_SECTION__KEY`, and `AMBERBLOB_CURRENT_NODE`; other variables are none of ours.
fn set_from_environment(table: &mut Table, name: &str, value: &str) -> Result<(), String> {
    let Some(key) = name.strip_prefix(ENVIRONMENT).map(str::to_lowercase) else { return Ok(()) };
    let value = match format!("value = {value}").parse::<Table>() {
        Ok(mut parsed) => parsed.remove("value").unwrap_or_else(|| Value::String(value.to_owned())),
        Err(_) => Value::String(value.to_owned()),
    };
    match key.split_once("__") {
        Some((section, key)) => {
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            let section = section.as_table_mut().ok_or_else(|| format!("{name}: is not in a section"))?;
            section.insert(key.to_owned(), value);
        }
        None if key == "current_node" => {
            table.insert(key, value);
        }
        None => {}
    }
    Ok(())
}

fn check_keys(table: &Table, above: &str) -> Result<(), String> {
    for (key, value) in table {
        let path = format!("{above}{key}");
        let below = format!("{path}.");
        if !KEYS.iter().any(|known| *known == path || known.starts_with(&below)) {
            let distance = |known: &&&str| strsim::damerau_levenshtein(known, &path);
            let nearest = KEYS.iter().min_by_key(distance).copied().unwrap_or_default();
            return Err(format!("there is no key '{path}': did you mean '{nearest}'?"));
        }
        match value {
            Value::Table(inner) => check_keys(inner, &below)?,
            Value::Array(items) => {
                items.iter().filter_map(Value::as_table).try_for_each(|inner| check_keys(inner, &below))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn durability<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Durability, D::Error> {
    match String::deserialize(from)?.as_str() {
        "full" => Ok(Durability::Full),
        "relaxed" => Ok(Durability::Relaxed),
        other => Err(D::Error::custom(format!("durability is '{other}': it can be \"full\" or \"relaxed\""))),
    }
}

fn send<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Mode, D::Error> {
    match String::deserialize(from)?.as_str() {
        "auto" => Ok(Mode::Auto),
        "copy" => Ok(Mode::Copy),
        "zerocopy" => Ok(Mode::ZeroCopy),
        other => {
            Err(D::Error::custom(format!("send is '{other}': it can be \"auto\", \"copy\" or \"zerocopy\"")))
        }
    }
}

fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let parsed = text.parse::<jiff::Span>().ok();
    let parsed = parsed.and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok());
    let parsed = parsed.and_then(|duration| Duration::try_from(duration).ok());
    parsed
        .ok_or_else(|| D::Error::custom(format!("'{text}' is no duration: write it like \"24h\" or \"90s\"")))
}

impl<'de> Deserialize<'de> for CacheSize {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse_size(&text).ok_or_else(|| {
            D::Error::custom(format!("'{text}' is no size: write it like \"25%\" or \"4GiB\""))
        })
    }
}

fn parse_size(text: &str) -> Option<CacheSize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let factor: u64 = match text[digits..].trim_start() {
        "%" => return (number <= 90).then_some(CacheSize::Percent(number)),
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor).map(CacheSize::Bytes)
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Direct { "direct" } else { "buffered" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Some(file.path()), environment)
    }

    #[test]
    fn every_key_has_a_default_and_can_be_overridden() {
        let config = load("", &[]).unwrap();
        assert_eq!(config.listen.public.to_string(), "127.0.0.1:8080");
        assert_eq!(config.storage.cache, CacheSize::Percent(25));
        assert_eq!(config.network.send, Mode::Auto);
        let config = load(
            "[storage]\ntombstone_grace = \"2d\"\ncache = \"2GiB\"\nio = \"buffered\"",
            &[
                ("AMBERBLOB_STORAGE__CACHE", "64MiB"),
                ("AMBERBLOB_STORAGE__KEEP_VERSIONS", "3"),
                ("AMBERBLOB_NETWORK__SEND", "zerocopy"),
                ("AMBERBLOB_SERVER", "x"),
            ],
        )
        .unwrap();
        assert_eq!(config.storage.cache, CacheSize::Bytes(64 << 20));
        assert_eq!(config.storage.keep_versions, 3);
        assert_eq!(config.network.send, Mode::ZeroCopy);
        assert_eq!(config.storage.tombstone_grace, Duration::from_hours(48));
        assert_eq!(config.storage.io, Io::Buffered);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("[storage]\ncashe = \"1GiB\"", "did you mean 'storage.cache'"),
            ("[storag]\ncache = \"1GiB\"", "did you mean 'storage"),
            ("[storage]\ncache = \"lots\"", "'lots' is no size"),
            ("[storage]\ndurability = \"none\"", "it can be \"full\""),
            ("[network]\nsend = \"fast\"", "it can be \"auto\""),
            ("[network]\nsent = \"copy\"", "did you mean 'network.send'"),
            ("[storage]\nsend = \"copy\"", "there is no key 'storage.send'"),
            ("[storage]\ntombstone_grace = \"soon\"", "'soon' is no duration"),
            ("[storage]\ndisks = []", "name at least one"),
            ("[registry]\nbackend = \"redis\"", "single node"),
            ("[archive]\nbucket = \"b\"", "no archive"),
            ("[[cluster.nodes]]\nnam = \"a\"", "did you mean 'cluster.nodes.name'"),
            ("listen = 3", "listen"),
            ("[listen]\npublic = \"here\"", "public"),
        ] {
            let error = load(text, &[]).unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
