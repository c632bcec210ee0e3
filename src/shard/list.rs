//! `GET /objects`: the newest version of each path in byte order, merged from the listing indexes of all disks.

use std::iter::Peekable;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::core::Core;
use super::reply::{Failure, Handled, Reply, refuse, room_for_page};
use crate::base::error::{Code, Error};
use crate::limits::{PAGE_DEFAULT, PAGE_MAX};
use crate::meta::index::{Item, Listing, Page, Seek};
use crate::meta::types::Entry;
use crate::wire::query::{Key, Query};

#[derive(Serialize)]
struct ListAnswer {
    objects: Vec<Entry>,
    prefixes: Vec<String>,
    next_cursor: Option<String>,
}

/// Entries of the page asked for; more than [`PAGE_MAX`] means that many.
pub(super) fn limit(query: &Query) -> Result<usize, Failure> {
    match query.number(Key::Limit)? {
        None => Ok(PAGE_DEFAULT),
        Some(0) => refuse(Code::BadRequest, "limit is 0: ask for at least 1"),
        Some(limit) => Ok(usize::try_from(limit).unwrap_or(PAGE_MAX).min(PAGE_MAX)),
    }
}

pub(super) async fn list(core: &Core, query: &Query) -> Handled {
    let listing = Listing {
        prefix: query.text(Key::Prefix).unwrap_or_default().to_owned(),
        delimiter: query.text(Key::Delimiter).filter(|delimiter| !delimiter.is_empty()).map(str::to_owned),
        from: query.text(Key::Cursor).map_or(Ok(Seek::default()), parse_cursor)?,
        limit: limit(query)?,
        include_tombstoned: query.boolean(Key::IncludeTombstoned)?.unwrap_or(false),
    };
    if !core.node.can_serve() {
        let troubles = core.node.troubles().join("; ");
        return refuse(Code::SlotUnavailable, format!("a listing needs all slots: {troubles}"));
    }
    let share = room_for_page(core, listing.limit).await?;
    let mut pages = Vec::with_capacity(core.node.indexes.disks());
    for disk in 0..core.node.indexes.disks() {
        pages.push(core.node.indexes.list(disk, listing.clone()).await?);
    }
    let page = merge(pages, listing.limit);
    let mut answer = ListAnswer {
        objects: Vec::new(),
        prefixes: Vec::new(),
        next_cursor: page.next.as_ref().map(format_cursor),
    };
    for item in page.items {
        match item {
            Item::Prefix(prefix) => answer.prefixes.push(prefix),
            Item::Path(entry) => answer.objects.push(entry),
        }
    }
    Ok(Reply::page(&answer, share))
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

/// Merges pages of several disks into one of at most `limit` items. What lies beyond the end of a page that goes on
/// is not known yet, so the merge ends there.
fn merge(pages: Vec<Page>, limit: usize) -> Page {
    let bound = pages.iter().filter_map(|page| page.next.clone()).min();
    let mut sources: Vec<_> = pages.into_iter().map(|page| page.items.into_iter().peekable()).collect();
    let mut items: Vec<Item> = Vec::new();
    while let Some(item) = next_item(&mut sources) {
        let past = bound.as_ref().is_some_and(|bound| item.after() > *bound);
        // A common prefix may begin before the bound and reach beyond it: it is listed, and passed as a whole.
        let across = past && bound.as_ref().is_some_and(|bound| item.key().as_bytes() <= &bound.0[..]);
        if past && !across {
            break;
        }
        if items.len() == limit {
            return Page { next: items.last().map(Item::after), items };
        }
        if across {
            let next = Some(item.after());
            if items.last() != Some(&item) {
                items.push(item);
            }
            return Page { items, next };
        }
        // Several disks may have paths under one common prefix.
        if items.last() != Some(&item) {
            items.push(item);
        }
    }
    Page { items, next: bound }
}

fn next_item(sources: &mut [Peekable<impl Iterator<Item = Item>>]) -> Option<Item> {
    let keyed =
        sources.iter_mut().enumerate().filter_map(|(i, source)| Some((source.peek()?.key().to_owned(), i)));
    let (_, smallest) = keyed.min()?;
    sources[smallest].next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Item {
        Item::Prefix(text.to_owned())
    }

    fn page(items: &[&str], next: Option<&str>) -> Page {
        Page {
            items: items.iter().map(|item| prefix(item)).collect(),
            next: next.map(|next| Seek(next.into())),
        }
    }

    #[test]
    fn disks_are_merged_in_order_without_doubles() {
        let merged = merge(vec![page(&["a/", "c/"], None), page(&["a/", "b/"], None), page(&[], None)], 9);
        assert_eq!(merged, page(&["a/", "b/", "c/"], None));
    }

    #[test]
    fn nothing_is_listed_beyond_what_every_disk_has_looked_at() {
        let merged = merge(vec![page(&["a/", "x/"], None), page(&["b/"], Some("c"))], 9);
        assert_eq!(merged, page(&["a/", "b/"], Some("c")), "there may be a d/ on the second disk");
    }

    #[test]
    fn a_prefix_across_the_end_of_a_scan_is_listed_once() {
        let merged = merge(vec![page(&["a/"], None), page(&[], Some("a/5"))], 9);
        assert_eq!(merged, Page { items: vec![prefix("a/")], next: Some(Seek::after_prefix("a/")) });
    }

    #[test]
    fn a_full_page_goes_on_after_its_last_item() {
        let merged = merge(vec![page(&["a/", "c/"], None), page(&["b/"], None)], 2);
        assert_eq!(
            merged,
            Page { items: vec![prefix("a/"), prefix("b/")], next: Some(Seek::after_prefix("b/")) }
        );
    }
}
