//! Random requests. They name versions, tags, dates and positions by what they are to the state they meet, so that a
//! sequence keeps its meaning when others are taken out of it.
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

use proptest::prelude::*;
use proptest::sample::select;

/// A few paths, so that requests meet: neighbours in byte order, one below another, and with all that needs an escape.
pub const PATHS: [&str; 9] = ["a", "a/b", "a/b/c", "a/b-c", "a-b", "b", "é/ü", "x y+z%41", "x/\"<>\\^`{|}?#"];
pub const PREFIXES: [&str; 11] = ["", "a", "a/", "a/b", "a/b/", "a-", "é", "é/", "x ", "x y+", "nothing"];
pub const SIZES: [usize; 11] = [
    0,
    1,
    100,
    (16 << 10) - 1,
    16 << 10,
    (16 << 10) + 1,
    (64 << 10) - 1,
    64 << 10,
    (64 << 10) + 1,
    200 << 10,
    3 << 20,
];
/// Ranges that are none, each ignored.
pub const MALFORMED: [&str; 8] =
    ["bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=1", "lines=0-1", "bytes=0-1,x", "bytes=5-4"];

/// A version of the path at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// None is named.
    Newest,
    /// One that is there, live or tombstoned.
    Existing(u8),
    /// Above the highest.
    Above(u8),
    /// Any from 1 to the highest: there or not.
    Within(u8),
}

/// An entity tag, or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Any,
    /// Of the version that the request means.
    Own,
    OwnWeak,
    /// Among others.
    OwnInList,
    /// Of some version of the path.
    Of(u8),
    Unknown,
}

/// A date, by the version that the request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    Same,
    After,
    /// No date at all: as if it were not there.
    Rubbish,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    pub if_match: Option<Tag>,
    pub if_none_match: Option<Tag>,
    pub if_modified_since: Option<When>,
    pub if_unmodified_since: Option<When>,
}

/// A position in a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// So many bytes from the start.
    Start(u32),
    /// So many bytes before the end, or after it.
    End(i8),
    /// So many 65536ths of the blob.
    Fraction(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    FromTo(Position, Position),
    From(Position),
    Suffix(Position),
}

/// What of a blob is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Whole,
    Ranges(Vec<Range>),
    /// The same range so many times.
    Repeated(Range, u8),
    Malformed(u8),
    Query(Option<Position>, Option<Position>),
    /// In the query and in a field.
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfRange {
    Tag(Tag),
    Date(When),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bytes {
    New {
        salt: u8,
        size: usize,
    },
    /// Those that the version has already, if it is there.
    Same,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    pub path: usize,
    pub number: Number,
    pub guard: Guard,
    pub bytes: Bytes,
    pub chunked: bool,
    pub media_type: Option<&'static str>,
    pub note: Option<u8>,
    /// Whether the digest of the bytes is sent along, and whether it is theirs.
    pub digest: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    pub head: bool,
    pub path: usize,
    pub number: Number,
    pub guard: Guard,
    pub part: Part,
    pub if_range: Option<IfRange>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    pub prefix: usize,
    pub delimiter: Option<&'static str>,
    pub limit: Option<u16>,
    pub include_tombstoned: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Put(Put),
    Get(Get),
    /// Nothing is every version.
    Delete {
        path: usize,
        number: Option<Number>,
        guard: Guard,
    },
    List(List),
    Versions {
        path: usize,
        limit: Option<u8>,
    },
    Chunks {
        path: usize,
        number: Number,
    },
    Restart {
        kill: bool,
    },
}

pub fn sequence() -> impl Strategy<Value = Vec<Request>> {
    prop::collection::vec(request(), 20..120)
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        30 => put().prop_map(Request::Put),
        30 => get().prop_map(Request::Get),
        12 => (path(), prop::option::weighted(0.85, number()), guard())
            .prop_map(|(path, number, guard)| Request::Delete { path, number, guard }),
        12 => list().prop_map(Request::List),
        6 => (path(), prop::option::of(1..5_u8)).prop_map(|(path, limit)| Request::Versions { path, limit }),
        4 => (path(), number()).prop_map(|(path, number)| Request::Chunks { path, number }),
        2 => any::<bool>().prop_map(|kill| Request::Restart { kill }),
    ]
}

