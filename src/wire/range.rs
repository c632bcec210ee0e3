//! Which bytes a request asks for: the `Range` field (RFC 9110 section 14.2) and the query's `start` and
//! `end`.
//!
//! Ranges that come out are not empty and lie within the representation. A `Range` that is malformed or of
//! another unit is ignored; one that would cost more than it can be worth (too many ranges, or much the same
//! bytes several times over) is treated as unsatisfiable. In the query nothing is ignored, as only our own
//! clients write it.

use super::headers;
use crate::base::error::{Code, Error, Result};
use crate::limits::RANGES_MAX;

/// A stretch of bytes that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
}

#[expect(clippy::len_without_is_empty, reason = "it never is")]
impl ByteRange {
    /// How many bytes it has.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Everything, as if there were no `Range`: 200.
    Whole,
    /// One range: 206.
    One(ByteRange),
    /// Two or more ranges in the order they were asked for: 206 with multipart/byteranges.
    Many(Vec<ByteRange>),
    /// None of the bytes: 416.
    Unsatisfiable,
}

/// What one range-spec asks for.
enum Spec {
    /// From a position to a last one, or to the end.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Suffix(u64),
}

/// Reads a `Range` field for a representation of `size` bytes.
pub fn select(header: &str, size: u64) -> Selection {
    let Some(specs) = parse(header) else {
        return Selection::Whole;
    };
    if specs.len() > RANGES_MAX {
        return Selection::Unsatisfiable;
    }
    let ranges: Vec<ByteRange> = specs.iter().filter_map(|spec| spec.within(size)).collect();
    match ranges[..] {
        [] => Selection::Unsatisfiable,
        [one] => Selection::One(one),
        _ if overlap_heavily(&ranges) => Selection::Unsatisfiable,
        _ => Selection::Many(ranges),
    }
}

/// Reads `start` (inclusive) and `end` (exclusive) of a query; one that is missing stands for its end of the
/// representation.
///
/// # Errors
/// `BadRequest` unless start < end, `RangeNotSatisfiable` unless start < size.
pub fn select_query(start: Option<u64>, end: Option<u64>, size: u64) -> Result<ByteRange> {
    let first = start.unwrap_or(0);
    if end.is_some_and(|end| first >= end) {
        return Err(Error::new(
            Code::BadRequest,
            "start must be less than end: end is the first byte not wanted",
        ));
    }
    if first >= size {
        return Err(Error::new(
            Code::RangeNotSatisfiable,
            format!("the blob has {size} bytes, none at or after start"),
        ));
    }
    Ok(ByteRange { start: first, end: end.unwrap_or(size).min(size) })
}

/// The specs of a well-formed field in bytes, at least one; how many there can be is bounded by the header
/// section.
fn parse(header: &str) -> Option<Vec<Spec>> {
    let (unit, set) = header.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let specs: Vec<Spec> = headers::list(set.as_bytes()).map(Spec::parse).collect::<Option<_>>()?;
    (!specs.is_empty()).then_some(specs)
}

impl Spec {
    fn parse(text: &[u8]) -> Option<Self> {
        let dash = text.iter().position(|b| *b == b'-')?;
        match (&text[..dash], &text[dash + 1..]) {
            (b"", length) => number(length).map(Self::Suffix),
            (first, b"") => number(first).map(|first| Self::From(first, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From(first, Some(last)))
            }
        }
    }

    /// The bytes of a representation that it selects, if any.
    fn within(&self, size: u64) -> Option<ByteRange> {
        let (start, end) = match *self {
            Self::From(first, last) => (first, last.map_or(size, |last| last.saturating_add(1).min(size))),
            Self::Suffix(length) => (size.saturating_sub(length), size),
        };
        (start < end).then_some(ByteRange { start, end })
    }
}

/// Digits, at least one; a number beyond 64 bits becomes the largest one.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = |number: u64, digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, value))
}

