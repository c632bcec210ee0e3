//! A request's body: framing decoded, received straight into the buffer it will be written from.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use monoio::time::sleep;

use super::connection::{Connection, Plane};
use super::pace::{Pace, TooSlow};
use super::peers::cluster::Cluster;
use super::reply::Failure;
use crate::base::error::{Code, Error};
use crate::base::seal::{Seal, sealed_len};
use crate::io::buffer::Buffer;
use crate::io::receive::{self, LowWater};
use crate::limits::{BLOB_MAX, CHUNK_SIZE};
use crate::wire::chunked::{Decoder, State as ChunkState};
use crate::wire::head::{Framing, Head};
use crate::wire::response::CONTINUE;

enum State {
    Length(u64),
    Chunked(Box<Decoder>),
}

/// The body of one request.
pub(super) struct Body {
    state: State,
    /// The client waits for `100 Continue`.
    expected: bool,
    pace: Pace,
    low_water: LowWater,
    /// Nothing of it was asked for.
    untouched: bool,
    /// Seals to come: one behind each chunk, beside the bytes that are counted.
    seals: u64,
    /// Whose `sync.rate` it is received at.
    limited: Option<Arc<Cluster>>,
}

impl From<TooSlow> for Failure {
    fn from(_: TooSlow) -> Self {
        Error::new(Code::RequestTimeout, "the body came slower than 1 KiB/s: send it faster").into()
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl Body {
    pub(super) fn new(head: &Head, plane: Plane) -> Self {
        let state = match head.framing {
            Framing::None => State::Length(0),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Box::default()),
        };
        let (pace, low_water) = (Pace::new(plane), LowWater::default());
        let expected = head.expect_continue;
        Self { state, expected, pace, low_water, untouched: true, seals: 0, limited: None }
    }

    /// The body of an answer.
    pub(super) fn of_length(length: u64, plane: Plane) -> Self {
        let (pace, low_water) = (Pace::new(plane), LowWater::default());
        let state = State::Length(length);
        Self { state, expected: false, pace, low_water, untouched: true, seals: 0, limited: None }
    }

    /// Takes it for a blob of `size` bytes with a seal behind each chunk; false: it has another length.
    pub(super) fn expect_seals(&mut self, size: u64) -> bool {
        let fits = size <= BLOB_MAX && self.remaining() == Some(sealed_len(size));
        if fits {
            (self.state, self.seals) = (State::Length(size), size.div_ceil(CHUNK_SIZE));
        }
        fits
    }

    /// Whether a seal comes behind each chunk.
    pub(super) fn is_sealed(&self) -> bool {
        self.seals > 0
    }

    /// The same, received no faster than a node may fetch.
    pub(super) fn limited(self, cluster: Arc<Cluster>) -> Self {
        Self { limited: Some(cluster), ..self }
    }

    /// Whether all of it was received.
    pub(super) fn is_done(&self) -> bool {
        match &self.state {
            State::Length(rest) => *rest == 0 && self.seals == 0,
            State::Chunked(decoder) => matches!(decoder.state(), ChunkState::Done),
        }
    }

    /// Whether nothing of it was asked for yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// Bytes to come, where that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match &self.state {
            State::Length(rest) => Some(*rest),
            State::Chunked(_) => None,
        }
    }

    /// Whether the client still waits to be asked for the body.
    pub(super) fn is_awaited(&self) -> bool {
        self.expected
    }

    /// The trailer fields of a chunked body that is done.
    pub(super) fn trailers(&self) -> &[(String, Vec<u8>)] {
        match &self.state {
            State::Length(_) => &[],
            State::Chunked(decoder) => decoder.trailers(),
        }
    }

    /// Appends some bytes to `buffer`, at most `room`. 0: it has no more bytes, perhaps a seal. None: nothing, or with a `patience` not much, came for
    /// that long.
    pub(super) async fn read(
        &mut self,
        connection: &mut Connection,
        buffer: &mut Buffer,
        room: usize,
        patience: Option<Duration>,
    ) -> Result<Option<usize>, Failure> {
        self.untouched = false;
        if self.expected {
            self.expected = false;
            if connection.inbox().is_empty() {
                connection.send(CONTINUE.to_vec()).await?;
            }
        }
        loop {
            let Some(available) = self.frame(connection)? else {
                self.low_water.lower(connection.stream());
                if !self.wait(connection, patience).await? {
                    return Ok(None);
                }
                if connection.fill().await? == 0 {
                    return Err(Failure::Gone);
                }
                continue;
            };
            let room = usize::try_from(available).unwrap_or(usize::MAX).min(room);
            if room == 0 {
                return Ok(Some(0));
            }
            let received = if connection.inbox().is_empty() {
                if patience.is_some() {
                    self.low_water.raise(connection.stream(), room, available);
                } else {
                    self.low_water.lower(connection.stream());
                }
                if !self.wait(connection, patience).await? {
                    return Ok(None);
                }
                match receive::receive(connection.stream(), buffer, room) {
                    Ok(0) => return Err(Failure::Gone),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    received => received?,
                }
            } else {
                take_waiting(connection, buffer, room)
            };
            match &mut self.state {
                State::Length(rest) => *rest -= received as u64,
                State::Chunked(decoder) => decoder.consumed(received as u64),
            }
            self.pace.earn(received);
            if let Some(cluster) = &self.limited {
                let wait = cluster.syncing.limiter.take(received as u64, Instant::now());
                if !wait.is_zero() {
                    sleep(wait).await;
                }
            }
            if self.is_done() {
                // What comes next is another request.
                self.low_water.lower(connection.stream());
            }
            return Ok(Some(received));
        }
    }

    /// Whether the seal behind the chunk whose last bytes were read has come within `patience`, or none is to come.
    pub(super) async fn await_seal(
        &mut self,
        connection: &mut Connection,
        patience: Option<Duration>,
    ) -> Result<bool, Failure> {
        while self.is_sealed() && connection.inbox().len() < Seal::LEN {
            self.low_water.lower(connection.stream());
            if !self.wait(connection, patience).await? {
                return Ok(false);
            }
            if connection.fill().await? == 0 {
                return Err(Failure::Gone);
            }
        }
        Ok(true)
    }

    /// That seal; none: the body has none.
    pub(super) async fn seal(&mut self, connection: &mut Connection) -> Result<Option<Seal>, Failure> {
        while !self.await_seal(connection, None).await? {}
        if !self.is_sealed() {
            return Ok(None);
        }
        let seal = Seal::from_bytes(&connection.inbox()[..Seal::LEN]);
        connection.consume(Seal::LEN);
        self.pace.earn(Seal::LEN);
        self.seals -= 1;
        Ok(seal)
    }

    /// Waits until the client has sent something; false: it has not for `patience`.
    async fn wait(
        &mut self,
        connection: &mut Connection,
        patience: Option<Duration>,
    ) -> Result<bool, Failure> {
        match self
            .pace
            .wait(patience.unwrap_or(Duration::MAX), receive::wait_readable(connection.stream()))
            .await?
        {
            Some(readable) => Ok(readable.map(|()| true)?),
            None => Ok(false),
        }
    }

    /// Bytes of the body that come next, 0 if it is done; none if framing comes first, and then the inbox is empty.
    fn frame(&mut self, connection: &mut Connection) -> Result<Option<u64>, Failure> {
        let decoder = match &mut self.state {
            State::Length(rest) => return Ok(Some(*rest)),
            State::Chunked(decoder) => decoder,
        };
        loop {
            match decoder.state() {
                ChunkState::Data(available) => return Ok(Some(available)),
                ChunkState::Done => return Ok(Some(0)),
                ChunkState::NeedLine if connection.inbox().is_empty() => return Ok(None),
                ChunkState::NeedLine => {
                    let used = decoder.feed(connection.inbox())?;
                    connection.consume(used);
                }
            }
        }
    }
}

/// Takes what the connection has already.
fn take_waiting(connection: &mut Connection, buffer: &mut Buffer, room: usize) -> usize {
    let waiting = connection.inbox();
    let taken = waiting.len().min(room);
    buffer.extend(&waiting[..taken]);
    connection.consume(taken);
    taken
}
