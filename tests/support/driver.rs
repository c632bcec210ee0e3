//! Sends a request of `requests` to a server and holds the answer against `blobs`.
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

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::answers::{
    Checked, check, check_description, check_parts, check_stored, date_of, refused, status, tag,
};
use super::asked::{Asked, http_date, target};
use super::blobs::{self, Blobs, Conditions, Parts, Tags, Version, Which};
use super::requests::{
    Bytes, Get, Guard, IfRange, List, Number, PATHS, PREFIXES, Part, Put, Request, Tag, When,
};
use super::support::{CHUNK, Connection, Request as Sent, Response, Server, bytes, encode_path, object};
use super::support::{sha256_base64, sha256_hex};

/// Where a tag or a date is wanted and there is no version to take one from.
const NOBODY: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const LONG_AGO: u64 = 784_111_777;
/// Pages of one list, at most: a list without an end is an error.
const PAGES: usize = 500;

pub struct Driver {
    server: Server,
    link: Option<Connection>,
    model: Blobs,
    ids: BTreeSet<String>,
    answers: usize,
}

impl Driver {
    pub fn start() -> Self {
        let server = Server::start();
        Self { server, link: None, model: Blobs::default(), ids: BTreeSet::new(), answers: 0 }
    }

    /// How many answers were compared.
    pub fn answers(&self) -> usize {
        self.answers
    }

    pub fn perform(&mut self, request: &Request) -> Checked {
        match request {
            Request::Put(put) => self.put(put),
            Request::Get(get) => self.get(get),
            Request::Delete { path, number, guard } => self.delete(PATHS[*path], *number, guard),
            Request::List(list) => self.list(list),
            Request::Versions { path, limit } => self.versions(PATHS[*path], *limit),
            Request::Chunks { path, number } => self.chunks(PATHS[*path], *number),
            Request::Restart { kill } => self.restart(*kill),
        }
    }

    /// Every version of every path, and the listing.
    pub fn look_at_everything(&mut self) -> Checked {
        for path in PATHS {
            self.versions(path, None)?;
            let live: Vec<u64> = self
                .model
                .versions(path)
                .filter(|(_, version)| !version.tombstoned)
                .map(|(number, _)| number)
                .collect();
            for number in live.into_iter().map(Some).chain([None]) {
                self.read(path, number, false, &Guard::default(), &Part::Whole, None)
                    .map_err(|wrong| format!("at the end, {path} version {number:?}: {wrong}"))?;
            }
        }
        self.list(&List { prefix: 0, delimiter: None, limit: None, include_tombstoned: Some(true) })
    }

    fn restart(&mut self, kill: bool) -> Checked {
        self.link = None;
        if kill {
            self.server.kill9();
            self.server.start_again();
        } else {
            self.server.restart();
        }
        Ok(())
    }

