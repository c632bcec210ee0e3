//! The commands about blobs: what they take, and what they print.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;

use crate::client::Done;
use crate::client::get::{self, Get};
use crate::client::link::Server;
use crate::client::listing::{self, Listing, Which};
use crate::client::put::{self, Options, Source};
use crate::limits::{CLIENT_CONNECTIONS, CLIENT_CONNECTIONS_MAX};

/// Who is asked.
#[derive(Args)]
pub(super) struct Servers {
    /// A node's public listener; several, with commas or more than once: they are taken in turn
    #[arg(
        long = "server",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        env = "AMBERBLOB_SERVER",
        value_delimiter = ','
    )]
    servers: Vec<Server>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn connections() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=i64::from(CLIENT_CONNECTIONS_MAX))
}

/// Where bytes come from, and go to.
#[derive(Args)]
pub(super) struct Put {
    /// What is stored; - is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Under which path; one that ends with / gets the name of the file
    #[arg(value_name = "PATH")]
    path: String,
    /// FILE is a directory: store the regular files in it, and PATH is what their paths begin with
    #[arg(short, long, conflicts_with = "version")]
    recursive: bool,
    /// Which version it is to be; default: the next one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// Only where there is no blob of that path
    #[arg(long)]
    if_absent: bool,
    /// What it is, like text/plain
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Files that are sent at once, with -r
    #[arg(long, value_name = "N", default_value_t = CLIENT_CONNECTIONS, value_parser = connections())]
    connections: u16,
    #[command(flatten)]
    servers: Servers,
}

/// What is fetched, and where to.
#[derive(Args)]
pub(super) struct Fetch {
    /// The blob
    #[arg(value_name = "PATH")]
    path: String,
    /// Where it goes; - is stdout; in a directory it gets the last name of its path
    #[arg(value_name = "FILE", default_value = ".")]
    file: PathBuf,
    /// Which of its versions; default: the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// Chunks that are fetched at once
    #[arg(long, value_name = "N", default_value_t = CLIENT_CONNECTIONS, value_parser = connections())]
    connections: u16,
    #[command(flatten)]
    servers: Servers,
}

/// What is listed.
#[derive(Args)]
pub(super) struct Ls {
    /// What the paths begin with
    #[arg(value_name = "PREFIX", default_value = "")]
    prefix: String,
    /// List what paths have in common up to this, like / for one level
    #[arg(long, value_name = "TEXT")]
    delimiter: Option<String>,
    /// Those that are deleted, too
    #[arg(long)]
    deleted: bool,
    #[command(flatten)]
    servers: Servers,
}

/// What is looked at.
#[derive(Args)]
pub(super) struct Stat {
    /// The blob
    #[arg(value_name = "PATH")]
    path: String,
    /// Which of its versions; default: the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    #[command(flatten)]
    servers: Servers,
}

/// Of what all versions are listed.
#[derive(Args)]
pub(super) struct Versions {
    /// The blob
    #[arg(value_name = "PATH")]
    path: String,
    #[command(flatten)]
    servers: Servers,
}

/// What is deleted.
#[derive(Args)]
pub(super) struct Rm {
    /// The blobs
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
    /// Which version; default: the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// All versions
    #[arg(long, conflicts_with = "version")]
    all_versions: bool,
    #[command(flatten)]
    servers: Servers,
}

fn is_stream(file: &std::path::Path) -> bool {
    file.as_os_str() == "-"
}

/// Prints what was done, and fails if that was not all.
fn show(done: Done, json: bool) -> Result<(), String> {
    let text = if json { done.json.to_string() } else { done.line.clone() };
    writeln!(io::stdout(), "{text}").map_err(|error| format!("cannot write to stdout: {error}"))?;
    if done.good { Ok(()) } else { Err(done.line) }
}

pub(super) fn put(options: Put) -> Result<(), String> {
    let Put { file, mut path, recursive, version, if_absent, content_type, connections, servers } = options;
    let options = Options { version, if_absent, content_type, quiet: servers.json };
    if recursive {
        let done = put::put_tree(&servers.servers, &file, &path, usize::from(connections), &options)?;
        return show(done, servers.json);
    }
    let source = if is_stream(&file) { Source::Stdin } else { Source::File(file.clone()) };
    if path.ends_with('/')
        && let Some(name) = file.file_name().and_then(|name| name.to_str()).filter(|_| !is_stream(&file))
    {
        path.push_str(name);
    }
    show(put::put(&servers.servers, &source, &path, &options)?, servers.json)
}

pub(super) fn get(options: Fetch) -> Result<(), String> {
    let Fetch { path, file, version, connections, servers } = options;
    let to_stdout = is_stream(&file);
    let what = Get {
        path,
        version,
        to: (!to_stdout).then_some(file),
        connections: usize::from(connections),
        quiet: servers.json,
    };
    let done = get::get(&servers.servers, &what)?;
    match (servers.json, to_stdout) {
        (true, false) => show(done, true),
        (true, true) => {
            let _ = writeln!(io::stderr(), "{}", done.json);
            Ok(())
        }
        // In a pipe it is silent.
        (false, _) => {
            if io::stderr().is_terminal() {
                let _ = writeln!(io::stderr(), "{}", done.line);
            }
            Ok(())
        }
    }
}

pub(super) fn ls(options: Ls) -> Result<(), String> {
    let Ls { prefix, delimiter, deleted, servers } = options;
    let what = Listing { prefix, delimiter, deleted };
    listing::list(&servers.servers, &what, servers.json, &mut io::BufWriter::new(io::stdout().lock()))
}

pub(super) fn stat(options: &Stat) -> Result<(), String> {
    show(listing::stat(&options.servers.servers, &options.path, options.version)?, options.servers.json)
}

pub(super) fn versions(options: &Versions) -> Result<(), String> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    listing::versions(&options.servers.servers, &options.path, options.servers.json, &mut out)
}

/// Goes on after one that cannot be deleted, and fails at the end.
pub(super) fn rm(options: &Rm) -> Result<(), String> {
    let which = match options.version {
        _ if options.all_versions => Which::All,
        Some(version) => Which::One(version),
        None => Which::Newest,
    };
    let mut failed = Vec::new();
    for path in &options.paths {
        match listing::remove(&options.servers.servers, path, which) {
            Ok(done) => show(done, options.servers.json)?,
            Err(why) => failed.push(why),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\namberblob: ")) }
}
