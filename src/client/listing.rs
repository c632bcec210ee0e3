//! What there is: listings, versions, the state of one blob, and deleting it.

use std::io::{self, Write};

use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::blob::{self, from};
use super::link::{Link, Server, Upload, target};
use super::{Done, runtime};
use crate::limits::CLIENT_PAGE;

/// Which blobs are listed.
#[derive(Clone, Debug)]
pub struct Listing {
    /// What their paths begin with.
    pub prefix: String,
    /// What ends a common prefix; none: every path is listed.
    pub delimiter: Option<String>,
    /// Whether those are listed whose newest version is deleted.
    pub deleted: bool,
}

fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// Lists blobs: a line each, with size, time, version and path, or one JSON document; page by page.
///
/// # Errors
/// One line: the thing, the cause, the way out.
pub fn list(servers: &[Server], what: &Listing, json: bool, out: &mut impl Write) -> Result<(), String> {
    let mut query = format!("prefix={}&limit={CLIENT_PAGE}", encoded(&what.prefix));
    if let Some(delimiter) = &what.delimiter {
        query = format!("{query}&delimiter={}", encoded(delimiter));
    }
    if what.deleted {
        query.push_str("&include_tombstoned=true");
    }
    let page = |cursor: Option<&str>| format!("/objects?{query}{}", from(cursor));
    pages(servers, page, "objects", json, out).map_err(|why| format!("ls: {}: {why}", what.prefix))
}

/// Lists the versions of a path, newest first.
///
/// # Errors
/// One line: the thing, the cause, the way out.
pub fn versions(servers: &[Server], path: &str, json: bool, out: &mut impl Write) -> Result<(), String> {
    let page = |cursor: Option<&str>| target(path, &format!("versions&limit={CLIENT_PAGE}{}", from(cursor)));
    pages(servers, page, "versions", json, out).map_err(|why| format!("versions: {path}: {why}"))
}

/// Writes pages as they come: nothing is held but one.
fn pages(
    servers: &[Server],
    target: impl Fn(Option<&str>) -> String,
    name: &str,
    json: bool,
    out: &mut impl Write,
) -> Result<(), String> {
    let runtime = runtime()?;
    let mut link = Link::new(servers, 0);
    let (mut cursor, mut begun) = (None, false);
    let mut prefixes = Vec::new();
    loop {
        let page = runtime.block_on(link.json(&target(cursor.as_deref())));
        let page = page.map_err(|failure| failure.message)?;
        let items = |name: &str| page.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let written = if json {
            prefixes.extend(items("prefixes"));
            items(name).iter().try_for_each(|item| {
                let before = if std::mem::replace(&mut begun, true) {
                    ",\n".to_owned()
                } else {
                    format!("{{\"{name}\":[\n")
                };
                write!(out, "{before}{item}")
            })
        } else {
            let mut lines: Vec<(String, String)> =
                items(name).iter().map(|item| (text(item, "path"), line(item))).collect();
            let prefix =
                |prefix: &Value| prefix.as_str().map(|prefix| (prefix.to_owned(), of_prefix(prefix)));
            lines.extend(items("prefixes").iter().filter_map(prefix));
            // Those of versions are in their order already.
            lines.sort_by(|(one, _), (other, _)| one.cmp(other));
            lines.iter().try_for_each(|(_, line)| writeln!(out, "{line}"))
        };
        written.map_err(|error| closed(&error))?;
        cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    if json {
        let before = if begun { String::new() } else { format!("{{\"{name}\":[") };
        let prefixes = if name == "objects" {
            format!(",\"prefixes\":{}", Value::from(prefixes))
        } else {
            String::new()
        };
        writeln!(out, "{before}]{prefixes}}}").map_err(|error| closed(&error))?;
    }
    out.flush().map_err(|error| closed(&error))
}

fn closed(error: &io::Error) -> String {
    format!("cannot write to stdout: {error}")
}

fn text(item: &Value, name: &str) -> String {
    item.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A version in a line: size, time, version, path, and whether it is deleted.
fn line(item: &Value) -> String {
    let number = |name: &str| item.get(name).and_then(Value::as_u64).unwrap_or(0);
    let deleted = if item.get("tombstoned_at").is_none_or(Value::is_null) { "" } else { "  (deleted)" };
    format!(
        "{:>14}  {:24}  {:>6}  {}{deleted}",
        number("size"),
        text(item, "created_at"),
        number("version"),
        text(item, "path")
    )
}

fn of_prefix(prefix: &str) -> String {
    format!("{:>14}  {:24}  {:>6}  {prefix}", "-", "-", "-")
}

/// What is known of a version.
///
/// # Errors
/// One line: the thing, the cause, the way out.
pub fn stat(servers: &[Server], path: &str, version: Option<u64>) -> Result<Done, String> {
    let head = async {
        let mut link = Link::new(servers, 0);
        blob::head(&mut link, path, version).await.map_err(|failure| failure.message)
    };
    let found = runtime().and_then(|runtime| runtime.block_on(head));
    let (found, fields) = found.map_err(|why| format!("stat: {path}: {why}"))?;
    let json = blob::described(&found, &fields);
    let mut lines = Vec::new();
    for (name, value) in json.as_object().into_iter().flatten().filter(|(name, _)| *name != "headers") {
        lines.push(format!("{name}: {}", plain(value)));
    }
    for (name, value) in json.get("headers").and_then(Value::as_object).into_iter().flatten() {
        lines.push(format!("{name}: {}", plain(value)));
    }
    Ok(Done { json, line: lines.join("\n"), good: true })
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Which versions of a path are deleted.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// The newest one.
    Newest,
    /// That one.
    One(u64),
    /// All of them.
    All,
}

/// Deletes versions of a path.
///
/// # Errors
/// One line: the thing, the cause, the way out.
pub fn remove(servers: &[Server], path: &str, which: Which) -> Result<Done, String> {
    let query = match which {
        Which::Newest => String::new(),
        Which::One(version) => format!("version={version}"),
        Which::All => "versions".to_owned(),
    };
    let delete = async {
        let mut link = Link::new(servers, 0);
        let answer = link.send(&Method::DELETE, &target(path, &query), &[], Upload::none()).await;
        let answer = answer.map_err(|failure| failure.message)?;
        if !answer.status().is_success() {
            return Err(link.refused(answer).await.message);
        }
        link.json_of(answer).await.map_err(|failure| failure.message)
    };
    let json =
        runtime().and_then(|runtime| runtime.block_on(delete)).map_err(|why| format!("rm: {path}: {why}"))?;
    let line = match (which, json.get("version").and_then(Value::as_u64)) {
        (Which::All, _) | (_, None) => format!("rm: {path}: all versions deleted"),
        (_, Some(version)) => format!("rm: {path}: version {version} deleted"),
    };
    Ok(Done { json, line, good: true })
}
