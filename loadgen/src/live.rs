//! One line on a terminal, once a second, while a run is under way; nothing at all where standard error is a pipe or a file.

use crate::meter::Reading;
use crate::units::show_time_us;
use crate::url::Url;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// Back to the line's beginning, and empty it.
const CLEAR: &str = "\r\x1b[2K";

/// The line of one run.
pub(crate) struct Line {
    visible: bool,
    shown: bool,
    server: String,
    duration: Option<Duration>,
}

impl Line {
    pub(crate) fn new(url: &Url, duration: Option<Duration>) -> Self {
        let visible = std::io::stderr().is_terminal();
        Self { visible, shown: false, server: url.authority().to_owned(), duration }
    }

    /// Shows what came in the last `seconds`, `elapsed` after the window opened.
    pub(crate) fn show(&mut self, since: Reading, seconds: f64, elapsed: Duration, errors: u64) {
        if self.visible {
            self.shown = true;
            // A terminal that has gone away is no reason to stop measuring.
            let text = text(&self.server, since, seconds, elapsed, self.duration, errors);
            drop(write!(std::io::stderr(), "{CLEAR}{text}"));
        }
    }

    /// Leaves the terminal as it was.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            drop(write!(std::io::stderr(), "{CLEAR}"));
        }
    }
}

fn text(
    server: &str,
    since: Reading,
    seconds: f64,
    elapsed: Duration,
    of: Option<Duration>,
    errors: u64,
) -> String {
    let of = of.map_or_else(String::new, |of| format!("/{:.0}", of.as_secs_f64()));
    format!(
        "{server}  {:.0}{of} s  {:.3} GB/s  {:.0} requests/s  mean {}  errors {errors}",
        elapsed.as_secs_f64(),
        since.bytes as f64 / 1e9 / seconds,
        since.requests as f64 / seconds,
        show_time_us(since.latency_mean_us()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_rates_over_the_time_that_really_passed() {
        let since = Reading { bytes: 3_000_000_000, requests: 100, errors: 0, latency_sum_ns: 50_000_000 };
        let (elapsed, of) = (Duration::from_secs(7), Some(Duration::from_secs(10)));
        assert_eq!(
            text("h:1", since, 2.0, elapsed, of, 3),
            "h:1  7/10 s  1.500 GB/s  50 requests/s  mean 500 us  errors 3"
        );
        assert!(text("h:1", since, 2.0, elapsed, None, 0).starts_with("h:1  7 s  "));
    }
}
