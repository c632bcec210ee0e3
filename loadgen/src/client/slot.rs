//! The place of one connection, which outlives the sockets that fill it.

use crate::connection::Connection;
use crate::exchange::Exchange;
use crate::plan::Picker;
use std::time::Instant;

/// One of the run's connections.
pub(super) struct Slot {
    /// Its number in the whole run.
    pub(super) number: usize,
    pub(super) picker: Picker,
    /// A request that must be sent again because the server closed before it answered.
    pub(super) unanswered: Option<Box<Exchange>>,
    /// Whether the first attempt to connect is over.
    pub(super) tried: bool,
    /// Whether it is among those that wait for a request.
    pub(super) is_parked: bool,
    pub(super) state: State,
}

/// What fills it.
pub(super) enum State {
    Closed {
        retry_at: Instant,
    },
    /// In the queue of those to open.
    Queued,
    Open(Box<Connection>),
    /// The requests of the run are used up.
    Finished,
}

impl Slot {
    pub(super) fn new(number: usize, picker: Picker) -> Self {
        Self { number, picker, unanswered: None, tried: false, is_parked: false, state: State::Queued }
    }

    /// The request that is under way here.
    pub(super) fn exchange(&self) -> Option<&Exchange> {
        let sent = if let State::Open(connection) = &self.state { connection.exchange() } else { None };
        sent.or(self.unanswered.as_deref())
    }
}
