//! How hard, how long, and in which loop: the options that all workloads share.

use super::Run;
use crate::arrivals::Spacing;
use crate::client::{AutoStop, Discard, OpenLoop, Settings};
use crate::plan::Plan;
use crate::report::Limit;
use crate::units::{parse_bandwidth, parse_duration, parse_percent, parse_rate};
use crate::url::Url;
use clap::Args;
use serde_json::{Map, Value, json};
use std::time::Duration;

const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// What bounds a run that stops by itself.
const DEFAULT_LONGEST: Duration = Duration::from_mins(1);
const DEFAULT_SHORTEST: Duration = Duration::from_secs(5);
const DEFAULT_WARMUP: Duration = Duration::from_secs(1);
const DEFAULT_QUEUE: usize = 100_000;
/// A little over a minute of the highest rate.
const MAX_QUEUE: usize = 1 << 30;
/// One address has no more ports to connect from.
const MAX_CONNECTIONS: usize = 60_000;
const MAX_THREADS: usize = 1024;

/// How long a run takes, and whether it is an open loop.
#[derive(Debug, Args)]
pub(super) struct Load {
    /// What is measured, after the warm-up; with --until-stable at most this [default: 10s; 1m with --until-stable; unbounded with --requests]
    #[arg(long, value_parser = parse_duration)]
    duration: Option<Duration>,
    /// What is not measured, before that [default: 1s, or nothing with --requests]
    #[arg(long, value_parser = parse_duration)]
    warmup: Option<Duration>,
    /// Stop after this many requests
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Stop when the 95 % confidence interval of the throughput (with --rate: of the mean latency) over one-second windows is no wider than this
    /// to either side of the mean, such as 2%
    #[arg(long, value_parser = parse_percent, value_name = "PERCENT")]
    until_stable: Option<f64>,
    /// With --until-stable: measure at least this [default: 5s]
    #[arg(long, value_parser = parse_duration, requires = "until_stable", value_name = "DURATION")]
    min_duration: Option<Duration>,
    /// Open loop: so many requests a second are due, however the server fares; latency counts from when a request was due
    #[arg(long, value_parser = parse_rate, value_name = "RATE", allow_negative_numbers = true)]
    rate: Option<f64>,
    /// Open loop: how the gaps between requests are spread [default: poisson]
    #[arg(long, value_enum, requires = "rate")]
    arrivals: Option<Spacing>,
    /// Open loop: how many requests may wait while all connections are busy; more are dropped and counted as queue_full [default: 100000]
    #[arg(long, requires = "rate", value_name = "N")]
    queue: Option<usize>,
    /// Seed of the choice of objects, ranges and arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Exit with 0 even if requests failed
    #[arg(long)]
    allow_errors: bool,
    #[command(flatten)]
    shared: Shared,
}

/// What `prepare` needs, too.
#[derive(Debug, Args)]
pub(super) struct Shared {
    /// Connections, each with one request under way
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    connections: usize,
    /// Threads that drive them, each its share
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
}

/// What is asked for, and how it stands in the report.
pub(super) struct Asked {
    pub(super) name: &'static str,
    pub(super) plan: PlanOf,
    pub(super) parameters: Vec<(&'static str, Value)>,
}

/// Makes the plan once the number of connections and the seed are known.
pub(super) type PlanOf = Box<dyn FnOnce(usize, u64) -> Result<Plan, String>>;

impl Load {
    /// A run of what is asked for.
    pub(super) fn run(&self, url: &str, asked: Asked) -> Result<Run, String> {
        let by_time = self.requests.is_none();
        let longest = if self.until_stable.is_some() { DEFAULT_LONGEST } else { DEFAULT_DURATION };
        let duration = self.duration.or(by_time.then_some(longest));
        if duration.is_some_and(|duration| duration.is_zero()) {
            return Err("--duration must be longer than nothing".to_owned());
        }
        if self.requests == Some(0) {
            return Err("--requests must be at least 1".to_owned());
        }
        let mut run = self.shared.run(url, asked, self.seed)?;
        let settings = &mut run.settings;
        settings.warmup = self.warmup.unwrap_or(if by_time { DEFAULT_WARMUP } else { Duration::ZERO });
        settings.duration = duration;
        settings.requests = self.requests;
        settings.open_loop = self.open_loop()?;
        settings.auto_stop = self.auto_stop(duration)?;
        run.allow_errors = self.allow_errors;
        if let Some(rate) = self.rate {
            run.description = format!("{}, open loop at {rate} requests/s", run.description);
        }
        let settings = &run.settings;
        let fields = [
            ("warmup_s", json!(settings.warmup.as_secs_f64())),
            ("duration_s", json!(duration.map(|duration| duration.as_secs_f64()))),
            ("requests", json!(self.requests)),
            ("rate", json!(self.rate)),
            ("arrivals", json!(settings.open_loop.map(|open| format!("{:?}", open.spacing).to_lowercase()))),
            ("queue", json!(settings.open_loop.map(|open| open.queue))),
            ("until_stable", json!(self.until_stable)),
        ];
        run.parameters.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        Ok(run)
    }

