//! Sizes and durations as people write them: `32MiB`, `10s`.
//!
//! Binary suffixes (`KiB`, `MiB`, `GiB`, `TiB`, and `K`, `M`, `G`, `T` for short) are powers of 1024, decimal ones (`kB`, `MB`, `GB`, `TB`)
//! powers of 1000. What is not a number, overflows, or carries an unknown suffix is refused with a line that shows what would do.

use std::time::Duration;

/// A byte count from text such as `4096`, `64KiB` or `1.5GB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, suffix) = split_suffix(text);
    let unit: u64 = match suffix {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "m" | "MiB" => 1 << 20,
        "G" | "g" | "GiB" => 1 << 30,
        "T" | "t" | "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => {
            return Err(format!(
                "{text:?} is no size: use a number with B, KiB, MiB, GiB, TiB, kB, MB, GB or TB"
            ));
        }
    };
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(|| format!("{text:?} is too large"));
    }
    scaled_fraction(digits, unit).ok_or_else(|| format!("{text:?} is no size: {digits:?} is not a number"))
}

/// A duration from text such as `10s`, `500ms`, `2m` or `1h`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, suffix) = split_suffix(text);
    let nanoseconds_per_unit: u64 = match suffix {
        "us" => 1_000,
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" | "min" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return Err(format!("{text:?} is no duration: use a number with us, ms, s, m or h")),
    };
    let nanoseconds = match digits.parse::<u64>() {
        Ok(whole) => {
            whole.checked_mul(nanoseconds_per_unit).ok_or_else(|| format!("{text:?} is too long"))?
        }
        Err(_) => scaled_fraction(digits, nanoseconds_per_unit)
            .ok_or_else(|| format!("{text:?} is no duration: {digits:?} is not a number"))?,
    };
    Ok(Duration::from_nanos(nanoseconds))
}

/// `n` bytes in the largest binary unit that keeps it readable.
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            return if bytes.is_multiple_of(unit) {
                format!("{} {name}", bytes / unit)
            } else {
                format!("{:.2} {name}", bytes as f64 / unit as f64)
            };
        }
    }
    format!("{bytes} B")
}

fn split_suffix(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    (digits, suffix.trim_start())
}

/// `digits` with a decimal point, times `unit`, exactly and rounded down; `None` for what is not such a number.
fn scaled_fraction(digits: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = digits.split_once('.')?;
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let numerator = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit);
    let part = u64::try_from(numerator / 10u128.pow(fraction.len() as u32)).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_or_decimal_by_their_suffix() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("32MiB"), Ok(33_554_432));
        assert_eq!(parse_size("64K"), Ok(65_536));
        assert_eq!(parse_size("1.5 GiB"), Ok(1_610_612_736));
        assert_eq!(parse_size("1GB"), Ok(1_000_000_000));
    }

    #[test]
    fn rubbish_sizes_are_refused() {
        for text in ["", "MiB", "-1", "1.2.3", "1.", "5 parsecs", "99999999999999999999", "20000000TiB"] {
            assert!(parse_size(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn durations_default_to_seconds() {
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("99999999999h").is_err());
    }

    #[test]
    fn sizes_are_shown_in_the_unit_they_were_given_in() {
        assert_eq!(show_size(33_554_432), "32 MiB");
        assert_eq!(show_size(1_610_612_736), "1.50 GiB");
        assert_eq!(show_size(100), "100 B");
    }
}
