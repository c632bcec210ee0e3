//! One path's history as steps that a search can put in order.
//!
//! What only looks uncertain is settled first. Rows stay for ever, so what was listed at the end says of every PUT without an
//! answer whether it ever took effect, and as which version; it did so before anybody was told of it. Of a DELETE without an answer
//! it is not known what it chose.

use std::collections::BTreeMap;

use super::history::{Ask, Condition, Moment, NEVER, Op, Told, Which};

/// A version as it was listed in the end, tombstoned or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub version: u64,
    pub blob_id: String,
    pub size: u64,
    pub tombstoned: bool,
}

/// A condition on the newest version, versions by their index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Always,
    Absent,
    /// Nothing: the tag of no version of this path.
    Is(Option<usize>),
}

/// What must be so, or becomes so, at one moment of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Store {
        version: usize,
        explicit: bool,
        when: When,
    },
    /// 409: the version is there with other bytes, or is tombstoned.
    Clash {
        version: usize,
        same_bytes: bool,
    },
    /// 412 to a PUT.
    Unmet(When),
    /// 412 to a DELETE, which found something.
    Spared(When),
    /// A read of the newest: it is this one, or there is none.
    Newest(Option<usize>),
    /// A read of a version: it is there or not.
    At(usize, bool),
    /// A DELETE chooses; the tombstone follows until its answer.
    ChooseNewest(usize, When),
    Choose(usize),
    /// The highest that was live; versions that were being stored meanwhile may have been left out.
    ChooseAll(usize, Vec<usize>),
    /// 404 to a DELETE of all, but for versions that were being stored meanwhile.
    AllDead(Vec<usize>),
}

impl Event {
    /// Whether it depends on a version that is not the newest. Those that store it do not depend on each other.
    pub fn asks_for(&self, version: usize) -> bool {
        match self {
            Self::Clash { version: asked, .. } | Self::At(asked, _) | Self::Choose(asked) => {
                *asked == version
            }
            Self::ChooseAll(..) | Self::AllDead(_) => true,
            _ => false,
        }
    }

    /// Whether it leaves everything as it is: a history without it has only less to explain.
    pub fn is_look(&self) -> bool {
        !matches!(self, Self::Store { .. } | Self::ChooseNewest(..) | Self::Choose(_) | Self::ChooseAll(..))
    }
}

#[derive(Debug, Clone)]
pub struct Step {
    pub event: Event,
    pub asked: Moment,
    pub answered: Moment,
    /// It may also never have happened.
    pub optional: bool,
    /// Where it is in the history.
    pub op: usize,
}

/// How a version may end. This only spares the search what must fail later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is live to the end.
    Stays,
    /// A DELETE that was answered found it live; so whoever found it dead did so because of that one.
    Explained,
    /// Whoever found it dead may have done so because of a DELETE without an answer.
    Open,
}

#[derive(Debug)]
pub struct Problem {
    /// In the order of [`Step::asked`].
    pub steps: Vec<Step>,
    /// In ascending order; steps name them by their index.
    pub versions: Vec<u64>,
    /// From when on each version may be tombstoned by a DELETE without an answer that named it.
    pub mortal: Vec<Moment>,
    /// When DELETEs of the newest without an answer were asked, in order.
    pub strays: Vec<Moment>,
    pub fates: Vec<Fate>,
}

/// What is known of a version: its blob_id and size.
type Facts<'a> = BTreeMap<u64, (&'a str, u64)>;

/// Turns the history of one path into a problem; or says what contradicts itself without any search.
pub fn resolve(ops: &[Op], listed: &[Listed]) -> Result<Problem, String> {
    let mut facts: Facts<'_> =
        listed.iter().map(|row| (row.version, (row.blob_id.as_str(), row.size))).collect();
    for op in ops {
        if let Some((version, blob_id, size)) = op.shows() {
            let known = *facts.entry(version).or_insert((blob_id, size));
            if known != (blob_id, size) {
                return Err(format!("version {version} is {known:?} and also\n  {op}"));
            }
        }
    }
    let versions: Vec<u64> = facts.keys().copied().collect();
    let mut problem = Problem {
        mortal: vec![NEVER; versions.len()],
        fates: vec![Fate::Open; versions.len()],
        strays: Vec::new(),
        steps: Vec::new(),
        versions,
    };
    let resolver = Resolver { ops, facts: &facts };
    for (at, op) in ops.iter().enumerate() {
        resolver.add(&mut problem, at, op)?;
    }
    problem.strays.sort_unstable();
    problem.steps.sort_by_key(|step| step.asked);
    problem.tell_fates(listed);
    Ok(problem)
}

