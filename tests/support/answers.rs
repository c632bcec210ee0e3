//! Holds single answers against what the model expects: status, error, the fields that describe a blob, bytes.
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

use std::time::UNIX_EPOCH;

use serde_json::json;

use super::blobs::{Parts, Version};
use super::support::{CHUNK, Response, sha256_base64};

/// Or what was wrong, for a person.
pub type Checked<T = ()> = Result<T, String>;

/// Up to this size a blob is one chunk and its digest must be told; above it, it may be.
const DIGEST_AT_HAND: usize = CHUNK;

/// Returns what is wrong unless the condition holds.
macro_rules! check {
    ($condition:expr, $($said:tt)+) => {
        if !$condition {
            return Err(format!($($said)+));
        }
    };
}
pub(super) use check;

pub fn date_of(answer: &Response, name: &str) -> Checked<u64> {
    let text = answer.header(name).ok_or_else(|| format!("no {name}: {:?}", answer.headers))?;
    let date = httpdate::parse_http_date(text).map_err(|error| format!("{name} {text}: {error}"))?;
    Ok(date.duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?.as_secs())
}

pub fn tag(version: &Version) -> String {
    format!("\"{}\"", version.blob_id)
}

pub fn status(answer: &Response, expected: u16) -> Checked {
    check!(answer.status == expected, "{} instead of {expected}: {:?}", answer.status, answer.headers);
    Ok(())
}

pub fn refused(answer: &Response, status: u16, code: &str) -> Checked {
    let told = (answer.status, answer.text());
    check!(told.0 == status, "{} instead of {status} {code}: {:.300}", told.0, told.1);
    let json = answer.json();
    check!(json["error"]["code"] == code, "not {code}: {json}");
    let said = |key: &str| json["error"][key].as_str().is_some_and(|text| !text.is_empty());
    check!(said("message") && said("request_id"), "an incomplete error: {json}");
    Ok(())
}

pub fn check_stored(
    answer: &Response,
    status: u16,
    path: &str,
    number: u64,
    id: &str,
    data: &[u8],
) -> Checked {
    check!(answer.status == status, "{} instead of {status}: {:.300}", answer.status, answer.text());
    let told = answer.json();
    let expected = [
        ("path", json!(path)),
        ("version", json!(number)),
        ("blob_id", json!(id)),
        ("size", json!(data.len())),
    ];
    for (key, value) in expected {
        check!(told[key] == value, "{key} is not {value}: {told}");
    }
    if status == 201 {
        check!(
            told["chunks_stored"] == data.len().div_ceil(CHUNK),
            "chunks_stored of {} bytes: {told}",
            data.len()
        );
    }
    check!(answer.header("etag") == Some(&format!("\"{id}\"")), "ETag of {id}: {:?}", answer.header("etag"));
    Ok(())
}

/// The fields that describe a version, whatever part of it was asked for.
pub fn check_description(answer: &Response, number: u64, version: &Version) -> Checked {
    check!(
        answer.header("etag") == Some(&tag(version)),
        "ETag {:?} of {}",
        answer.header("etag"),
        version.blob_id
    );
    let told = answer.header("x-amber-version");
    check!(told == Some(&number.to_string()), "x-amber-version {told:?} of {number}");
    let (modified, date) = (date_of(answer, "last-modified")?, date_of(answer, "date")?);
    check!(modified == version.modified, "Last-Modified {modified} of {}", version.modified);
    check!(modified <= date, "Last-Modified {modified} after Date {date}");
    check!(
        answer.header("accept-ranges") == Some("bytes"),
        "Accept-Ranges {:?}",
        answer.header("accept-ranges")
    );
    check!(
        answer.header("cache-control") == Some("no-cache"),
        "Cache-Control {:?}",
        answer.header("cache-control")
    );
    let note = answer.header("x-amber-meta-note");
    check!(note == version.note.as_deref(), "x-amber-meta-note {note:?} of {:?}", version.note);
    let media_type = answer.header("content-type").unwrap_or_default();
    if !media_type.starts_with("multipart/byteranges") {
        let expected = version.media_type.as_deref().unwrap_or("application/octet-stream");
        check!(media_type == expected, "Content-Type {media_type} instead of {expected}");
        let sniff = answer.header("x-content-type-options");
        check!(version.media_type.is_some() || sniff == Some("nosniff"), "X-Content-Type-Options {sniff:?}");
    }
    let digest = format!("sha-256=:{}:", sha256_base64(&version.data));
    let told = answer.header("repr-digest");
    let free = answer.status == 200 && (1..=DIGEST_AT_HAND).contains(&version.data.len());
    check!(told == Some(&digest) || (told.is_none() && !free), "Repr-Digest {told:?} instead of {digest}");
    Ok(())
}

