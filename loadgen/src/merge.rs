//! One report of several: histograms and counts are added, so the result is that of one run that had measured everything.
//!
//! Runs made at the same time, on several machines, add their rates, and their seconds are added where the machines' clocks say that they
//! were the same. Runs made one after the other share a rate over all their time.

use crate::histogram::Latency;
use crate::report::{Cpu, Figures, Histograms, Limit, Operation, Quantiles, Report, Stability};
use crate::series::{MOST_SECONDS, Series};

/// Runs made at the same time.
pub(crate) fn together(reports: &[Report]) -> Result<Report, String> {
    let mut merged = all(reports, |figures, all| {
        figures.gb_per_s = all.iter().map(|one| one.gb_per_s).sum();
        figures.requests_per_s = all.iter().map(|one| one.requests_per_s).sum();
    })?;
    if reports.len() == 1 {
        return Ok(merged);
    }
    "merge".clone_into(&mut merged.kind);
    merged.window_s = reports.iter().map(|one| one.window_s).fold(0.0, f64::max);
    let first = reports.iter().map(|one| one.opened_at_unix_s).fold(f64::INFINITY, f64::min);
    merged.opened_at_unix_s = first;
    let overlap = overlapping(reports);
    if !overlap {
        merged.notes.push(
            "the runs were not made at the same time: their seconds are counted from the beginning of each, and the sum of their rates was never reached"
                .to_owned(),
        );
    }
    merged.series = Series::default();
    for report in reports {
        let later = if overlap { (report.opened_at_unix_s - first).round() as usize } else { 0 };
        merged.series.add(&report.series, later.min(MOST_SECONDS));
    }
    let machines: Vec<&str> = reports.iter().map(|one| one.description.as_str()).collect();
    if machines.iter().any(|description| *description != machines[0]) {
        merged.notes.push(format!("the runs differ: {}", machines.join(" | ")));
        merged.description = format!("{} runs of several kinds", reports.len());
    } else {
        merged.description = format!("{} x {}", reports.len(), machines[0]);
    }
    merged.derive();
    Ok(merged)
}

/// Runs of the same workload on the same server, made one after the other.
pub(crate) fn in_turn(reports: &[Report]) -> Result<Report, String> {
    let seconds: f64 = reports.iter().map(|one| one.window_s).sum();
    let mut merged = all(reports, |figures, _| figures.rate(seconds))?;
    merged.window_s = seconds;
    let sum = |of: fn(&Report) -> &Option<Cpu>| {
        let known: Vec<&Cpu> = reports.iter().filter_map(|one| of(one).as_ref()).collect();
        let seconds = known.iter().map(|cpu| cpu.seconds).sum();
        known.first().map(|cpu| Cpu::new(seconds, merged.figures.bytes, cpu.pids.clone()))
    };
    (merged.client_cpu, merged.server_cpu) = (sum(|one| &one.client_cpu), sum(|one| &one.server_cpu));
    merged.limit = reports.first().and_then(|one| one.limit.clone());
    merged.series = Series::default();
    let mut at = 0;
    for report in reports {
        merged.series.add(&report.series, at);
        at += report.series.seconds().len();
    }
    merged.derive();
    Ok(merged)
}

/// What is the same however they were made; `rate` sets the rates from those of the parts.
fn all(reports: &[Report], rate: impl Fn(&mut Figures, &[&Figures])) -> Result<Report, String> {
    let [first, ..] = reports else {
        return Err("there is nothing to merge: name at least one report".to_owned());
    };
    let mut merged = first.clone();
    let figures: Vec<&Figures> = reports.iter().map(|one| &one.figures).collect();
    merged.figures = add(&figures, &rate)?;
    merged.reconnects = reports.iter().map(|one| one.reconnects).sum();
    merged.operations = operations(reports, &rate)?;
    merged.client_cpu = client_cpu(reports, merged.figures.bytes);
    merged.server_cpu = server_cpu(reports, merged.figures.bytes);
    merged.limit = limit(reports);
    if reports.len() > 1 {
        merged.stability = Stability::default();
    }
    let mut notes: Vec<String> = reports.iter().flat_map(|one| one.notes.clone()).collect();
    notes.dedup();
    merged.notes = notes;
    merged.derive();
    Ok(merged)
}

