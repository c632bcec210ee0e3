//! Merging stretches of a listing, of several disks or several nodes, into one.
//!
//! Nothing is listed beyond what every one of them has looked at. Disks of one node have different paths; nodes know of the same
//! ones, and one that was away knows old versions: of one path the highest version wins, and of one version the tombstone, as in
//! every read (RFC 0003). Only then is a tombstone left out.
//!
//! A common prefix is listed where some node has a live path under it. It may be the only one that does not know of a delete
//! yet: until it has caught up, a prefix can be listed under which nothing is left. None is missing, since of every live path
//! one of the nodes that answered knows.

use crate::meta::index::{Page, Seek};

/// Where merged lines go.
pub(super) trait Sink {
    /// Says how many bytes may come.
    fn expect(&mut self, bytes: usize);
    /// Whether no more fits.
    fn is_full(&self) -> bool;
    /// Takes a line.
    fn add(&mut self, page: &Page, line: usize);
}

/// A page for another node.
pub(super) struct Joined {
    pub(super) page: Page,
    pub(super) limit: usize,
    pub(super) bytes: usize,
}

impl Sink for Joined {
    fn expect(&mut self, _: usize) {}

    fn is_full(&self) -> bool {
        self.page.len() >= self.limit || self.page.bytes() >= self.bytes
    }

    fn add(&mut self, page: &Page, line: usize) {
        self.page.push_line(page, line);
    }
}

/// A page for a client.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Json {
    /// JSON of the paths, with a comma after each.
    objects: Vec<u8>,
    prefixes: Vec<String>,
    lines: usize,
    limit: usize,
}

