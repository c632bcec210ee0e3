//! A run: threads that each drive their share of the connections, in a closed loop.
//!
//! Every connection has one request under way and sends the next when the answer is complete. One thread drives all of its connections
//! with epoll. A connection that fails is opened again after a pause, so that a dead server is not hammered; every wait has a deadline.

use crate::clock::Window;
use crate::connection::{Connection, Moved, Scratch, Tuning, Turn};
use crate::exchange::{Exchange, Failure};
use crate::histogram::Tally;
use crate::payload::Payload;
use crate::plan::{Picker, Plan};
use crate::process::{self, CpuTime};
use crate::url::Url;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Before a failed connection is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Requests one connection may finish before the others have their turn.
const REQUESTS_PER_TURN: u32 = 32;

/// What a run needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) url: Url,
    pub(crate) address: SocketAddr,
    pub(crate) plan: Plan,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    /// The CPUs of the threads, dealt out in turn; empty to let them float.
    pub(crate) pin: Vec<usize>,
    pub(crate) warmup: Duration,
    /// None: until the requests are used up.
    pub(crate) duration: Option<Duration>,
    pub(crate) requests: Option<u64>,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) data_seed: u64,
    pub(crate) verify: bool,
    /// Bytes of a body that must have arrived before a connection is woken.
    pub(crate) low_water: u64,
    pub(crate) server_pid: Option<u32>,
}

/// What a run found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) window: Duration,
    pub(crate) client_cpu: Option<Duration>,
    pub(crate) server_cpu: Option<Duration>,
}

/// Runs the load to its end.
pub(crate) fn run(settings: &Settings) -> Result<Outcome, String> {
    process::raise_open_files(settings.connections)?;
    let issued = AtomicU64::new(0);
    let window = Window::new(Instant::now(), settings.warmup, settings.duration);
    std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(settings.threads);
        for thread in 0..settings.threads {
            let issued = &issued;
            let spawned = std::thread::Builder::new()
                .name(format!("loadgen-{thread}"))
                .spawn_scoped(scope, move || Worker::new(settings, thread, issued, window)?.run())
                .map_err(|error| format!("cannot start thread {thread}: {error}"))?;
            threads.push(spawned);
        }
        std::thread::sleep(window.opens().saturating_duration_since(Instant::now()));
        let client_before = CpuTime::of_self();
        let server_before = settings.server_pid.map(CpuTime::of).transpose()?;

        let mut tally = Tally::new()?;
        for thread in threads {
            tally.merge(&thread.join().map_err(|_| "a client thread panicked".to_owned())??)?;
        }
        let window = window.length(Instant::now());
        let client_cpu = client_before.and_then(|before| Ok(CpuTime::of_self()?.since(before))).ok();
        let server_cpu = match (settings.server_pid, server_before) {
            (Some(pid), Some(before)) => Some(CpuTime::of(pid)?.since(before)),
            _ => None,
        };
        Ok(Outcome { tally, window, client_cpu, server_cpu })
    })
}

/// One thread's connections.
struct Worker<'a> {
    settings: &'a Settings,
    issued: &'a AtomicU64,
    window: Window,
    poll: OwnedFd,
    slots: Vec<Slot>,
    scratch: Scratch,
    path: Vec<u8>,
    tally: Tally,
    now: Instant,
    next_tick: Instant,
}

/// The place of one connection, which outlives the sockets that fill it.
struct Slot {
    /// The connection's number in the whole run.
    number: usize,
    picker: Picker,
    /// A request that must be sent again because the server closed before it answered.
    unanswered: Option<Exchange>,
    state: State,
}

enum State {
    Closed {
        retry_at: Instant,
    },
    Open(Box<Connection>),
    /// The requests of the run are used up.
    Finished,
}

