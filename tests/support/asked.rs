//! Turns the positions, ranges and dates of a random request into what is sent, and into what that asks for.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure in it is a failed test"
)]

use std::time::{Duration, UNIX_EPOCH};

use super::blobs::{self, Parts, Spec};
use super::requests::{MALFORMED, Part, Position, Range};
use super::support::object;

/// A part as it is asked for, and what that means; nothing for a 400.
pub struct Asked {
    pub field: Option<String>,
    pub query: String,
    pub parts: Option<Parts>,
}

impl Asked {
    pub fn new(part: &Part, size: usize) -> Self {
        let of_specs = |specs: Vec<Spec>| {
            let fields: Vec<String> = specs.iter().map(|spec| spec.field()).collect();
            let parts = Some(blobs::ranges(&specs, size));
            Self { field: Some(format!("bytes={}", fields.join(","))), query: String::new(), parts }
        };
        match part {
            Part::Whole => Self { field: None, query: String::new(), parts: Some(Parts::Whole) },
            Part::Ranges(ranges) => of_specs(ranges.iter().map(|range| spec(*range, size)).collect()),
            Part::Repeated(range, times) => of_specs(vec![spec(*range, size); usize::from(*times)]),
            Part::Malformed(which) => {
                let field = Some(MALFORMED[usize::from(*which)].to_owned());
                Self { field, query: String::new(), parts: Some(Parts::Whole) }
            }
            Part::Both => {
                Self { field: Some("bytes=0-9".to_owned()), query: "start=0&end=10".to_owned(), parts: None }
            }
            Part::Query(None, None) => Self::new(&Part::Whole, size),
            Part::Query(start, end) => {
                let (start, end) = (start.map(|start| place(start, size)), end.map(|end| place(end, size)));
                let keys = [start.map(|start| format!("start={start}")), end.map(|end| format!("end={end}"))];
                let query = keys.into_iter().flatten().collect::<Vec<_>>().join("&");
                let from = start.unwrap_or(0);
                let parts = if end.is_some_and(|end| from >= end) {
                    None
                } else if from >= size as u64 {
                    Some(Parts::Unsatisfiable)
                } else {
                    Some(Parts::One(from as usize, end.unwrap_or(u64::MAX).min(size as u64) as usize - 1))
                };
                Self { field: None, query, parts }
            }
        }
    }
}

pub fn place(position: Position, size: usize) -> u64 {
    match position {
        Position::Start(from) => u64::from(from),
        Position::End(more) => (size as u64).saturating_add_signed(i64::from(more)),
        Position::Fraction(share) => size as u64 * u64::from(share) / 65536,
    }
}

pub fn spec(range: Range, size: usize) -> Spec {
    match range {
        Range::FromTo(from, to) => Spec::FromTo(place(from, size), place(to, size)),
        Range::From(from) => Spec::From(place(from, size)),
        Range::Suffix(len) => Spec::Suffix(place(len, size)),
    }
}

pub fn target(path: &str, number: Option<u64>, query: &str) -> String {
    let version = number.map(|number| format!("version={number}"));
    let parts: Vec<&str> =
        version.as_deref().into_iter().chain([query]).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { object(path) } else { format!("{}?{}", object(path), parts.join("&")) }
}

pub fn http_date(seconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}
