//! `GET /objects`: the newest version of each path in byte order, merged from the listing indexes of all disks.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::core::Core;
use super::reply::{Failure, Handled, Reply, refuse, room_for_page};
use crate::base::error::{Code, Error};
use crate::limits::{PAGE_DEFAULT, PAGE_MAX};
use crate::meta::index::{Listing, Page, Seek};
use crate::wire::query::{Key, Query};

/// A listing's lines from all disks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Merged {
    /// JSON of the paths, with a comma after each.
    objects: Vec<u8>,
    prefixes: Vec<String>,
    lines: usize,
    next: Option<Seek>,
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
    Ok(Reply::page_of(merge(&pages, listing.limit).into_json(), share))
}

impl Merged {
    fn add(&mut self, page: &Page, line: usize) {
        let json = page.json(line);
        self.lines += 1;
        if json.is_empty() {
            self.prefixes.push(page.key(line).to_owned());
        } else {
            self.objects.extend_from_slice(json);
            self.objects.push(b',');
        }
    }

    /// Whether a line is the common prefix that was added last.
    fn ends_with(&self, page: &Page, line: usize) -> bool {
        page.json(line).is_empty() && self.prefixes.last().is_some_and(|last| last == page.key(line))
    }

    fn into_json(mut self) -> Vec<u8> {
        self.objects.pop();
        let cursor = self.next.as_ref().map(format_cursor);
        let mut json = Vec::with_capacity(self.objects.len() + 64);
        json.extend_from_slice(b"{\"objects\":[");
        json.append(&mut self.objects);
        json.extend_from_slice(b"],\"prefixes\":");
        // Values are written to a vector: nothing can fail.
        let _ = serde_json::to_writer(&mut json, &self.prefixes);
        json.extend_from_slice(b",\"next_cursor\":");
        let _ = serde_json::to_writer(&mut json, &cursor);
        json.push(b'}');
        json
    }
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

/// Merges pages of several disks into one of at most `limit` lines. What lies beyond the end of a page that goes on
/// is not known yet, so the merge ends there.
fn merge(pages: &[Page], limit: usize) -> Merged {
    let bound = pages.iter().filter_map(|page| page.next.as_ref()).min();
    let mut at = vec![0; pages.len()];
    let bytes = pages.iter().map(|page| (0..page.len()).map(|line| page.json(line).len() + 1).sum::<usize>());
    let mut merged = Merged { objects: Vec::with_capacity(bytes.sum()), ..Merged::default() };
    while let Some(disk) = smallest(pages, &at) {
        let (page, line) = (&pages[disk], at[disk]);
        at[disk] += 1;
        // Several disks may have paths under one common prefix.
        let double = merged.ends_with(page, line);
        if let Some(bound) = bound
            && page.after(line) > *bound
        {
            // A common prefix may begin before the bound and reach beyond it: it is listed, and passed as a whole.
            if page.key(line).as_bytes() > &bound.0[..] {
                break;
            }
            if merged.lines < limit || double {
                merged.next = Some(page.after(line));
                if !double {
                    merged.add(page, line);
                }
                return merged;
            }
        }
        if merged.lines == limit {
            return merged;
        }
        if !double {
            merged.add(page, line);
        }
        merged.next = Some(page.after(line));
    }
    merged.next = bound.cloned();
    merged
}

/// The disk whose next line comes first.
fn smallest(pages: &[Page], at: &[usize]) -> Option<usize> {
    let ahead = (0..pages.len()).filter(|disk| at[*disk] < pages[*disk].len());
    ahead.min_by_key(|disk| pages[*disk].key(at[*disk]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::index::Listed;

    fn page(prefixes: &[&str], next: Option<&str>) -> Page {
        let mut page = Page::default();
        for prefix in prefixes {
            page.push_prefix(prefix);
        }
        page.next = next.map(|next| Seek(next.into()));
        page
    }

    fn merged(prefixes: &[&str], next: Option<Seek>) -> Merged {
        let prefixes: Vec<String> = prefixes.iter().map(|&prefix| prefix.to_owned()).collect();
        Merged { objects: Vec::new(), lines: prefixes.len(), prefixes, next }
    }

    #[test]
    fn disks_are_merged_in_order_without_doubles() {
        let merge = merge(&[page(&["a/", "c/"], None), page(&["a/", "b/"], None), page(&[], None)], 9);
        assert_eq!(merge, merged(&["a/", "b/", "c/"], None));
    }

    #[test]
    fn nothing_is_listed_beyond_what_every_disk_has_looked_at() {
        let merge = merge(&[page(&["a/", "x/"], None), page(&["b/"], Some("c"))], 9);
        let expected = merged(&["a/", "b/"], Some(Seek("c".into())));
        assert_eq!(merge, expected, "there may be a d/ on the second disk");
    }

    #[test]
    fn a_prefix_across_the_end_of_a_scan_is_listed_once() {
        let merge = merge(&[page(&["a/"], None), page(&[], Some("a/5"))], 9);
        assert_eq!(merge, merged(&["a/"], Some(Seek::after_prefix("a/"))));
    }

    #[test]
    fn a_full_page_goes_on_after_its_last_item() {
        let merge = merge(&[page(&["a/", "c/"], None), page(&["b/"], None)], 2);
        assert_eq!(merge, merged(&["a/", "b/"], Some(Seek::after_prefix("b/"))));
    }

    #[test]
    fn an_answer_is_json_with_and_without_paths() {
        let mut paths = page(&["a/"], None);
        for path in ["b", "c"] {
            paths.push_path(&Listed {
                path,
                version: 7,
                blob_id: "x",
                size: 9,
                created_at: "t",
                tombstoned_at: None,
            });
        }
        for (limit, objects) in [(9, 2), (2, 1), (1, 0)] {
            let json = merge(std::slice::from_ref(&paths), limit).into_json();
            let answer: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(answer["objects"].as_array().unwrap().len(), objects);
            assert_eq!(answer["prefixes"], serde_json::json!(["a/"]));
            assert_eq!(answer["next_cursor"].is_null(), limit == 9, "{answer}");
        }
    }
}
