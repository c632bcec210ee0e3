//! Where values come from: the file, then the environment over it, then what the node's entry in the cluster's list says.
//!
//! All of it is put into one table before any of it is read, so that a value means the same wherever it stands.
//! Unknown keys are refused with the nearest known name, passwords in the file altogether.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

/// Every key there is, and what it is where nothing is said, as TOML; empty: nothing, or what follows from other keys.
pub(super) const KEYS: [(&str, &str); 51] = [
    ("current_node", r#""node-1""#),
    ("listen.public", r#""127.0.0.1:8080""#),
    ("listen.admin", r#""127.0.0.1:8081""#),
    ("listen.peer", r#""127.0.0.1:8082""#),
    ("network.send", r#""auto""#),
    ("storage.disks", r#"["./amberblob-data"]"#),
    ("storage.durability", r#""full""#),
    ("storage.io", r#""direct""#),
    ("storage.cache", r#""25%""#),
    ("storage.tombstone_grace", r#""24h""#),
    ("storage.keep_versions", "0"),
    ("scrub.interval", r#""30d""#),
    ("scrub.rate", r#""100MiB""#),
    ("scrub.quarantine", r#""7d""#),
    ("cluster.name", ""),
    ("cluster.replicas", ""),
    ("cluster.write_quorum", ""),
    ("cluster.unsafe_quorum", "false"),
    ("cluster.redirect", "false"),
    ("cluster.insecure", "false"),
    ("cluster.tls.certificate", ""),
    ("cluster.tls.key", ""),
    ("cluster.tls.authority", ""),
    ("cluster.nodes", ""),
    ("cluster.nodes.name", ""),
    ("cluster.nodes.public", ""),
    ("cluster.nodes.peer", ""),
    ("cluster.nodes.admin", ""),
    ("cluster.nodes.disks", ""),
    ("registry.backend", r#""embedded""#),
    ("registry.endpoints", ""),
    ("registry.lease", r#""10s""#),
    ("registry.username", ""),
    ("registry.password", ""),
    ("registry.password_file", ""),
    ("sync.interval", r#""1m""#),
    ("sync.rate", r#""0""#),
    ("archive.target", r#""s3""#),
    ("archive.bucket", ""),
    ("archive.region", r#""us-east-1""#),
    ("archive.endpoint", ""),
    ("archive.prefix", r#""""#),
    ("archive.path_style", ""),
    ("archive.credentials", ""),
    ("archive.rate", r#""0""#),
    ("archive.requests", "0"),
    ("archive.uploads", "4"),
    ("archive.pack_below", r#""4MiB""#),
    ("archive.after", r#""""#),
    ("archive.high_watermark", r#""""#),
    ("archive.low_watermark", r#""""#),
];
const ENVIRONMENT: &str = "AMBERBLOB_";
/// Keys whose values are text whatever they look like.
const TEXT: [&str; 9] = [
    "current_node",
    "cluster__name",
    "registry__username",
    "registry__password",
    "registry__password_file",
    "archive__bucket",
    "archive__region",
    "archive__prefix",
    "archive__credentials",
];
/// The node's name where nothing says another.
const NAME: &str = "node-1";

/// What was said, and by what, for messages.
pub(super) struct Said {
    pub(super) table: Table,
    pub(super) source: String,
    /// The node's name.
    pub(super) node: String,
    /// Where each key's value comes from, by key.
    pub(super) sources: BTreeMap<String, String>,
}

/// Gathers what the file, the environment and the node's entry in the cluster's list say.
///
/// # Errors
/// One line: which file or variable, which key, what is wrong with it.
pub(super) fn gather(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    node: Option<&str>,
) -> Result<Said, String> {
    let mut sources = BTreeMap::new();
    let (mut table, source) = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("cannot read the config {}: {error}", file.display()))?;
            let table: Table =
                text.parse().map_err(|error| one_line(&format!("{}: {error}", file.display())))?;
            (table, file.display().to_string())
        }
        None => (Table::new(), "the environment".to_owned()),
    };
    if table.get("registry").and_then(Value::as_table).is_some_and(|section| section.contains_key("password"))
    {
        return Err(format!(
            "{source}: registry.password: a password does not belong here: put it into a file that \
             registry.password_file names, or into AMBERBLOB_REGISTRY__PASSWORD"
        ));
    }
    note(&table, "", &source, &mut sources);
    for (name, value) in environment {
        if let Some(key) = set_from_environment(&mut table, &name, &value)? {
            sources.insert(key, name);
        }
    }
    if let Some(node) = node {
        table.insert("current_node".to_owned(), Value::String(node.to_owned()));
        sources.insert("current_node".to_owned(), "--node".to_owned());
    }
    check_keys(&table, "").map_err(|error| format!("{source}: {error}"))?;
    let node = adopt_entry(&mut table).map_err(|error| format!("{source}: {error}"))?;
    let entry = format!("the entry of '{node}' in cluster.nodes");
    let mut adopted = BTreeMap::new();
    note(&table, "", &entry, &mut adopted);
    for (key, source) in adopted {
        sources.entry(key).or_insert(source);
    }
    Ok(Said { table, source, node, sources })
}

/// Enters a source for all values of a table.
fn note(table: &Table, above: &str, source: &str, sources: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let path = format!("{above}{key}");
        match value {
            Value::Table(inner) => note(inner, &format!("{path}."), source, sources),
            _ => drop(sources.insert(path, source.to_owned())),
        }
    }
}

/// A message as one line.
pub(super) fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `AMBERBLOB_SECTION__KEY`, and `AMBERBLOB_CURRENT_NODE`; other variables are none of ours. Which key it was.
fn set_from_environment(table: &mut Table, name: &str, value: &str) -> Result<Option<String>, String> {
    let Some(key) = name.strip_prefix(ENVIRONMENT).map(str::to_lowercase) else { return Ok(None) };
    let value = match format!("value = {value}").parse::<Table>() {
        Ok(mut parsed) if !TEXT.contains(&key.as_str()) => {
            parsed.remove("value").unwrap_or_else(|| Value::String(value.to_owned()))
        }
        _ => Value::String(value.to_owned()),
    };
    let mut parts: Vec<&str> = key.split("__").collect();
    let Some(last) = parts.pop() else { return Ok(None) };
    if parts.is_empty() && last != "current_node" {
        return Ok(None);
    }
    let mut section = table;
    for part in parts {
        let inner = section.entry(part).or_insert_with(|| Value::Table(Table::new()));
        section = inner.as_table_mut().ok_or_else(|| format!("{name}: is not in a section"))?;
    }
    section.insert(last.to_owned(), value);
    Ok(Some(key.replace("__", ".")))
}

fn check_keys(table: &Table, above: &str) -> Result<(), String> {
    for (key, value) in table {
        let path = format!("{above}{key}");
        let below = format!("{path}.");
        let mut known = KEYS.iter().map(|(known, _)| *known);
        if !known.any(|known| known == path || known.starts_with(&below)) {
            let distance = |known: &&str| strsim::damerau_levenshtein(known, &path);
            let nearest = KEYS.iter().map(|(known, _)| *known).min_by_key(distance).unwrap_or_default();
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

/// Which node this is; where nothing else is said, it listens and stores as its entry in the cluster's list says. So one
/// file serves all nodes.
fn adopt_entry(table: &mut Table) -> Result<String, String> {
    let nodes = table.get("cluster").and_then(|cluster| cluster.get("nodes")?.as_array()).cloned();
    let nodes = nodes.unwrap_or_default();
    let name = |node: &Value| node.get("name").and_then(Value::as_str).map(str::to_owned);
    let me = match (table.get("current_node"), nodes.as_slice()) {
        (Some(value), _) => match value.as_str() {
            Some(text) => text.to_owned(),
            None => return Err(format!("current_node is {value}: it is the name of a node, in quotes")),
        },
        (None, []) => NAME.to_owned(),
        (None, [only]) => name(only).unwrap_or_else(|| NAME.to_owned()),
        (None, _) => {
            return Err("cluster.nodes names several nodes: say which of them this is, by current_node, \
                        AMBERBLOB_CURRENT_NODE or --node"
                .to_owned());
        }
    };
    let Some(entry) = nodes.iter().find(|node| name(node).as_ref() == Some(&me)) else { return Ok(me) };
    for (key, section) in
        [("public", "listen"), ("peer", "listen"), ("admin", "listen"), ("disks", "storage")]
    {
        let Some(value) = entry.get(key) else { continue };
        let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        // What is no section is refused where it is read.
        if let Some(section) = section.as_table_mut() {
            section.entry(key).or_insert_with(|| value.clone());
        }
    }
    Ok(me)
}