impl Json {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// All of it, with the cursor to go on.
    pub(super) fn into_json(mut self, cursor: Option<&str>) -> Vec<u8> {
        self.objects.pop();
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

impl Sink for Json {
    fn expect(&mut self, bytes: usize) {
        self.objects.reserve(bytes);
    }

    fn is_full(&self) -> bool {
        self.lines >= self.limit
    }

    fn add(&mut self, page: &Page, line: usize) {
        self.lines += 1;
        if page.is_prefix(line) {
            self.prefixes.push(page.key(line).to_owned());
        } else {
            self.objects.extend_from_slice(page.json(line));
            self.objects.push(b',');
        }
    }
}

/// Merges pages until `out` is full; where to go on, if that was not all. Tombstones are passed over unless they are wanted.
pub(super) fn merge(pages: &[Page], tombstones: bool, out: &mut impl Sink) -> Option<Seek> {
    let bound = pages.iter().filter_map(|page| page.next.as_ref()).min();
    out.expect(pages.iter().map(|page| page.bytes() + page.len()).sum());
    let mut at = vec![0; pages.len()];
    let mut last: Option<(usize, usize)> = None;
    while let Some(first) = smallest(pages, &at) {
        let (page, line) = (&pages[first], at[first]);
        let is_across = bound.is_some_and(|bound| page.is_prefix(line) && page.after(line) > *bound);
        if let Some(bound) = bound {
            let key = page.key(line).as_bytes();
            // A path at the bound was not looked at where the bound is from.
            if key > &bound.0[..] || (key == &bound.0[..] && !page.is_prefix(line)) {
                break;
            }
        }
        if out.is_full() {
            return last.map(|(page, line)| pages[page].after(line));
        }
        let (page, line) = newest(pages, &mut at, first);
        last = Some((page, line));
        if tombstones || !pages[page].is_tombstone(line) {
            out.add(&pages[page], line);
        }
        if is_across {
            // A common prefix may begin before the bound and reach beyond it: it is passed as a whole.
            return Some(pages[page].after(line));
        }
    }
    bound.cloned()
}

/// The page whose next line comes first; the first of them.
fn smallest(pages: &[Page], at: &[usize]) -> Option<usize> {
    let ahead = (0..pages.len()).filter(|page| at[*page] < pages[*page].len());
    ahead.min_by_key(|page| pages[*page].key(at[*page]))
}

/// Takes the lines of one path, or one common prefix, from all pages, of which `first` is the first that has it; the newest.
fn newest(pages: &[Page], at: &mut [usize], first: usize) -> (usize, usize) {
    let rank = |page: usize, line: usize| (pages[page].version(line), pages[page].is_tombstone(line));
    let mut newest = (first, at[first]);
    let key = pages[first].key(at[first]);
    at[first] += 1;
    for other in first + 1..pages.len() {
        let line = at[other];
        if line < pages[other].len() && pages[other].key(line) == key {
            if rank(other, line) > rank(newest.0, newest.1) {
                newest = (other, line);
            }
            at[other] += 1;
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::index::Listed;

    /// Lines like `a/`, a common prefix; `b7`, version 7 of path b; `c8!`, its tombstone.
    fn page(lines: &[&str], next: Option<&str>) -> Page {
        let mut page = Page::default();
        for line in lines {
            if line.ends_with('/') {
                page.push_prefix(line);
                continue;
            }
            let (path, version) = line.trim_end_matches('!').split_at(1);
            let version = version.parse().unwrap();
            let tombstoned_at = line.ends_with('!').then_some("t");
            page.push_path(&Listed { path, version, blob_id: "x", size: 9, created_at: "t", tombstoned_at });
        }
        page.next = next.map(|next| Seek(next.into()));
        page
    }

    /// What is listed, written as above.
    fn merged(pages: &[Page], limit: usize, tombstones: bool) -> (Vec<String>, Option<Seek>) {
        let mut joined = Joined { page: Page::default(), limit, bytes: usize::MAX };
        let next = merge(pages, tombstones, &mut joined);
        let page = joined.page;
        let text = |line: usize| {
            if page.is_prefix(line) {
                return page.key(line).to_owned();
            }
            let mark = if page.is_tombstone(line) { "!" } else { "" };
            format!("{}{}{mark}", page.key(line), page.version(line))
        };
        ((0..page.len()).map(text).collect(), next)
    }

    fn all(pages: &[Page]) -> Vec<String> {
        let (lines, next) = merged(pages, 99, false);
        assert_eq!(next, None);
        lines
    }

    #[test]
    fn disks_are_merged_in_order_without_doubles() {
        let pages = [page(&["a/", "c/"], None), page(&["a/", "b/"], None), page(&[], None)];
        assert_eq!(all(&pages), ["a/", "b/", "c/"]);
    }

    #[test]
    fn of_one_path_the_highest_version_wins_and_of_one_version_the_tombstone() {
        for (pages, expected) in [
            (vec![page(&["b1"], None), page(&["b1"], None), page(&["b1"], None)], vec!["b1"]),
            (vec![page(&["b1"], None), page(&["b3"], None), page(&["b2"], None)], vec!["b3"]),
            // The first was away when version 1 was deleted, the second when 2 was written.
            (vec![page(&["b1"], None), page(&["b1!"], None)], vec![]),
            (vec![page(&["b2"], None), page(&["b1!"], None)], vec!["b2"]),
            (vec![page(&["b1"], None), page(&["b2!"], None), page(&["b2"], None)], vec![]),
            (vec![page(&["a1", "c1"], None), page(&["a1", "b1", "c2!"], None)], vec!["a1", "b1"]),
        ] {
            assert_eq!(all(&pages), expected, "{pages:?}");
            let reversed: Vec<Page> = pages.into_iter().rev().collect();
            assert_eq!(all(&reversed), expected, "{reversed:?}");
        }
        let pages = [page(&["b1", "c1!"], None), page(&["b1!", "c1"], None)];
        assert_eq!(merged(&pages, 9, true).0, ["b1!", "c1!"], "tombstones are marked where they are wanted");
    }

    #[test]
    fn nothing_is_listed_beyond_what_every_page_has_looked_at() {
        let pages = [page(&["a/", "x/"], None), page(&["b/"], Some("c"))];
        let expected = vec!["a/".to_owned(), "b/".to_owned()];
        assert_eq!(merged(&pages, 9, false), (expected, Some(Seek("c".into()))), "there may be a d/ there");
        let pages = [page(&["a1", "c1"], None), page(&["b1"], Some("c"))];
        let expected = vec!["a1".to_owned(), "b1".to_owned()];
        assert_eq!(merged(&pages, 9, false), (expected, Some(Seek("c".into()))), "c may be deleted there");
    }

    #[test]
    fn a_prefix_across_the_end_of_a_scan_is_listed_once() {
        let pages = [page(&["a/"], None), page(&[], Some("a/5"))];
        assert_eq!(merged(&pages, 9, false), (vec!["a/".to_owned()], Some(Seek::after_prefix("a/"))));
    }

    #[test]
    fn a_full_page_goes_on_after_its_last_line() {
        let pages = [page(&["a/", "c/"], None), page(&["b/"], None)];
        let lines = vec!["a/".to_owned(), "b/".to_owned()];
        assert_eq!(merged(&pages, 2, false), (lines, Some(Seek::after_prefix("b/"))));
        // Deleted paths take no room.
        let pages = [page(&["a1!", "b1", "c1!", "d1"], None), page(&["a1", "c1", "d1"], None)];
        assert_eq!(merged(&pages, 1, false), (vec!["b1".to_owned()], Some(Seek::after_path("b"))));
    }

    /// Three nodes, of which one was away for a while, asked page by page.
    #[test]
    fn pages_of_any_size_list_the_same() {
        let nodes = [
            page(&["a2", "b1", "c3!", "e1", "g/", "h1"], None),
            page(&["a1", "b1!", "c3", "d1", "g/"], None),
            page(&["a2", "c2", "d1", "e1!", "h1"], None),
        ];
        for size in 1..=6 {
            for limit in 1..=6 {
                let (mut seen, mut from) = (Vec::new(), Seek::default());
                for round in 0.. {
                    assert!(round < 50, "{seen:?} goes on for ever");
                    let pages: Vec<Page> = nodes.iter().map(|node| stretch(node, &from, size)).collect();
                    let (lines, next) = merged(&pages, limit, false);
                    assert!(lines.len() <= limit);
                    seen.extend(lines);
                    match next {
                        Some(next) => assert!(from < next, "{from:?} {next:?}"),
                        None => break,
                    }
                    from = merged(&pages, limit, false).1.unwrap();
                }
                assert_eq!(seen, ["a2", "d1", "g/", "h1"], "{size} lines of each, pages of {limit}");
            }
        }
    }

    /// What a node answers that has looked at `size` lines.
    fn stretch(node: &Page, from: &Seek, size: usize) -> Page {
        let mut page = Page::default();
        for line in (0..node.len()).filter(|line| node.after(*line) > *from) {
            if page.len() == size {
                page.next = Some(Seek(node.key(line).into()));
                break;
            }
            page.push_line(node, line);
        }
        page
    }

    #[test]
    fn an_answer_is_json_with_and_without_paths() {
        let paths = page(&["a/", "b7", "c7"], None);
        for (limit, objects) in [(9, 2), (2, 1), (1, 0)] {
            let mut json = Json::new(limit);
            let next = merge(std::slice::from_ref(&paths), false, &mut json);
            let json = json.into_json(next.map(|_| "x"));
            let answer: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(answer["objects"].as_array().unwrap().len(), objects);
            assert_eq!(answer["prefixes"], serde_json::json!(["a/"]));
            assert_eq!(answer["next_cursor"].is_null(), limit == 9, "{answer}");
        }
    }
}
