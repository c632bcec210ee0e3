//! One thread and its connections, driven with epoll.
//!
//! A connection that fails is opened again after a pause, so that a dead server is not hammered; only a bounded number of handshakes is
//! under way at a time, so that ten thousand connections do not overrun the server's backlog; every wait has a deadline.

use super::account::Account;
use super::slot::{Slot, State};
use super::{Discard, Settings, Shared};
use crate::arrivals::Arrivals;
use crate::checker::Checker;
use crate::clock::Window;
use crate::connection::{Connection, Moved, Scratch, Tuning, Turn};
use crate::exchange::{Content, Exchange};
use crate::failure::Failure;
use crate::payload::Payload;
use crate::plan::{Action, Job};
use crate::process;
use crate::schedule::Schedule;
use crate::tally::Tally;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Before a failed connection is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Requests one connection may finish before the others have their turn.
const REQUESTS_PER_TURN: u32 = 32;
/// Handshakes under way at a time, on all threads together: below the backlog of any server worth measuring.
const HANDSHAKES: usize = 128;
/// How long the requests of an open loop's window are waited for when it has closed.
const DRAIN: Duration = Duration::from_secs(5);

/// One thread's connections.
pub(super) struct Worker<'a> {
    settings: &'a Settings,
    shared: &'a Shared,
    thread: usize,
    /// None in a closed loop.
    schedule: Option<Schedule>,
    poll: OwnedFd,
    slots: Vec<Slot>,
    /// Slots whose connection is to be opened.
    to_open: VecDeque<usize>,
    handshakes: usize,
    /// Open loop: slots that wait for a request, the one that has waited longest first, so that all connections are used.
    parked: VecDeque<usize>,
    scratch: Scratch,
    path: Vec<u8>,
    account: Account,
    now: Instant,
    next_tick: Instant,
}

/// What a connection does next.
#[expect(clippy::large_enum_variant, reason = "moved once; a box would be an allocation for each request")]
enum Next {
    Send(Exchange),
    /// Nothing is due.
    Wait,
    /// Nothing will ever be.
    Finish,
}

/// A worker whose connections are made, or have each failed once.
pub(super) fn connected<'a>(
    settings: &'a Settings,
    shared: &'a Shared,
    thread: usize,
) -> Result<Worker<'a>, String> {
    let mut worker = Worker::new(settings, shared, thread)?;
    worker.connect()?;
    Ok(worker)
}

