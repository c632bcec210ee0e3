//! A listing as a page for people, and for tools that walk links: one level, in the manner of a web server's directory index.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

/// What stands in a link as it is.
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// How wide a name is before its date.
const NAME_WIDTH: usize = 50;

/// What of a listing is shown.
#[derive(Deserialize)]
struct Listed {
    objects: Vec<Object>,
    prefixes: Vec<String>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Object {
    path: String,
    size: u64,
    created_at: String,
}

/// Text that means nothing in HTML.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

/// A listing of what begins with `prefix`, of a page at `base`: links are relative to that.
pub(super) fn render(json: &[u8], prefix: &str, base: &str) -> Vec<u8> {
    // It was written here.
    let listed: Listed = serde_json::from_slice(json).unwrap_or(Listed {
        objects: Vec::new(),
        prefixes: Vec::new(),
        next_cursor: None,
    });
    let title = format!("Index of /{}", escaped(prefix));
    let mut html = format!(
        "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body><h1>{title}</h1><pre>\n"
    );
    if !base.is_empty() {
        html.push_str("<a href=\"../\">../</a>\n");
    }
    let mut lines: Vec<(&str, String, String)> = Vec::new();
    lines.extend(listed.prefixes.iter().map(|prefix| (prefix.as_str(), "-".to_owned(), "-".to_owned())));
    let of = |object: &'_ Object| (object.created_at.replace('T', " "), object.size.to_string());
    lines.extend(listed.objects.iter().map(|object| {
        let (created, size) = of(object);
        (object.path.as_str(), created, size)
    }));
    lines.sort_unstable_by_key(|(path, ..)| *path);
    for (path, created, size) in lines {
        let name = path.strip_prefix(base).unwrap_or(path);
        let pad = NAME_WIDTH.saturating_sub(name.chars().count());
        // Written to a String: nothing can fail.
        let _ = writeln!(
            html,
            "<a href=\"{}\">{}</a>{:pad$} {created:>24} {size:>20}",
            utf8_percent_encode(name, &PLAIN),
            escaped(name),
            ""
        );
    }
    if let Some(cursor) = listed.next_cursor {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let query = format!("cursor={}&amp;prefix={}", encode(&cursor), encode(prefix));
        let _ = writeln!(html, "<a rel=\"next\" href=\"?{query}\">more</a>");
    }
    html.push_str("</pre></body></html>\n");
    html.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_links_that_mean_nothing_else() {
        let json = serde_json::json!({
            "objects": [
                { "path": "p/<b>&\"'", "size": 7, "created_at": "2026-01-31T12:00:00.000Z" },
                { "path": "p/javascript:x", "size": 8, "created_at": "2026-01-31T12:00:00.000Z" },
            ],
            "prefixes": ["p/a b/"],
            "next_cursor": "c+",
        });
        let page = String::from_utf8(render(&serde_json::to_vec(&json).unwrap(), "p/", "p/")).unwrap();
        assert!(page.contains("<a href=\"a%20b/\">a b/</a>"), "{page}");
        assert!(page.contains("<a href=\"%3Cb%3E%26%22%27\">&lt;b&gt;&amp;&quot;&#39;</a>"), "{page}");
        assert!(page.contains("<a href=\"javascript%3Ax\">"), "{page}");
        assert!(page.contains("href=\"?cursor=c%2B&amp;prefix=p%2F\""), "{page}");
        assert!(page.contains("2026-01-31 12:00:00.000Z") && page.contains("../"), "{page}");
    }
}
