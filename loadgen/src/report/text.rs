//! A report for people.

use super::{Cpu, Quantiles, Report};
use crate::units::{show_size, show_time_us};
use std::fmt::Write as _;

/// The summary on standard output.
pub(crate) fn summary(report: &Report) -> String {
    let figures = &report.figures;
    let mut out = String::new();
    let mut line = |label: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{label:<12}{value}");
    };
    line("workload", &report.description);
    line("throughput", &format!("{:.3} GB/s, {:.1} requests/s", figures.gb_per_s, figures.requests_per_s));
    if let Some(limit) = &report.limit {
        let of =
            format!("{:.1} % of {}, {:.2} GB/s", 100.0 * limit.share, limit.name, limit.bytes_per_s / 1e9);
        line("", &of);
    }
    if let Some(half_width) = report.stability.half_width {
        let stopped = if report.stability.stopped_early { ", stopped for that" } else { "" };
        line("stable to", &format!("+-{:.2} %{stopped}", 100.0 * half_width));
    }
    line(
        "moved",
        &format!("{} in {} requests, {:.2} s", show_size(figures.bytes), figures.requests, report.window_s),
    );
    line("latency", &quantiles_text(&figures.latency_us));
    line("first byte", &quantiles_text(&figures.first_byte_us));
    for operation in &report.operations {
        let figures = &operation.figures;
        line("operation", &operation.name);
        line("", &format!("{:.3} GB/s, {:.1} requests/s", figures.gb_per_s, figures.requests_per_s));
        line("", &quantiles_text(&figures.latency_us));
    }
    for (label, cpu) in [("client CPU", &report.client_cpu), ("server CPU", &report.server_cpu)] {
        if let Some(Cpu { seconds, seconds_per_gb, .. }) = cpu {
            let per_gb = seconds_per_gb.map_or_else(String::new, |cost| format!(", {cost:.3} s/GB"));
            line(label, &format!("{seconds:.2} s{per_gb}"));
        }
    }
    if report.reconnects > 0 {
        line("reconnects", &report.reconnects.to_string());
    }
    if report.is_clean() {
        line("errors", "none");
    } else {
        line("errors", &format!("{:.2} % of all requests", 100.0 * report.error_rate));
    }
    for (name, count) in &figures.errors {
        line("", &format!("{count} x {name}"));
    }
    for note in &report.notes {
        line("note", note);
    }
    out
}

/// The percentiles in one line.
fn quantiles_text(quantiles: &Quantiles) -> String {
    if quantiles.count == 0 {
        return "nothing was finished".to_owned();
    }
    let parts = quantiles.named().map(|(name, us)| format!("{name} {}", show_time_us(us)));
    parts.join("  ")
}
