//! A request's body: framing decoded, received straight into the buffer it will be written from.

use std::io;

use monoio::buf::IoBufMut as _;
use monoio::io::AsyncReadRent as _;

use super::connection::Connection;
use super::pace::{Pace, TooSlow};
use super::reply::Failure;
use crate::base::error::{Code, Error};
use crate::io::buffer::Buffer;
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
    pub(super) fn new(head: &Head) -> Self {
        let state = match head.framing {
            Framing::None => State::Length(0),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Box::default()),
        };
        Self { state, expected: head.expect_continue, pace: Pace::new() }
    }

    /// Whether all of it was received.
    pub(super) fn is_done(&self) -> bool {
        match &self.state {
            State::Length(rest) => *rest == 0,
            State::Chunked(decoder) => matches!(decoder.state(), ChunkState::Done),
        }
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

    /// Appends some bytes to `buffer`, at most `room`; none: the body is done.
    pub(super) async fn read(
        &mut self,
        connection: &mut Connection,
        buffer: Buffer,
        room: usize,
    ) -> Result<(usize, Buffer), Failure> {
        if self.expected {
            self.expected = false;
            if connection.inbox().is_empty() {
                connection.send(CONTINUE.to_vec()).await?;
            }
        }
        let available = match &mut self.state {
            State::Length(rest) => *rest,
            State::Chunked(decoder) => next_data(decoder, connection, &mut self.pace).await?,
        };
        let room = usize::try_from(available).unwrap_or(usize::MAX).min(room);
        if room == 0 {
            return Ok((0, buffer));
        }
        let (received, buffer) = receive(connection, buffer, room, &mut self.pace).await?;
        match &mut self.state {
            State::Length(rest) => *rest -= received as u64,
            State::Chunked(decoder) => decoder.consumed(received as u64),
        }
        self.pace.earn(received);
        Ok((received, buffer))
    }
}

/// Reads framing until data follows; 0: the body is done.
async fn next_data(
    decoder: &mut Decoder,
    connection: &mut Connection,
    pace: &mut Pace,
) -> Result<u64, Failure> {
    loop {
        match decoder.state() {
            ChunkState::Data(available) => return Ok(available),
            ChunkState::Done => return Ok(0),
            ChunkState::NeedLine => {
                if connection.inbox().is_empty() && pace.wait(connection.fill()).await?? == 0 {
                    return Err(Failure::Gone);
                }
                let used = decoder.feed(connection.inbox())?;
                connection.consume(used);
            }
        }
    }
}

/// Takes what the connection has already, else receives into the buffer itself.
async fn receive(
    connection: &mut Connection,
    mut buffer: Buffer,
    room: usize,
    pace: &mut Pace,
) -> Result<(usize, Buffer), Failure> {
    let waiting = connection.inbox();
    if !waiting.is_empty() {
        let n = waiting.len().min(room);
        buffer.extend(&waiting[..n]);
        connection.consume(n);
        return Ok((n, buffer));
    }
    let start = buffer.len();
    let (result, slice) = pace.wait(connection.stream().read(buffer.slice_mut(start..start + room))).await?;
    match result? {
        0 => Err(Failure::Gone),
        n => {
            let mut buffer = slice.into_inner();
            buffer.set_len(start + n);
            Ok((n, buffer))
        }
    }
}
