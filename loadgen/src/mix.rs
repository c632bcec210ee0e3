//! The language of `--mix`: `get:8:size=64KiB,put:2:size=4KiB`.
//!
//! Operations are separated by commas; each is a kind, a weight, and settings, separated by colons. What is not understood is refused
//! with what would be.

use crate::dataset::DataSet;
use crate::plan::{Names, Operation, Pattern, Weighted};
use crate::units::parse_size;
use clap::ValueEnum as _;

/// The operations of `text`, over `set`.
pub(crate) fn parse(text: &str, set: &DataSet) -> Result<Vec<Weighted>, String> {
    text.split(',')
        .map(|one| operation(one.trim(), set).map_err(|why| format!("--mix {one:?}: {why}")))
        .collect()
}

fn operation(text: &str, set: &DataSet) -> Result<Weighted, String> {
    let mut parts = text.split(':');
    let kind = parts.next().unwrap_or_default();
    let weight = parts.next().ok_or("a weight is missing: write KIND:WEIGHT, such as get:8:size=64KiB")?;
    let weight =
        weight.parse().map_err(|_| format!("{weight:?} is no weight: use a whole number from 1 on"))?;
    let mut settings = Settings::default();
    for part in parts {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not KEY=VALUE"))?;
        settings.set(key, value)?;
    }
    let operation = match kind {
        "get" => settings.get()?,
        "whole" => settings.whole()?,
        "put" => settings.put(set)?,
        _ => return Err(format!("{kind:?} is no kind of request: use get, whole or put")),
    };
    Ok(Weighted { weight, operation })
}

#[derive(Default)]
struct Settings {
    size: Option<u64>,
    pattern: Option<Pattern>,
    offset: Option<u64>,
    names: Option<String>,
}

impl Settings {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "size" => once(&mut self.size, key, parse_size(value)?),
            "offset" => once(&mut self.offset, key, parse_size(value)?),
            "pattern" => once(
                &mut self.pattern,
                key,
                Pattern::from_str(value, false).map_err(|_| {
                    format!("{value:?} is no pattern: use random, aligned-random, sequential or fixed")
                })?,
            ),
            "names" => once(&mut self.names, key, value.to_owned()),
            _ => Err(format!("{key:?} is not known: use size, pattern, offset or names")),
        }
    }

    fn get(self) -> Result<Operation, String> {
        forbid(self.names.is_some(), "get", "names")?;
        let size =
            self.size.ok_or("a range needs a size, such as get:8:size=64KiB; for whole objects use whole")?;
        let pattern =
            self.pattern.unwrap_or(if self.offset.is_some() { Pattern::Fixed } else { Pattern::Random });
        if self.offset.is_some() && pattern != Pattern::Fixed {
            return Err("offset is for pattern=fixed".to_owned());
        }
        Ok(Operation::Range { size, pattern, offset: self.offset.unwrap_or(0) })
    }

    fn whole(self) -> Result<Operation, String> {
        forbid(self.size.is_some(), "whole", "size: --object-size says it")?;
        forbid(self.pattern.is_some() || self.offset.is_some(), "whole", "pattern or offset")?;
        forbid(self.names.is_some(), "whole", "names")?;
        Ok(Operation::Whole)
    }

    fn put(self, set: &DataSet) -> Result<Operation, String> {
        forbid(self.pattern.is_some() || self.offset.is_some(), "put", "pattern or offset")?;
        let first = set.objects();
        let names = match self.names.as_deref() {
            None | Some("new") => Names::New { first },
            Some("set") => Names::Set,
            Some(count) => Names::Among {
                first,
                count: count.parse().map_err(|_| {
                    format!(
                        "names={count} is not understood: use names=new, names=set or a number of objects"
                    )
                })?,
            },
        };
        Ok(Operation::Put { size: self.size, names })
    }
}

fn once<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), String> {
    if slot.replace(value).is_some() { Err(format!("{key} is given twice")) } else { Ok(()) }
}

fn forbid(given: bool, kind: &str, what: &str) -> Result<(), String> {
    if given { Err(format!("{kind} has no {what}")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Weighted>, String> {
        parse(text, &DataSet::new(&[1 << 20], 100).unwrap())
    }

    #[test]
    fn a_mix_says_what_it_means() {
        let operations = parsed("get:8:size=64KiB, put:2:size=4KiB,whole:1").unwrap();
        let get = Operation::Range { size: 65_536, pattern: Pattern::Random, offset: 0 };
        let put = Operation::Put { size: Some(4096), names: Names::New { first: 100 } };
        assert_eq!(
            operations,
            [(8, get), (2, put), (1, Operation::Whole)]
                .map(|(weight, operation)| Weighted { weight, operation })
        );
    }

    #[test]
    fn settings_reach_their_operation() {
        let one = |text| parsed(text).unwrap()[0].operation;
        assert_eq!(
            one("get:1:size=1KiB:pattern=sequential"),
            Operation::Range { size: 1024, pattern: Pattern::Sequential, offset: 0 }
        );
        assert_eq!(
            one("get:1:size=1KiB:offset=5"),
            Operation::Range { size: 1024, pattern: Pattern::Fixed, offset: 5 }
        );
        assert_eq!(one("put:1:names=set"), Operation::Put { size: None, names: Names::Set });
        assert_eq!(
            one("put:1:size=9:names=50"),
            Operation::Put { size: Some(9), names: Names::Among { first: 100, count: 50 } }
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, named) in [
            ("", "weight"),
            ("get", "weight"),
            ("get:x:size=1", "\"x\""),
            ("get:-1:size=1", "-1"),
            ("get:1", "size"),
            ("get:1:size=big", "big"),
            ("get:1:size=1:size=2", "twice"),
            ("get:1:size=1:colour=2", "colour"),
            ("get:1:size=1:pattern=wild", "wild"),
            ("get:1:size=1:pattern=random:offset=3", "fixed"),
            ("head:1", "head"),
            ("whole:1:size=5", "object-size"),
            ("put:1:pattern=random", "pattern"),
            ("put:1:size=1:names=many", "many"),
            ("get:1:size=1,", "weight"),
        ] {
            let why = parsed(text).unwrap_err();
            assert!(why.contains(named), "{text:?}: {why}");
        }
    }
}
