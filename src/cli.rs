//! The command line.

mod blobs;
mod doctor;
mod unit;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::client::operation::{self, Operation};
use crate::config::Config;
use crate::server;

/// A leaderless, versioned blob server for tuned bare metal.
#[derive(Parser)]
#[command(name = "amberblob", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node. Without options: data under ./amberblob-data, clients on 127.0.0.1:8080, operators on 127.0.0.1:8081
    Serve(Serve),
    /// Store a file, stdin or a directory tree
    Put(blobs::Put),
    /// Fetch a blob, over several connections, verified; goes on where it was cut off
    Get(blobs::Fetch),
    /// List blobs: size, time, version, path
    Ls(blobs::Ls),
    /// Show what is known of a blob
    Stat(blobs::Stat),
    /// List the versions of a blob, newest first
    Versions(blobs::Versions),
    /// Delete the newest version of blobs, one version, or all
    Rm(blobs::Rm),
    /// Have a node read all its chunks at once, compare them with their hashes and repair what is damaged; 1 if damage remains
    Scrub(Ask),
    /// Have a node compare its replicas with those of all other nodes and fetch what it lacks; 1 if a node did not answer or
    /// something is still lacking
    Sync(Ask),
    /// Have a node move the chunks of a blob to its archive, where they stay readable; 1 if one of them stays here that should not
    Archive(Archive),
    /// Have a node bring the chunks of a blob back from its archive; 1 if one of them does not come back
    Restore(Restore),
    /// Print the configuration that is in effect, and where each value comes from
    Config(Shown),
    /// Print a systemd unit for a config, hardened
    Unit(unit::Unit),
    /// Look at this machine, and at what a config names: what is well, what could be better, what is wrong; 1 if something is
    Doctor(doctor::Doctor),
    /// Print a script that completes commands, for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// What goes to the archive.
#[derive(Args)]
struct Archive {
    /// The blob
    #[arg(value_name = "PATH", required_unless_present_any = ["status", "check"])]
    path: Option<String>,
    /// Which of its versions; default: the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// Tell how the archive is and what is being moved; 1 if it fails
    #[arg(long, conflicts_with_all = ["path", "version"])]
    status: bool,
    /// Compare the rows of this node with what the store has, both ways; 1 if they differ
    #[arg(long, conflicts_with_all = ["path", "version", "status"])]
    check: bool,
    #[command(flatten)]
    ask: Ask,
}

/// What comes back from there.
#[derive(Args)]
struct Restore {
    /// The blob
    #[arg(value_name = "PATH")]
    path: String,
    /// Which of its versions; default: the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// Bring the newest versions of all paths back that begin with PATH
    #[arg(long, conflicts_with = "version")]
    prefix: bool,
    #[command(flatten)]
    ask: Ask,
}

/// Of what a node is asked to do.
#[derive(Args)]
struct Ask {
    /// The node's admin listener; not the public one, which AMBERBLOB_SERVER names
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081", env = "AMBERBLOB_ADMIN")]
    admin: String,
    /// Print the node's report as it is
    #[arg(long)]
    json: bool,
}

/// Which configuration is meant.
#[derive(Args)]
struct Chosen {
    /// TOML file; every key has a default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which of the nodes in the config this is
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

impl Chosen {
    fn load(&self) -> Result<Config, String> {
        Config::load(self.config.as_deref(), std::env::vars(), self.node.as_deref())
    }
}

/// Of what the configuration is printed.
#[derive(Args)]
struct Shown {
    #[command(flatten)]
    chosen: Chosen,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    chosen: Chosen,
    /// Data directory; once for each disk
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// Address for clients
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address for operators: metrics, health, slots
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Cores to use; default: all that this process may run on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    cores: Option<u16>,
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(options) => serve(options),
        Command::Put(options) => blobs::put(options),
        Command::Get(options) => blobs::get(options),
        Command::Ls(options) => blobs::ls(options),
        Command::Stat(options) => blobs::stat(&options),
        Command::Versions(options) => blobs::versions(&options),
        Command::Rm(options) => blobs::rm(&options),
        Command::Scrub(options) => ask(&Operation::Scrub, &options),
        Command::Sync(options) => ask(&Operation::Sync, &options),
        Command::Archive(options) => {
            let Archive { path, version, check, ask: options, .. } = options;
            let operation = match path {
                Some(path) => Operation::Archive { path, version },
                None if check => Operation::ArchiveCheck,
                None => Operation::ArchiveStatus,
            };
            ask(&operation, &options)
        }
        Command::Restore(options) => {
            let Restore { path, version, prefix, ask: options } = options;
            let operation = if prefix {
                Operation::RestorePrefix { prefix: path }
            } else {
                Operation::Restore { path, version }
            };
            ask(&operation, &options)
        }
        Command::Config(options) => show_config(&options),
        Command::Unit(options) => unit::run(&options),
        Command::Doctor(options) => doctor::run(options),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "amberblob", &mut io::stdout());
            Ok(())
        }
        Command::Man => manual(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Who closed the stream does not want to know.
            let _ = writeln!(io::stderr(), "amberblob: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show_config(options: &Shown) -> Result<(), String> {
    let Chosen { config, node } = &options.chosen;
    let settings = Config::explain(config.as_deref(), std::env::vars(), node.as_deref())?;
    let text = if options.json {
        serde_json::json!({ "settings": settings }).to_string()
    } else {
        settings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    writeln!(io::stdout(), "{text}").map_err(|error| format!("config: cannot write to stdout: {error}"))
}

/// The page of the program, and those of its commands.
fn manual() -> Result<(), String> {
    let mut command = Cli::command();
    command.build();
    let pages = std::iter::once(&command).chain(command.get_subcommands());
    let write = |page: &clap::Command| clap_mangen::Man::new(page.clone()).render(&mut io::stdout());
    let written = pages.map(write).find(Result::is_err).unwrap_or(Ok(()));
    written.map_err(|error| format!("man: cannot write to stdout: {error}"))
}

fn ask(operation: &Operation, options: &Ask) -> Result<(), String> {
    let report = operation::ask(operation, &options.admin)?;
    let line = if options.json { report.json.to_string() } else { report.line.clone() };
    writeln!(io::stdout(), "{line}").map_err(|error| format!("cannot write the report: {error}"))?;
    if report.good { Ok(()) } else { Err(report.line) }
}

fn serve(options: Serve) -> Result<(), String> {
    let mut config = options.chosen.load()?;
    if !options.data.is_empty() {
        config.storage.disks = options.data;
    }
    config.listen.public = options.listen.unwrap_or(config.listen.public);
    config.listen.admin = options.admin.unwrap_or(config.listen.admin);
    server::serve(&config, options.cores.map(usize::from))
}
