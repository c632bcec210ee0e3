//! What to ask the server for.

use super::load::{Asked, Load, Shared};
use super::{IntoRun, Run};
use crate::client::Discard;
use crate::dataset::DataSet;
use crate::low_water;
use crate::mix;
use crate::payload::TELLING;
use crate::plan::{Names, Operation, Pattern, Plan, Weighted};
use crate::units::{parse_size, show_size};
use crate::url::Url;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// What two servers can be set on.
#[derive(Debug, Subcommand)]
pub(super) enum Workload {
    /// Read objects, whole or in ranges
    Get(Get),
    /// Write objects of one size
    Put(Put),
    /// Several kinds of requests at once, by weight
    Mix(Mix),
}

#[derive(Debug, Args)]
pub(super) struct Get {
    /// Size of a range [default: whole objects are read]
    #[arg(long, value_parser = parse_size, value_name = "SIZE", requires = "object_size", conflicts_with = "whole")]
    range_size: Option<u64>,
    /// Size of each object, or several that objects have in turn, such as 4KiB,1MiB: object n has the n-th, beginning again after the last
    #[arg(long, value_parser = parse_size, value_delimiter = ',', value_name = "SIZE")]
    object_size: Vec<u64>,
    /// Read whole objects
    #[arg(long, required_unless_present = "range_size")]
    whole: bool,
    /// Where ranges start
    #[arg(long, value_enum, default_value = "random", conflicts_with = "whole")]
    pattern: Pattern,
    /// Where the ranges of --pattern fixed start
    #[arg(long, value_parser = parse_size, value_name = "OFFSET", conflicts_with = "whole")]
    offset: Option<u64>,
    #[command(flatten)]
    reads: Reads,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Args)]
pub(super) struct Put {
    /// Size of each object
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    size: u64,
    /// Write to one of so many objects, again and again [default: each request makes an object of its own]
    #[arg(long, value_name = "N")]
    objects: Option<u64>,
    /// Number of the first object
    #[arg(long, default_value_t = 0, value_name = "N")]
    first: u64,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Args)]
pub(super) struct Mix {
    /// Kinds of requests, each KIND:WEIGHT and settings, such as get:8:size=64KiB,put:2:size=4KiB
    ///
    /// get reads ranges of the objects: size=SIZE, pattern=random|aligned-random|sequential|fixed, offset=OFFSET.
    /// whole reads whole objects. put writes: size=SIZE, names=new (each an object of its own, numbered from --objects on; the default),
    /// names=N (again and again to N objects from there on) or names=set (to the objects that are read, each keeping its size).
    #[arg(long = "mix", value_name = "MIX")]
    kinds: String,
    /// Size of each object that is read, or several that objects have in turn
    #[arg(long, value_parser = parse_size, value_delimiter = ',', value_name = "SIZE")]
    object_size: Vec<u64>,
    #[command(flatten)]
    reads: Reads,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Args)]
