//! Where values come from: the file, then the environment over it, then what the node's entry in the cluster's list says.
//!
//! All of it is put into one table before any of it is read, so that a value means the same wherever it stands.
//! Unknown keys are refused with the nearest known name, passwords in the file altogether.

use std::path::Path;

use toml::{Table, Value};

/// Every key there is.
const KEYS: [&str; 50] = [
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
    "scrub.interval",
    "scrub.rate",
    "scrub.quarantine",
    "cluster.name",
    "cluster.replicas",
    "cluster.write_quorum",
    "cluster.unsafe_quorum",
    "cluster.redirect",
    "cluster.insecure",
    "cluster.tls.certificate",
    "cluster.tls.key",
    "cluster.tls.authority",
    "cluster.nodes",
    "cluster.nodes.name",
    "cluster.nodes.public",
    "cluster.nodes.peer",
    "cluster.nodes.admin",
    "cluster.nodes.disks",
    "registry.backend",
    "registry.endpoints",
    "registry.lease",
    "registry.username",
    "registry.password",
    "registry.password_file",
    "sync.interval",
    "sync.rate",
    "archive.target",
    "archive.bucket",
    "archive.region",
    "archive.endpoint",
    "archive.prefix",
    "archive.path_style",
    "archive.credentials",
    "archive.rate",
    "archive.uploads",
    "archive.pack_below",
    "archive.after",
    "archive.high_watermark",
    "archive.low_watermark",
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
    for (name, value) in environment {
        set_from_environment(&mut table, &name, &value)?;
    }
    if let Some(node) = node {
        table.insert("current_node".to_owned(), Value::String(node.to_owned()));
    }
    check_keys(&table, "").map_err(|error| format!("{source}: {error}"))?;
    let node = adopt_entry(&mut table).map_err(|error| format!("{source}: {error}"))?;
    Ok(Said { table, source, node })
}

/// A message as one line.
pub(super) fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `AMBERBLOB_SECTION__KEY`, and `AMBERBLOB_CURRENT_NODE`; other variables are none of ours.
fn set_from_environment(table: &mut Table, name: &str, value: &str) -> Result<(), String> {
    let Some(key) = name.strip_prefix(ENVIRONMENT).map(str::to_lowercase) else { return Ok(()) };
    let value = match format!("value = {value}").parse::<Table>() {
        Ok(mut parsed) if !TEXT.contains(&key.as_str()) => {
            parsed.remove("value").unwrap_or_else(|| Value::String(value.to_owned()))
        }
        _ => Value::String(value.to_owned()),
    };
    let mut parts: Vec<&str> = key.split("__").collect();
    let Some(last) = parts.pop() else { return Ok(()) };
    if parts.is_empty() && last != "current_node" {
        return Ok(());
    }
    let mut section = table;
    for part in parts {
        let inner = section.entry(part).or_insert_with(|| Value::Table(Table::new()));
        section = inner.as_table_mut().ok_or_else(|| format!("{name}: is not in a section"))?;
    }
    section.insert(last.to_owned(), value);
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
