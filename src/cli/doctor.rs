//! `amberblob doctor`: what is well here, and what is not.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Chosen;
use crate::config::Config;
use crate::doctor::{Finding, Level, Machine, examine};

/// What is looked at.
#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    chosen: Chosen,
    /// Data directory; once for each disk
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// Only what could be better
    #[arg(short, long)]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: Doctor) -> Result<(), String> {
    let Doctor { chosen, data, quiet, json } = options;
    // A machine can be looked at whatever its config says.
    let (mut config, wrong) = match chosen.load() {
        Ok(config) => (config, None),
        Err(why) => (Config::load(None, std::iter::empty(), None)?, Some(why)),
    };
    if !data.is_empty() {
        config.storage.disks = data;
    }
    let mut found: Vec<Finding> = wrong.into_iter().map(unusable).collect();
    found.extend(examine(&Machine::here(), &config, true));
    let count = |level: Level| found.iter().filter(|finding| finding.level == level).count();
    let (advice, problems) = (count(Level::Advice), count(Level::Problem));
    let line = format!("doctor: {} ok, {advice} advice, {problems} problems", count(Level::Ok));
    let text = if json {
        json!({ "good": problems == 0, "findings": found }).to_string()
    } else {
        let shown = found.iter().filter(|finding| !quiet || finding.level > Level::Ok);
        let lines: Vec<String> = shown.map(ToString::to_string).chain([line.clone()]).collect();
        lines.join("\n")
    };
    writeln!(io::stdout(), "{text}").map_err(|error| format!("cannot write to stdout: {error}"))?;
    if problems == 0 { Ok(()) } else { Err(line) }
}

fn unusable(why: String) -> Finding {
    Finding {
        name: "config".to_owned(),
        level: Level::Problem,
        saw: why,
        better: "a config that can be read; the rest is looked at with defaults".to_owned(),
        command: String::new(),
    }
}
