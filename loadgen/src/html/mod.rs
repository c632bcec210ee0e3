//! Reports as a page: one file that needs nothing else, readable in light and dark, on paper and without scripts.
//!
//! Whatever comes from outside (URLs, descriptions, names of errors, notes) passes [`escape`] on its way into the page.

mod pages;
mod plot;

pub(crate) use pages::{compare, duel, run};
use std::fmt::Write as _;

/// Colours have names, so that dark is another set of values and nothing else.
const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #6b6b70; --rule: #d9d9de; --paper: #ffffff; --card: #f6f6f8;
  --a: #b45309; --b: #1d4ed8; --c: #15803d; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --soft: #9a9aa2; --rule: #3a3a40; --paper: #161618; --card: #1f1f23;
  --a: #fbbf24; --b: #7aa2ff; --c: #4ade80; --bad: #f87171; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .2rem 0; } .soft { color: var(--soft); } .bad { color: var(--bad); }
.a { color: var(--a); } .b { color: var(--b); } .c { color: var(--c); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--rule); overflow-wrap: anywhere; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.figures div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.figures b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .grid { stroke: var(--rule); stroke-width: 1; } svg .line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
svg .dot { fill: currentColor; } svg .value { fill: currentColor; }
";

/// A page around `body`, which is HTML already.
fn page(title: &str, subtitle: &[&str], body: &str) -> String {
    let subtitle: String = subtitle.iter().fold(String::new(), |mut out, line| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "<p class=\"soft\">{}</p>", escape(line));
        out
    });
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{subtitle}{body}<p class=\"soft\">loadgen {}</p>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// A table of text cells.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        cells.fold(String::new(), |mut out, cell| {
            let _ = write!(out, "<{tag}>{}</{tag}>", escape(cell));
            out
        })
    };
    let mut out = format!("<table>\n<tr>{}</tr>\n", cells("th", &mut head.iter().copied()));
    for row in rows {
        let _ = writeln!(out, "<tr>{}</tr>", cells("td", &mut row.iter().map(String::as_str)));
    }
    out + "</table>\n"
}

/// Text, safe between tags and in quoted attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // What no HTML document may hold.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let evil = "</title><script>alert('1')</script>\"&\0";
        let safe = "&lt;/title&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&amp;\u{fffd}";
        assert_eq!(escape(evil), safe);
        let page = page(evil, &[evil], &table(&[evil], &[vec![evil.to_owned()]]));
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches(safe).count(), 5);
    }
}
