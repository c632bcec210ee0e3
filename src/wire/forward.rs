//! What a node passes on of a request that another node answers, and of the answer (RFC 9110 section 7.6.1); and whether a client
//! would rather be sent there itself (RFC 7240).
//!
//! Framing, `Host`, `Expect`, `Date` and whatever is about one connection are each node's own; everything else passes as it came.

use super::headers::{Headers, is_token, trim};
use super::query::{Key, Query};

/// Fields that mean something to the next node only, or that every node makes itself.
const OWN: [&str; 11] = [
    "connection",
    "content-length",
    "date",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// The fields that pass, in order; without those that `Connection` names.
pub fn end_to_end(headers: &Headers) -> impl Iterator<Item = (&str, &[u8])> {
    let named =
        |name: &str| headers.list("connection").any(|option| option.eq_ignore_ascii_case(name.as_bytes()));
    headers.iter().filter(move |(name, _)| !OWN.contains(name) && !named(name))
}

/// What another node is to rest its answer on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Whatever the client asked for.
    Asked,
    /// What it has itself.
    Own,
    /// What it has itself of this version, which a quorum has named: what else it has may be on fewer than a quorum.
    OwnVersion(u64),
}

/// A target in origin form, as another node is asked for it.
pub fn target(path: &str, query: Option<&str>, scope: Scope) -> String {
    let parsed = Query::parse(query);
    let said = |key| parsed.as_ref().is_ok_and(|query| query.flag(key));
    let mut target = path.to_owned();
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    let mut separator = if query.is_some() { '&' } else { '?' };
    let mut add = |what: &str| {
        target.push(separator);
        target.push_str(what);
        separator = '&';
    };
    if let Scope::OwnVersion(version) = scope
        && !said(Key::Version)
    {
        add(&format!("version={version}"));
    }
    if scope != Scope::Asked && !said(Key::Consistency) {
        add("consistency=local");
    }
    target
}

/// Whether the request has a preference that has no value, as in `Prefer: redirect`.
pub fn prefers(headers: &Headers, preference: &str) -> bool {
    headers.all("prefer").any(|value| {
        split_unquoted(value, b',').any(|element| {
            let first = split_unquoted(element, b';').next().unwrap_or_default();
            let (name, value) = match first.iter().position(|byte| *byte == b'=') {
                Some(at) => (trim(&first[..at]), trim(&first[at + 1..])),
                None => (trim(first), &b""[..]),
            };
            is_token(name)
                && name.eq_ignore_ascii_case(preference.as_bytes())
                && matches!(value, b"" | b"\"\"")
        })
    })
}

/// Cuts at a byte wherever it stands in no quoted string.
fn split_unquoted(value: &[u8], at: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => return !quoted && *byte == at,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_one_connection_does_not_pass() {
        let headers: Headers = [
            ("Host", "a"),
            ("Range", "bytes=0-1"),
            ("Connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("Content-Length", "5"),
            ("Transfer-Encoding", "chunked"),
            ("Expect", "100-continue"),
            ("TE", "trailers"),
            ("x-amber-meta-k", "v"),
            ("Trailer", "Repr-Digest"),
        ]
        .into_iter()
        .collect();
        let passed: Vec<&str> = end_to_end(&headers).map(|(name, _)| name).collect();
        assert_eq!(passed, ["range", "x-amber-meta-k", "trailer"]);
    }

    #[test]
    fn a_target_passes_as_it_came() {
        for (path, query, scope, expected) in [
            ("/objects/a%2Fb", None, Scope::Asked, "/objects/a%2Fb"),
            ("/objects/a", Some("version=1"), Scope::Asked, "/objects/a?version=1"),
            ("/objects/a", Some(""), Scope::Asked, "/objects/a?"),
            ("/objects/a", None, Scope::Own, "/objects/a?consistency=local"),
            ("/objects/a", Some("version=1"), Scope::Own, "/objects/a?version=1&consistency=local"),
            ("/objects/a", None, Scope::OwnVersion(7), "/objects/a?version=7&consistency=local"),
            ("/objects/a", Some("version=1"), Scope::OwnVersion(1), "/objects/a?version=1&consistency=local"),
            ("/objects/a", Some("con%73istency=local"), Scope::Own, "/objects/a?con%73istency=local"),
        ] {
            assert_eq!(target(path, query, scope), expected);
        }
    }

    #[test]
    fn a_preference_is_an_element_of_a_list_in_any_case() {
        let prefers = |value: &str| prefers(&[("Prefer", value)].into_iter().collect(), "redirect");
        for good in [
            "redirect",
            "REDIRECT",
            "return=minimal, Redirect",
            "redirect; a=b",
            "redirect=\"\"",
            "redirect = ,x",
            "x=\"a\\\"b\", redirect",
        ] {
            assert!(prefers(good), "{good}");
        }
        for bad in [
            "",
            "redirected",
            "x=redirect",
            "redirect=no",
            "x=\"a, redirect\"",
            "x; redirect",
            "x=\"\\\", redirect\"",
        ] {
            assert!(!prefers(bad), "{bad}");
        }
    }
}
