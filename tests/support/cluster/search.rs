//! Whether the steps of a history can be put in one order that respects time and the contract.
//!
//! A depth-first search after Wing and Gong (1993) that remembers what it has seen (Lowe 2017): a set of steps together with the
//! state they led to is looked at once. A read that may happen now and changes nothing happens now: later it would only bind
//! more. The search is bounded in steps; where the bound ends it, nothing is known.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_128;

use super::history::{Moment, NEVER};
use super::problem::{Event, Problem, Step, When};
use super::state::State;

/// States looked at until a search gives up.
pub const BUDGET: usize = 2_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Explained,
    Impossible,
    GaveUp,
}

/// A state, and what is still to be tried from it.
struct Frame {
    state: State,
    /// Steps that may come next, the one to try next at the end.
    candidates: Vec<usize>,
    /// The step that is being tried.
    step: Option<usize>,
    frontier: Moment,
}

struct Search<'a> {
    problem: &'a Problem,
    steps: &'a [Step],
    rest: Rest,
    /// Steps that must still happen.
    missing: usize,
    /// What the steps that happened add up to.
    sum: u128,
    seen: HashSet<u128>,
}

/// Looks for an order of `steps`, which are those of the problem or a part of them, in the order they were asked.
pub fn search(problem: &Problem, steps: &[Step], budget: usize) -> Verdict {
    let missing = steps.iter().filter(|step| !step.optional).count();
    let mut search =
        Search { problem, steps, rest: Rest::all(steps.len()), missing, sum: 0, seen: HashSet::new() };
    let mut stack = vec![search.frame(problem.start())];
    while let Some(frame) = stack.last_mut() {
        if search.missing == 0 {
            return Verdict::Explained;
        }
        if search.seen.len() > budget {
            return Verdict::GaveUp;
        }
        match search.advance(frame) {
            Some(state) => {
                let next = search.frame(state);
                stack.push(next);
            }
            None => {
                stack.pop();
            }
        }
    }
    Verdict::Impossible
}

impl Search<'_> {
    fn frame(&self, state: State) -> Frame {
        let (mut candidates, mut frontier) = (Vec::new(), NEVER);
        let mut at = self.rest.first();
        while let Some(step) = at.filter(|at| self.steps[*at].asked <= frontier) {
            frontier = frontier.min(self.steps[step].answered);
            candidates.push(step);
            at = self.rest.after(step);
        }
        let same = |step: usize| {
            let next = self.problem.next(&state, &self.steps[step], frontier);
            let step = &self.steps[step];
            step.event.is_look()
                && next.is_some_and(|next| next.looks_like(&state))
                && state.undisturbed_by(step.asked)
        };
        if let Some(look) = candidates.iter().copied().find(|step| same(*step)) {
            candidates = vec![look];
        }
        let too_late = |step: &Step| !step.optional && state.is_too_late_for(&step.event);
        if candidates.iter().any(|step| too_late(&self.steps[*step])) {
            candidates.clear();
        }
        // What is stored below the newest is seen only by who asks for it, so it need not happen before anybody does.
        let can_wait = |step: &Step| match step.event {
            Event::Store { version, explicit: true, when: When::Always } => {
                step.answered > frontier
                    && state.is_below(version)
                    && !candidates.iter().any(|other| self.steps[*other].event.asks_for(version))
            }
            _ => false,
        };
        let waiting: Vec<bool> = candidates.iter().map(|step| can_wait(&self.steps[*step])).collect();
        let mut waiting = waiting.into_iter();
        candidates.retain(|_| !waiting.next().unwrap_or(false));
        // What was answered first is tried first, what may never have happened last.
        candidates.sort_by_key(|step| {
            let step = &self.steps[*step];
            std::cmp::Reverse((step.optional, step.answered))
        });
        Frame { state, candidates, step: None, frontier }
    }

    /// Goes on to a state that was not looked at yet.
    fn advance(&mut self, frame: &mut Frame) -> Option<State> {
        if let Some(step) = frame.step.take() {
            self.undo(step);
        }
        while let Some(step) = frame.candidates.pop() {
            let Some(state) = self.problem.next(&frame.state, &self.steps[step], frame.frontier) else {
                continue;
            };
            // What may never have happened does so only if it changes something.
            if self.steps[step].optional && state.looks_like(&frame.state) {
                continue;
            }
            if self.seen.insert(self.sum ^ mark(step) ^ fingerprint(&state)) {
                frame.step = Some(step);
                self.rest.remove(step);
                self.sum ^= mark(step);
                self.missing -= usize::from(!self.steps[step].optional);
                return Some(state);
            }
        }
        None
    }

    fn undo(&mut self, step: usize) {
        self.rest.restore(step);
        self.sum ^= mark(step);
        self.missing += usize::from(!self.steps[step].optional);
    }
}

fn mark(step: usize) -> u128 {
    xxh3_128(&(step as u64).to_le_bytes())
}

fn fingerprint(state: &State) -> u128 {
    let mut bytes = Vec::with_capacity(12 * state.versions.len() + 4 * state.spent.len());
    state.versions.iter().for_each(|version| bytes.extend_from_slice(&version.to_le_bytes()));
    let counts = state.chances.iter().chain(&state.spent);
    counts.for_each(|count| bytes.extend_from_slice(&count.to_le_bytes()));
    xxh3_128(&bytes)
}

/// The steps that did not happen yet, in a list that takes one out and puts it back at once.
struct Rest {
    /// Neighbours of each step, from 1 on; 0 is both ends.
    before: Vec<usize>,
    after: Vec<usize>,
}

impl Rest {
    fn all(len: usize) -> Self {
        let ring = len + 1;
        Self {
            before: (0..ring).map(|at| (at + len) % ring).collect(),
            after: (0..ring).map(|at| (at + 1) % ring).collect(),
        }
    }

    fn first(&self) -> Option<usize> {
        self.after[0].checked_sub(1)
    }

    fn after(&self, step: usize) -> Option<usize> {
        self.after[step + 1].checked_sub(1)
    }

    fn remove(&mut self, step: usize) {
        let (before, after) = (self.before[step + 1], self.after[step + 1]);
        self.after[before] = after;
        self.before[after] = before;
    }

    /// Of those taken out, only the last one can go back.
    fn restore(&mut self, step: usize) {
        let (before, after) = (self.before[step + 1], self.after[step + 1]);
        self.after[before] = step + 1;
        self.before[after] = step + 1;
    }
}
