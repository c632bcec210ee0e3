//! Entity tags (RFC 9110 section 8.8.3) and the lists of them in `If-Match` and `If-None-Match`.
//!
//! A list is `*` alone or tags in double quotes with commas between them; anything else is not a list, and
//! the caller refuses the request. Nothing of a list is skipped.

use super::condition::Current;

/// `*`, or entity tags.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Tags {
    Any,
    These(Vec<Tag>),
}

/// One entity tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tag {
    pub(super) weak: bool,
    /// What stands between the quotes.
    pub(super) opaque: Vec<u8>,
}

impl Tags {
    /// Reads a whole field value.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        if value == b"*" {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        let mut rest = value;
        loop {
            let (between, text) =
                rest.split_at(rest.iter().position(|b| !b", \t".contains(b)).unwrap_or(rest.len()));
            if text.is_empty() {
                return (!tags.is_empty()).then_some(Self::These(tags));
            }
            if !tags.is_empty() && !between.contains(&b',') {
                return None;
            }
            let (tag, behind) = Tag::split_off(text)?;
            tags.push(tag);
            rest = behind;
        }
    }

    /// Strong comparison: a weak tag matches nothing.
    pub(super) fn match_strongly(&self, current: Option<Current<'_>>) -> bool {
        self.matches(current, |tag| !tag.weak)
    }

    /// Weak comparison.
    pub(super) fn match_weakly(&self, current: Option<Current<'_>>) -> bool {
        self.matches(current, |_| true)
    }

    fn matches(&self, current: Option<Current<'_>>, counts: impl Fn(&Tag) -> bool) -> bool {
        let Some(current) = current else {
            return false;
        };
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|tag| counts(tag) && tag.opaque == current.etag.as_bytes()),
        }
    }
}

impl Tag {
    /// Splits off `[ W/ ] DQUOTE *etagc DQUOTE`.
    pub(super) fn split_off(text: &[u8]) -> Option<(Self, &[u8])> {
        let (weak, text) = text.strip_prefix(b"W/").map_or((false, text), |text| (true, text));
        let text = text.strip_prefix(b"\"")?;
        let (opaque, rest) = text.split_at(text.iter().position(|b| *b == b'"')?);
        let valid = opaque.iter().all(|b| *b > b' ' && *b != 0x7f);
        valid.then_some((Self { weak, opaque: opaque.to_vec() }, &rest[1..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(value: &str) -> Option<Vec<(bool, String)>> {
        match Tags::parse(value.as_bytes())? {
            Tags::Any => Some(Vec::new()),
            Tags::These(tags) => {
                Some(tags.into_iter().map(|tag| (tag.weak, String::from_utf8(tag.opaque).unwrap())).collect())
            }
        }
    }

    #[test]
    fn lists_are_read_with_commas_inside_and_between_tags() {
        for (value, tags) in [
            ("*", &[][..]),
            ("\"a\"", &[(false, "a")]),
            ("W/\"a\" ,\t, \"b,c\",", &[(true, "a"), (false, "b,c")]),
            ("\"\",\"W/\"", &[(false, ""), (false, "W/")]),
            ("\"é\\\"", &[(false, "é\\")]),
        ] {
            let tags = tags.iter().map(|(weak, text)| (*weak, (*text).to_owned())).collect();
            assert_eq!(texts(value), Some(tags), "{value}");
        }
    }

    #[test]
    fn what_is_not_a_list_is_not_read() {
        for value in [
            "",
            ",",
            "a",
            "\"a",
            "a\"",
            "\"a\" \"b\"",
            "\"a\"\"b\"",
            "w/\"a\"",
            "W/a",
            "*,*",
            "\"a b\"",
            "\"a\";",
            "'a'",
        ] {
            assert_eq!(texts(value), None, "{value}");
        }
    }
}
