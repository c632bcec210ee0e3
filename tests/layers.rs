//! Who may import whom: the layers of `rfc/0001-initial-design.md`, checked against every `use` in `src/`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module of the crate, and which others it may name.
const MAY_NAME: [(&str, &[&str]); 21] = [
    ("base", &["limits"]),
    ("limits", &[]),
    ("wire", &["base", "limits"]),
    ("replication", &["base", "limits", "wire"]),
    ("antientropy", &["base", "limits", "wire"]),
    ("io", &["base", "limits"]),
    ("metrics", &[]),
    ("meta", &["base", "limits", "wire", "io", "replication", "antientropy"]),
    ("chunk", &["base", "limits", "wire", "io"]),
    ("registry", &["base", "limits"]),
    ("archive", &["base", "limits"]),
    ("tls", &["base", "limits"]),
    (
        "shard",
        &[
            "base",
            "limits",
            "wire",
            "antientropy",
            "replication",
            "io",
            "meta",
            "chunk",
            "metrics",
            "registry",
            "archive",
            "tls",
        ],
    ),
    (
        "background",
        &["base", "limits", "wire", "io", "meta", "chunk", "metrics", "registry", "archive", "shard"],
    ),
    ("config", &["base", "limits", "io", "meta", "registry", "archive"]),
    ("compat", &["base", "meta"]),
    (
        "server",
        &[
            "base",
            "limits",
            "replication",
            "io",
            "meta",
            "chunk",
            "metrics",
            "registry",
            "archive",
            "tls",
            "shard",
            "background",
            "config",
        ],
    ),
    ("client", &["limits"]),
    ("doctor", &["base", "limits", "io", "meta", "registry", "archive", "config"]),
    ("cli", &["limits", "client", "config", "doctor", "server"]),
    ("main", &["cli"]),
];

/// Crates that only some modules may name.
const CRATES: [(&str, &[&str]); 15] = [
    ("rusqlite", &["meta"]),
    ("monoio", &["io", "shard"]),
    ("tokio", &["archive", "background", "client", "registry", "tls"]),
    ("tokio_uring", &["background"]),
    ("redis", &["registry"]),
    ("hyper", &["client", "registry"]),
    ("hyper_util", &["client", "registry"]),
    ("http_body_util", &["client", "registry"]),
    ("rustls", &["tls"]),
    ("httparse", &["wire"]),
    ("io_uring", &["io"]),
    ("aws_sdk_s3", &["archive"]),
    ("aws_smithy_http_client", &["archive"]),
    ("aws_smithy_types", &["archive"]),
    ("http_body", &["archive"]),
];

/// Crates that only one file of a module may name, with its tests below it.
const FILES: [(&str, &str); 5] = [
    ("aws_sdk_s3", "archive/target.rs"),
    ("aws_smithy_http_client", "archive/target.rs"),
    ("aws_smithy_types", "archive/target.rs"),
    ("http_body", "archive/target.rs"),
    ("tokio", "archive/target.rs"),
];

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The crate's own modules that a line names by `crate::x` or `amberblob::x`.
fn named_modules(line: &str) -> BTreeSet<&str> {
    let ends = |c: char| !(c.is_alphanumeric() || c == '_');
    let after =
        |prefix| line.match_indices(prefix).map(move |(at, found): (usize, &str)| &line[at + found.len()..]);
    after("crate::")
        .chain(after("amberblob::"))
        .map(|rest| rest.split(ends).next().unwrap_or_default())
        .collect()
}

/// Whether a line has `name::` or `use name;`, and not at the end of another name.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(&format!("{name}::"))
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        || line.contains(&format!("use {name};"))
}

#[test]
fn layers_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 40, "only {} sources found", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let allowed = MAY_NAME.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed);
        let Some(allowed) = allowed else {
            wrong.push(format!("{module} has no place in the layers"));
            continue;
        };
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let place = format!("{}:{}", relative.display(), number + 1);
            for named in named_modules(line) {
                if named != module && !allowed.contains(&named) {
                    wrong.push(format!("{place}: {module} names {named}"));
                }
            }
            for (name, modules) in CRATES {
                if names_crate(line, name) && !modules.contains(&module.as_str()) {
                    wrong.push(format!("{place}: {module} names {name}"));
                }
            }
            for (name, only) in FILES {
                let within = Path::new(only).starts_with(&module);
                let is_there = relative == Path::new(only)
                    || relative == Path::new(only).with_extension("").join("tests.rs");
                if names_crate(line, name) && within && !is_there {
                    wrong.push(format!("{place}: {name} is named outside {only}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_load_generator_shares_nothing_with_the_server() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("loadgen/Cargo.toml");
    let names_server = |line: &str| line.trim_start().starts_with("amberblob");
    assert!(!fs::read_to_string(manifest).unwrap().lines().any(names_server));
}