/// Whether the ranges together have more than one and a half times the bytes that they cover.
fn overlap_heavily(ranges: &[ByteRange]) -> bool {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    let (mut sum, mut union, mut covered) = (0u128, 0u128, 0);
    for range in sorted {
        sum += u128::from(range.len());
        union += u128::from(range.end.saturating_sub(covered.max(range.start)));
        covered = covered.max(range.end);
    }
    2 * sum > 3 * union
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(start: u64, end: u64) -> Selection {
        Selection::One(ByteRange { start, end })
    }

    fn many(ranges: &[(u64, u64)]) -> Selection {
        Selection::Many(ranges.iter().map(|(start, end)| ByteRange { start: *start, end: *end }).collect())
    }

    #[test]
    fn a_single_range_is_clamped_to_the_representation() {
        for (header, selection) in [
            ("bytes=0-0", one(0, 1)),
            ("bytes=0-9", one(0, 10)),
            ("bytes=3-", one(3, 10)),
            ("bytes=-3", one(7, 10)),
            ("bytes=-10", one(0, 10)),
            ("bytes=-11", one(0, 10)),
            ("bytes=9-10", one(9, 10)),
            ("bytes=2-18446744073709551615", one(2, 10)),
            ("bytes=2-99999999999999999999999", one(2, 10)),
            ("bytes=-99999999999999999999999", one(0, 10)),
            ("BYTES=0-1", one(0, 2)),
            ("bytes= \t0-1 ,, ", one(0, 2)),
            ("bytes=007-008", one(7, 9)),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=10-20", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=99999999999999999999999-", Selection::Unsatisfiable),
        ] {
            assert_eq!(select(header, 10), selection, "{header}");
        }
    }

    #[test]
    fn malformed_ranges_are_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=a-b",
            "bytes=1",
            "bytes=-",
            "bytes=--1",
            "bytes=2-1",
            "bytes=1-2-3",
            "bytes=0 - 1",
            "bytes =0-1",
            " bytes=0-1",
            "bytes=0-1;",
            "bytes=+1-2",
            "bytes=0x1-2",
            "bytes:0-1",
            "lines=0-1",
            "none",
            "bytes=0-1,x",
            "bytes=0-1,5-4",
            "bytes=0-1 2-3",
            "bytes=\u{661}-",
        ] {
            assert_eq!(select(header, 10), Selection::Whole, "{header}");
            assert_eq!(select(header, 0), Selection::Whole, "{header}");
        }
    }

    #[test]
    fn nothing_of_an_empty_representation_can_be_selected() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=0-,-1"] {
            assert_eq!(select(header, 0), Selection::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn several_ranges_keep_their_order_and_lose_the_unsatisfiable() {
        for (header, selection) in [
            ("bytes=0-1,5-6", many(&[(0, 2), (5, 7)])),
            ("bytes=5-6, 0-1,-1", many(&[(5, 7), (0, 2), (9, 10)])),
            ("bytes=0-1,20-30", one(0, 2)),
            ("bytes=20-30,-0,-2", one(8, 10)),
            ("bytes=20-30,40-", Selection::Unsatisfiable),
            ("bytes=0-4,4-8", many(&[(0, 5), (4, 9)])),
        ] {
            assert_eq!(select(header, 10), selection, "{header}");
        }
    }

    #[test]
    fn amplification_by_overlapping_or_countless_ranges_is_refused() {
        for header in
            ["bytes=0-,0-", "bytes=0-1,0-1", "bytes=0-9,1-8", "bytes=0-5,3-8,0-8", "bytes=-10,-9,-8"]
        {
            assert_eq!(select(header, 10), Selection::Unsatisfiable, "{header}");
        }
        assert_eq!(select("bytes=0-3,0-5", 10), Selection::Unsatisfiable, "10 of 6");
        assert_eq!(select("bytes=0-2,0-5", 10), many(&[(0, 3), (0, 6)]), "9 of 6 is just allowed");
        let singles = |count: usize| {
            let specs: Vec<String> = (0..count).map(|i| format!("{0}-{0}", 2 * i)).collect();
            select(&format!("bytes={}", specs.join(",")), 1000)
        };
        assert!(matches!(singles(RANGES_MAX), Selection::Many(ranges) if ranges.len() == RANGES_MAX));
        assert_eq!(singles(RANGES_MAX + 1), Selection::Unsatisfiable);
        assert_eq!(select("bytes=0-,1-", u64::MAX), Selection::Unsatisfiable, "no overflow");
    }

    #[test]
    fn the_query_selects_half_open_ranges() {
        let select =
            |start, end, size| select_query(start, end, size).map(|r| (r.start, r.end)).map_err(|e| e.code);
        assert_eq!(select(Some(2), Some(5), 10), Ok((2, 5)));
        assert_eq!(select(Some(2), None, 10), Ok((2, 10)));
        assert_eq!(select(None, Some(5), 10), Ok((0, 5)));
        assert_eq!(select(None, None, 10), Ok((0, 10)));
        assert_eq!(select(Some(9), Some(99), 10), Ok((9, 10)));
        assert_eq!(select(Some(5), Some(5), 10), Err(Code::BadRequest));
        assert_eq!(select(Some(5), Some(4), 0), Err(Code::BadRequest));
        assert_eq!(select(None, Some(0), 10), Err(Code::BadRequest));
        assert_eq!(select(Some(10), None, 10), Err(Code::RangeNotSatisfiable));
        assert_eq!(select(Some(10), Some(11), 10), Err(Code::RangeNotSatisfiable));
        assert_eq!(select(None, Some(1), 0), Err(Code::RangeNotSatisfiable));
    }

    /// The bytes that a spec names, one by one.
    fn naive(first: Option<u64>, last: Option<u64>, size: u64) -> Vec<u64> {
        let wanted = |at: &u64| match (first, last) {
            (Some(first), Some(last)) => (first..=last).contains(at),
            (Some(first), None) => *at >= first,
            (None, Some(length)) => *at + length >= size,
            (None, None) => false,
        };
        (0..size).filter(wanted).collect()
    }

    fn bytes_of(range: &ByteRange) -> Vec<u64> {
        (range.start..range.end).collect()
    }

    proptest! {
        #[test]
        fn selections_agree_with_a_naive_model(
            specs in prop::collection::vec((prop::option::of(0..40u64), prop::option::of(0..40u64)), 1..5),
            size in 0..30u64,
        ) {
            let text = |bound: Option<u64>| bound.map(|b| b.to_string()).unwrap_or_default();
            let header: Vec<String> = specs.iter().map(|(first, last)| format!("{}-{}", text(*first), text(*last))).collect();
            let selection = select(&format!("bytes={}", header.join(", ")), size);
            let malformed = |(first, last): &(Option<u64>, Option<u64>)| match (first, last) {
                (None, None) => true,
                (Some(first), Some(last)) => first > last,
                _ => false,
            };
            if specs.iter().any(malformed) {
                prop_assert_eq!(selection, Selection::Whole);
                return Ok(());
            }
            let wanted: Vec<Vec<u64>> =
                specs.iter().map(|(first, last)| naive(*first, *last, size)).filter(|bytes| !bytes.is_empty()).collect();
            let mut union = wanted.concat();
            let sum = union.len();
            union.sort_unstable();
            union.dedup();
            match selection {
                Selection::Whole => prop_assert!(false, "a well-formed range was ignored"),
                Selection::Unsatisfiable => prop_assert!(wanted.is_empty() || (wanted.len() > 1 && 2 * sum > 3 * union.len())),
                Selection::One(range) => prop_assert_eq!(vec![bytes_of(&range)], wanted),
                Selection::Many(ranges) => {
                    prop_assert!(ranges.len() > 1 && 2 * sum <= 3 * union.len());
                    prop_assert_eq!(ranges.iter().map(bytes_of).collect::<Vec<_>>(), wanted);
                }
            }
        }

        #[test]
        fn any_header_selects_within_the_size(header in "(bytes=)?[0-9, -]{0,60}", size in any::<u64>()) {
            let ranges = match select(&header, size) {
                Selection::One(range) => vec![range],
                Selection::Many(ranges) => ranges,
                Selection::Whole | Selection::Unsatisfiable => Vec::new(),
            };
            prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
        }

        #[test]
        fn any_query_selects_within_the_size(start in prop::option::of(any::<u64>()), end in prop::option::of(any::<u64>()), size in any::<u64>()) {
            if let Ok(range) = select_query(start, end, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
