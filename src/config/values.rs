//! How values are written: sizes, durations, choices. A wrong one is refused with the way it is written.

use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;

use crate::io::send_mode::Mode;
use crate::limits::{BLOCK_CACHE_MIN, SCRUB_RATE_MIN};
use crate::meta::schema::Durability;

/// Size of the block cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSize {
    /// Percent of the memory.
    Percent(u64),
    /// Bytes.
    Bytes(u64),
}

impl CacheSize {
    /// In bytes, for a machine with `memory` bytes.
    pub fn bytes(self, memory: u64) -> u64 {
        match self {
            Self::Percent(percent) => memory / 100 * percent,
            Self::Bytes(bytes) => bytes,
        }
        .max(BLOCK_CACHE_MIN)
    }
}

pub(super) fn durability<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Durability, D::Error> {
    match String::deserialize(from)?.as_str() {
        "full" => Ok(Durability::Full),
        "relaxed" => Ok(Durability::Relaxed),
        other => Err(D::Error::custom(format!("durability is '{other}': it can be \"full\" or \"relaxed\""))),
    }
}

pub(super) fn send<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Mode, D::Error> {
    match String::deserialize(from)?.as_str() {
        "auto" => Ok(Mode::Auto),
        "copy" => Ok(Mode::Copy),
        "zerocopy" => Ok(Mode::ZeroCopy),
        other => {
            Err(D::Error::custom(format!("send is '{other}': it can be \"auto\", \"copy\" or \"zerocopy\"")))
        }
    }
}

pub(super) fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let parsed = text.parse::<jiff::Span>().ok();
    let parsed = parsed.and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok());
    let parsed = parsed.and_then(|duration| Duration::try_from(duration).ok());
    parsed
        .ok_or_else(|| D::Error::custom(format!("'{text}' is no duration: write it like \"24h\" or \"90s\"")))
}

/// One that may be empty: none.
pub(super) fn some_duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = duration(serde::de::value::StringDeserializer::<D::Error>::new(text))?;
    if parsed.is_zero() {
        return Err(D::Error::custom("'0' is no such duration: write it like \"30d\", or leave it empty"));
    }
    Ok(Some(parsed))
}

/// Percent that may be empty: none.
pub(super) fn some_percent<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
    percent.filter(|percent| (1..=99).contains(percent)).map(Some).ok_or_else(|| {
        D::Error::custom(format!("'{text}' is no mark of a disk: write it like \"85%\", from 1% to 99%"))
    })
}

/// Bytes per second.
pub(super) fn rate<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    match parse_size(&text) {
        Some(CacheSize::Bytes(bytes)) if bytes >= SCRUB_RATE_MIN => Ok(bytes),
        _ => Err(D::Error::custom(format!(
            "'{text}' is no rate: write what is read in a second, at least 64KiB, like \"100MiB\""
        ))),
    }
}

impl<'de> Deserialize<'de> for CacheSize {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse_size(&text).ok_or_else(|| {
            D::Error::custom(format!("'{text}' is no size: write it like \"25%\" or \"4GiB\""))
        })
    }
}

/// A size that is no share of anything.
pub(super) fn bytes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    match parse_size(&text) {
        Some(CacheSize::Bytes(bytes)) => Ok(bytes),
        _ => Err(D::Error::custom(format!(
            "'{text}' is no size: write it like \"100MiB\", or \"0\" for no limit"
        ))),
    }
}

fn parse_size(text: &str) -> Option<CacheSize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let factor: u64 = match text[digits..].trim_start() {
        "%" => return (number <= 90).then_some(CacheSize::Percent(number)),
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor).map(CacheSize::Bytes)
}