impl<'a> Worker<'a> {
    fn new(
        settings: &'a Settings,
        thread: usize,
        issued: &'a AtomicU64,
        window: Window,
    ) -> Result<Self, String> {
        if !settings.pin.is_empty() {
            process::pin_thread(settings.pin[thread % settings.pin.len()])?;
        }
        let poll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|error| format!("cannot make an epoll instance: {error}"))?;
        let now = Instant::now();
        let slots = (thread..settings.connections)
            .step_by(settings.threads)
            .map(|number| Slot {
                number,
                picker: settings.plan.picker(number),
                unanswered: None,
                state: State::Closed { retry_at: now },
            })
            .collect();
        Ok(Self {
            settings,
            issued,
            window,
            poll,
            slots,
            scratch: Scratch::new(),
            path: Vec::new(),
            tally: Tally::new()?,
            now,
            next_tick: now,
        })
    }

    fn run(mut self) -> Result<Tally, String> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        while !self.window.is_over(self.now) && !self.is_finished() {
            if self.now >= self.next_tick {
                self.tick();
                self.next_tick = self.now + TICK;
            }
            let wait = self.next_tick.saturating_duration_since(self.now);
            let wait = self.window.left(self.now).map_or(wait, |left| left.min(wait));
            let timeout =
                Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: i64::from(wait.subsec_nanos()) };
            events.clear();
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(format!("cannot wait for the connections: {error}")),
            }
            self.now = Instant::now();
            for event in &events {
                self.drive(event.data.u64() as usize);
            }
        }
        Ok(self.tally)
    }

    fn is_finished(&self) -> bool {
        self.settings.requests.is_some()
            && self.slots.iter().all(|slot| matches!(slot.state, State::Finished))
    }

    /// Opens what is closed and gives up on what is stuck.
    fn tick(&mut self) {
        for index in 0..self.slots.len() {
            match &self.slots[index].state {
                State::Closed { retry_at } if *retry_at <= self.now => self.open(index),
                State::Open(connection) if connection.is_idle() => self.drive(index),
                State::Open(connection) => {
                    let overdue = connection.overdue(
                        self.now,
                        self.settings.connect_timeout,
                        self.settings.response_timeout,
                    );
                    if let Some(failure) = overdue {
                        self.fail(index, failure);
                    }
                }
                State::Closed { .. } | State::Finished => {}
            }
        }
    }

    fn open(&mut self, index: usize) {
        let Settings { address, connections, low_water, .. } = *self.settings;
        let tuning = Tuning { connections, low_water };
        match Connection::open(&self.poll, address, index as u64, tuning, self.now) {
            Ok(connection) => self.slots[index].state = State::Open(Box::new(connection)),
            Err(failure) => self.fail(index, failure),
        }
    }

    /// Moves one connection on as far as it goes.
    fn drive(&mut self, index: usize) {
        for _ in 0..REQUESTS_PER_TURN {
            let number = self.slots[index].number;
            let State::Open(connection) = &self.slots[index].state else { return };
            let exchange = if connection.is_idle() {
                let Some(exchange) = self.next_exchange(index) else {
                    self.slots[index].state = State::Finished;
                    return;
                };
                Some(exchange)
            } else {
                None
            };
            let State::Open(connection) = &mut self.slots[index].state else { return };
            if let Some(exchange) = exchange {
                self.path.clear();
                self.settings.url.write_path(exchange.job.object, number, &mut self.path);
                connection.begin(exchange, self.settings.url.authority(), &self.path, self.now);
            }
            let mut moved = Moved::default();
            let turn = connection.turn(&self.poll, &mut self.scratch, self.now, &mut moved);
            if self.window.counts(self.now) {
                self.tally.bytes += moved.body;
            }
            match turn {
                Turn::Waiting if connection.is_idle() => {}
                Turn::Waiting => return,
                Turn::Done { exchange, keep_alive } => {
                    self.record(&exchange);
                    if !keep_alive {
                        return self.open(index);
                    }
                }
                Turn::Failed(failure) => return self.fail(index, failure),
                Turn::Stale(exchange) => {
                    if self.window.counts(self.now) {
                        self.tally.reconnects += 1;
                    }
                    self.slots[index].unanswered = Some(exchange);
                    return self.open(index);
                }
            }
        }
    }

    /// The request this connection sends next; `None` when the run's requests are used up.
    fn next_exchange(&mut self, index: usize) -> Option<Exchange> {
        let slot = &mut self.slots[index];
        if let Some(exchange) = slot.unanswered.take() {
            return Some(exchange);
        }
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        if self.settings.requests.is_some_and(|requests| number >= requests) {
            return None;
        }
        let job = self.settings.plan.next(&mut slot.picker, number);
        let payload = Payload::new(self.settings.data_seed, job.object);
        Some(Exchange::new(job, payload, self.settings.verify, Instant::now()))
    }

    fn record(&mut self, exchange: &Exchange) {
        let now = Instant::now();
        if !self.window.counts(now) {
            return;
        }
        self.tally.requests += 1;
        self.tally.bytes += exchange.body_len();
        self.tally.latency.record(now.saturating_duration_since(exchange.started));
        if let Some(first_byte) = exchange.first_byte {
            self.tally.first_byte.record(first_byte.saturating_duration_since(exchange.started));
        }
    }

    /// Counts a failure, those of the warm-up too: a run that hid them would call a broken server fast.
    fn fail(&mut self, index: usize, failure: Failure) {
        let slot = &mut self.slots[index];
        let held_request = slot.unanswered.take().is_some();
        if matches!(failure, Failure::Connect | Failure::ConnectTimeout) && !held_request {
            // A connection that cannot be made uses up a request, so that a run bounded by requests ends.
            let number = self.issued.fetch_add(1, Ordering::Relaxed);
            if self.settings.requests.is_some_and(|requests| number >= requests) {
                slot.state = State::Finished;
                return;
            }
        }
        slot.state = State::Closed { retry_at: self.now + RETRY_PAUSE };
        self.tally.fail(failure);
    }
}
