//! GET and HEAD: which version, under which conditions, which bytes.

use std::rc::Rc;

use ulid::Ulid;

use super::answers::Answer;
use super::blob::{Blob, Reach};
use super::core::Core;
use super::describe::Description;
use super::peers::link::HOPS_FIELD;
use super::read_ahead::ReadAhead;
use super::replicated;
use super::reply::{Failure, Handled, Reply, ReplyBody, refuse};

use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error};
use crate::base::path::BlobPath;
use crate::base::slot::Slot;
use crate::limits::HOPS_MAX;
use crate::meta::slots::State;
use crate::meta::types::BlobMeta;
use crate::replication::read::Known;
use crate::wire::condition::{Conditions, Current, Verdict};
use crate::wire::forward::Scope;
use crate::wire::head::{Head, Method};
use crate::wire::multipart::Multipart;
use crate::wire::peer::Query as PeerQuery;
use crate::wire::query::{Key, Query};
use crate::wire::range::{self, ByteRange, Selection};

/// The live version that is asked for.
///
/// # Errors
/// `BlobNotFound`, also where the newest version is a tombstone.
pub(super) async fn find(core: &Core, path: &BlobPath, version: Option<u64>) -> Result<Rc<Answer>, Failure> {
    let slot = Slot::of(path);
    core.node.slots.admit(slot)?;
    if let Some(generation) = core.node.slots.generation(slot)
        && let Some(answer) = core.answers.version(path, version, generation)
    {
        return Ok(answer);
    }
    let missing = || missing(path, version);
    if core.node.slots.state(slot) == State::Unborn {
        return Err(missing().into());
    }
    let found = core.node.readers.find(slot, path, version).await?;
    let record = found.record.filter(|record| record.tombstoned_at.is_none()).ok_or_else(missing)?;
    let description = Description::new(&record, found.only_chunk);
    let answer = Rc::new(Answer { record, parts: found.parts, description });
    if let Some(generation) = found.generation
        && answer.parts.as_ref().is_none_or(|parts| parts.damaged.is_empty())
    {
        core.answers.insert_version(path, version, &answer, generation);
    }
    Ok(answer)
}

pub(super) fn missing(path: &str, version: Option<u64>) -> Error {
    match version {
        Some(version) => Error::new(Code::BlobNotFound, format!("there is no version {version} of '{path}'")),
        None => Error::new(Code::BlobNotFound, format!("there is no blob '{path}'")),
    }
}

/// Whether a live version of this node may be told that was written while a quorum was asked: it is newer than what a quorum said
/// `before`, so that it is not older than what was acknowledged when the request came, and a quorum says `after` that it is as far, so that
/// nobody is told an older one from now on.
fn may_tell(version: u64, before: &Known, after: &Known) -> bool {
    let newest = |known: &Known| known.held.first().map_or(0, |held| held.row.version);
    newest(before) < version && version <= newest(after)
}

fn is_broken(handled: &Handled) -> bool {
    matches!(handled, Err(Failure::Refused(error, _)) if error.code == Code::Internal)
}

/// Which bytes a GET gets.
enum Bytes {
    Whole,
    One(ByteRange),
    Many(Vec<ByteRange>),
}

/// What a client asks for.
struct Asked<'a> {
    head: &'a Head,
    path: &'a BlobPath,
    version: Option<u64>,
    start: Option<u64>,
    end: Option<u64>,
    conditions: Conditions,
}

/// What this node has of it.
enum Mine {
    /// A live version, and the reply.
    Live(Rc<Answer>, Handled),
    /// None.
    Missing(Failure),
    /// One whose chunks are not here.
    Hollow,
}

