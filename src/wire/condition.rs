//! Conditional requests (RFC 9110 section 13): whether to go on, given what is there now.
//!
//! The conditions of a write travel to the slot's writer and are evaluated there, between the lookup and the
//! commit, so they own their data and are one null pointer when there are none. An entity tag that cannot be
//! read is a `BadRequest`, since dropping it would make a guarded write an unguarded one; a date that cannot
//! be read is ignored, as the RFC demands, except in `If-Range`, where it matches nothing.

use super::entity_tag::{Tag, Tags};
use super::head::Headers;
use crate::base::clock::parse_http_date;
use crate::base::error::{Code, Error, Result};

/// What a condition is compared with: the live representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current<'a> {
    /// Its strong entity tag, without the quotes.
    pub etag: &'a str,
    /// Its last modification, in seconds since 1970.
    pub modified: i64,
}

/// What the conditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on as if there were none.
    Proceed,
    /// 304: the client has it already.
    NotModified,
    /// 412.
    Failed,
}

/// The conditions of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Conditions(Option<Box<Fields>>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_field_names, reason = "these are the names of the header fields")]
struct Fields {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
    if_modified_since: Option<i64>,
    if_unmodified_since: Option<i64>,
    if_range: Option<Validator>,
}

/// What `If-Range` names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Validator {
    Strong(Vec<u8>),
    Date(i64),
    /// A weak tag, or nothing that could be read.
    Never,
}

impl Conditions {
    /// Reads the conditions among the fields of a request.
    ///
    /// # Errors
    /// `BadRequest` for entity tags that cannot be read.
    pub fn from_headers(headers: &Headers) -> Result<Self> {
        let fields = Fields {
            if_match: tags(headers, "if-match")?,
            if_none_match: tags(headers, "if-none-match")?,
            if_modified_since: date(headers, "if-modified-since"),
            if_unmodified_since: date(headers, "if-unmodified-since"),
            if_range: if_range(headers)?,
        };
        Ok(if fields == Fields::default() { Self::default() } else { Self(Some(Box::new(fields))) })
    }

    /// Whether there is no condition, `If-Range` included.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// For GET and HEAD (section 13.2.2). Without a representation, a 404 goes before any verdict.
    pub fn evaluate_read(&self, current: Option<Current<'_>>) -> Verdict {
        let Some(fields) = &self.0 else {
            return Verdict::Proceed;
        };
        if !fields.precondition_holds(current) {
            return Verdict::Failed;
        }
        let seen = match (&fields.if_none_match, current, fields.if_modified_since) {
            (Some(tags), _, _) => tags.match_weakly(current),
            (None, Some(current), Some(since)) => current.modified <= since,
            _ => false,
        };
        if seen { Verdict::NotModified } else { Verdict::Proceed }
    }

    /// For PUT and DELETE (section 13.2.2); `If-Modified-Since` does not apply to them.
    pub fn evaluate_write(&self, current: Option<Current<'_>>) -> Verdict {
        let Some(fields) = &self.0 else {
            return Verdict::Proceed;
        };
        let exists = fields.if_none_match.as_ref().is_some_and(|tags| tags.match_weakly(current));
        if exists || !fields.precondition_holds(current) { Verdict::Failed } else { Verdict::Proceed }
    }

    /// Whether a `Range` counts (section 13.1.5); `now_seconds` is the response's `Date`. True without
    /// `If-Range`.
    pub fn range_applies(&self, current: Current<'_>, now_seconds: i64) -> bool {
        match self.0.as_ref().and_then(|fields| fields.if_range.as_ref()) {
            None => true,
            Some(Validator::Strong(opaque)) => opaque == current.etag.as_bytes(),
            // A younger date may stand for two representations of the same second (section 8.8.2.2).
            Some(Validator::Date(date)) => *date == current.modified && current.modified < now_seconds,
            Some(Validator::Never) => false,
        }
    }
}

impl Fields {
    /// `If-Match`, or without it `If-Unmodified-Since`, which says nothing where there is no date to compare.
    fn precondition_holds(&self, current: Option<Current<'_>>) -> bool {
        match (&self.if_match, current, self.if_unmodified_since) {
            (Some(tags), _, _) => tags.match_strongly(current),
            (None, Some(current), Some(since)) => current.modified <= since,
            _ => true,
        }
    }
}

fn tags(headers: &Headers, name: &'static str) -> Result<Option<Tags>> {
    let refused = || format!("{name} is neither * nor a list of entity tags in double quotes");
    let read = |value: &[u8]| Tags::parse(value).ok_or_else(|| Error::new(Code::BadRequest, refused()));
    headers.joined(name).map(|value| read(&value)).transpose()
}