fn add(parts: &[&Figures], rate: &impl Fn(&mut Figures, &[&Figures])) -> Result<Figures, String> {
    let (mut latency, mut first_byte) = (Latency::new()?, Latency::new()?);
    let mut errors = std::collections::BTreeMap::new();
    for part in parts {
        let (one_latency, one_first_byte) = part.histograms.decode()?;
        if one_latency.count() != part.latency_us.count {
            return Err(format!(
                "a report says {} latencies and its histogram holds {}: it was changed, or written without histograms",
                part.latency_us.count,
                one_latency.count()
            ));
        }
        latency.merge(&one_latency)?;
        first_byte.merge(&one_first_byte)?;
        for (name, count) in &part.errors {
            *errors.entry(name.clone()).or_default() += count;
        }
    }
    let mut figures = Figures {
        requests: parts.iter().map(|part| part.requests).sum(),
        bytes: parts.iter().map(|part| part.bytes).sum(),
        gb_per_s: 0.0,
        requests_per_s: 0.0,
        latency_us: Quantiles::of(&latency),
        first_byte_us: Quantiles::of(&first_byte),
        errors,
        histograms: Histograms::of(&latency, &first_byte)?,
    };
    rate(&mut figures, parts);
    Ok(figures)
}

/// Operations of the same name are one.
fn operations(
    reports: &[Report],
    rate: &impl Fn(&mut Figures, &[&Figures]),
) -> Result<Vec<Operation>, String> {
    let mut merged: Vec<Operation> = Vec::new();
    for operation in reports.iter().flat_map(|one| &one.operations) {
        if merged.iter().any(|one| one.name == operation.name) {
            continue;
        }
        let same = reports.iter().flat_map(|one| &one.operations).filter(|one| one.name == operation.name);
        let parts: Vec<&Figures> = same.map(|one| &one.figures).collect();
        merged.push(Operation { name: operation.name.clone(), figures: add(&parts, rate)? });
    }
    Ok(merged)
}

fn client_cpu(reports: &[Report], bytes: u64) -> Option<Cpu> {
    let known: Vec<f64> = reports.iter().filter_map(|one| Some(one.client_cpu.as_ref()?.seconds)).collect();
    (known.len() == reports.len()).then(|| Cpu::new(known.iter().sum(), bytes, Vec::new()))
}

/// Two reports that watched the same processes saw the same seconds.
fn server_cpu(reports: &[Report], bytes: u64) -> Option<Cpu> {
    let mut seen: Vec<(Vec<u32>, f64)> = Vec::new();
    for cpu in reports.iter().filter_map(|one| one.server_cpu.as_ref()) {
        match seen.iter_mut().find(|(pids, _)| *pids == cpu.pids) {
            Some((_, seconds)) => *seconds = seconds.max(cpu.seconds),
            None => seen.push((cpu.pids.clone(), cpu.seconds)),
        }
    }
    let seconds = seen.iter().map(|(_, seconds)| seconds).sum();
    (!seen.is_empty())
        .then(|| Cpu::new(seconds, bytes, seen.into_iter().flat_map(|(pids, _)| pids).collect()))
}

/// Limits of the same name are one, which all share; others add up.
fn limit(reports: &[Report]) -> Option<Limit> {
    let limits: Vec<&Limit> = reports.iter().filter_map(|one| one.limit.as_ref()).collect();
    let first = limits.first()?;
    if limits.len() < reports.len() {
        return None;
    }
    if limits.iter().all(|limit| limit.name == first.name && limit.name != "limit") {
        return Some((*first).clone());
    }
    let bytes_per_s = limits.iter().map(|limit| limit.bytes_per_s).sum();
    Some(Limit { name: "limits together".to_owned(), bytes_per_s, share: 0.0 })
}