pub(super) async fn get(core: &Rc<Core>, head: &Head, path: &BlobPath, query: &Query) -> Handled {
    let asked = Asked::new(head, path, query)?;
    let slot = Slot::of(path);
    if replicated::wants_local(query) && replicated::is_here(core, slot) && !replicated::is_out(core, slot) {
        return match mine(core, &asked).await? {
            Mine::Live(_, handled) => handled,
            Mine::Missing(failure) => Err(failure),
            Mine::Hollow => replicated::elsewhere(core, slot),
        };
    }
    let Some(replica) = replicated::replica(core, slot)? else {
        return match mine(core, &asked).await? {
            Mine::Live(_, handled) => handled,
            Mine::Missing(failure) => Err(failure),
            Mine::Hollow => refuse(Code::Internal, "the only replica lacks its chunks"),
        };
    };
    // The others are asked while the first block is read.
    let reading = replica.begin_read(path, asked.version.map_or(PeerQuery::Newest, PeerQuery::At));
    let mut mine_now = mine(core, &asked).await;
    let known = reading.await?;
    let Some(live) = known.held.first().filter(|held| held.tombstoned_at.is_none()) else {
        return Err(missing(path, asked.version).into());
    };
    let is_it = |mine: &Result<Mine, Failure>| match mine {
        Ok(Mine::Live(answer, _)) => answer.record.blob_id == live.row.attempt.blob_id,
        _ => false,
    };
    if !is_it(&mine_now) {
        // What others have may have come here by now.
        mine_now = mine(core, &asked).await;
    }
    match mine_now {
        // What cannot be read here may be good elsewhere.
        Ok(Mine::Live(answer, handled))
            if answer.record.blob_id == live.row.attempt.blob_id && !is_broken(&handled) =>
        {
            handled
        }
        Ok(Mine::Live(answer, handled))
            if asked.version.is_none()
                && !is_broken(&handled)
                && may_tell(answer.record.version, &known, &replica.read(path, PeerQuery::Newest).await?) =>
        {
            handled
        }
        _ => Err(Failure::Elsewhere(replica.others_of(known.whole), Scope::OwnVersion(live.row.version))),
    }
}

impl<'a> Asked<'a> {
    fn new(head: &'a Head, path: &'a BlobPath, query: &Query) -> Result<Self, Failure> {
        let (start, end) = (query.number(Key::Start)?, query.number(Key::End)?);
        let by_query = start.is_some() || end.is_some();
        if by_query && head.method == Method::Get && head.headers.get("range").is_some() {
            return refuse(Code::BadRequest, "give either Range or start/end, not both");
        }
        if let (Some(start), Some(end)) = (start, end)
            && start >= end
        {
            return refuse(Code::BadRequest, format!("start {start} is not below end {end}"));
        }
        if end == Some(0) {
            return refuse(Code::BadRequest, "end 0 leaves no byte: it is exclusive");
        }
        let conditions = Conditions::from_headers(&head.headers)?;
        Ok(Self { head, path, version: query.version()?, start, end, conditions })
    }

    fn by_query(&self) -> bool {
        self.start.is_some() || self.end.is_some()
    }
}

/// What this node has of what is asked for.
async fn mine(core: &Rc<Core>, asked: &Asked<'_>) -> Result<Mine, Failure> {
    let answer = match find(core, asked.path, asked.version).await {
        Ok(answer) => answer,
        Err(Failure::Refused(error, fields)) if error.code == Code::BlobNotFound => {
            return Ok(Mine::Missing(Failure::Refused(error, fields)));
        }
        Err(failure) => return Err(failure),
    };
    if answer.record.hollow {
        return Ok(Mine::Hollow);
    }
    let handled = respond(core, asked, &answer).await;
    Ok(Mine::Live(answer, handled))
}