/// The date of a field that comes once and can be read.
fn date(headers: &Headers, name: &str) -> Option<i64> {
    let mut values = headers.all(name);
    let value = values.next().filter(|_| values.next().is_none())?;
    parse_http_date(std::str::from_utf8(value).ok()?)
}

fn if_range(headers: &Headers) -> Result<Option<Validator>> {
    let Some(value) = headers.joined("if-range") else {
        return Ok(None);
    };
    if !(value.starts_with(b"\"") || value.starts_with(b"W/")) {
        return Ok(Some(date(headers, "if-range").map_or(Validator::Never, Validator::Date)));
    }
    match Tag::split_off(&value) {
        Some((Tag { weak: false, opaque }, b"")) => Ok(Some(Validator::Strong(opaque))),
        Some((Tag { weak: true, .. }, b"")) => Ok(Some(Validator::Never)),
        _ => {
            Err(Error::new(Code::BadRequest, "If-Range is neither an entity tag in double quotes nor a date"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEFORE: &str = "Sat, 31 Jan 2026 11:59:59 GMT";
    const THEN: &str = "Sat, 31 Jan 2026 12:00:00 GMT";
    const AFTER: &str = "Saturday, 31-Jan-26 12:00:01 GMT";
    const MODIFIED: i64 = 1_769_860_800;
    const CURRENT: Current<'static> = Current { etag: "a", modified: MODIFIED };

    fn parse(fields: &[(&str, &str)]) -> Result<Conditions> {
        Conditions::from_headers(&fields.iter().copied().collect())
    }

    fn conditions(fields: &[(&str, &str)]) -> Conditions {
        parse(fields).unwrap_or_else(|e| panic!("{fields:?}: {e}"))
    }

    #[test]
    fn conditions_travel_and_cost_nothing_when_there_are_none() {
        fn travels<T: Clone + Send + 'static>(_: &T) {}
        let none = conditions(&[("Host", "h"), ("If-Modified-Since", "yesterday")]);
        travels(&none);
        assert!(none.is_empty());
        assert_eq!(size_of::<Conditions>(), size_of::<usize>());
        assert_eq!(none.evaluate_read(None), Verdict::Proceed);
        assert_eq!(none.evaluate_write(Some(CURRENT)), Verdict::Proceed);
        assert!(none.range_applies(CURRENT, 0));
        assert!(!conditions(&[("If-Range", "\"a\"")]).is_empty());
    }

    #[test]
    fn each_condition_has_its_verdict() {
        use Verdict::{Failed, NotModified, Proceed};
        for (name, value, read, write, write_none) in [
            ("If-Match", "\"a\"", Proceed, Proceed, Failed),
            ("If-Match", "\"b\" , ,\"a\"", Proceed, Proceed, Failed),
            ("If-Match", "*", Proceed, Proceed, Failed),
            ("If-Match", "\"b\"", Failed, Failed, Failed),
            ("If-Match", "W/\"a\"", Failed, Failed, Failed),
            ("If-Match", "\"A\"", Failed, Failed, Failed),
            ("If-None-Match", "\"a\"", NotModified, Failed, Proceed),
            ("If-None-Match", "W/\"a\"", NotModified, Failed, Proceed),
            ("If-None-Match", "\"x,y\",\"a\"", NotModified, Failed, Proceed),
            ("If-None-Match", "*", NotModified, Failed, Proceed),
            ("If-None-Match", "\"b\", \"\"", Proceed, Proceed, Proceed),
            ("If-Modified-Since", BEFORE, Proceed, Proceed, Proceed),
            ("If-Modified-Since", THEN, NotModified, Proceed, Proceed),
            ("If-Modified-Since", AFTER, NotModified, Proceed, Proceed),
            ("If-Unmodified-Since", BEFORE, Failed, Failed, Proceed),
            ("If-Unmodified-Since", THEN, Proceed, Proceed, Proceed),
            ("If-Unmodified-Since", AFTER, Proceed, Proceed, Proceed),
            ("If-Unmodified-Since", "2026-01-31", Proceed, Proceed, Proceed),
        ] {
            let conditions = conditions(&[(name, value)]);
            assert_eq!(conditions.evaluate_read(Some(CURRENT)), read, "read, {name}: {value}");
            assert_eq!(conditions.evaluate_write(Some(CURRENT)), write, "write, {name}: {value}");
            assert_eq!(conditions.evaluate_write(None), write_none, "write to nothing, {name}: {value}");
        }
    }

    #[test]
    fn precedence_follows_section_13_2_2() {
        for (fields, read) in [
            (&[("If-Match", "\"a\""), ("If-Unmodified-Since", BEFORE)][..], Verdict::Proceed),
            (&[("If-None-Match", "\"b\""), ("If-Modified-Since", AFTER)], Verdict::Proceed),
            (&[("If-None-Match", "\"a\""), ("If-Modified-Since", BEFORE)], Verdict::NotModified),
            (&[("If-Match", "\"b\""), ("If-None-Match", "\"a\"")], Verdict::Failed),
            (&[("If-Match", "\"a\""), ("If-None-Match", "\"a\"")], Verdict::NotModified),
            (&[("If-Unmodified-Since", BEFORE), ("If-Modified-Since", AFTER)], Verdict::Failed),
            (&[("If-Unmodified-Since", THEN), ("If-Modified-Since", THEN)], Verdict::NotModified),
        ] {
            assert_eq!(conditions(fields).evaluate_read(Some(CURRENT)), read, "{fields:?}");
        }
    }

    #[test]
    fn tags_of_several_lines_are_one_list() {
        let two = conditions(&[("If-Match", "\"b\""), ("If-Match", "\"a\"")]);
        assert_eq!(two.evaluate_write(Some(CURRENT)), Verdict::Proceed);
        assert!(parse(&[("If-None-Match", "*"), ("If-None-Match", "\"a\"")]).is_err());
    }

    #[test]
    fn a_guard_that_cannot_be_read_is_never_dropped() {
        for value in [
            "",
            ",",
            "a",
            "\"a",
            "a\"",
            "\"a\" \"b\"",
            "\"a\"\"b\"",
            "w/\"a\"",
            "W/a",
            "W/ \"a\"",
            "*, \"a\"",
            "\"a\", *",
            "**",
            "\"a b\"",
            "\"a\";",
            "'a'",
        ] {
            for name in ["If-Match", "If-None-Match"] {
                assert_eq!(parse(&[(name, value)]).expect_err(value).code, Code::BadRequest);
            }
        }
        for value in ["\"a", "W/a", "\"a\", \"b\"", "\"a\" x"] {
            assert_eq!(parse(&[("If-Range", value)]).expect_err(value).code, Code::BadRequest);
        }
    }

    #[test]
    fn if_range_is_strong() {
        let applies = |value, now| conditions(&[("If-Range", value)]).range_applies(CURRENT, now);
        let later = MODIFIED + 60;
        assert!(applies("\"a\"", MODIFIED));
        assert!(!applies("\"b\"", later));
        assert!(!applies("W/\"a\"", later));
        assert!(applies(THEN, later));
        assert!(applies(THEN, MODIFIED + 1));
        assert!(!applies(THEN, MODIFIED), "the second is not over");
        assert!(!applies(BEFORE, later));
        assert!(!applies(AFTER, later), "later is not exactly equal");
        assert!(!applies("never", later), "what cannot be read matches nothing");
        assert!(!applies("", later));
        let twice = conditions(&[("If-Range", THEN), ("If-Range", THEN)]);
        assert!(!twice.range_applies(CURRENT, later));
    }

    #[test]
    fn repeated_dates_are_ignored() {
        assert!(conditions(&[("If-Unmodified-Since", BEFORE), ("If-Unmodified-Since", BEFORE)]).is_empty());
    }

    proptest! {
        #[test]
        fn any_value_is_read_or_refused(value in "[a\"W/*, é]{0,20}") {
            for name in ["If-Match", "If-None-Match", "If-Range", "If-Modified-Since"] {
                let _ = parse(&[(name, &value)]);
            }
        }

        #[test]
        fn any_tags_are_read_as_written(tags in prop::collection::vec(("[!#-~]{0,8}", any::<bool>()), 1..6), wanted in 0..6usize) {
            let text: Vec<String> = tags.iter().map(|(tag, weak)| format!("{}\"{tag}\"", if *weak { "W/" } else { "" })).collect();
            let etag = tags.get(wanted).map_or("not among them", |(tag, _)| tag);
            let current = Some(Current { etag, modified: 0 });
            let strong = tags.iter().any(|(tag, weak)| tag == etag && !weak);
            let verdict = |name, holds| (name, if holds { Verdict::Proceed } else { Verdict::Failed });
            for (name, expected) in [verdict("If-Match", strong), verdict("If-None-Match", wanted >= tags.len())] {
                prop_assert_eq!(conditions(&[(name, &text.join(","))]).evaluate_write(current), expected);
            }
        }
    }
}
