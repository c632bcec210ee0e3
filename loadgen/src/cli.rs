//! The command line, and its translation into settings.
//!
//! What is wrong is refused here, before a socket is opened, with a line that names the option.

use crate::client::Settings;
use crate::low_water;
use crate::plan::{Pattern, Plan, Workload};
use crate::units::{parse_duration, parse_size, show_size};
use crate::url::Url;
use clap::{Args, Parser, Subcommand};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;

const DEFAULT_DURATION: Duration = Duration::from_secs(10);
const DEFAULT_WARMUP: Duration = Duration::from_secs(1);
/// One address has no more ports to connect from.
const MAX_CONNECTIONS: usize = 60_000;
const MAX_THREADS: usize = 1024;

// In help texts clap makes a line break of an n in braces, so they name the placeholder in words.
/// Loads an HTTP/1.1 blob server and reports what it can do.
///
/// In a URL's path, n in braces stands for the object's number and conn in braces for the connection's. Sizes take B, KiB, MiB, GiB, TiB, kB, MB, GB, TB;
/// durations us, ms, s, m, h. Exit codes: 0 done, 1 failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read objects, whole or in ranges
    Get(Get),
    /// Write objects of one size
    Put(Put),
    /// Write the data set that verified reads expect: objects 0 to N-1, each once
    Prepare(Prepare),
}

