//! A stretch of a listing: lines in byte order, each a path with its JSON or a common prefix of paths.
//!
//! The JSON is made where the rows are read, and copied as it is from then on. What it takes to merge lines, the version and
//! whether it is a tombstone, stands beside it. A page goes to another node as it is; what comes from one is checked before it
//! is believed.

use std::io::Write as _;

use crate::base::error::{Code, Error};
use crate::wire::peer::list::{Line as Sent, Lines};

/// A place in the order of paths: everything at or above these bytes comes after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seek(pub Vec<u8>);

impl Seek {
    /// Right after a path.
    pub fn after_path(path: &str) -> Self {
        Self([path.as_bytes(), &[0]].concat())
    }

    /// Right after all paths that begin with `prefix`; 0xFF is in no UTF-8.
    pub fn after_prefix(prefix: &str) -> Self {
        Self([prefix.as_bytes(), &[0xff]].concat())
    }
}

/// A stretch of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    keys: String,
    json: Vec<u8>,
    lines: Vec<Line>,
    /// Where the listing goes on; none: this was the end.
    pub next: Option<Seek>,
}

/// Where a line ends in the page's keys and JSON (it begins where the one before ends), and what it is of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Line {
    key: usize,
    json: usize,
    version: u64,
    tombstone: bool,
}

impl Page {
    /// Lines.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Bytes of all lines.
    pub fn bytes(&self) -> usize {
        self.keys.len() + self.json.len()
    }

    fn begin(&self, line: usize) -> Line {
        line.checked_sub(1).map_or_else(Line::default, |before| self.lines[before])
    }

    /// The text a line is sorted by: a path, or a common prefix of paths.
    pub fn key(&self, line: usize) -> &str {
        &self.keys[self.begin(line).key..self.lines[line].key]
    }

    /// The JSON of a path, an object; empty for a common prefix.
    pub fn json(&self, line: usize) -> &[u8] {
        &self.json[self.begin(line).json..self.lines[line].json]
    }

    /// Whether a line is a common prefix.
    pub fn is_prefix(&self, line: usize) -> bool {
        self.begin(line).json == self.lines[line].json
    }

    /// The version of a path; 0 for a common prefix.
    pub fn version(&self, line: usize) -> u64 {
        self.lines[line].version
    }

    /// Whether that version is a tombstone.
    pub fn is_tombstone(&self, line: usize) -> bool {
        self.lines[line].tombstone
    }

    /// The place right after a line.
    pub fn after(&self, line: usize) -> Seek {
        if self.is_prefix(line) {
            Seek::after_prefix(self.key(line))
        } else {
            Seek::after_path(self.key(line))
        }
    }

    fn end_line(&mut self, key: &str, version: u64, tombstone: bool) {
        self.keys.push_str(key);
        self.lines.push(Line { key: self.keys.len(), json: self.json.len(), version, tombstone });
    }

    /// Adds a common prefix.
    pub fn push_prefix(&mut self, prefix: &str) {
        self.end_line(prefix, 0, false);
    }

    /// Adds a line of another page.
    pub fn push_line(&mut self, page: &Self, line: usize) {
        self.json.extend_from_slice(page.json(line));
        self.end_line(page.key(line), page.version(line), page.is_tombstone(line));
    }

    /// Adds a path.
    pub fn push_path(&mut self, entry: &Listed<'_>) {
        let json = &mut self.json;
        json.extend_from_slice(b"{\"path\":");
        push_text(json, entry.path);
        // Writing to a vector cannot fail.
        let _ = write!(json, ",\"version\":{},\"blob_id\":", entry.version);
        push_text(json, entry.blob_id);
        let _ = write!(json, ",\"size\":{},\"created_at\":", entry.size);
        push_text(json, entry.created_at);
        json.extend_from_slice(b",\"tombstoned_at\":");
        match entry.tombstoned_at {
            Some(time) => push_text(json, time),
            None => json.extend_from_slice(b"null"),
        }
        json.push(b'}');
        self.end_line(entry.path, entry.version, entry.tombstoned_at.is_some());
    }

