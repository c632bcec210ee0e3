//! The command line, and its translation into tasks.
//!
//! What is wrong is refused here, before a socket is opened, with a line that names the option.

mod load;
mod output;
mod workload;

use crate::client::Settings;
use crate::duel;
use crate::report::Limit;
use clap::{Args, Parser, Subcommand};
use load::parse_limit;
pub(crate) use output::{Output, print, write};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use workload::{Get, Mix, Prepare, Put, Workload};

// In help texts clap makes a line break of an n in braces, so they name the placeholder in words.
/// Loads an HTTP/1.1 blob server and reports what it can do.
///
/// In a URL's path, n in braces stands for the object's number and conn in braces for the connection's. Sizes take B, KiB, MiB, GiB, TiB, kB, MB, GB, TB;
/// durations us, ms, s, m, h; rates k and M. Exit codes: 0 done, 1 failed, 2 wrong usage.
///
/// Without --rate the loop is closed: each connection sends its next request when the last is answered. With --rate it is open: requests are due at
/// their times whatever the server does, and a request that finds all connections busy waits in a bounded queue, its wait being part of its latency.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read objects, whole or in ranges
    Get(Single<Get>),
    /// Write objects of one size
    Put(Single<Put>),
    /// Several kinds of requests at once, by weight
    Mix(Single<Mix>),
    /// Write the data set that verified reads expect: objects 0 to N-1, each once
    Prepare(Single<Prepare>),
    /// The same workload on two servers in turn, round by round, and the ratio of each pair
    Duel(Duel),
    /// Two reports side by side
    Compare(Compare),
    /// One report of several runs that were made at the same time, on several machines
    Merge(Merge),
}