pub fn check_parts(answer: &Response, version: &Version, parts: &Parts) -> Checked {
    let (data, size) = (&version.data, version.data.len());
    let range = answer.header("content-range");
    match parts {
        Parts::Whole => {
            status(answer, 200)?;
            check!(range.is_none(), "Content-Range of a 200: {range:?}");
            check!(answer.body == **data, "other bytes: {} instead of {size}", answer.body.len());
        }
        Parts::One(from, to) => {
            status(answer, 206)?;
            let expected = format!("bytes {from}-{to}/{size}");
            check!(range == Some(&expected), "Content-Range {range:?} instead of {expected}");
            check!(
                answer.body == data[*from..=*to],
                "other bytes than {expected}: {} of them",
                answer.body.len()
            );
        }
        Parts::Many(ranges) => {
            status(answer, 206)?;
            let media_type = version.media_type.as_deref().unwrap_or("application/octet-stream");
            let found = multipart(answer, media_type)?;
            let shown =
                |(from, to): &(usize, usize)| (format!("bytes {from}-{to}/{size}"), &data[*from..=*to]);
            let expected: Vec<(String, &[u8])> = ranges.iter().map(shown).collect();
            let names =
                |parts: &[(String, &[u8])]| parts.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            check!(
                found == expected,
                "parts {:?} or their bytes instead of {:?}",
                names(&found),
                names(&expected)
            );
        }
        Parts::Unsatisfiable => {
            refused(answer, 416, "RangeNotSatisfiable")?;
            check!(range == Some(&format!("bytes */{size}")), "Content-Range {range:?} of {size} bytes");
        }
        Parts::Either(several) => {
            let said: Vec<Checked> =
                several.iter().map(|parts| check_parts(answer, version, parts)).collect();
            check!(said.iter().any(Result::is_ok), "none of these: {said:?}");
        }
    }
    Ok(())
}

/// The parts of a multipart/byteranges body: their Content-Range and bytes.
pub fn multipart<'a>(answer: &'a Response, media_type: &str) -> Checked<Vec<(String, &'a [u8])>> {
    let whole = answer.header("content-type").unwrap_or_default();
    let boundary = whole.strip_prefix("multipart/byteranges; boundary=").ok_or_else(|| whole.to_owned())?;
    let line = format!("--{}", boundary.trim_matches('"'));
    let mut found = Vec::new();
    let mut rest = answer.body.strip_prefix(b"\r\n").unwrap_or(&answer.body);
    loop {
        rest = rest
            .strip_prefix(line.as_bytes())
            .ok_or_else(|| format!("no boundary after {} parts", found.len()))?;
        if let Some(end) = rest.strip_prefix(b"--") {
            check!(end.is_empty() || end == b"\r\n", "{} bytes after the last boundary", end.len());
            return Ok(found);
        }
        let end = rest
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .ok_or("a part without an end of its head")?;
        let head = std::str::from_utf8(&rest[..end]).map_err(|error| error.to_string())?;
        rest = &rest[end + 4..];
        let field = |name: &str| {
            head.split("\r\n").find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        check!(field("content-type") == Some(media_type), "a part's Content-Type: {head}");
        let range = field("content-range").ok_or_else(|| format!("no Content-Range: {head}"))?;
        let ends = range.strip_prefix("bytes ").and_then(|range| range.split_once('/')?.0.split_once('-'));
        let (from, to) = ends.ok_or_else(|| range.to_owned())?;
        let end = |text: &str| text.parse::<usize>().map_err(|error| format!("{range}: {error}"));
        let len = (end(to)? + 1).checked_sub(end(from)?).ok_or_else(|| range.to_owned())?;
        let body = rest.get(..len).ok_or_else(|| format!("{range} is cut off"))?;
        found.push((range.to_owned(), body));
        rest = rest[len..].strip_prefix(b"\r\n").ok_or("a part without an end of line")?;
    }
}
