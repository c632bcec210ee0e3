//! The command line.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

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
    /// Have a node read all its chunks at once, compare them with their hashes and repair what is damaged; 1 if damage remains
    Scrub(Ask),
    /// Have a node compare its replicas with those of all other nodes and fetch what it lacks; 1 if a node did not answer or
    /// something is still lacking
    Sync(Ask),
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

#[derive(Args)]
struct Serve {
    /// TOML file; every key has a default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which of the nodes in the config this is
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
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
        Command::Scrub(options) => ask(Operation::Scrub, &options),
        Command::Sync(options) => ask(Operation::Sync, &options),
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

fn ask(operation: Operation, options: &Ask) -> Result<(), String> {
    let report = operation::ask(operation, &options.admin)?;
    let line = if options.json { report.json.to_string() } else { report.line.clone() };
    writeln!(io::stdout(), "{line}").map_err(|error| format!("cannot write the report: {error}"))?;
    if report.good { Ok(()) } else { Err(report.line) }
}

fn serve(options: Serve) -> Result<(), String> {
    let mut config = Config::load(options.config.as_deref(), std::env::vars(), options.node.as_deref())?;
    if !options.data.is_empty() {
        config.storage.disks = options.data;
    }
    config.listen.public = options.listen.unwrap_or(config.listen.public);
    config.listen.admin = options.admin.unwrap_or(config.listen.admin);
    server::serve(&config, options.cores.map(usize::from))
}
