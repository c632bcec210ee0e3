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

/// Requests a second from text such as `500`, `10k` or `2.5k/s`.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let (digits, suffix) = split_suffix(text);
    let unit = match suffix.strip_suffix("/s").unwrap_or(suffix) {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        _ => return Err(format!("{text:?} is no rate: use requests a second, such as 500, 10k or 2.5k/s")),
    };
    let rate =
        digits.parse::<f64>().map_err(|_| format!("{text:?} is no rate: {digits:?} is not a number"))? * unit;
    if (MIN_RATE..=MAX_RATE).contains(&rate) {
        Ok(rate)
    } else {
        Err(format!("{text:?} is no rate that can be kept: use more than 0, at most 10M requests a second"))
    }
}

/// One request in about three hours, and ten million a second.
const MIN_RATE: f64 = 1e-4;
const MAX_RATE: f64 = 1e7;

/// A share from text such as `2%`; more than nothing, at most 100 %.
pub(crate) fn parse_percent(text: &str) -> Result<f64, String> {
    let digits = text.trim().trim_end_matches('%').trim_end();
    match digits.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err(format!("{text:?} is no share: use more than 0 % and at most 100 %, such as 2%")),
    }
}

/// Bytes a second from text such as `12.5GB/s` or `100Gbit/s`.
pub(crate) fn parse_bandwidth(text: &str) -> Result<f64, String> {
    let wrong =
        || format!("{text:?} is no bandwidth: use a size or bits a second, such as 12.5GB/s or 100Gbit/s");
    let amount = text.trim().strip_suffix("/s").ok_or_else(wrong)?;
    let (digits, suffix) = split_suffix(amount);
    let bits = match suffix {
        "Tbit" => Some(1e12),
        "Gbit" => Some(1e9),
        "Mbit" => Some(1e6),
        _ => None,
    };
    let bytes = match bits {
        Some(unit) => digits.parse::<f64>().map_err(|_| wrong())? * unit / 8.0,
        None => parse_size(amount).map_err(|_| wrong())? as f64,
    };
    if bytes.is_finite() && bytes > 0.0 { Ok(bytes) } else { Err(wrong()) }
}

/// A time in the unit that keeps it readable.
pub(crate) fn show_time_us(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.2} s", us / 1e6),
        us if us >= 1e3 => format!("{:.2} ms", us / 1e3),
        us => format!("{us:.0} us"),
    }
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
    fn rates_of_nothing_and_of_too_much_are_refused() {
        assert_eq!(parse_rate("10k"), Ok(10_000.0));
        assert_eq!(parse_rate("2.5k/s"), Ok(2_500.0));
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        for text in ["0", "0.0", "-5", "NaN", "inf", "1e9", "20M", "k", "5/min", ""] {
            assert!(parse_rate(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn bandwidths_are_bytes_or_bits() {
        assert_eq!(parse_bandwidth("12.5GB/s"), Ok(12.5e9));
        assert_eq!(parse_bandwidth("100Gbit/s"), Ok(12.5e9));
        assert_eq!(parse_bandwidth("1GiB/s"), Ok(1_073_741_824.0));
        for text in ["", "12.5", "12.5GB", "0GB/s", "fast", "-1GB/s", "Gbit/s"] {
            assert!(parse_bandwidth(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn shares_are_percent() {
        assert_eq!(parse_percent("2%"), Ok(0.02));
        assert_eq!(parse_percent("0.5 %"), Ok(0.005));
        for text in ["0", "0%", "101%", "-1%", "few", "NaN"] {
            assert!(parse_percent(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_unit_they_were_given_in() {
        assert_eq!(show_size(33_554_432), "32 MiB");
        assert_eq!(show_size(1_610_612_736), "1.50 GiB");
        assert_eq!(show_size(100), "100 B");
    }
}
