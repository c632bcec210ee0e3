//! The whole configuration as it is in effect, and where each value comes from.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use toml::{Table, Value};

use super::Config;
use super::source::{KEYS, gather};

/// A key, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its section and name, with a dot.
    pub key: &'static str,
    /// Its value, as TOML; none: nothing is said, or it is a secret.
    pub value: Option<String>,
    /// A file, a variable, or that it is the default.
    pub source: String,
}

impl fmt::Display for Setting {
    /// A line of a config that says the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{:<48} # {}", format!("{} = {value}", self.key), self.source),
            None => write!(f, "{:<48} # {}", format!("# {}", self.key), self.source),
        }
    }
}

impl Config {
    /// All keys, after the configuration was read as by [`Config::load`].
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn explain(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        node: Option<&str>,
    ) -> Result<Vec<Setting>, String> {
        let environment: Vec<(String, String)> = environment.collect();
        let config = Self::load(file, environment.iter().cloned(), node)?;
        let said = gather(file, environment.into_iter(), node)?;
        let of = |(key, default): &(&'static str, &str)| {
            let setting =
                |value: Option<String>, source: &str| Setting { key, value, source: source.to_owned() };
            let source = said.sources.get(*key).map(String::as_str);
            match (find(&said.table, key), source) {
                (Some(_), Some(source)) if *key == "registry.password" => {
                    setting(None, &format!("{source}: not shown"))
                }
                (Some(value), Some(source)) => setting(Some(value.to_string()), source),
                _ => match follows(&config, key) {
                    Some(value) => setting(Some(value), "follows from the others"),
                    None if default.is_empty() => setting(None, "not set"),
                    // Its keys would make one of it.
                    None if config.archive.is_none() && key.starts_with("archive.") => {
                        setting(None, "no archive")
                    }
                    None => setting(Some((*default).to_owned()), "default"),
                },
            }
        };
        // The entries of nodes are shown whole.
        Ok(KEYS.iter().filter(|(key, _)| !key.starts_with("cluster.nodes.")).map(of).collect())
    }
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((section, rest)) => find(table.get(section)?.as_table()?, rest),
        None => table.get(key),
    }
}

/// What a key is because of others.
fn follows(config: &Config, key: &str) -> Option<String> {
    let topology = config.cluster.as_ref().map(|cluster| &cluster.topology);
    match key {
        "current_node" if config.cluster.is_some() => {
            Some(Value::from(config.current_node.clone()).to_string())
        }
        "cluster.replicas" => topology.map(|topology| topology.replica_count().to_string()),
        "cluster.write_quorum" => topology.map(|topology| topology.write_quorum().to_string()),
        _ => None,
    }
}
