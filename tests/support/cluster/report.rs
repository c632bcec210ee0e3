//! The verdict on a history, and of one that cannot be explained the part that a person needs to see why.

use super::history::{Moment, NEVER, Op};
use super::problem::{Listed, Problem, Step, resolve};
use super::search::{BUDGET, Verdict, search};

/// Operations shown, the last ones.
const SHOWN: usize = 60;
/// What the search for a smaller history may cost in all, and each of its steps.
const TRIES: usize = 400;
const SMALL_BUDGET: usize = BUDGET / 20;

/// How a history was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It can be explained.
    Right,
    /// It can, if a read may miss a version while that is being stored ([`Problem::lenient`]).
    RightIfLenient,
    /// It cannot; what to show.
    Wrong(String),
    /// The search was too large.
    Undecided,
}

/// Judges the history of one path; `listed` are its versions at the end.
pub fn judge(ops: &[Op], listed: &[Listed]) -> Judgement {
    let problem = match resolve(ops, listed) {
        Ok(problem) => problem,
        Err(contradiction) => return Judgement::Wrong(contradiction),
    };
    if search(&problem, &problem.steps, BUDGET) == Verdict::Explained {
        return Judgement::Right;
    }
    let lenient = problem.lenient();
    match search(&problem, &lenient, BUDGET) {
        Verdict::Explained => Judgement::RightIfLenient,
        Verdict::GaveUp => Judgement::Undecided,
        Verdict::Impossible => Judgement::Wrong(explain(&problem, &lenient, ops)),
    }
}

/// The shortest beginning of the history that cannot be explained, without the reads that do not matter.
fn explain(problem: &Problem, steps: &[Step], ops: &[Op]) -> String {
    let impossible = |steps: &[Step]| search(problem, steps, SMALL_BUDGET) == Verdict::Impossible;
    let mut ends: Vec<Moment> = steps.iter().map(|step| step.answered).filter(|end| *end != NEVER).collect();
    ends.sort_unstable();
    // Every beginning of a history that can be explained can be explained.
    let first = ends.partition_point(|end| !impossible(&until(steps, *end)));
    let last = ends.get(first).copied();
    let mut kept = last.map_or_else(|| steps.to_vec(), |end| until(steps, end));
    let (mut piece, mut tries) = (kept.len() / 2, 0);
    while piece > 0 && tries < TRIES {
        let mut from = 0;
        while from < kept.len() && tries < TRIES {
            let to = (from + piece).min(kept.len());
            let looks = |at: usize| (from..to).contains(&at) && kept[at].event.is_look();
            let fewer: Vec<Step> =
                (0..kept.len()).filter(|at| !looks(*at)).map(|at| kept[at].clone()).collect();
            tries += 1;
            if fewer.len() < kept.len() && impossible(&fewer) {
                kept = fewer;
            } else {
                from = to;
            }
        }
        piece /= 2;
    }
    show(&kept, ops, last)
}

/// The history as it was known at `end`: what was not answered by then may have happened.
fn until(steps: &[Step], end: Moment) -> Vec<Step> {
    let begun = steps.iter().filter(|step| step.asked <= end).cloned();
    begun
        .map(|step| match step.answered > end {
            true => Step { optional: true, answered: NEVER, ..step },
            false => step,
        })
        .collect()
}

fn show(steps: &[Step], ops: &[Op], last: Option<Moment>) -> String {
    let mut shown = String::from("no order of these operations explains all answers:\n");
    if steps.len() > SHOWN {
        shown.push_str(&format!("  ({} earlier ones are left out)\n", steps.len() - SHOWN));
    }
    for step in &steps[steps.len().saturating_sub(SHOWN)..] {
        let mark = match (Some(step.answered) == last, step.optional) {
            (true, _) => "  <- not with this answer",
            (_, true) => "  (not answered yet)",
            _ => "",
        };
        shown.push_str(&format!("  {}{mark}\n", ops[step.op]));
    }
    shown
}