/// The reply with a version that is here.
async fn respond(core: &Rc<Core>, asked: &Asked<'_>, answer: &Rc<Answer>) -> Handled {
    let Asked { head, conditions, .. } = asked;
    let wants_range = head.method == Method::Get && head.headers.get("range").is_some();
    let record = &answer.record;
    let now = Timestamp::now();
    let description = &answer.description;
    let current = Current { etag: &description.etag, modified: description.modified(now).seconds() };
    match conditions.evaluate_read(Some(current)) {
        Verdict::Proceed => {}
        Verdict::NotModified => {
            return Ok(Reply::empty(304, description.head(304, now)));
        }
        Verdict::Failed => {
            return refuse(
                Code::PreconditionFailed,
                "a condition of the request does not hold for the current version",
            );
        }
    }
    let bytes = if asked.by_query() {
        match range::select_query(asked.start, asked.end, record.size) {
            Ok(range) => Bytes::One(range),
            Err(error) => return unsatisfiable(error, record),
        }
    } else if wants_range && conditions.range_applies(current, now.seconds()) {
        match range::select(head.headers.get_str("range").unwrap_or_default(), record.size) {
            Selection::Whole => Bytes::Whole,
            Selection::One(range) => Bytes::One(range),
            Selection::Many(ranges) => Bytes::Many(ranges),
            Selection::Unsatisfiable => {
                let message = format!(
                    "no byte of the range exists, or too many are asked for: the blob has {} bytes",
                    record.size
                );
                return unsatisfiable(Error::new(Code::RangeNotSatisfiable, message), record);
            }
        }
    } else {
        Bytes::Whole
    };
    // One that was passed on often enough is answered from what is here.
    let hops = head.headers.get_str(HOPS_FIELD).and_then(|hops| hops.parse::<u32>().ok());
    let reach = match hops.unwrap_or(0) {
        hops if hops < HOPS_MAX => Reach::All,
        HOPS_MAX => Reach::Archive,
        _ => Reach::Here,
    };
    // One that another replica fetches is not read by anybody for that.
    if head.method == Method::Get
        && let Some(reads) = &core.reads
        && hops.is_none_or(|hops| hops < HOPS_MAX)
    {
        reads.note(Slot::of(asked.path), answer.record.row, now);
    }
    let blob = Blob::new(core, Slot::of(asked.path), answer, reach);
    reply(&blob, head.method, answer, now, bytes).await
}

fn unsatisfiable(error: Error, record: &BlobMeta) -> Handled {
    let fields = match error.code {
        Code::RangeNotSatisfiable => vec![("Content-Range", format!("bytes */{}", record.size))],
        _ => Vec::new(),
    };
    Err(Failure::Refused(error, fields))
}

/// The reply with the bytes asked for. The first of them are read here, before the head goes out, so that a blob that
/// cannot be read gets an error instead of a response that is cut off.
async fn reply(blob: &Rc<Blob>, method: Method, answer: &Answer, now: Timestamp, bytes: Bytes) -> Handled {
    let (size, description) = (answer.record.size, &answer.description);
    let (status, range, ranges) = match bytes {
        Bytes::Whole => (200, 0..size, None),
        Bytes::One(range) => (206, range.start..range.end, None),
        Bytes::Many(ranges) => (206, ranges[0].start..ranges[0].end, Some(ranges)),
    };
    let Some(ranges) = ranges else {
        let mut head =
            description.head_of_body(status, now).header("Content-Length", range.end - range.start);
        if status == 206 {
            head =
                head.header("Content-Range", format_args!("bytes {}-{}/{size}", range.start, range.end - 1));
        }
        if range.is_empty() || method == Method::Head {
            return Ok(Reply::empty(status, head));
        }
        let reading = ReadAhead::begin(blob, range).await?;
        return Ok(Reply { status, head, body: ReplyBody::Blob(reading) });
    };
    let first = ReadAhead::begin(blob, range).await?;
    let multipart = Multipart::new(&Ulid::generate().to_string(), &description.content_type, size, &ranges);
    let head = description
        .head(status, now)
        .header("X-Content-Type-Options", "nosniff")
        .header("Content-Type", multipart.content_type_value())
        .header("Content-Length", multipart.total_len());
    Ok(Reply { status, head, body: ReplyBody::Multipart { first, ranges, multipart } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::BlobId;
    use crate::wire::peer::{Attempt, Held, Row};

    fn known(version: u64) -> Known {
        let attempt = Attempt { blob_id: BlobId::from_u128(u128::from(version)), ballot: 1 };
        let (path, headers) = ("p".to_owned(), String::new());
        let row =
            Row { path, version, attempt, size: 0, content: [0; 32], created_at: Timestamp(0), headers };
        Known { held: vec![Held { row, tombstoned_at: None, hollow: false }], ..Known::default() }
    }

    #[test]
    fn what_is_here_is_told_where_it_is_neither_older_than_the_quorum_nor_ahead_of_it() {
        assert!(may_tell(24, &known(23), &known(24)), "written meanwhile");
        assert!(may_tell(24, &known(23), &known(25)), "and overwritten");
        assert!(may_tell(1, &Known::default(), &known(1)), "the first one");
        // This node was behind when it looked, and has caught up since: what it saw is old all the same.
        assert!(!may_tell(22, &known(23), &known(24)), "older than what was acknowledged");
        assert!(!may_tell(24, &known(23), &known(23)), "another node would tell the older one next");
    }
}