    /// On one connection for as long as the server keeps it.
    fn exchange(&mut self, request: &Sent) -> Checked<Response> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => {
                Connection::try_open(self.server.public()).map_err(|error| format!("connect: {error}"))?
            }
        };
        let answer = link.exchange(request).map_err(|error| format!("no answer: {error}"))?;
        if !answer.says_close() {
            self.link = Some(link);
        }
        self.answers += 1;
        Ok(answer)
    }

    fn number(&self, path: &str, number: Number) -> Option<u64> {
        let highest = self.model.highest(path);
        match number {
            Number::Newest => None,
            Number::Existing(pick) => {
                let all: Vec<u64> = self.model.versions(path).map(|(number, _)| number).collect();
                Some(if all.is_empty() { 1 } else { all[usize::from(pick) % all.len()] })
            }
            Number::Above(more) => Some(highest + 1 + u64::from(more)),
            Number::Within(pick) => Some(1 + u64::from(pick) % highest.max(1)),
        }
    }

    /// The version that tags and dates of a request refer to, even when it is a tombstone.
    fn own(&self, path: &str, number: Option<u64>) -> Option<&Version> {
        self.model.version(path, number.unwrap_or(self.model.highest(path)))
    }

    fn tags(&self, path: &str, number: Option<u64>, tag: Tag) -> Tags {
        let own = self.own(path, number).map_or(NOBODY, |version| &version.blob_id).to_owned();
        match tag {
            Tag::Any => Tags::Any,
            Tag::Own => Tags::These(vec![(false, own)]),
            Tag::OwnWeak => Tags::These(vec![(true, own)]),
            Tag::OwnInList => {
                Tags::These(vec![(true, "a,b".to_owned()), (false, own), (false, NOBODY.to_owned())])
            }
            Tag::Of(pick) => {
                let all: Vec<_> = self.model.versions(path).map(|(_, version)| &version.blob_id).collect();
                let id = if all.is_empty() { NOBODY } else { all[usize::from(pick) % all.len()] };
                Tags::These(vec![(false, id.to_owned())])
            }
            Tag::Unknown => Tags::These(vec![(false, NOBODY.to_owned())]),
        }
    }

    fn date(&self, path: &str, number: Option<u64>, when: When) -> Option<u64> {
        let own = self.own(path, number).map_or(LONG_AGO, |version| version.modified);
        match when {
            When::Before => Some(own - 1),
            When::Same => Some(own),
            When::After => Some(own + 1),
            When::Rubbish => None,
        }
    }

    /// What a guard means, and its fields.
    fn conditions(
        &self,
        path: &str,
        number: Option<u64>,
        guard: &Guard,
    ) -> (Conditions, Vec<(&'static str, String)>) {
        let tags = |tag: Option<Tag>| tag.map(|tag| self.tags(path, number, tag));
        let date = |when: Option<When>| when.and_then(|when| self.date(path, number, when));
        let conditions = Conditions {
            if_match: tags(guard.if_match),
            if_none_match: tags(guard.if_none_match),
            if_modified_since: date(guard.if_modified_since),
            if_unmodified_since: date(guard.if_unmodified_since),
        };
        let mut fields = Vec::new();
        fields.extend(conditions.if_match.as_ref().map(|tags| ("If-Match", tags.field())));
        fields.extend(conditions.if_none_match.as_ref().map(|tags| ("If-None-Match", tags.field())));
        let shown = |when: Option<When>| {
            when.map(|when| self.date(path, number, when).map_or("soon".into(), http_date))
        };
        fields.extend(shown(guard.if_modified_since).map(|date| ("If-Modified-Since", date)));
        fields.extend(shown(guard.if_unmodified_since).map(|date| ("If-Unmodified-Since", date)));
        (conditions, fields)
    }

    fn put(&mut self, put: &Put) -> Checked {
        let path = PATHS[put.path];
        let number = self.number(path, put.number);
        let (conditions, fields) = self.conditions(path, number, &put.guard);
        let data = match (&put.bytes, self.own(path, number)) {
            (Bytes::Same, Some(version)) => Rc::clone(&version.data),
            (Bytes::Same, None) => Rc::new(b"nothing to repeat".to_vec()),
            (Bytes::New { salt, size }, _) => Rc::new(bytes(u64::from(*salt), *size)),
        };
        let mut sent = Sent::new("PUT", &target(path, number, ""));
        for (name, value) in &fields {
            sent = sent.header(name, value);
        }
        let note = put.note.map(|note| format!("note, \"{note}\""));
        sent =
            put.media_type.into_iter().fold(sent, |sent, media_type| sent.header("Content-Type", media_type));
        sent = note.iter().fold(sent, |sent, note| sent.header("X-Amber-Meta-Note", note));
        if let Some(right) = put.digest {
            let digest = sha256_base64(if right { &data } else { b"other bytes than any of these" });
            sent = sent.header("Repr-Digest", format!("sha-256=:{digest}:"));
        }
        let sent = if put.chunked {
            let (first, second) = data.split_at(data.len() / 3);
            sent.chunked(&[first, second], &[])
        } else {
            sent.body(&*data)
        };
        let expected = self.model.put(path, number, &conditions, &data);
        let answer = self.exchange(&sent)?;
        let from_head_alone =
            expected == blobs::Put::Failed || self.own(path, number).is_some_and(|own| own.tombstoned);
        if put.digest == Some(false)
            && !(from_head_alone && matches!(expected, blobs::Put::Failed | blobs::Put::Conflict))
        {
            // Bytes that are wrong in two ways may be refused for either.
            if expected == blobs::Put::Conflict && answer.status == 409 {
                return refused(&answer, 409, "VersionConflict");
            }
            return refused(&answer, 400, "DigestMismatch");
        }
        match expected {
            blobs::Put::Conflict => refused(&answer, 409, "VersionConflict"),
            blobs::Put::Failed => refused(&answer, 412, "PreconditionFailed"),
            blobs::Put::Same(number) => {
                let id = self.model.version(path, number).expect("it is the same as this").blob_id.clone();
                check_stored(&answer, 200, path, number, &id, &data)
            }
            blobs::Put::Created(number) => {
                check!(answer.status == 201, "{} instead of 201: {}", answer.status, answer.text());
                let id = answer.json_str("blob_id");
                check!(self.ids.insert(id.clone()), "the blob_id {id} was given before");
                check_stored(&answer, 201, path, number, &id, &data)?;
                let version = Version {
                    blob_id: id,
                    data,
                    media_type: put.media_type.map(str::to_owned),
                    note,
                    modified: 0,
                    created_at: None,
                    tombstoned: false,
                    tombstoned_at: None,
                };
                self.model.insert(path, number, version);
                self.learn_date(path, number)
            }
        }
    }

    fn learn_date(&mut self, path: &str, number: u64) -> Checked {
        let answer = self.exchange(&Sent::new("HEAD", &target(path, Some(number), "")))?;
        check!(answer.status == 200, "HEAD of what was just written: {}", answer.status);
        let modified = date_of(&answer, "last-modified")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        check!((now.saturating_sub(30)..=now).contains(&modified), "Last-Modified is {modified} at {now}");
        self.model.version_mut(path, number).expect("it was just inserted").modified = modified;
        let version = self.model.version(path, number).expect("it was just inserted");
        check_description(&answer, number, version)
    }

    fn delete(&mut self, path: &str, number: Option<Number>, guard: &Guard) -> Checked {
        let (which, query) = match number.map(|number| self.number(path, number)) {
            None => (Which::All, "versions"),
            Some(None) => (Which::Newest, ""),
            Some(Some(number)) => (Which::Number(number), ""),
        };
        let named = if let Which::Number(number) = which { Some(number) } else { None };
        // The contract does not say which of several versions a condition is about.
        let none = Guard::default();
        let guard = if which == Which::All { &none } else { guard };
        let (conditions, fields) = self.conditions(path, named, guard);
        let mut sent = Sent::new("DELETE", &target(path, named, query));
        for (name, value) in &fields {
            sent = sent.header(name, value);
        }
        let expected = self.model.delete(path, which, &conditions);
        let answer = self.exchange(&sent)?;
        match expected {
            blobs::Delete::Nothing => refused(&answer, 404, "BlobNotFound"),
            blobs::Delete::Failed => refused(&answer, 412, "PreconditionFailed"),
            blobs::Delete::Done(number) => {
                check!(answer.status == 200, "{} instead of 200: {}", answer.status, answer.text());
                let mut told = answer.json();
                if which == Which::All {
                    // Nor which number it then tells.
                    told["version"] = json!(number);
                }
                let expected = json!({"deleted": true, "path": path, "version": number, "tombstoned": true});
                check!(told == expected, "{told} instead of {expected}");
                Ok(())
            }
        }
    }

    fn get(&mut self, get: &Get) -> Checked {
        let path = PATHS[get.path];
        let number = self.number(path, get.number);
        // A request that is wrong in two ways may be refused for either: so only one that is else in order.
        let sound = !get.head && get.guard == Guard::default() && self.model.find(path, number).is_some();
        let whole = Part::Whole;
        let part = match get.part {
            Part::Query(..) | Part::Both if !sound => &whole,
            ref part => part,
        };
        self.read(path, number, get.head, &get.guard, part, get.if_range)
    }

    fn read(
        &mut self,
        path: &str,
        number: Option<u64>,
        head: bool,
        guard: &Guard,
        part: &Part,
        if_range: Option<IfRange>,
    ) -> Checked {
        let (conditions, mut fields) = self.conditions(path, number, guard);
        let size = self.model.find(path, number).map_or(1000, |(_, version)| version.data.len());
        let asked = Asked::new(part, size);
        fields.extend(asked.field.clone().map(|field| ("Range", field)));
        let in_field = asked.field.is_some() && asked.query.is_empty();
        if let Some(if_range) = if_range.filter(|_| asked.query.is_empty()) {
            fields.push(("If-Range", self.if_range_field(path, number, if_range)));
        }
        let method = if head { "HEAD" } else { "GET" };
        let mut sent = Sent::new(method, &target(path, number, &asked.query));
        for (name, value) in &fields {
            sent = sent.header(name, value);
        }
        let answer = self.exchange(&sent)?;
        let Some((found, version)) = self.model.find(path, number) else {
            return if head { status(&answer, 404) } else { refused(&answer, 404, "BlobNotFound") };
        };
        match conditions.end_read(version) {
            Some(412) if head => return status(&answer, 412),
            Some(412) => return refused(&answer, 412, "PreconditionFailed"),
            Some(304) => {
                status(&answer, 304)?;
                check!(
                    answer.header("etag") == Some(&tag(version)),
                    "ETag of a 304: {:?}",
                    answer.header("etag")
                );
                return Ok(());
            }
            _ => {}
        }
        check_description(&answer, found, version)
            .or_else(|wrong| if answer.status < 400 { Err(wrong) } else { Ok(()) })?;
        if head {
            status(&answer, 200)?;
            let length = answer.header("content-length").and_then(|length| length.parse().ok());
            check!(length == Some(size), "Content-Length {length:?} for {size} bytes");
            return Ok(());
        }
        let Some(parts) = asked.parts else { return refused(&answer, 400, "BadRequest") };
        let applies = match if_range.filter(|_| in_field) {
            None => true,
            Some(IfRange::Tag(tag)) => self.if_range_tag(path, number, tag) == Some(&version.blob_id),
            Some(IfRange::Date(when)) => {
                let old_enough = date_of(&answer, "date")? > version.modified;
                old_enough && self.date(path, number, when) == Some(version.modified)
            }
        };
        check_parts(&answer, version, if applies { &parts } else { &Parts::Whole })
    }

    /// The strong tag that an `If-Range` names, if it names one.
    fn if_range_tag(&self, path: &str, number: Option<u64>, tag: Tag) -> Option<&str> {
        let own = || Some(self.own(path, number).map_or(NOBODY, |version| &version.blob_id));
        match tag {
            Tag::Own => own(),
            Tag::OwnWeak | Tag::Any | Tag::OwnInList => None,
            Tag::Of(_) | Tag::Unknown => Some(NOBODY),
        }
    }

    fn if_range_field(&self, path: &str, number: Option<u64>, if_range: IfRange) -> String {
        match if_range {
            IfRange::Tag(Tag::OwnWeak) => self.tags(path, number, Tag::OwnWeak).field(),
            // Neither a star nor a list is a value of this field: a weak tag of nobody is as good as none.
            IfRange::Tag(tag) => self
                .if_range_tag(path, number, tag)
                .map_or(format!("W/\"{NOBODY}\""), |tag| format!("\"{tag}\"")),
            IfRange::Date(when) => self.date(path, number, when).map_or("soon".into(), http_date),
        }
    }

    /// All pages that a target has, each with what `of` finds in it and at most `limit` of that.
    fn pages(
        &mut self,
        target: &str,
        limit: Option<u64>,
        mut each: impl FnMut(&Value) -> Checked<usize>,
    ) -> Checked {
        let mut cursor = String::new();
        for _ in 0..PAGES {
            let joint = if target.contains('?') { '&' } else { '?' };
            let limit_query = limit.map_or(String::new(), |limit| format!("{joint}limit={limit}"));
            let joint = if target.contains('?') || limit.is_some() { '&' } else { '?' };
            let cursor_query =
                if cursor.is_empty() { String::new() } else { format!("{joint}cursor={cursor}") };
            let answer = self.exchange(&Sent::new("GET", &format!("{target}{limit_query}{cursor_query}")))?;
            check!(answer.status == 200, "{} instead of 200 for a page: {}", answer.status, answer.text());
            let page = answer.json();
            let count = each(&page)?;
            check!(limit.is_none_or(|limit| count as u64 <= limit), "{count} entries on a page: {page}");
            match page["next_cursor"].as_str() {
                Some(next) => cursor = encode_path(next),
                None => {
                    check!(page["next_cursor"].is_null(), "a cursor that is no text: {page}");
                    return Ok(());
                }
            }
        }
        Err(format!("more than {PAGES} pages"))
    }

    fn list(&mut self, list: &List) -> Checked {
        let prefix = PREFIXES[list.prefix];
        let mut query = Vec::new();
        if !prefix.is_empty() {
            query.push(format!("prefix={}", encode_path(prefix)));
        }
        query.extend(list.delimiter.map(|delimiter| format!("delimiter={delimiter}")));
        query.extend(list.include_tombstoned.map(|include| format!("include_tombstoned={include}")));
        let target =
            if query.is_empty() { "/objects".to_owned() } else { format!("/objects?{}", query.join("&")) };
        let (mut rows, mut prefixes) = (Vec::new(), Vec::new());
        self.pages(&target, list.limit.map(u64::from), |page| {
            let objects = page["objects"].as_array().ok_or("no objects")?;
            rows.extend(objects.iter().cloned());
            let below = page["prefixes"].as_array().map(Vec::as_slice).unwrap_or_default();
            prefixes.extend(below.iter().map(|prefix| prefix.as_str().unwrap_or_default().to_owned()));
            Ok(objects.len().max(below.len()))
        })?;
        let expected = self.model.list(prefix, list.delimiter, list.include_tombstoned == Some(true));
        check!(
            prefixes == expected.prefixes,
            "{target}: prefixes {prefixes:?} instead of {:?}",
            expected.prefixes
        );
        let objects: Vec<(&str, u64)> = rows
            .iter()
            .map(|row| {
                (row["path"].as_str().unwrap_or_default(), row["version"].as_u64().unwrap_or_default())
            })
            .collect();
        let wanted: Vec<(&str, u64)> =
            expected.objects.iter().map(|(path, number)| (path.as_str(), *number)).collect();
        check!(objects == wanted, "{target}: {objects:?} instead of {wanted:?}");
        let named: Vec<(String, u64)> = expected.objects;
        for (row, (path, number)) in rows.iter().zip(named) {
            self.check_row(row, &path, number)?;
        }
        Ok(())
    }

    fn versions(&mut self, path: &str, limit: Option<u8>) -> Checked {
        let expected: Vec<u64> = self.model.versions(path).rev().map(|(number, _)| number).collect();
        let target = format!("{}?versions", object(path));
        if expected.is_empty() {
            let answer = self.exchange(&Sent::new("GET", &target))?;
            return if answer.status == 404 {
                refused(&answer, 404, "BlobNotFound")
            } else {
                status(&answer, 200)?;
                check!(
                    answer.json()["versions"] == json!([]),
                    "versions of what was never written: {}",
                    answer.text()
                );
                Ok(())
            };
        }
        let mut rows = Vec::new();
        self.pages(&target, limit.map(u64::from), |page| {
            let found = page["versions"].as_array().ok_or("no versions")?;
            rows.extend(found.iter().cloned());
            Ok(found.len())
        })?;
        let numbers: Vec<u64> = rows.iter().map(|row| row["version"].as_u64().unwrap_or_default()).collect();
        check!(numbers == expected, "versions {numbers:?} instead of {expected:?}");
        for (row, number) in rows.iter().zip(expected) {
            self.check_row(row, path, number)?;
        }
        Ok(())
    }

    /// A version as a list tells of it.
    fn check_row(&mut self, row: &Value, path: &str, number: u64) -> Checked {
        let version = self.model.version_mut(path, number).ok_or("a row of nothing")?;
        check!(
            row["blob_id"] == version.blob_id.as_str(),
            "{path} version {number} is {}: {row}",
            version.blob_id
        );
        check!(
            row["size"] == version.data.len(),
            "{path} version {number} has {} bytes: {row}",
            version.data.len()
        );
        let created = row["created_at"].as_str().ok_or_else(|| format!("no created_at: {row}"))?;
        let known = version.created_at.get_or_insert_with(|| created.to_owned());
        check!(known == created, "{path} version {number} was created at {known}: {row}");
        check!(row["tombstoned_at"].is_string() == version.tombstoned, "{path} version {number}: {row}");
        if let Some(tombstoned) = row["tombstoned_at"].as_str() {
            let known = version.tombstoned_at.get_or_insert_with(|| tombstoned.to_owned());
            check!(known == tombstoned, "{path} version {number} was tombstoned at {known}: {row}");
        }
        Ok(())
    }

    fn chunks(&mut self, path: &str, number: Number) -> Checked {
        let number = self.number(path, number);
        let target = target(path, number, "chunks");
        let Some((_, version)) = self.model.find(path, number) else {
            let answer = self.exchange(&Sent::new("GET", &target))?;
            return refused(&answer, 404, "BlobNotFound");
        };
        let told = |chunk: &[u8]| json!({"id": sha256_hex(chunk), "len": chunk.len(), "location": "local"});
        let expected: Vec<Value> = version.data.chunks(CHUNK).map(told).collect();
        let mut found = Vec::new();
        self.pages(&target, None, |page| {
            found.extend(page["chunks"].as_array().ok_or("no chunks")?.iter().cloned());
            Ok(0)
        })?;
        check!(found == expected, "chunks {found:?} instead of {expected:?}");
        Ok(())
    }
}