fn path() -> impl Strategy<Value = usize> {
    // Half of all on the first few, so that histories grow.
    prop_oneof![0..3_usize, 0..PATHS.len()]
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        6 => Just(Number::Newest),
        3 => any::<u8>().prop_map(Number::Existing),
        1 => (0..4_u8).prop_map(Number::Above),
        1 => any::<u8>().prop_map(Number::Within),
    ]
}

fn tag() -> impl Strategy<Value = Tag> {
    prop_oneof![
        2 => Just(Tag::Any),
        3 => Just(Tag::Own),
        1 => Just(Tag::OwnWeak),
        1 => Just(Tag::OwnInList),
        1 => any::<u8>().prop_map(Tag::Of),
        1 => Just(Tag::Unknown),
    ]
}

fn when() -> impl Strategy<Value = When> {
    select(vec![When::Before, When::Same, When::After, When::Rubbish])
}

fn guard() -> impl Strategy<Value = Guard> {
    let some = (
        prop::option::weighted(0.4, tag()),
        prop::option::weighted(0.4, tag()),
        prop::option::weighted(0.25, when()),
        prop::option::weighted(0.25, when()),
    );
    let some = some.prop_map(|(if_match, if_none_match, if_modified_since, if_unmodified_since)| Guard {
        if_match,
        if_none_match,
        if_modified_since,
        if_unmodified_since,
    });
    prop_oneof![5 => Just(Guard::default()), 3 => some]
}

fn put() -> impl Strategy<Value = Put> {
    let size =
        prop_oneof![12 => select(SIZES[..SIZES.len() - 1].to_vec()), 1 => Just(SIZES[SIZES.len() - 1])];
    let new = (0..3_u8, size).prop_map(|(salt, size)| Bytes::New { salt, size });
    let bytes = prop_oneof![4 => new, 1 => Just(Bytes::Same)];
    let media_type = prop::option::weighted(0.2, select(vec!["text/plain", "video/mp4; codecs=\"a, b\""]));
    let more =
        (media_type, prop::option::weighted(0.2, any::<u8>()), prop::option::weighted(0.2, any::<bool>()));
    let all = (path(), number(), guard(), bytes, prop::bool::weighted(0.3), more);
    all.prop_map(|(path, number, guard, bytes, chunked, (media_type, note, digest))| Put {
        path,
        number,
        guard,
        bytes,
        chunked,
        media_type,
        note,
        digest,
    })
}

fn position() -> impl Strategy<Value = Position> {
    let edges = vec![0, 1, 99, (16 << 10) - 1, 16 << 10, 64 << 10, (64 << 10) + 1, 2 << 20, u32::MAX];
    prop_oneof![
        select(edges).prop_map(Position::Start),
        (-2..3_i8).prop_map(Position::End),
        any::<u16>().prop_map(Position::Fraction),
    ]
}

fn range() -> impl Strategy<Value = Range> {
    prop_oneof![
        4 => (position(), position()).prop_map(|(from, to)| Range::FromTo(from, to)),
        1 => position().prop_map(Range::From),
        1 => position().prop_map(Range::Suffix),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        6 => Just(Part::Whole),
        4 => range().prop_map(|range| Part::Ranges(vec![range])),
        3 => prop::collection::vec(range(), 2..5).prop_map(Part::Ranges),
        1 => (range(), 2..20_u8).prop_map(|(range, times)| Part::Repeated(range, times)),
        1 => (0..MALFORMED.len() as u8).prop_map(Part::Malformed),
        3 => (prop::option::of(position()), prop::option::of(position()))
            .prop_map(|(start, end)| Part::Query(start, end)),
        1 => Just(Part::Both),
    ]
}

fn get() -> impl Strategy<Value = Get> {
    let if_range = prop_oneof![tag().prop_map(IfRange::Tag), when().prop_map(IfRange::Date)];
    let all = (
        prop::bool::weighted(0.2),
        path(),
        number(),
        guard(),
        part(),
        prop::option::weighted(0.15, if_range),
    );
    all.prop_map(|(head, path, number, guard, part, if_range)| Get {
        head,
        path,
        number,
        guard,
        part,
        if_range,
    })
}

fn list() -> impl Strategy<Value = List> {
    let all = (
        0..PREFIXES.len(),
        prop::option::of(select(vec!["/", "/", "-", "b", "/b"])),
        prop::option::of(prop_oneof![1..4_u16, Just(10_000)]),
        prop::option::of(any::<bool>()),
    );
    all.prop_map(|(prefix, delimiter, limit, include_tombstoned)| List {
        prefix,
        delimiter,
        limit,
        include_tombstoned,
    })
}
