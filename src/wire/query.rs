//! Query parameters: the known keys, each at most once, decoded; unknown keys are ignored.
//!
//! `+` is a space and `%XX` is decoded once, in keys and values. A broken escape, a known key that comes
//! twice, or a value that is not of its key's kind is a `BadRequest` that names the key: guessing which of
//! two was meant could delete the wrong version.

use crate::base::error::{Code, Error, Result};
use crate::base::path::percent_decode;
use crate::limits::NUMBER_MAX;

/// How much of a refused value its error message repeats.
const QUOTED_MAX: usize = 64;

macro_rules! keys {
    ($($variant:ident $name:literal,)*) => {
        /// The keys that mean something to this server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "a key is its name")]
        pub enum Key { $($variant,)* }

        impl Key {
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The key as it stands in a query.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

keys! {
    Version "version",
    Versions "versions",
    Chunks "chunks",
    Start "start",
    End "end",
    Limit "limit",
    Cursor "cursor",
    Prefix "prefix",
    Delimiter "delimiter",
    IncludeTombstoned "include_tombstoned",
    Consistency "consistency",
    Upload "upload",
    Uploads "uploads",
    Check "check",
}

/// The parameters of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(Key, String)>);

impl Query {
    /// Reads a raw query, without its `?`; `None` is an empty one.
    ///
    /// # Errors
    /// `BadRequest` for a broken escape, bytes that are not UTF-8, or a known key that is repeated.
    pub fn parse(raw: Option<&str>) -> Result<Self> {
        let mut query = Self::default();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            let Some(key) = Key::parse(&name) else {
                continue;
            };
            if query.flag(key) {
                return Err(Error::new(
                    Code::BadRequest,
                    format!("the query has {name} twice: send it once"),
                ));
            }
            query.0.push((key, value));
        }
        Ok(query)
    }

    /// Whether the key is there, with or without a value.
    pub fn flag(&self, key: Key) -> bool {
        self.text(key).is_some()
    }

    /// The decoded value, which may be empty.
    pub fn text(&self, key: Key) -> Option<&str> {
        self.0.iter().find(|(own, _)| *own == key).map(|(_, value)| value.as_str())
    }

    /// The value as a number up to [`NUMBER_MAX`].
    ///
    /// # Errors
    /// `BadRequest` if it is anything but decimal digits, or too large.
    pub fn number(&self, key: Key) -> Result<Option<u64>> {
        let read = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|number| digits && *number <= NUMBER_MAX)
        };
        self.value(key, read, "a decimal number up to 9007199254740991")
    }

    /// The value as `true` or `false`.
    ///
    /// # Errors
    /// `BadRequest` if it is neither.
    pub fn boolean(&self, key: Key) -> Result<Option<bool>> {
        self.value(key, |text| text.parse().ok(), "true or false")
    }

    /// The version asked for; they count from 1.
    ///
    /// # Errors
    /// `BadRequest` for what is no version.
    pub fn version(&self) -> Result<Option<u64>> {
        match self.number(Key::Version)? {
            Some(0) => Err(Error::new(Code::BadRequest, "version is 0: versions count from 1")),
            version => Ok(version),
        }
    }

    fn value<T>(&self, key: Key, read: impl Fn(&str) -> Option<T>, kind: &str) -> Result<Option<T>> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        let refused = || {
            let quoted: String = text.chars().take(QUOTED_MAX).collect();
            Error::new(Code::BadRequest, format!("{} must be {kind}, not {quoted:?}", key.name()))
        };
        read(text).map(Some).ok_or_else(refused)
    }
}