impl<'a> Worker<'a> {
    fn new(settings: &'a Settings, shared: &'a Shared, thread: usize) -> Result<Self, String> {
        if !settings.pin.is_empty() {
            process::pin_thread(settings.pin[thread % settings.pin.len()])?;
        }
        if settings.open_loop.is_some() {
            process::wake_on_time();
        }
        let poll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|error| format!("cannot make an epoll instance: {error}"))?;
        let now = Instant::now();
        let slots: Vec<Slot> = (thread..settings.connections)
            .step_by(settings.threads)
            .map(|number| Slot::new(number, settings.plan.picker(number)))
            .collect();
        Ok(Self {
            settings,
            shared,
            thread,
            schedule: None,
            poll,
            to_open: (0..slots.len()).collect(),
            slots,
            handshakes: 0,
            parked: VecDeque::new(),
            scratch: Scratch::new(),
            path: Vec::new(),
            account: Account::new(settings.plan.operations().len(), settings.open_loop.is_some())?,
            now,
            next_tick: now,
        })
    }

    fn connect(&mut self) -> Result<(), String> {
        let mut events = Vec::with_capacity(EVENTS);
        self.open_queued();
        while self.slots.iter().any(|slot| !slot.tried) {
            self.turn(&mut events, self.next_tick)?;
        }
        Ok(())
    }

    /// The figures of a run that was not made.
    pub(super) fn nothing(self) -> Tally {
        self.account.tally
    }

    /// Runs to the end of the window, or of the requests.
    pub(super) fn run(mut self) -> Result<Tally, String> {
        let window = *self.shared.window.wait();
        self.now = Instant::now();
        self.account.window = Some(window);
        self.schedule = self.new_schedule(&window);
        for index in 0..self.slots.len() {
            self.drive(index, false);
        }
        let mut events = Vec::with_capacity(EVENTS);
        while !self.is_over() && !self.is_finished() {
            let due = self.schedule.as_ref().and_then(Schedule::next_due);
            let end = self.account.window.and_then(|window| window.closes());
            let wake = [due, end].into_iter().flatten().fold(self.next_tick, Instant::min);
            self.turn(&mut events, wake)?;
            self.admit();
            self.shared.meters[self.thread].publish(&self.account.tally);
        }
        if self.schedule.is_some() {
            self.drain(&mut events)?;
        }
        Ok(self.account.tally)
    }

    fn new_schedule(&self, window: &Window) -> Option<Schedule> {
        let open = self.settings.open_loop?;
        let threads = self.settings.threads;
        let arrivals = Arrivals::new(open.spacing, open.rate, self.thread, threads, self.settings.seed);
        // Each thread's share, the remainder dealt out to the first ones.
        let left = self.settings.requests.map(|requests| {
            requests / threads as u64 + u64::from((self.thread as u64) < requests % threads as u64)
        });
        Some(Schedule::new(window.began(), arrivals, open.queue.div_ceil(threads), left))
    }

    /// Waits for events until `wake`, and handles them.
    fn turn(&mut self, events: &mut Vec<Event>, wake: Instant) -> Result<(), String> {
        if self.now >= self.next_tick {
            self.tick();
            self.next_tick = self.now + TICK;
        }
        let wait = wake.min(self.next_tick).saturating_duration_since(self.now);
        let timeout =
            Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: i64::from(wait.subsec_nanos()) };
        events.clear();
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for the connections: {error}")),
        }
        self.now = Instant::now();
        for event in events.iter() {
            self.drive(event.data.u64() as usize, true);
        }
        Ok(())
    }

    fn is_over(&mut self) -> bool {
        let Some(window) = &mut self.account.window else { return false };
        if let Some(stop) = self.shared.stop_at(window) {
            window.close_at(stop);
        }
        window.is_over(self.now)
    }

    fn is_finished(&self) -> bool {
        match &self.schedule {
            None => {
                self.settings.requests.is_some()
                    && self.slots.iter().all(|slot| matches!(slot.state, State::Finished))
            }
            Some(schedule) => schedule.next_due().is_none() && !schedule.has_waiting() && self.is_quiet(),
        }
    }

    /// Whether no request is under way.
    fn is_quiet(&self) -> bool {
        self.slots.iter().all(|slot| slot.exchange().is_none())
    }

    /// Lets in what is due, and hands it to those who wait for it.
    fn admit(&mut self) {
        let Some(schedule) = &mut self.schedule else { return };
        let end = self.account.window.and_then(|window| window.closes());
        let account = &mut self.account;
        schedule.admit(self.now, end, |due| account.failed(due, Failure::QueueFull, None));
        while self.schedule.as_ref().is_some_and(Schedule::has_waiting) {
            let Some(index) = self.parked.pop_front() else { break };
            self.slots[index].is_parked = false;
            self.drive(index, false);
        }
    }

    /// The window has closed; those who were due in it are still waited for.
    fn drain(&mut self, events: &mut Vec<Event>) -> Result<(), String> {
        let deadline = self.now + DRAIN;
        while self.now < deadline {
            let waiting = self.schedule.as_ref().is_some_and(Schedule::has_waiting);
            if !waiting && self.is_quiet() {
                break;
            }
            self.turn(events, deadline)?;
            self.admit();
        }
        while let Some(due) = self.schedule.as_mut().and_then(Schedule::take) {
            self.account.left(self.now, due, None);
        }
        for index in 0..self.slots.len() {
            let left =
                self.slots[index].exchange().map(|exchange| (exchange.started, exchange.job.operation));
            if let Some((due, operation)) = left {
                self.account.left(self.now, due, Some(operation));
            }
        }
        Ok(())
    }

    /// Opens what is closed and gives up on what is stuck.
    fn tick(&mut self) {
        for index in 0..self.slots.len() {
            match &self.slots[index].state {
                State::Closed { retry_at } if *retry_at <= self.now => {
                    self.slots[index].state = State::Queued;
                    self.to_open.push_back(index);
                }
                State::Open(connection) if connection.is_idle() && self.schedule.is_none() => {
                    self.drive(index, false);
                }
                State::Open(connection) => {
                    let overdue = connection.overdue(
                        self.now,
                        self.settings.connect_timeout,
                        self.settings.response_timeout,
                    );
                    if let Some(failure) = overdue {
                        let operation = connection.exchange().map(|exchange| exchange.job.operation);
                        self.fail(index, failure, operation);
                    }
                }
                State::Closed { .. } | State::Queued | State::Finished => {}
            }
        }
        self.open_queued();
    }

    /// Opens as many as may be in their handshake at a time.
    fn open_queued(&mut self) {
        while self.handshakes < HANDSHAKES.div_ceil(self.settings.threads)
            && let Some(index) = self.to_open.pop_front()
        {
            let Settings { address, connections, low_water, .. } = *self.settings;
            let tuning = Tuning { connections, low_water };
            match Connection::open(&self.poll, address, index as u64, tuning, self.now) {
                Ok(connection) => {
                    self.handshakes += 1;
                    self.slots[index].state = State::Open(Box::new(connection));
                }
                Err(failure) => self.fail(index, failure, None),
            }
        }
    }

    /// Makes a new connection in place of one that ended well.
    fn reopen(&mut self, index: usize) {
        self.slots[index].state = State::Queued;
        self.to_open.push_front(index);
        self.open_queued();
    }

    /// Moves one connection on as far as it goes; `woken` where the kernel says that something happened on it.
    fn drive(&mut self, index: usize, mut woken: bool) {
        for _ in 0..REQUESTS_PER_TURN {
            let State::Open(connection) = &self.slots[index].state else { return };
            let was_connected = connection.is_connected();
            if connection.is_idle() {
                match self.next(index) {
                    Next::Send(exchange) => self.begin(index, exchange),
                    Next::Finish => {
                        self.slots[index].state = State::Finished;
                        return;
                    }
                    Next::Wait => {
                        self.park(index);
                        if !woken {
                            return;
                        }
                    }
                }
            }
            woken = false;
            let State::Open(connection) = &mut self.slots[index].state else { return };
            let mut moved = Moved::default();
            let turn = connection.turn(&self.poll, &mut self.scratch, self.now, &mut moved);
            let idle = connection.is_idle();
            if !was_connected && connection.is_connected() {
                self.slots[index].tried = true;
                self.handshakes -= 1;
                self.open_queued();
            }
            self.account.bytes(self.now, moved.operation, moved.body);
            match turn {
                Turn::Waiting if idle && !self.slots[index].is_parked => {}
                Turn::Waiting => return,
                Turn::Done { exchange, keep_alive } => {
                    if let Action::Put { overwrites: true, .. } = exchange.job.action {
                        self.shared.generations.acknowledge(exchange.job.object);
                    }
                    self.account.answered(Instant::now(), &exchange);
                    if !keep_alive {
                        return self.reopen(index);
                    }
                }
                Turn::Failed { failure, operation } => return self.fail(index, failure, operation),
                Turn::Lost(exchange) => {
                    self.account.lost(self.now);
                    self.slots[index].unanswered = exchange;
                    return self.reopen(index);
                }
            }
        }
    }

    fn begin(&mut self, index: usize, exchange: Exchange) {
        let slot = &mut self.slots[index];
        let State::Open(connection) = &mut slot.state else { return };
        self.path.clear();
        self.settings.url.write_path(exchange.job.object, slot.number, &mut self.path);
        connection.begin(exchange, self.settings.url.authority(), &self.path, self.now);
    }

    /// Puts a connection among those that wait for a request.
    fn park(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if self.schedule.is_some() && !slot.is_parked {
            slot.is_parked = true;
            self.parked.push_back(index);
        }
    }

    /// What this connection does next.
    fn next(&mut self, index: usize) -> Next {
        if self.account.window.is_none() {
            return Next::Wait;
        }
        if let Some(exchange) = self.slots[index].unanswered.take() {
            return Next::Send(*exchange);
        }
        let started = if let Some(schedule) = &mut self.schedule {
            let Some(due) = schedule.take() else { return Next::Wait };
            due
        } else if self.may_issue() {
            Instant::now()
        } else {
            return Next::Finish;
        };
        let new_name = || self.shared.new_names.fetch_add(1, Ordering::Relaxed);
        let job = self.settings.plan.next(&mut self.slots[index].picker, new_name);
        Next::Send(Exchange::new(job, self.content(job), started))
    }

    /// Takes one of the requests of a run that is bounded by their number.
    fn may_issue(&self) -> bool {
        self.settings
            .requests
            .is_none_or(|requests| self.shared.issued.fetch_add(1, Ordering::Relaxed) < requests)
    }

    fn content(&self, job: Job) -> Content {
        let generations = &self.shared.generations;
        let prepared = Payload::new(self.settings.data_seed, job.object);
        let checked = |start| Content::Checked(Checker::new(prepared, generations.oldest(job.object), start));
        match job.action {
            Action::Put { overwrites: true, .. } => {
                Content::Sent(prepared.generation(generations.begin(job.object)))
            }
            Action::Put { overwrites: false, .. } => Content::Sent(prepared),
            Action::GetRange { start, .. } if self.settings.verify => checked(start),
            Action::GetWhole { .. } if self.settings.verify => checked(0),
            Action::GetRange { .. } | Action::GetWhole { .. } => match self.settings.discard {
                Discard::Truncate => Content::Ignored,
                Discard::Copy => Content::Copied,
            },
        }
    }

    /// Closes a connection that failed, with the request it carried.
    fn fail(&mut self, index: usize, failure: Failure, operation: Option<usize>) {
        let slot = &mut self.slots[index];
        slot.tried = true;
        if let State::Open(connection) = &slot.state
            && !connection.is_connected()
        {
            self.handshakes -= 1;
        }
        let held = slot.unanswered.take();
        let operation = operation.or(held.as_ref().map(|held| held.job.operation));
        slot.state = State::Closed { retry_at: self.now + RETRY_PAUSE };
        if matches!(failure, Failure::Connect | Failure::ConnectTimeout)
            && held.is_none()
            && self.schedule.is_none()
            && !self.may_issue()
        {
            // A connection that cannot be made uses up a request, so that a run bounded by requests ends.
            self.slots[index].state = State::Finished;
            return;
        }
        self.account.failed(self.now, failure, operation);
    }
}