#[derive(Debug, Args)]
struct Get {
    /// Where the objects are; if there are several, with n in braces
    url: String,
    /// Size of a range [default: whole objects are read]
    #[arg(long, value_parser = parse_size, value_name = "SIZE", requires = "object_size", conflicts_with = "whole")]
    range_size: Option<u64>,
    /// Size of each object
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    object_size: Option<u64>,
    /// Read whole objects
    #[arg(long, required_unless_present = "range_size")]
    whole: bool,
    /// Where ranges start
    #[arg(long, value_enum, default_value = "random", conflicts_with = "whole")]
    pattern: Pattern,
    /// How many objects there are; they are numbered from 0
    #[arg(long, default_value_t = 1, value_name = "N")]
    objects: u64,
    /// Compare every byte with the data set of --data-seed; else bodies are thrown away without being copied
    #[arg(long)]
    verify: bool,
    /// Be woken only when this much of a body has arrived, which makes the client cheaper; 1 for any byte
    #[arg(long, value_parser = parse_size, default_value = "1MiB", value_name = "SIZE")]
    low_water: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Put {
    /// Where the objects go; n in braces counts the requests of the run
    url: String,
    /// Size of each object
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    size: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Prepare {
    /// Where the objects go; if there are several, with n in braces
    url: String,
    /// Size of each object
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    object_size: u64,
    /// How many objects
    #[arg(long, default_value_t = 1, value_name = "N")]
    objects: u64,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
struct Common {
    /// What is measured, after the warm-up [default: 10s, or unbounded with --requests]
    #[arg(long, value_parser = parse_duration)]
    duration: Option<Duration>,
    /// What is not measured, before that [default: 1s, or nothing with --requests]
    #[arg(long, value_parser = parse_duration)]
    warmup: Option<Duration>,
    /// Stop after this many requests
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Seed of the choice of objects and ranges
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Exit with 0 even if requests failed
    #[arg(long)]
    allow_errors: bool,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
struct Shared {
    /// Connections, each with one request under way
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    connections: usize,
    /// Threads that drive them
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    threads: usize,
    /// CPUs of the threads, dealt out in turn, such as 1 or 1,3
    #[arg(long, value_delimiter = ',', value_name = "CPU")]
    pin: Vec<usize>,
    /// Seed of the objects' bytes
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    data_seed: u64,
    /// Give up on a connection that is not made in this time
    #[arg(long, value_parser = parse_duration, default_value = "5s", value_name = "TIME")]
    connect_timeout: Duration,
    /// Give up on a request on which no byte has moved for this time
    #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
    timeout: Duration,
    /// Report the CPU time of this process too, which must run on this machine
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Write the report as JSON to a file, or with - to standard output instead of the summary
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A run that has been checked.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) description: String,
    pub(crate) parameters: Map<String, Value>,
    pub(crate) settings: Settings,
    pub(crate) allow_errors: bool,
    pub(crate) json: Option<PathBuf>,
}

/// What bounds a run.
#[derive(Clone, Copy)]
struct Bounds {
    warmup: Duration,
    duration: Option<Duration>,
    requests: Option<u64>,
}

impl Cli {
    /// Checks the options against one another.
    pub(crate) fn into_run(self) -> Result<Run, String> {
        match self.command {
            Command::Get(get) => get.into_run(),
            Command::Put(put) => {
                let workload = Workload::Put { size: put.size };
                put.common.into_run("put", &put.url, workload)
            }
            Command::Prepare(prepare) => {
                several_need_names(prepare.objects, &prepare.url)?;
                let bounds =
                    Bounds { warmup: Duration::ZERO, duration: None, requests: Some(prepare.objects) };
                let workload = Workload::Put { size: prepare.object_size };
                prepare.shared.into_run("prepare", &prepare.url, workload, bounds, 0)
            }
        }
    }
}

impl Get {
    fn into_run(self) -> Result<Run, String> {
        several_need_names(self.objects, &self.url)?;
        if !(1..=low_water::MOST).contains(&self.low_water) {
            return Err(format!("--low-water must be 1 B to {}", show_size(low_water::MOST)));
        }
        let workload = match (self.range_size, self.object_size) {
            (Some(range_size), Some(object_size)) => {
                Workload::Ranges { range_size, object_size, objects: self.objects, pattern: self.pattern }
            }
            (_, object_size) => Workload::Whole { object_size, objects: self.objects },
        };
        let mut run = self.common.into_run("get", &self.url, workload)?;
        run.settings.verify = self.verify;
        run.settings.low_water = self.low_water;
        run.parameters.insert("verify".to_owned(), json!(self.verify));
        run.parameters.insert("low_water".to_owned(), json!(self.low_water));
        Ok(run)
    }
}

impl Common {
    fn into_run(self, name: &'static str, url: &str, workload: Workload) -> Result<Run, String> {
        let by_time = self.requests.is_none();
        let bounds = Bounds {
            warmup: self.warmup.unwrap_or(if by_time { DEFAULT_WARMUP } else { Duration::ZERO }),
            duration: self.duration.or(by_time.then_some(DEFAULT_DURATION)),
            requests: self.requests,
        };
        if bounds.duration.is_some_and(|duration| duration.is_zero()) {
            return Err("--duration must be longer than nothing".to_owned());
        }
        let mut run = self.shared.into_run(name, url, workload, bounds, self.seed)?;
        run.allow_errors = self.allow_errors;
        Ok(run)
    }
}

impl Shared {
    fn into_run(
        self,
        name: &'static str,
        url: &str,
        workload: Workload,
        bounds: Bounds,
        seed: u64,
    ) -> Result<Run, String> {
        within("--connections", self.connections, MAX_CONNECTIONS)?;
        within("--threads", self.threads, MAX_THREADS)?;
        let threads = self.threads.min(self.connections);
        let parameters = parameters(url, workload, bounds, &self, threads, seed);
        let description = describe(workload, self.connections);
        let url = Url::parse(url)?;
        let settings = Settings {
            address: url.resolve()?,
            url,
            plan: Plan::new(workload, self.connections, seed)?,
            connections: self.connections,
            threads,
            pin: self.pin,
            warmup: bounds.warmup,
            duration: bounds.duration,
            requests: bounds.requests,
            connect_timeout: self.connect_timeout,
            response_timeout: self.timeout,
            data_seed: self.data_seed,
            verify: false,
            low_water: 1,
            server_pid: self.server_pid,
        };
        Ok(Run { name, description, parameters, settings, allow_errors: false, json: self.json })
    }
}

fn several_need_names(objects: u64, url: &str) -> Result<(), String> {
    if objects > 1 && !Url::parse(url)?.names_objects() {
        return Err(format!("{objects} objects need {{n}} in the URL {url:?}"));
    }
    Ok(())
}

fn within(option: &str, value: usize, most: usize) -> Result<(), String> {
    if (1..=most).contains(&value) {
        Ok(())
    } else {
        Err(format!("{option} must be 1 to {most}, not {value}"))
    }
}

fn describe(workload: Workload, connections: usize) -> String {
    let what = match workload {
        Workload::Ranges { range_size, object_size, objects, pattern } => {
            let pattern = match pattern {
                Pattern::Random => "random",
                Pattern::AlignedRandom => "aligned random",
                Pattern::Sequential => "sequential",
            };
            format!(
                "GET {pattern} {} ranges of {objects} x {}",
                show_size(range_size),
                show_size(object_size)
            )
        }
        Workload::Whole { object_size, objects } => {
            format!(
                "GET {objects} x {} whole",
                object_size.map_or_else(|| "unknown size".to_owned(), show_size)
            )
        }
        Workload::Put { size } => format!("PUT {}", show_size(size)),
    };
    format!("{what}, {connections} connections")
}

fn parameters(
    url: &str,
    workload: Workload,
    bounds: Bounds,
    shared: &Shared,
    threads: usize,
    seed: u64,
) -> Map<String, Value> {
    let (range_size, object_size, objects, pattern) = match workload {
        Workload::Ranges { range_size, object_size, objects, pattern } => {
            (Some(range_size), Some(object_size), Some(objects), Some(pattern))
        }
        Workload::Whole { object_size, objects } => (None, object_size, Some(objects), None),
        Workload::Put { size } => (None, Some(size), None, None),
    };
    let pattern = pattern.map(|pattern| match pattern {
        Pattern::Random => "random",
        Pattern::AlignedRandom => "aligned-random",
        Pattern::Sequential => "sequential",
    });
    let fields = [
        ("url", json!(url)),
        ("range_size", json!(range_size)),
        ("object_size", json!(object_size)),
        ("objects", json!(objects)),
        ("pattern", json!(pattern)),
        ("connections", json!(shared.connections)),
        ("threads", json!(threads)),
        ("warmup_s", json!(bounds.warmup.as_secs_f64())),
        ("duration_s", json!(bounds.duration.map(|duration| duration.as_secs_f64()))),
        ("requests", json!(bounds.requests)),
        ("seed", json!(seed)),
        ("data_seed", json!(shared.data_seed)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn run(arguments: &str) -> Result<Run, String> {
        let words = std::iter::once("loadgen").chain(arguments.split(' '));
        Cli::try_parse_from(words).map_err(|error| error.to_string())?.into_run()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_the_placeholders_in_words() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("n in braces stands for the object's number and conn in braces"), "{help}");
    }

    #[test]
    fn a_run_is_bounded_by_time_or_by_requests() {
        let timed = run("put http://127.0.0.1/{n} --size 1MiB").unwrap().settings;
        assert_eq!(
            (timed.duration, timed.warmup, timed.requests),
            (Some(DEFAULT_DURATION), DEFAULT_WARMUP, None)
        );
        let counted = run("put http://127.0.0.1/{n} --size 1MiB --requests 5").unwrap().settings;
        assert_eq!((counted.duration, counted.warmup, counted.requests), (None, Duration::ZERO, Some(5)));
        let both = run("put http://127.0.0.1/{n} --size 1MiB --requests 5 --duration 2s").unwrap().settings;
        assert_eq!((both.duration, both.requests), (Some(Duration::from_secs(2)), Some(5)));
    }

    #[test]
    fn threads_are_no_more_than_connections() {
        assert_eq!(run("get http://127.0.0.1/ --whole -c 2 -t 8 --pin 1,3").unwrap().settings.threads, 2);
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for arguments in [
            "get http://127.0.0.1/x",
            "get http://127.0.0.1/x --range-size 1MiB",
            "get http://127.0.0.1/x --range-size 2MiB --object-size 1MiB",
            "get http://127.0.0.1/x --whole --range-size 1MiB --object-size 1MiB",
            "get http://127.0.0.1/x --whole --objects 2",
            "get http://127.0.0.1/x --whole -c 0",
            "get http://127.0.0.1/x --whole --duration 0s",
            "get ftp://127.0.0.1/x --whole",
            "prepare http://127.0.0.1/x --object-size 1 --objects 2",
            "put http://127.0.0.1/x",
        ] {
            assert!(run(arguments).is_err(), "{arguments:?} was taken");
        }
    }
}
