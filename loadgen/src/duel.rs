//! Two servers in turn under the same load: what shakes the machine shakes both.
//!
//! A round is one turn for each; who begins changes from round to round. Figures are compared pair by pair, and what is reported is the
//! median of the pairs and their spread. Turns of the same server are also added up, histograms and all.

use crate::cli::Run;
use crate::client;
use crate::compare::{Unit, ratio};
use crate::merge;
use crate::plan;
use crate::report::Report;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write as _;

/// More pairs say no more.
pub(crate) const MOST_ROUNDS: usize = 1000;

/// A duel: checked.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) a: Run,
    pub(crate) b: Run,
    pub(crate) rounds: usize,
}

/// One turn of each.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    /// Who went first.
    pub(crate) first: &'static str,
    pub(crate) a: Report,
    pub(crate) b: Report,
}

/// A figure over all rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// One figure of both, and of the pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) a: Option<Spread>,
    pub(crate) b: Option<Spread>,
    /// b / a of each round in which both have it.
    pub(crate) pairs: Vec<f64>,
    pub(crate) ratio: Option<Spread>,
}

/// What a duel found.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) rounds: Vec<Round>,
    pub(crate) a: Report,
    pub(crate) b: Report,
    pub(crate) rows: Vec<Row>,
}

/// Makes all turns; `done` hears of each round.
pub(crate) fn run(plan: Plan, mut done: impl FnMut(usize, &Round)) -> Result<Outcome, String> {
    let Plan { mut a, mut b, rounds } = plan;
    let mut made = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let (report_a, report_b, first);
        if round % 2 == 0 {
            first = "a";
            report_a = turn(&mut a, round)?;
            report_b = turn(&mut b, round)?;
        } else {
            first = "b";
            report_b = turn(&mut b, round)?;
            report_a = turn(&mut a, round)?;
        }
        let one = Round { first, a: report_a, b: report_b };
        done(round, &one);
        made.push(one);
    }
    evaluate(made)
}

/// One turn: other random choices in every round, the same ones for both.
fn turn(run: &mut Run, round: usize) -> Result<Report, String> {
    let outcome = client::run(&run.settings)?;
    let report = Report::new(run, &outcome)?;
    if report.is_empty() {
        let why = report.figures.errors.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(format!("{} moved nothing in round {}: {why}", report.url(), round + 1));
    }
    run.settings.plan = run.settings.plan.another_turn(outcome.new_names);
    run.settings.seed = plan::next_seed(run.settings.seed);
    Ok(report)
}

/// What follows from the rounds.
pub(crate) fn evaluate(rounds: Vec<Round>) -> Result<Outcome, String> {
    let of = |side: fn(&Round) -> &Report| rounds.iter().map(side).cloned().collect::<Vec<_>>();
    let a = merge::in_turn(&of(|round| &round.a))?;
    let b = merge::in_turn(&of(|round| &round.b))?;
    let rows = rows(&rounds);
    Ok(Outcome { rounds, a, b, rows })
}

fn rows(rounds: &[Round]) -> Vec<Row> {
    type Figure = fn(&Report) -> Option<f64>;
    let figures: [(&'static str, Unit, Figure); 7] = [
        ("throughput", Unit::GbPerS, |one| Some(one.figures.gb_per_s)),
        ("requests", Unit::PerS, |one| Some(one.figures.requests_per_s)),
        ("latency p50", Unit::Microseconds, |one| Some(one.figures.latency_us.p50)),
        ("latency p99", Unit::Microseconds, |one| Some(one.figures.latency_us.p99)),
        ("latency p99.9", Unit::Microseconds, |one| Some(one.figures.latency_us.p99_9)),
        ("first byte p99", Unit::Microseconds, |one| Some(one.figures.first_byte_us.p99)),
        ("server CPU", Unit::SecondsPerGb, |one| one.server_cpu.as_ref()?.seconds_per_gb),
    ];
    let row = |(name, unit, figure): (&'static str, Unit, Figure)| {
        let pairs: Vec<f64> =
            rounds.iter().filter_map(|round| ratio(figure(&round.a), figure(&round.b))).collect();
        Row {
            name,
            unit,
            a: Spread::of(rounds.iter().filter_map(|round| figure(&round.a))),
            b: Spread::of(rounds.iter().filter_map(|round| figure(&round.b))),
            ratio: Spread::of(pairs.iter().copied()),
            pairs,
        }
    };
    figures.into_iter().map(row).filter(|row| row.a.is_some() || row.b.is_some()).collect()
}

impl Spread {
    /// None of nothing.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }

    /// `median (min..max)`.
    pub(crate) fn show(&self, show: impl Fn(f64) -> String) -> String {
        format!("{} ({}..{})", show(self.median), show(self.min), show(self.max))
    }
}

impl Outcome {
    /// Whether nothing failed on either side.
    pub(crate) fn is_clean(&self) -> bool {
        self.a.is_clean() && self.b.is_clean()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}, {} rounds; median (min..max)", self.a.description, self.rounds.len());
        let _ = writeln!(out, "A  {}\nB  {}\n", self.a.url(), self.b.url());
        let _ = writeln!(out, "{:<16}{:<40}{:<40}B/A of pairs", "", "A", "B");
        for row in &self.rows {
            let shown = |spread: &Option<Spread>| {
                spread
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |spread| spread.show(|value| row.unit.show(value)))
            };
            let ratio =
                row.ratio.as_ref().map_or_else(|| "-".to_owned(), |ratio| ratio.show(|r| format!("{r:.3}")));
            let _ = writeln!(out, "{:<16}{:<40}{:<40}{ratio}", row.name, shown(&row.a), shown(&row.b));
        }
        for (side, report) in [("A", &self.a), ("B", &self.b)] {
            for (name, count) in &report.figures.errors {
                let _ = writeln!(out, "errors of {side}: {count} x {name}");
            }
        }
        out
    }

    /// For machines.
    pub(crate) fn json(&self) -> String {
        let value = json!({
            "loadgen": env!("CARGO_PKG_VERSION"),
            "kind": "duel",
            "rows": self.rows,
            "a": self.a,
            "b": self.b,
            "rounds": self.rounds,
        });
        format!("{value:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    fn round(a: u64, b: u64) -> Round {
        let gigabytes = |n: u64| report(10, n * 1_000_000_000, MS, &[], 1.0);
        Round { first: "a", a: gigabytes(a), b: gigabytes(b) }
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // The machine halves its speed in the second round: the pairs do not notice.
        let outcome = evaluate(vec![round(4, 8), round(2, 4), round(4, 4)]).unwrap();
        let throughput = &outcome.rows[0];
        assert_eq!(throughput.pairs, [2.0, 2.0, 1.0]);
        assert_eq!(throughput.ratio, Some(Spread { median: 2.0, min: 1.0, max: 2.0 }));
        assert_eq!(throughput.a, Some(Spread { median: 4.0, min: 2.0, max: 4.0 }));
        assert_eq!((outcome.a.figures.bytes, outcome.a.figures.latency_us.count), (10_000_000_000, 30));
        let cpu = outcome.rows.iter().find(|row| row.name == "server CPU").unwrap();
        assert_eq!(cpu.pairs, [0.5, 0.5, 1.0]);
        assert!(outcome.text().contains("2.000 (1.000..2.000)"), "{}", outcome.text());
        assert!(outcome.json().contains("\"kind\": \"duel\""));
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0].into_iter()).unwrap().median, 2.5);
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
