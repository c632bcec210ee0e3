//! How far a transfer is: a bar on a terminal, nothing elsewhere.

use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

/// A bar on stderr, if that is a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    begun: Instant,
}

const KNOWN: &str = "{wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
const UNKNOWN: &str = "{spinner} {decimal_bytes} {decimal_bytes_per_sec}";

impl Progress {
    /// Of so many bytes, if that is known; `quiet`: nothing is drawn.
    pub(super) fn new(bytes: Option<u64>, quiet: bool) -> Self {
        let bar = match bytes {
            _ if quiet => ProgressBar::hidden(),
            Some(bytes) => ProgressBar::new(bytes),
            None => ProgressBar::no_length(),
        };
        let template = if bytes.is_some() { KNOWN } else { UNKNOWN };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, begun: Instant::now() }
    }

    /// Bytes that were there before: they say nothing about the rate.
    pub(super) fn had(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.bar.reset_eta();
    }

    /// Bytes that were moved.
    pub(super) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Bytes that do not count after all.
    pub(super) fn back(&self, bytes: u64) {
        self.bar.dec(bytes);
    }

    /// A line above the bar.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| {
            use std::io::Write as _;
            // Who closed the stream does not want to know.
            let _ = writeln!(std::io::stderr(), "{line}");
        });
    }

    /// Takes the bar away; how long it took.
    pub(super) fn end(&self) -> f64 {
        self.bar.finish_and_clear();
        self.begun.elapsed().as_secs_f64()
    }
}

/// Bytes, and their rate.
pub(super) fn moved(bytes: u64, seconds: f64) -> String {
    let rate = Duration::try_from_secs_f64(seconds)
        .ok()
        .and_then(|time| (bytes * 1000).checked_div(time.as_millis() as u64));
    let rate = rate.map_or_else(String::new, |rate| format!(", {}/s", DecimalBytes(rate)));
    format!("{} in {seconds:.1} s{rate}", DecimalBytes(bytes))
}