struct Resolver<'a> {
    ops: &'a [Op],
    facts: &'a Facts<'a>,
}

impl Resolver<'_> {
    fn add(&self, problem: &mut Problem, at: usize, op: &Op) -> Result<(), String> {
        let (mut answered, mut optional) = (op.answered, false);
        let event = match (&op.ask, &op.told) {
            (Ask::Put { version: asked, condition, blob }, told) => {
                let when = self.when(problem, condition);
                match told {
                    Told::Stored { version, .. } => {
                        let version = problem.index(*version).expect("a version that was told of");
                        Event::Store { version, explicit: asked.is_some(), when }
                    }
                    Told::Unknown => {
                        let Some((&version, _)) =
                            self.facts.iter().find(|(_, fact)| fact.1 == blob.len as u64)
                        else {
                            return Ok(());
                        };
                        if asked.is_some_and(|asked| asked != version) {
                            return Err(format!("stored as version {version} is the blob of\n  {op}"));
                        }
                        (answered, optional) = self.first_shown(version, blob.len as u64, asked.is_some());
                        let version = problem.index(version).expect("a version that was told of");
                        Event::Store { version, explicit: asked.is_some(), when }
                    }
                    Told::Refused(409) => {
                        let number = asked.unwrap_or(0);
                        let Some(version) = problem.index(number) else {
                            return Err(format!("a version that never was is in the way of\n  {op}"));
                        };
                        Event::Clash { version, same_bytes: self.facts[&number].1 == blob.len as u64 }
                    }
                    Told::Refused(412) => Event::Unmet(when),
                    _ => return Ok(()),
                }
            }
            (Ask::Get { version: None, .. }, Told::Read { version, .. }) => {
                Event::Newest(problem.index(*version))
            }
            (Ask::Get { version: None, .. }, Told::Refused(404)) => Event::Newest(None),
            (Ask::Get { version: Some(version), .. }, Told::Read { .. } | Told::Refused(404)) => {
                let Some(version) = problem.index(*version) else { return Ok(()) };
                Event::At(version, matches!(op.told, Told::Read { .. }))
            }
            (Ask::Delete { which, condition }, told) => {
                match self.delete(problem, op, *which, condition, told)? {
                    Some(event) => event,
                    None => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        problem.steps.push(Step { event, asked: op.asked, answered, optional, op: at });
        Ok(())
    }

    fn delete(
        &self,
        problem: &mut Problem,
        op: &Op,
        which: Which,
        condition: &Condition,
        told: &Told,
    ) -> Result<Option<Event>, String> {
        let when = self.when(problem, condition);
        let chosen = match told {
            Told::Deleted { version } => match problem.index(*version) {
                Some(version) => version,
                None => return Err(format!("a version that never was is deleted by\n  {op}")),
            },
            _ => 0,
        };
        let meanwhile = || self.stored_meanwhile(problem, op);
        Ok(match (which, told) {
            (Which::Newest, Told::Deleted { .. }) => Some(Event::ChooseNewest(chosen, when)),
            (Which::Version(_), Told::Deleted { .. }) => Some(Event::Choose(chosen)),
            (Which::All, Told::Deleted { .. }) => Some(Event::ChooseAll(chosen, meanwhile())),
            (Which::Newest, Told::Refused(404)) => Some(Event::Newest(None)),
            (Which::Version(version), Told::Refused(404)) => {
                problem.index(version).map(|version| Event::At(version, false))
            }
            (Which::All, Told::Refused(404)) => Some(Event::AllDead(meanwhile())),
            (Which::Newest, Told::Refused(412)) => Some(Event::Spared(when)),
            (_, Told::Unknown) => {
                let named: Vec<usize> = match (which, when) {
                    (Which::Version(version), _) => problem.index(version).into_iter().collect(),
                    (Which::All, _) => (0..problem.versions.len()).collect(),
                    (Which::Newest, When::Is(version)) => version.into_iter().collect(),
                    (Which::Newest, _) => {
                        problem.strays.push(op.asked);
                        Vec::new()
                    }
                };
                named.into_iter().for_each(|at| problem.mortal[at] = problem.mortal[at].min(op.asked));
                None
            }
            _ => None,
        })
    }

    fn when(&self, problem: &Problem, condition: &Condition) -> When {
        match condition {
            Condition::Always => When::Always,
            Condition::Absent => When::Absent,
            Condition::Match(tag) => {
                let found = self.facts.iter().find(|(_, fact)| fact.0 == tag);
                When::Is(found.and_then(|(version, _)| problem.index(*version)))
            }
        }
    }

    /// Until when a PUT without an answer took effect, and whether it need not have, since it was asked more than once.
    fn first_shown(&self, version: u64, size: u64, explicit: bool) -> (Moment, bool) {
        let tries = self
            .ops
            .iter()
            .filter(|op| matches!(op.ask, Ask::Put { blob, .. } if blob.len as u64 == size) && may_store(op));
        if tries.count() > 1 {
            return (NEVER, true);
        }
        // A number that the server chose was given before any higher one was.
        let follows = |shown: u64| if explicit { shown == version } else { shown >= version };
        let shown = self.ops.iter().filter(|op| match op.told {
            Told::Deleted { version } => follows(version),
            _ => op.shows().is_some_and(|shown| follows(shown.0)),
        });
        // If it is only listed, at the end: it happened, nobody knows when.
        (shown.map(|op| op.answered).min().unwrap_or(NEVER), false)
    }

    /// Versions whose PUT ran at the same time as `op`.
    fn stored_meanwhile(&self, problem: &Problem, op: &Op) -> Vec<usize> {
        let overlap = self.ops.iter().filter(|other| {
            matches!(other.ask, Ask::Put { .. }) && !other.before(op) && !op.before(other) && may_store(other)
        });
        let version = |other: &Op| match (&other.told, &other.ask) {
            (Told::Stored { version, .. }, _) => Some(*version),
            (Told::Unknown, Ask::Put { blob, .. }) => {
                self.facts.iter().find(|(_, fact)| fact.1 == blob.len as u64).map(|(version, _)| *version)
            }
            _ => None,
        };
        overlap.filter_map(version).filter_map(|version| problem.index(version)).collect()
    }
}

fn may_store(op: &Op) -> bool {
    matches!(op.told, Told::Stored { .. } | Told::Unknown)
}

impl Problem {
    /// Where a version is in [`Self::versions`].
    pub fn index(&self, version: u64) -> Option<usize> {
        self.versions.binary_search(&version).ok()
    }

    fn tell_fates(&mut self, listed: &[Listed]) {
        let mut seen_dead = vec![false; self.versions.len()];
        let mut explained = seen_dead.clone();
        for step in &self.steps {
            match step.event {
                Event::At(version, false) | Event::Clash { version, same_bytes: true } => {
                    seen_dead[version] = true;
                }
                Event::ChooseNewest(version, _) | Event::Choose(version) => explained[version] = true,
                _ => {}
            }
        }
        let tombstoned: BTreeMap<u64, bool> =
            listed.iter().map(|row| (row.version, row.tombstoned)).collect();
        for (at, version) in self.versions.iter().enumerate() {
            self.fates[at] = match tombstoned.get(version) {
                _ if explained[at] => Fate::Explained,
                Some(false) if !seen_dead[at] => Fate::Stays,
                _ => Fate::Open,
            };
        }
    }

    /// The steps without the reads that missed a version while it was being stored.
    ///
    /// A number is chosen before its version can be read: in a cluster, a later one may be visible first, and until the answer
    /// a read of the earlier one may miss it.
    pub fn lenient(&self) -> Vec<Step> {
        let mut stored: Vec<(Moment, Moment)> = vec![(NEVER, 0); self.versions.len()];
        for step in &self.steps {
            if let Event::Store { version, .. } = step.event {
                let (from, to) = &mut stored[version];
                (*from, *to) = ((*from).min(step.asked), (*to).max(step.answered));
            }
        }
        let excused = |step: &Step| match step.event {
            Event::At(version, false) => {
                let (from, to) = stored[version];
                step.asked <= to && from <= step.answered
            }
            _ => false,
        };
        self.steps.iter().filter(|step| !excused(step)).cloned().collect()
    }
}