    fn open_loop(&self) -> Result<Option<OpenLoop>, String> {
        let Some(rate) = self.rate else { return Ok(None) };
        let queue = self.queue.unwrap_or(DEFAULT_QUEUE);
        within("--queue", queue, MAX_QUEUE)?;
        Ok(Some(OpenLoop { rate, spacing: self.arrivals.unwrap_or(Spacing::Poisson), queue }))
    }

    fn auto_stop(&self, duration: Option<Duration>) -> Result<Option<AutoStop>, String> {
        let Some(within) = self.until_stable else { return Ok(None) };
        let at_least = self.min_duration.unwrap_or(DEFAULT_SHORTEST);
        if duration.is_some_and(|duration| duration < at_least) {
            return Err(format!(
                "--duration is shorter than --min-duration ({:.1} s): lengthen the one or shorten the other",
                at_least.as_secs_f64()
            ));
        }
        Ok(Some(AutoStop { within, at_least }))
    }
}

impl Shared {
    /// A closed loop without any bound, which the caller adds.
    pub(super) fn run(&self, url: &str, asked: Asked, seed: u64) -> Result<Run, String> {
        within("--connections", self.connections, MAX_CONNECTIONS)?;
        within("--threads", self.threads, MAX_THREADS)?;
        let threads = self.threads.min(self.connections);
        let plan = (asked.plan)(self.connections, seed)?;
        let mut parameters: Map<String, Value> =
            asked.parameters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let fields = [
            ("connections", json!(self.connections)),
            ("threads", json!(threads)),
            ("seed", json!(seed)),
            ("data_seed", json!(self.data_seed)),
        ];
        parameters.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        let url = Url::parse(url)?;
        let description = format!("{}, {} connections", plan.describe(), self.connections);
        let settings = Settings {
            address: url.resolve()?,
            url,
            plan,
            connections: self.connections,
            threads,
            pin: self.pin.clone(),
            warmup: Duration::ZERO,
            duration: None,
            requests: None,
            open_loop: None,
            auto_stop: None,
            connect_timeout: self.connect_timeout,
            response_timeout: self.timeout,
            seed,
            data_seed: self.data_seed,
            verify: false,
            discard: Discard::default(),
            low_water: 1,
            server_pids: Vec::new(),
        };
        Ok(Run { workload: asked.name, description, parameters, settings, limit: None, allow_errors: false })
    }
}

/// `[NAME=]BANDWIDTH`.
pub(super) fn parse_limit(text: &str) -> Result<Limit, String> {
    let (name, bandwidth) = text.split_once('=').unwrap_or(("limit", text));
    Ok(Limit { name: name.to_owned(), bytes_per_s: parse_bandwidth(bandwidth)?, share: 0.0 })
}

/// Refuses a number outside `1..=most`.
pub(super) fn within(option: &str, value: usize, most: usize) -> Result<(), String> {
    if (1..=most).contains(&value) {
        Ok(())
    } else {
        Err(format!("{option} must be 1 to {most}, not {value}"))
    }
}
