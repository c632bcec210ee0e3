//! What the contract says of one path: which versions are there, and what each step needs and does.
//!
//! The newest version decides. A number that the server chose is above every number there. A DELETE chooses a live version at one
//! moment and tombstones it at a later one: from its choice to its answer the version is *dying*, and whoever looks may find it live
//! or dead, and dead ever after.

use super::history::{Moment, NEVER};
use super::problem::{Event, Fate, Problem, Step, When};

/// The state of a version as one number: one of these three, or the moment until which it dies.
const ABSENT: u64 = 0;
const LIVE: u64 = 1;
const DEAD: u64 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub versions: Vec<u64>,
    /// The highest that is there, dead or alive.
    newest: Option<usize>,
    /// How many DELETEs of the newest without an answer had been asked when a live version ceased to be the newest: one of
    /// them may have chosen it, and the tombstone may come at any time after.
    pub chances: Vec<u32>,
    /// The same of each version that was taken to have been chosen so, in ascending order.
    pub spent: Vec<u32>,
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
        let count = self.versions.len();
        State {
            versions: vec![ABSENT; count],
            newest: None,
            chances: vec![0; count],
            spent: Vec::new(),
            now: 0,
        }
    }

    /// The state that `step` leaves behind; none if it cannot happen now. It happens no later than `frontier`.
    pub fn next(&self, state: &State, step: &Step, frontier: Moment) -> Option<State> {
        let mut state = state.clone();
        state.now = state.now.max(step.asked);
        let mut turn = Turn { problem: self, state, frontier };
        turn.happen(step).then(|| turn.outcome(step))
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

    /// Whether storing this version now would leave the newest as it is, and be new.
    pub fn is_below(&self, version: usize) -> bool {
        self.versions[version] == ABSENT && !self.can_give(version)
    }

    /// Whether this can never happen any more: what is dead stays dead, and the newest only rises.
    pub fn is_too_late_for(&self, event: &Event) -> bool {
        let dead = |version: usize| self.versions[version] != ABSENT && !self.is_alive(version);
        let replaced = |version: usize| self.newest.is_some_and(|newest| newest > version) || dead(version);
        match event {
            Event::Store { version, explicit: false, when: When::Is(Some(tag)) } => {
                !self.can_give(*version) || replaced(*tag)
            }
            Event::Store { version, explicit: false, .. } => !self.can_give(*version),
            Event::Store { version, .. } | Event::At(version, true) | Event::Choose(version) => {
                dead(*version)
            }
            Event::ChooseAll(highest, _) => dead(*highest),
            Event::Newest(Some(version)) | Event::ChooseNewest(version, _) => replaced(*version),
            _ => false,
        }
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
        let may_be = match self.state.versions[version] {
            ABSENT => false,
            LIVE if self.problem.fates[version] != Fate::Open => false,
            LIVE => self.problem.mortal[version] <= self.frontier || self.spend(version),
            _ => true,
        };
        if may_be {
            self.state.versions[version] = DEAD;
        }
        may_be
    }

    /// Takes a version to have been chosen by a DELETE without an answer while it was the newest, if there is one left.
    fn spend(&mut self, version: usize) -> bool {
        let is_newest = self.state.newest == Some(version);
        let chances = if is_newest { self.strays() } else { self.state.chances[version] };
        let spent = &mut self.state.spent;
        let at = spent.partition_point(|other| *other <= chances);
        spent.insert(at, chances);
        // Each needs one of its own, and can take any that was asked in time (Hall 1935).
        (at..spent.len()).all(|at| at < spent[at] as usize)
    }

    /// DELETEs of the newest without an answer that can have happened by now.
    fn strays(&self) -> u32 {
        self.problem.strays.partition_point(|asked| *asked <= self.frontier) as u32
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
    fn outcome(mut self, step: &Step) -> State {
        let Event::Store { version, .. } = step.event else { return self.state };
        if self.state.versions[version] != ABSENT {
            return self.state;
        }
        self.state.versions[version] = LIVE;
        let before = self.state.newest;
        if before.is_some_and(|newest| newest > version) {
            return self.state;
        }
        self.state.newest = Some(version);
        if let Some(last) = before
            && self.state.versions[last] == LIVE
            && self.problem.fates[last] == Fate::Open
        {
            self.state.chances[last] = self.strays();
        }
        self.state
    }
}