    /// As it goes to another node.
    pub fn into_lines(self) -> Lines {
        let sent = |line: &Line| Sent {
            key_end: line.key as u32,
            json_end: line.json as u32,
            version: line.version,
            tombstone: line.tombstone,
        };
        Lines {
            lines: self.lines.iter().map(sent).collect(),
            keys: self.keys,
            json: self.json.into(),
            next: self.next.map(|next| next.0),
        }
    }

    /// From another node.
    ///
    /// # Errors
    /// `BadRequest` for what is no page: lines beyond their texts, or out of order.
    pub fn from_lines(lines: Lines) -> Result<Self, Error> {
        let Lines { keys, json, lines, next } = lines;
        let mut before = Line::default();
        for line in &lines {
            let (from, to) = (before.key, line.key_end as usize);
            let key = keys.get(from..to).filter(|key| !key.is_empty());
            let is_json = (before.json..=json.len()).contains(&(line.json_end as usize));
            if key.is_none() || !is_json {
                return Err(Error::new(Code::BadRequest, "a peer's listing is malformed"));
            }
            before = Line { key: to, json: line.json_end as usize, ..Line::default() };
        }
        let own = |line: &Sent| Line {
            key: line.key_end as usize,
            json: line.json_end as usize,
            version: line.version,
            tombstone: line.tombstone,
        };
        let page =
            Self { lines: lines.iter().map(own).collect(), keys, json: json.into(), next: next.map(Seek) };
        if (1..page.len()).all(|line| page.key(line - 1) < page.key(line)) {
            Ok(page)
        } else {
            Err(Error::new(Code::BadRequest, "a peer's listing is out of order"))
        }
    }
}

/// A path as it is listed.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The path.
    pub path: &'a str,
    /// Its newest version.
    pub version: u64,
    /// Identity of that version.
    pub blob_id: &'a str,
    /// Bytes.
    pub size: u64,
    /// RFC 3339.
    pub created_at: &'a str,
    /// RFC 3339, when that version is a tombstone.
    pub tombstoned_at: Option<&'a str>,
}

/// A JSON string.
fn push_text(json: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        json.push(b'"');
        json.extend_from_slice(text.as_bytes());
        json.push(b'"');
    } else {
        // Neither a text nor a vector makes this fail.
        let _ = serde_json::to_writer(json, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let mut page = Page::default();
        page.push_prefix("a/");
        for (path, version, tombstoned_at) in [("b", 7, None), ("c", 8, Some("t"))] {
            page.push_path(&Listed { path, version, blob_id: "x", size: 9, created_at: "t", tombstoned_at });
        }
        page.next = Some(Seek(b"d".into()));
        page
    }

    #[test]
    fn a_page_arrives_as_it_was_sent() {
        let page = page();
        assert_eq!(Page::from_lines(page.clone().into_lines()).unwrap(), page);
        assert!(page.is_prefix(0) && !page.is_prefix(1));
        assert_eq!((page.version(1), page.is_tombstone(1), page.is_tombstone(2)), (7, false, true));
        let mut copy = Page { next: page.next.clone(), ..Page::default() };
        (0..3).for_each(|line| copy.push_line(&page, line));
        assert_eq!(copy, page);
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let damage: [fn(&mut Lines); 5] = [
            |lines| lines.lines[2].key_end = 99,
            |lines| lines.lines[1].json_end = 9999,
            |lines| lines.lines[1].key_end = 1,
            |lines| lines.lines.swap(0, 1),
            |lines| lines.keys = "a/cb".to_owned(),
        ];
        for damage in damage {
            let mut lines = page().into_lines();
            damage(&mut lines);
            assert!(Page::from_lines(lines).is_err());
        }
    }
}
