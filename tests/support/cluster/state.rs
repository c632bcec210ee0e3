//! What the contract says of one path: which versions are there, and what each step needs and does.
//!
//! The newest version decides. A number that the server chose is above every number there. A DELETE chooses a live version at one
//! moment and tombstones it at a later one: from its choice to its answer the version is *dying*, and whoever looks may find it live
//! or dead, and dead ever after.

use super::history::{Moment, NEVER};
use super::problem::{Event, Problem, Step, When};

/// The state of a version as one number: one of these three, or the moment until which it dies.
const ABSENT: u64 = 0;
const LIVE: u64 = 1;
const DEAD: u64 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub versions: Vec<u64>,
    /// The highest that is there, dead or alive.
    newest: Option<usize>,
    /// DELETEs without an answer that were taken to explain something.
    pub spent: usize,
    /// The latest beginning of a step so far: no later step happens before it.
    now: Moment,
}

/// A step at work on a state.
struct Turn<'a> {
    problem: &'a Problem,
    state: State,
    /// The step happens no later than this.
    frontier: Moment,
}

impl Problem {
    pub fn start(&self) -> State {
        State { versions: vec![ABSENT; self.versions.len()], newest: None, spent: 0, now: 0 }
    }

    /// The states that `step` may leave behind; none if it cannot happen now. It happens no later than `frontier`.
    pub fn next(&self, state: &State, step: &Step, frontier: Moment) -> Vec<State> {
        let mut state = state.clone();
        state.now = state.now.max(step.asked);
        let mut turn = Turn { problem: self, state, frontier };
        match turn.happen(step) {
            true => turn.outcomes(step),
            false => Vec::new(),
        }
    }
}

impl State {
    /// Whether a step that begins at `asked` and changes nothing leaves all others as free as they were.
    pub fn undisturbed_by(&self, asked: Moment) -> bool {
        asked <= self.now || !self.versions.iter().any(|at| *at > DEAD && (self.now..asked).contains(at))
    }

    /// Whether all that can be seen is the same.
    pub fn looks_like(&self, other: &Self) -> bool {
        self.spent == other.spent && self.versions == other.versions
    }

    /// Whether a number that the server chose can still be given: none that is higher is there.
    pub fn can_give(&self, version: usize) -> bool {
        self.newest.is_none_or(|newest| newest < version)
    }

    fn is_alive(&self, version: usize) -> bool {
        let at = self.versions[version];
        at == LIVE || (at > DEAD && at >= self.now)
    }
}

impl Turn<'_> {
    fn happen(&mut self, step: &Step) -> bool {
        let newest = self.state.newest;
        let alive = |turn: &Self, version: usize| turn.state.is_alive(version);
        match &step.event {
            Event::Store { version, explicit, when } => {
                if self.state.versions[*version] != ABSENT {
                    return *explicit && alive(self, *version);
                }
                (*explicit || self.state.can_give(*version)) && self.meets(*when)
            }
            Event::Clash { version, same_bytes } => {
                self.state.versions[*version] != ABSENT && (!same_bytes || self.gone(*version))
            }
            Event::Unmet(When::Always) => false,
            Event::Unmet(When::Absent) => newest.is_some_and(|newest| alive(self, newest)),
            Event::Unmet(When::Is(tag)) => {
                newest.is_none_or(|newest| Some(newest) != *tag || self.gone(newest))
            }
            Event::Spared(when) => newest.is_some_and(|newest| {
                alive(self, newest) && *when != When::Always && *when != When::Is(Some(newest))
            }),
            Event::Newest(Some(version)) => newest == Some(*version) && alive(self, *version),
            Event::Newest(None) => newest.is_none_or(|newest| self.gone(newest)),
            Event::At(version, true) => alive(self, *version),
            Event::At(version, false) => self.state.versions[*version] == ABSENT || self.gone(*version),
            Event::ChooseNewest(version, when) => {
                let met = *when == When::Always || *when == When::Is(Some(*version));
                newest == Some(*version) && met && self.choose(*version, step.answered)
            }
            Event::Choose(version) => self.choose(*version, step.answered),
            Event::ChooseAll(highest, meanwhile) => self.choose_all(*highest, meanwhile, step.answered),
            Event::AllDead(meanwhile) => self.all_gone_from(0, meanwhile),
        }
    }

    fn meets(&mut self, when: When) -> bool {
        match (when, self.state.newest) {
            (When::Always, _) | (When::Absent, None) => true,
            (When::Absent, Some(newest)) => self.gone(newest),
            (When::Is(tag), newest) => {
                newest.is_some_and(|newest| tag == Some(newest) && self.state.is_alive(newest))
            }
        }
    }

    /// Finds a version that is there dead, if it can be.
    fn gone(&mut self, version: usize) -> bool {
        match self.state.versions[version] {
            ABSENT => return false,
            LIVE if self.problem.mortal[version] <= self.frontier => {}
            LIVE if self.state.newest == Some(version) && self.has_stray() => self.state.spent += 1,
            LIVE => return false,
            _ => {}
        }
        self.state.versions[version] = DEAD;
        true
    }

    /// Whether a DELETE without an answer can have happened that explains nothing yet. They are all alike.
    fn has_stray(&self) -> bool {
        self.problem.strays.partition_point(|asked| *asked <= self.frontier) > self.state.spent
    }

    /// A DELETE that is answered at `answered` chooses `version`.
    fn choose(&mut self, version: usize, answered: Moment) -> bool {
        if !self.state.is_alive(version) {
            return false;
        }
        let at = &mut self.state.versions[version];
        let until = answered.max(DEAD + 1);
        *at = if *at == LIVE { until } else { (*at).min(until) };
        true
    }

    fn choose_all(&mut self, highest: usize, meanwhile: &[usize], answered: Moment) -> bool {
        if !self.state.is_alive(highest) || !self.all_gone_from(highest + 1, meanwhile) {
            return false;
        }
        for version in 0..=highest {
            let until = if meanwhile.contains(&version) && version != highest { NEVER } else { answered };
            if self.state.is_alive(version) {
                self.choose(version, until);
            }
        }
        true
    }

    fn all_gone_from(&mut self, first: usize, meanwhile: &[usize]) -> bool {
        (first..self.state.versions.len())
            .all(|at| self.state.versions[at] == ABSENT || meanwhile.contains(&at) || self.gone(at))
    }

    /// What the step leaves behind, once it may happen.
    fn outcomes(mut self, step: &Step) -> Vec<State> {
        let Event::Store { version, .. } = step.event else { return vec![self.state] };
        if self.state.versions[version] != ABSENT {
            return vec![self.state];
        }
        self.state.versions[version] = LIVE;
        let before = self.state.newest;
        if before.is_some_and(|newest| newest > version) {
            return vec![self.state];
        }
        self.state.newest = Some(version);
        // The last moment at which a DELETE without an answer can have chosen the version that was the newest.
        let chosen = before.filter(|newest| {
            self.state.versions[*newest] == LIVE && self.problem.unexplained[*newest] && self.has_stray()
        });
        let mut outcomes = vec![self.state];
        if let Some(newest) = chosen {
            let mut other = outcomes[0].clone();
            other.versions[newest] = NEVER;
            other.spent += 1;
            outcomes.push(other);
        }
        outcomes
    }
}