/// A workload on one server.
#[derive(Debug, Args)]
struct Single<W: Args> {
    /// Where the objects are; if there are several, with n in braces
    url: String,
    #[command(flatten)]
    workload: W,
    /// Report the CPU time of these processes too, which must run on this machine
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    server_pid: Vec<u32>,
    /// Report the throughput as a share of this, such as 12.5GB/s, or with a name NIC=100Gbit/s
    #[arg(long, value_parser = parse_limit, value_name = "[NAME=]BANDWIDTH")]
    limit: Option<Limit>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Duel {
    /// One server: where the objects are
    url_a: String,
    /// The other
    url_b: String,
    /// Pairs of turns; the order changes from pair to pair
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// Report the CPU time of these processes of the one server, on this machine
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    server_pid_a: Vec<u32>,
    /// Report the CPU time of these processes of the other server, on this machine
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    server_pid_b: Vec<u32>,
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Debug, Args)]
struct Compare {
    /// The report that is the measure
    a: PathBuf,
    /// The report that is measured by it
    b: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Merge {
    /// Reports, as --json wrote them; a single one is shown again
    #[arg(required = true)]
    reports: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// What to do: checked.
#[derive(Debug)]
pub(crate) enum Task {
    Run { run: Box<Run>, output: Output },
    Duel { duel: Box<duel::Plan>, output: Output },
    Compare { a: PathBuf, b: PathBuf, output: Output },
    Merge { reports: Vec<PathBuf>, output: Output },
}

/// A workload on one server: checked.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) workload: &'static str,
    pub(crate) description: String,
    /// As they stand in the report.
    pub(crate) parameters: Map<String, Value>,
    pub(crate) settings: Settings,
    pub(crate) limit: Option<Limit>,
    pub(crate) allow_errors: bool,
}

/// What can be made into a run on a URL.
trait IntoRun {
    fn run(&self, url: &str) -> Result<Run, String>;
}

impl Cli {
    /// Checks the options against one another.
    pub(crate) fn into_task(self) -> Result<Task, String> {
        match self.command {
            Command::Get(single) => single.into_task(),
            Command::Put(single) => single.into_task(),
            Command::Mix(single) => single.into_task(),
            Command::Prepare(single) => single.into_task(),
            Command::Duel(duel) => duel.into_task(),
            Command::Compare(Compare { a, b, output }) => {
                output.check()?;
                Ok(Task::Compare { a, b, output })
            }
            Command::Merge(Merge { reports, output }) => {
                output.check()?;
                Ok(Task::Merge { reports, output })
            }
        }
    }
}

impl<W: Args + IntoRun> Single<W> {
    fn into_task(self) -> Result<Task, String> {
        self.output.check()?;
        let mut run = self.workload.run(&self.url)?;
        run.settings.server_pids = self.server_pid;
        run.limit = self.limit;
        run.parameters.insert("url".to_owned(), json!(self.url));
        Ok(Task::Run { run: Box::new(run), output: self.output })
    }
}

impl Duel {
    fn into_task(self) -> Result<Task, String> {
        self.output.check()?;
        load::within("--rounds", self.rounds, duel::MOST_ROUNDS)?;
        let side = |url: &str, pids: Vec<u32>| {
            let mut run = match &self.workload {
                Workload::Get(get) => get.run(url),
                Workload::Put(put) => put.run(url),
                Workload::Mix(mix) => mix.run(url),
            }?;
            run.settings.server_pids = pids;
            run.parameters.insert("url".to_owned(), json!(url));
            Ok::<_, String>(run)
        };
        let a = side(&self.url_a, self.server_pid_a)?;
        let b = side(&self.url_b, self.server_pid_b)?;
        Ok(Task::Duel { duel: Box::new(duel::Plan { a, b, rounds: self.rounds }), output: self.output })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use std::time::Duration;

    fn task(arguments: &str) -> Result<Task, String> {
        let words = std::iter::once("loadgen").chain(arguments.split(' '));
        Cli::try_parse_from(words).map_err(|error| error.to_string())?.into_task()
    }

    fn settings(arguments: &str) -> Settings {
        match task(arguments).unwrap() {
            Task::Run { run, .. } => run.settings,
            other => unreachable!("{other:?}"),
        }
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
        let timed = settings("put http://127.0.0.1/{n} --size 1MiB");
        assert_eq!(
            (timed.duration, timed.warmup, timed.requests),
            (Some(Duration::from_secs(10)), Duration::from_secs(1), None)
        );
        let counted = settings("put http://127.0.0.1/{n} --size 1MiB --requests 5");
        assert_eq!((counted.duration, counted.warmup, counted.requests), (None, Duration::ZERO, Some(5)));
        let both = settings("put http://127.0.0.1/{n} --size 1MiB --requests 5 --duration 2s");
        assert_eq!((both.duration, both.requests), (Some(Duration::from_secs(2)), Some(5)));
        let stable = settings("put http://127.0.0.1/{n} --size 1MiB --until-stable 2%");
        assert_eq!(stable.duration, Some(Duration::from_mins(1)), "never longer than that");
        assert!(stable.auto_stop.is_some());
    }

    #[test]
    fn threads_are_no_more_than_connections() {
        assert_eq!(settings("get http://127.0.0.1/ --whole -c 2 -t 8 --pin 1,3").threads, 2);
    }

    #[test]
    fn a_duel_gives_both_sides_the_same_work() {
        let arguments =
            "duel http://127.0.0.1:1/x http://127.0.0.1:2/x --rounds 3 --server-pid-b 7 get --whole -c 4";
        let Task::Duel { duel, .. } = task(arguments).unwrap() else { unreachable!() };
        assert_eq!((duel.rounds, duel.a.settings.connections, duel.b.settings.connections), (3, 4, 4));
        assert_eq!((&duel.a.settings.server_pids[..], &duel.b.settings.server_pids[..]), (&[][..], &[7][..]));
        assert_ne!(duel.a.settings.address, duel.b.settings.address);
    }

    #[test]
    fn contradictions_are_usage_errors_that_name_the_option() {
        for (arguments, named) in [
            ("get http://127.0.0.1/x", "--whole"),
            ("get http://127.0.0.1/x --range-size 1MiB", "--object-size"),
            ("get http://127.0.0.1/x --range-size 2MiB --object-size 1MiB", "--range-size"),
            ("get http://127.0.0.1/x --range-size 0 --object-size 1MiB", "range"),
            (
                "get http://127.0.0.1/x --range-size 1KiB --object-size 1MiB --pattern fixed --offset 1MiB",
                "--offset",
            ),
            ("get http://127.0.0.1/x --range-size 1KiB --object-size 1MiB --offset 1KiB", "--pattern fixed"),
            ("get http://127.0.0.1/x --whole --range-size 1MiB --object-size 1MiB", "--range-size"),
            ("get http://127.0.0.1/x --whole --objects 2", "{n}"),
            ("get http://127.0.0.1/x --whole --objects 0", "--objects"),
            ("get http://127.0.0.1/x --whole -c 0", "--connections"),
            ("get http://127.0.0.1/x --whole -c 1000000", "--connections"),
            ("get http://127.0.0.1/x --whole -t 0", "--threads"),
            ("get http://127.0.0.1/x --whole --duration 0s", "--duration"),
            ("get http://127.0.0.1/x --whole --requests 0", "--requests"),
            ("get http://127.0.0.1/x --whole --rate 0", "--rate"),
            ("get http://127.0.0.1/x --whole --rate -1", "--rate"),
            ("get http://127.0.0.1/x --whole --arrivals constant", "--rate"),
            ("get http://127.0.0.1/x --whole --rate 5 --queue 0", "--queue"),
            ("get http://127.0.0.1/x --whole --until-stable 0%", "--until-stable"),
            ("get http://127.0.0.1/x --whole --min-duration 5s", "--until-stable"),
            ("get http://127.0.0.1/x --whole --until-stable 2% --duration 3s", "--min-duration"),
            ("get http://127.0.0.1/x --whole --limit 5", "--limit"),
            ("get http://127.0.0.1/x --whole --low-water 0", "--low-water"),
            ("get http://127.0.0.1/x --whole --json /nowhere/at/all.json", "/nowhere/at"),
            ("get http://127.0.0.1/x --whole --json - --csv -", "--csv"),
            ("get ftp://127.0.0.1/x --whole", "http://"),
            ("prepare http://127.0.0.1/x --object-size 1 --objects 2", "{n}"),
            ("put http://127.0.0.1/x", "--size"),
            ("put http://127.0.0.1/x --size 1KiB --objects 5", "{n}"),
            ("mix http://127.0.0.1/{n} --object-size 1MiB --mix get:1:size=2MiB", "range"),
            ("mix http://127.0.0.1/{n} --object-size 1MiB --mix head:1", "head"),
            ("mix http://127.0.0.1/x --object-size 1MiB --mix put:1:size=1KiB", "{n}"),
            ("duel http://127.0.0.1/x http://127.0.0.1/y --rounds 0 get --whole", "--rounds"),
            ("merge", "REPORTS"),
        ] {
            let why = task(arguments).unwrap_err();
            assert!(why.contains(named), "{arguments:?}: {why}");
        }
    }
}
