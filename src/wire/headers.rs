//! Header and trailer fields: the collection, the syntax of one field line, and comma-separated lists.
//!
//! Names are tokens and compare without case; values are kept as bytes, without the whitespace around them.
//! A line that is not exactly `name: value` is a `BadRequest`, whatever a lenient reader might make of it.

use std::borrow::Cow;

use crate::base::error::{Code, Error, Result};

/// The fields of a head, in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// All names, lower case, one after the other.
    names: String,
    /// All values, one after the other.
    values: Vec<u8>,
    /// Where each field's name and value end.
    ends: Vec<(usize, usize)>,
}

impl Headers {
    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The first value of a field, if it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Every value of a field, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All values of a field as one, as if its lines had been a single one (RFC 9110 section 5.3).
    pub fn joined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut lines = self.all(name);
        let mut value = Cow::Borrowed(lines.next()?);
        for line in lines {
            let whole = value.to_mut();
            whole.extend_from_slice(b", ");
            whole.extend_from_slice(line);
        }
        Some(value)
    }

    /// Every field: its name in lower case, its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let starts = std::iter::once((0, 0)).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|((name, value), (name_end, value_end))| {
            (&self.names[name..*name_end], &self.values[value..*value_end])
        })
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no field at all.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The elements of a comma-separated list, over all lines of the field; empty elements are left out.
    pub(super) fn list(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.all(name).flat_map(list)
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(fields: T) -> Self {
        let mut headers = Self::default();
        for (name, value) in fields {
            headers.names.push_str(name.as_ref());
            headers.values.extend_from_slice(value.as_ref());
            headers.ends.push((headers.names.len(), headers.values.len()));
        }
        headers.names.make_ascii_lowercase();
        headers
    }
}

/// The elements of a comma-separated list without the whitespace around them; empty ones are left out.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(trim).filter(|element| !element.is_empty())
}

/// Without the spaces and tabs at both ends.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether the bytes are a token (RFC 9110 section 5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    let tchar = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(tchar)
}

/// Whether a field value may have the byte: visible, a space, a tab, or obs-text.
pub(super) fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Reads one field line, its line end taken off: the name as it came, the value trimmed.
pub(super) fn field_line(line: &[u8]) -> Result<(&str, &[u8])> {
    let refused = |why: &'static str| Err(Error::new(Code::BadRequest, why));
    if let [b' ' | b'\t', ..] = line {
        return refused("a field line is folded: send every field on one line");
    }
    let Some(colon) = line.iter().position(|b| *b == b':') else {
        return refused("a field line has no colon");
    };
    let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
    if !is_token(name) {
        return refused("a field name has a character that no name has, or a space before its colon");
    }
    if !value.iter().all(|b| is_value_byte(*b)) {
        return refused("a field value has a control character");
    }
    Ok((std::str::from_utf8(name).unwrap_or_default(), value))
}

/// Whether a field may come in trailers: not if it is framing, routing, a request modifier, authentication or
/// content format, which mean something only before a body (RFC 9110 section 6.5.1). The name is in lower
/// case.
pub(super) fn may_be_trailer(name: &str) -> bool {
    !matches!(
        name,
        "authorization"
            | "cache-control"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "expect"
            | "host"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "if-range"
            | "if-unmodified-since"
            | "keep-alive"
            | "max-forwards"
            | "pragma"
            | "proxy-authorization"
            | "proxy-connection"
            | "range"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name_in_any_case_and_in_order() {
        let headers: Headers =
            [("Host", &b"a"[..]), ("X-Two", b"1"), ("x-none", b""), ("x-TWO", b"\xff")].into_iter().collect();
        assert_eq!(headers.get("HOST"), Some(&b"a"[..]));
        assert_eq!(headers.get_str("host"), Some("a"));
        assert_eq!(headers.all("x-two").collect::<Vec<_>>(), [&b"1"[..], b"\xff"]);
        assert_eq!(headers.joined("x-two").as_deref(), Some(&b"1, \xff"[..]));
        assert_eq!(headers.get("x-none"), Some(&b""[..]));
        assert_eq!((headers.get("x"), headers.joined("x")), (None, None));
        assert_eq!(
            headers.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            ["host", "x-two", "x-none", "x-two"]
        );
        assert_eq!((headers.len(), headers.is_empty()), (4, false));
        let odd: Headers = [("x", b"\xff")].into_iter().collect();
        assert_eq!(odd.get_str("x"), None, "not UTF-8");
    }

    #[test]
    fn lists_lose_whitespace_and_empty_elements() {
        let headers: Headers = [("c", " a ,, b\t"), ("c", ","), ("c", "c d")].into_iter().collect();
        assert_eq!(headers.list("C").collect::<Vec<_>>(), [&b"a"[..], b"b", b"c d"]);
    }

    #[test]
    fn a_field_line_is_a_token_a_colon_and_a_value() {
        for (line, name, value) in [
            (&b"a: b"[..], "a", &b"b"[..]),
            (b"A:b:c", "A", b"b:c"),
            (b"x-y_z!: \t\xe9\tz \t", "x-y_z!", b"\xe9\tz"),
            (b"empty:", "empty", b""),
        ] {
            assert_eq!(field_line(line).unwrap(), (name, value));
        }
        for line in [
            &b""[..],
            b"a",
            b":",
            b": b",
            b"a : b",
            b"a\t: b",
            b" a: b",
            b"\ta: b",
            b"a b: c",
            b"\xe9: c",
            b"a\0: b",
            b"a: \0",
            b"a: b\rc",
            b"a: \x7f",
            b"(a): b",
            b"\"a\": b",
        ] {
            assert_eq!(field_line(line).unwrap_err().code, Code::BadRequest, "{}", line.escape_ascii());
        }
    }
}
