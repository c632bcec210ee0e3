//! `GET /objects`: the newest version of each path in byte order, merged from the listing indexes of all disks of this node, and
//! in a cluster from those of all nodes.

mod merge;
mod nodes;
mod page;

use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use self::merge::{Json, merge};
pub(super) use self::nodes::answer;
use super::core::Core;
use super::replicated::wants_local;
use super::reply::{Failure, Handled, Reply, refuse, room_for_page};
use crate::base::error::{Code, Error};
use crate::io::budget::Share;
use crate::limits::{PAGE_DEFAULT, PAGE_MAX};
use crate::meta::index::{Listing, Page, Seek};
use crate::wire::query::{Key, Query};

/// Entries of the page asked for; more than [`PAGE_MAX`] means that many.
pub(super) fn limit(query: &Query) -> Result<usize, Failure> {
    match query.number(Key::Limit)? {
        None => Ok(PAGE_DEFAULT),
        Some(0) => refuse(Code::BadRequest, "limit is 0: ask for at least 1"),
        Some(limit) => Ok(usize::try_from(limit).unwrap_or(PAGE_MAX).min(PAGE_MAX)),
    }
}

/// A listing as JSON.
pub(super) async fn list(core: &Rc<Core>, query: &Query) -> Handled {
    let prefix = query.text(Key::Prefix).unwrap_or_default().to_owned();
    let delimiter = query.text(Key::Delimiter).filter(|delimiter| !delimiter.is_empty()).map(str::to_owned);
    let (json, share) = listed(core, query, prefix, delimiter, limit(query)?).await?;
    Ok(varying(Reply::page_of("application/json", json, share)))
}

/// One level of a listing as a page for people: what is below `directory`, which ends with a slash or is empty, where the page stands
/// and links begin, or what the query names.
pub(super) async fn index(core: &Rc<Core>, query: &Query, directory: &str) -> Handled {
    let prefix = query.text(Key::Prefix).unwrap_or(directory).to_owned();
    let limit = if query.text(Key::Limit).is_some() { limit(query)? } else { PAGE_MAX };
    let (json, share) = listed(core, query, prefix.clone(), Some("/".to_owned()), limit).await?;
    let html = page::render(&json, &prefix, directory);
    Ok(varying(Reply::page_of("text/html; charset=utf-8", html, share)))
}

/// What a client gets is what it would rather have.
fn varying(mut reply: Reply) -> Reply {
    reply.head = reply.head.header("Vary", "Accept");
    reply
}

async fn listed(
    core: &Rc<Core>,
    query: &Query,
    prefix: String,
    delimiter: Option<String>,
    limit: usize,
) -> Result<(Vec<u8>, Share), Failure> {
    let listing = Listing {
        prefix,
        delimiter,
        from: query.text(Key::Cursor).map_or(Ok(Seek::default()), parse_cursor)?,
        limit,
        include_tombstoned: query.boolean(Key::IncludeTombstoned)?.unwrap_or(false),
        merged: false,
        bytes: usize::MAX,
    };
    if let Some(cluster) = &core.node.cluster
        && !wants_local(query)
    {
        return nodes::list(core, cluster, listing).await;
    }
    if !core.node.can_serve() {
        let troubles = core.node.troubles().join("; ");
        return refuse(Code::SlotUnavailable, format!("a listing needs all slots: {troubles}"));
    }
    let share = room_for_page(core, listing.limit).await?;
    let pages = pages(core, &listing, |_| true).await?;
    let mut json = Json::new(listing.limit);
    let cursor = merge(&pages, true, &mut json).as_ref().map(format_cursor);
    Ok((json.into_json(cursor.as_deref()), share))
}

/// A stretch of a listing from each disk that is `wanted`.
async fn pages(core: &Core, listing: &Listing, wanted: impl Fn(usize) -> bool) -> Result<Vec<Page>, Error> {
    let mut pages = Vec::with_capacity(core.node.indexes.disks());
    for disk in (0..core.node.indexes.disks()).filter(|disk| wanted(*disk)) {
        pages.push(core.node.indexes.list(disk, listing.clone()).await?);
    }
    Ok(pages)
}

/// A cursor is a place and its checksum, so that rubbish is not taken for a place.
fn format_cursor(seek: &Seek) -> String {
    let sum = crc32c::crc32c(&seek.0).to_be_bytes();
    URL_SAFE_NO_PAD.encode([&seek.0[..], &sum].concat())
}

fn parse_cursor(text: &str) -> Result<Seek, Failure> {
    let parse = || {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (seek, sum) = bytes.split_last_chunk::<4>()?;
        let good = !seek.is_empty() && crc32c::crc32c(seek).to_be_bytes() == *sum;
        good.then(|| Seek(seek.to_vec()))
    };
    parse().ok_or_else(|| Error::new(Code::BadRequest, "the cursor is not one of a listing").into())
}