fn decode(encoded: &str) -> Result<String> {
    percent_decode(&encoded.replace('+', " "))
        .map_err(|why| Error::new(Code::BadRequest, format!("in the query, {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(raw: &str) -> Query {
        Query::parse(Some(raw)).expect(raw)
    }

    #[test]
    fn every_key_is_found_under_its_name_alone() {
        for key in Key::ALL {
            let query = query(&format!("{}=v", key.name()));
            assert_eq!(Key::ALL.iter().filter(|other| query.flag(**other)).collect::<Vec<_>>(), [key]);
        }
        assert_eq!(Key::ALL.len(), 14);
    }

    #[test]
    fn values_are_decoded_once() {
        for (raw, prefix) in [
            ("prefix=a%2Fb+c%2B", Some("a/b c+")),
            ("prefix=%2525", Some("%25")),
            ("prefix=a=b=c", Some("a=b=c")),
            ("p%72efix=%C3%A9", Some("\u{e9}")),
            ("prefix", Some("")),
            ("prefix=", Some("")),
            ("&&x=y&=z&prefix=a&", Some("a")),
            ("Prefix=a", None),
            ("xprefix=a", None),
            ("", None),
        ] {
            assert_eq!(query(raw).text(Key::Prefix), prefix, "{raw}");
        }
        assert_eq!(Query::parse(None).unwrap(), Query::default());
        assert!(query("versions").flag(Key::Versions));
        assert!(!query("version=1").flag(Key::Versions));
    }

    #[test]
    fn ambiguous_queries_are_refused() {
        for raw in [
            "version=1&version=2",
            "version=1&version=1",
            "versions&versions=",
            "version=1&ver%73ion=1",
            "prefix=%",
            "prefix=%4",
            "prefix=%zz",
            "prefix=%ff",
            "x=%",
            "%=x",
        ] {
            assert_eq!(Query::parse(Some(raw)).expect_err(raw).code, Code::BadRequest);
        }
        assert!(Query::parse(Some("x=1&x=2")).is_ok(), "an unknown key may repeat");
    }

    #[test]
    fn numbers_are_digits_up_to_the_largest_exact_one() {
        for (raw, number) in [("0", 0), ("7", 7), ("007", 7), ("%37", 7), ("9007199254740991", NUMBER_MAX)] {
            assert_eq!(query(&format!("version={raw}")).number(Key::Version).unwrap(), Some(number));
        }
        assert_eq!(query("").number(Key::Version).unwrap(), None);
        for raw in [
            "",
            "+7",
            "%2B7",
            "-1",
            " 7",
            "7+",
            "0x7",
            "1e3",
            "1.0",
            "9007199254740992",
            "99999999999999999999",
            "\u{667}",
        ] {
            let error = query(&format!("version={raw}")).number(Key::Version).expect_err(raw);
            assert_eq!(error.code, Code::BadRequest);
            assert!(error.message.starts_with("version must be "), "{}", error.message);
        }
        let long = query(&format!("limit={}", "9".repeat(1000))).number(Key::Limit).unwrap_err();
        assert_eq!(
            long.message,
            format!("limit must be a decimal number up to 9007199254740991, not {:?}", "9".repeat(64))
        );
    }

    #[test]
    fn booleans_are_true_or_false() {
        let boolean = |raw: &str| query(raw).boolean(Key::IncludeTombstoned).map_err(|e| e.code);
        assert_eq!(boolean("include_tombstoned=true"), Ok(Some(true)));
        assert_eq!(boolean("include_tombstoned=false"), Ok(Some(false)));
        assert_eq!(boolean(""), Ok(None));
        for bad in [
            "include_tombstoned",
            "include_tombstoned=True",
            "include_tombstoned=1",
            "include_tombstoned=+true",
        ] {
            assert_eq!(boolean(bad), Err(Code::BadRequest), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_survives_its_encoding(text in ".*") {
            let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC);
            let query = query(&format!("prefix={encoded}&start=0"));
            prop_assert_eq!(query.text(Key::Prefix), Some(text.as_str()));
        }

        #[test]
        fn any_query_is_read_or_refused(raw in "[a-z=&%+0-9é]{0,40}") {
            let _ = Query::parse(Some(&raw));
        }
    }
}