/// Whether there was a moment in which all of them ran.
fn overlapping(reports: &[Report]) -> bool {
    let last_open = reports.iter().map(|one| one.opened_at_unix_s).fold(f64::NEG_INFINITY, f64::max);
    let first_close =
        reports.iter().map(|one| one.opened_at_unix_s + one.window_s).fold(f64::INFINITY, f64::min);
    last_open < first_close
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Failure;
    use crate::report::tests::report;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn two_halves_are_the_whole() {
        let (one, two) = (
            report(30, 3_000_000_000, MS, &[Failure::Reset], 2.0),
            report(10, 1_000_000_000, 9 * MS, &[], 2.0),
        );
        let whole = together(&[one.clone(), two]).unwrap();
        assert_eq!((whole.figures.requests, whole.figures.bytes), (40, 4_000_000_000));
        assert!((whole.figures.gb_per_s - 2.0).abs() < 1e-9 && (whole.window_s - 2.0).abs() < 1e-9);
        assert_eq!(whole.figures.latency_us.count, 40);
        assert!((whole.figures.latency_us.p50 / 1e3 - 1.0).abs() < 0.001, "{:?}", whole.figures.latency_us);
        assert!((whole.figures.latency_us.p90 / 9e3 - 1.0).abs() < 0.001, "{:?}", whole.figures.latency_us);
        assert_eq!(whole.figures.errors["reset"], 1);
        assert_eq!(whole.series.seconds()[0].bytes, 2_000_000_000);
        assert_eq!(together(std::slice::from_ref(&one)).unwrap().json().unwrap(), one.json().unwrap());
    }

    #[test]
    fn seconds_meet_by_the_clock_where_runs_overlap() {
        let (one, mut two) = (report(1, 300, MS, &[], 3.0), report(1, 30, MS, &[], 3.0));
        two.opened_at_unix_s = one.opened_at_unix_s + 1.1;
        let merged = together(&[two.clone(), one.clone()]).unwrap();
        assert_eq!(merged.series.seconds().iter().map(|s| s.bytes).collect::<Vec<_>>(), [100, 110, 110, 10]);
        assert!(merged.notes.is_empty());
        two.opened_at_unix_s = one.opened_at_unix_s + 86_400.0;
        let merged = together(&[one, two]).unwrap();
        assert_eq!(merged.series.seconds().len(), 3);
        assert!(merged.notes[0].contains("not made at the same time"));
    }

    #[test]
    fn a_server_that_two_watched_is_counted_once() {
        let (mut one, mut two) =
            (report(1, 1_000_000_000, MS, &[], 1.0), report(1, 1_000_000_000, MS, &[], 1.0));
        let merged = together(&[one.clone(), two.clone()]).unwrap();
        assert_eq!(merged.server_cpu.as_ref().unwrap().seconds_per_gb, Some(0.5));
        two.server_cpu.as_mut().unwrap().pids = vec![8];
        assert_eq!(together(&[one.clone(), two]).unwrap().server_cpu.unwrap().seconds_per_gb, Some(1.0));
        one.server_cpu = None;
        assert_eq!(together(&[one.clone(), one]).unwrap().server_cpu, None);
    }

    #[test]
    fn runs_in_turn_share_their_time() {
        let parts = [report(10, 1_000_000_000, MS, &[], 1.0), report(10, 3_000_000_000, MS, &[], 1.0)];
        let merged = in_turn(&parts).unwrap();
        assert!((merged.figures.gb_per_s - 2.0).abs() < 1e-9);
        assert_eq!(merged.server_cpu.unwrap().seconds_per_gb, Some(0.5));
        assert_eq!(merged.series.seconds().len(), 2);
    }

    #[test]
    fn a_report_whose_histogram_is_another_is_refused() {
        let mut one = report(10, 10, MS, &[], 1.0);
        one.figures.histograms = Histograms::default();
        assert!(together(&[one.clone(), one]).unwrap_err().contains("histogram"));
        assert!(together(&[]).is_err());
    }
}