pub(super) struct Prepare {
    /// Size of each object, or several that objects have in turn
    #[arg(long, value_parser = parse_size, value_delimiter = ',', value_name = "SIZE", required = true)]
    object_size: Vec<u64>,
    /// How many objects
    #[arg(long, default_value_t = 1, value_name = "N")]
    objects: u64,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
struct Reads {
    /// How many objects there are to read; they are numbered from 0
    #[arg(long, default_value_t = 1, value_name = "N")]
    objects: u64,
    /// Compare every byte with the data set of --data-seed, overwritten or not; else bodies are thrown away
    #[arg(long)]
    verify: bool,
    /// How bodies are thrown away
    #[arg(long, value_enum, default_value_t, conflicts_with = "verify")]
    discard: Discard,
    /// Be woken only when this much of a body has arrived, which makes the client cheaper; 1 for any byte
    #[arg(long, value_parser = parse_size, default_value = "1MiB", value_name = "SIZE")]
    low_water: u64,
}

impl IntoRun for Get {
    fn run(&self, url: &str) -> Result<Run, String> {
        if self.offset.is_some() && self.pattern != Pattern::Fixed {
            return Err("--offset is for --pattern fixed".to_owned());
        }
        let set = self.reads.set(&self.object_size, url)?;
        let operation = match self.range_size {
            Some(size) => Operation::Range { size, pattern: self.pattern, offset: self.offset.unwrap_or(0) },
            None => Operation::Whole,
        };
        let parameters = vec![
            ("range_size", json!(self.range_size)),
            ("object_size", sizes_json(&self.object_size)),
            ("objects", json!(self.reads.objects)),
            ("pattern", json!(self.range_size.map(|_| self.pattern.name()))),
            ("offset", json!(self.offset)),
        ];
        let plan = move |connections, seed| {
            Plan::new(set, vec![Weighted { weight: 1, operation }], connections, seed)
        };
        let run = self.load.run(url, Asked { name: "get", plan: Box::new(plan), parameters })?;
        Ok(self.reads.apply(run))
    }
}

impl IntoRun for Put {
    fn run(&self, url: &str) -> Result<Run, String> {
        let Put { size, objects, first, .. } = *self;
        several_need_names(objects.unwrap_or(1), url)?;
        // Where all requests go to one place, they overwrite one object.
        let objects = objects.or((!Url::parse(url)?.names_objects()).then_some(1));
        let names = objects.map_or(Names::New { first }, |count| Names::Among { first, count });
        let plan = move |connections, seed| {
            let operation = Operation::Put { size: Some(size), names };
            Plan::new(DataSet::new(&[], 1)?, vec![Weighted { weight: 1, operation }], connections, seed)
        };
        let parameters = vec![
            ("range_size", Value::Null),
            ("object_size", json!(size)),
            ("objects", json!(objects)),
            ("first", json!(first)),
            ("pattern", Value::Null),
        ];
        self.load.run(url, Asked { name: "put", plan: Box::new(plan), parameters })
    }
}

impl IntoRun for Mix {
    fn run(&self, url: &str) -> Result<Run, String> {
        let set = self.reads.set(&self.object_size, url)?;
        let operations = mix::parse(&self.kinds, &set)?;
        let writes_others = |one: &Weighted| {
            matches!(one.operation, Operation::Put { names: Names::New { .. } | Names::Among { .. }, .. })
        };
        if operations.iter().any(writes_others) && !Url::parse(url)?.names_objects() {
            return Err(format!(
                "PUTs to other objects than those that are read need {{n}} in the URL {url:?}"
            ));
        }
        let parameters = vec![
            ("mix", json!(self.kinds)),
            ("object_size", sizes_json(&self.object_size)),
            ("objects", json!(self.reads.objects)),
        ];
        let short = operations
            .iter()
            .any(|one| matches!(one.operation, Operation::Range { size, .. } if size < TELLING as u64));
        let plan = move |connections, seed| Plan::new(set, operations, connections, seed);
        let run = self.load.run(url, Asked { name: "mix", plan: Box::new(plan), parameters })?;
        if short && self.reads.verify && run.settings.plan.rewritten() > 0 {
            return Err(format!(
                "--verify cannot tell whether ranges of less than {TELLING} B of objects that are overwritten are right: make them larger"
            ));
        }
        Ok(self.reads.apply(run))
    }
}

impl IntoRun for Prepare {
    fn run(&self, url: &str) -> Result<Run, String> {
        several_need_names(self.objects, url)?;
        let set = DataSet::new(&self.object_size, self.objects)?;
        let parameters = vec![
            ("object_size", sizes_json(&self.object_size)),
            ("objects", json!(self.objects)),
            ("requests", json!(self.objects)),
        ];
        let plan = move |connections, seed| {
            let operation = Operation::Put { size: None, names: Names::New { first: 0 } };
            Plan::new(set, vec![Weighted { weight: 1, operation }], connections, seed)
        };
        let asked = Asked { name: "prepare", plan: Box::new(plan), parameters };
        let mut run = self.shared.run(url, asked, 0)?;
        run.settings.requests = Some(self.objects);
        Ok(run)
    }
}

impl Reads {
    fn set(&self, sizes: &[u64], url: &str) -> Result<DataSet, String> {
        several_need_names(self.objects, url)?;
        if !(1..=low_water::MOST).contains(&self.low_water) {
            return Err(format!("--low-water must be 1 B to {}", show_size(low_water::MOST)));
        }
        DataSet::new(sizes, self.objects)
    }

    fn apply(&self, mut run: Run) -> Run {
        run.settings.verify = self.verify;
        run.settings.discard = self.discard;
        run.settings.low_water = self.low_water;
        run.parameters.insert("verify".to_owned(), json!(self.verify));
        run.parameters.insert("discard".to_owned(), json!(self.discard));
        run.parameters.insert("low_water".to_owned(), json!(self.low_water));
        run
    }
}

fn several_need_names(objects: u64, url: &str) -> Result<(), String> {
    if objects > 1 && !Url::parse(url)?.names_objects() {
        return Err(format!("{objects} objects need {{n}} in the URL {url:?}"));
    }
    Ok(())
}

/// One size as a number, several as a list.
fn sizes_json(sizes: &[u64]) -> Value {
    match sizes {
        [] => Value::Null,
        [size] => json!(size),
        _ => json!(sizes),
    }
}
