//! One round in which all replicas are asked the same, until all have answered or its time is up.

use super::machine::{Event, Group, Round, Send, Time};
use crate::base::topology::NodeId;
use crate::limits::ARCHIVE_SPREAD_TIME;
use crate::wire::peer::{Identity, Reply, Request};

/// Asking everyone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Everyone {
    /// The replicas as they are known by now.
    pub(super) group: Group,
    request: Request,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    New,
    Asking(Round),
    Over,
}

/// What a step comes to.
pub(super) struct Turn {
    pub(super) sends: Vec<Send>,
    /// Once: nobody is waited for any more.
    pub(super) ends: bool,
}

impl Everyone {
    pub(super) fn new(group: Group, request: Request) -> Self {
        Self { group, request, phase: Phase::New }
    }

    /// Goes on; an answer is heard together with the disk that it stands for.
    pub(super) fn step(
        &mut self,
        now: Time,
        event: Event,
        hear: impl FnOnce(NodeId, Identity, Reply),
    ) -> Turn {
        let mut round = match &self.phase {
            Phase::New => {
                let until = now + ARCHIVE_SPREAD_TIME.as_millis() as Time;
                let (round, sends) = Round::begin(1, self.group.all(), until, |_| self.request.clone());
                self.phase = Phase::Asking(round);
                return Turn { sends, ends: false };
            }
            Phase::Asking(round) => *round,
            Phase::Over => return Turn { sends: Vec::new(), ends: false },
        };
        if let Event::Reply { from, round: number, reply } = event
            && round.took(from, number)
            && let Some((identity, reply)) = self.group.open(from, reply)
        {
            hear(from, identity, reply);
        }
        let ends = round.waiting().is_empty() || now >= round.until();
        self.phase = if ends { Phase::Over } else { Phase::Asking(round) };
        Turn { sends: Vec::new(), ends }
    }

    pub(super) fn wake(&self) -> Option<Time> {
        match &self.phase {
            Phase::New => Some(0),
            Phase::Asking(round) => Some(round.until()),
            Phase::Over => None,
        }
    }
}
