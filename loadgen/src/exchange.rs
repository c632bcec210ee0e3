//! One request and its response, without a socket: bytes in, progress or a failure out.
//!
//! The connection feeds what arrives. Once the head is known and the body has a length, the bytes need not be looked at unless they are
//! to be verified: [`Exchange::unseen`] says how many may be thrown away inside the kernel. An answer that is not the one asked for
//! (status, range, length, content) is a [`Failure`], found out before anything is counted as done.

use crate::checker::Checker;
use crate::chunked::Decoder;
use crate::failure::Failure;
use crate::head::{self, Framing, Head};
use crate::payload::Payload;
use crate::plan::{Action, Job};
use std::io::Write as _;
use std::time::Instant;

/// The bytes of a request's body, or of its answer's.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Whatever comes back is thrown away.
    Ignored,
    /// Whatever comes back is thrown away after it was copied into memory.
    Copied,
    /// Every byte that comes back is checked.
    Checked(Checker),
    /// These bytes are sent.
    Sent(Payload),
}

/// How far a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    More,
    /// The response is complete; the connection may be used again if `keep_alive`.
    Done {
        keep_alive: bool,
    },
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) job: Job,
    pub(crate) started: Instant,
    /// When the first byte of the response came.
    pub(crate) first_byte: Option<Instant>,
    content: Content,
    /// Head bytes so far, while the head is not complete.
    partial_head: Vec<u8>,
    response: Option<Response>,
}

#[derive(Debug)]
struct Response {
    head: Head,
    body: Body,
    /// Body bytes so far.
    received: u64,
    /// Set when the answer is known to be wrong while its body still has to be read.
    failure: Option<Failure>,
}

#[derive(Debug)]
enum Body {
    Length { left: u64 },
    Chunked(Decoder),
    UntilClose,
}

impl Exchange {
    /// Begins `job`, which counts from `started`.
    pub(crate) fn new(job: Job, content: Content, started: Instant) -> Self {
        Self { job, started, first_byte: None, content, partial_head: Vec::new(), response: None }
    }

    /// Appends the head of the request for `path` to `out`.
    pub(crate) fn write_request(&self, authority: &str, path: &[u8], out: &mut Vec<u8>) {
        let method: &[u8] = if matches!(self.job.action, Action::Put { .. }) { b"PUT " } else { b"GET " };
        out.extend_from_slice(method);
        out.extend_from_slice(path);
        // Writing to a Vec cannot fail.
        drop(write!(out, " HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: loadgen\r\n"));
        match self.job.action {
            Action::GetRange { start, len } => {
                drop(write!(out, "Range: bytes={start}-{}\r\n", start + len - 1));
            }
            Action::GetWhole { .. } => {}
            Action::Put { size, .. } => drop(write!(out, "Content-Length: {size}\r\n")),
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Whether the useful bytes are those of the response.
    pub(crate) fn is_read(&self) -> bool {
        !matches!(self.job.action, Action::Put { .. })
    }

    /// The bytes of the request's body.
    pub(crate) fn body_len(&self) -> u64 {
        if let Action::Put { size, .. } = self.job.action { size } else { 0 }
    }

    /// Fills `out` with the request's body from `offset` on.
    pub(crate) fn fill_body(&self, offset: u64, out: &mut [u8]) {
        if let Content::Sent(payload) = self.content {
            payload.fill(offset, out);
        }
    }

    /// Whether any byte of the response has come.
    pub(crate) fn has_begun(&self) -> bool {
        self.first_byte.is_some()
    }

    /// Whether the head has come and its status is the one asked for, so that body bytes are useful bytes.
    pub(crate) fn is_good(&self) -> bool {
        self.response.as_ref().is_some_and(|response| response.failure.is_none())
    }

    /// How many of the next bytes may be thrown away unseen; 0 if they must be fed.
    pub(crate) fn unseen(&self) -> u64 {
        match &self.response {
            Some(Response { body: Body::Length { left }, failure, .. })
                if !matches!(self.content, Content::Checked(_) | Content::Copied) || failure.is_some() =>
            {
                *left
            }
            _ => 0,
        }
    }

    /// How many more bytes are certain to come; 0 if that is not known.
    pub(crate) fn left(&self) -> u64 {
        match &self.response {
            Some(Response { body: Body::Length { left }, .. }) => *left,
            _ => 0,
        }
    }

    /// Notes that `count` bytes, at most [`Exchange::unseen`], were thrown away.
    pub(crate) fn skip(&mut self, count: u64) -> Result<Progress, Failure> {
        let Some(response) = &mut self.response else { return Err(Failure::BadBody) };
        let Body::Length { left } = &mut response.body else { return Err(Failure::BadBody) };
        *left = left.checked_sub(count).ok_or(Failure::BadBody)?;
        response.received += count;
        self.progress()
    }

    /// Takes `bytes` as they came: the progress, and how many of them were body.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(Progress, u64), Failure> {
        let before = self.received();
        let mut rest = bytes;
        while self.response.is_none() {
            if rest.is_empty() {
                return Ok((Progress::More, 0));
            }
            rest = self.feed_head(rest)?;
        }
        self.feed_body(rest)?;
        Ok((self.progress()?, self.received() - before))
    }

    /// The peer has closed: right only for a body without any other end.
    pub(crate) fn close(&mut self) -> Result<Progress, Failure> {
        match &self.response {
            Some(Response { body: Body::UntilClose, .. }) => self.finish(),
            Some(_) => Err(Failure::ShortBody),
            None => Err(Failure::Closed),
        }
    }

    /// Takes a head off the front of `bytes` and returns what follows it; interim (1xx) heads are passed over.
    fn feed_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Failure> {
        let earlier = self.partial_head.len();
        let parsed = if earlier == 0 {
            head::parse(bytes)
        } else {
            self.partial_head.extend_from_slice(bytes);
            head::parse(&self.partial_head)
        };
        let Some((head, len)) = parsed.map_err(|_| Failure::BadHead)? else {
            if earlier == 0 {
                self.partial_head.extend_from_slice(bytes);
            }
            return Ok(&[]);
        };
        self.partial_head.clear();
        if head.status >= 200 {
            self.response = Some(self.begin(head));
        } else if head.status == 101 {
            return Err(Failure::Status(head.status));
        }
        Ok(&bytes[len - earlier..])
    }

    /// Checks a final head against what was asked for.
    fn begin(&self, head: Head) -> Response {
        let expected = match self.job.action {
            Action::GetRange { .. } => head.status == 206,
            Action::GetWhole { .. } => head.status == 200,
            Action::Put { .. } => matches!(head.status, 200 | 201 | 204),
        };
        let mut failure = (!expected).then_some(Failure::Status(head.status));
        if expected {
            if let Action::GetRange { start, len } = self.job.action {
                let right = head
                    .content_range
                    .is_some_and(|range| range.first == start && range.last == start + len - 1);
                failure = (!right).then_some(Failure::WrongRange);
            }
            if let (Framing::Length(length), Some(wanted)) = (head.framing, self.wanted())
                && length != wanted
            {
                failure = Some(Failure::WrongLength);
            }
        }
        let body = match head.framing {
            Framing::Length(left) => Body::Length { left },
            Framing::Chunked => Body::Chunked(Decoder::new()),
            Framing::UntilClose => Body::UntilClose,
        };
        Response { head, body, received: 0, failure }
    }

    fn feed_body(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Some(response) = &mut self.response else { return Ok(()) };
        let mut check = |received: &mut u64, data: &[u8]| {
            if let Content::Checked(checker) = &mut self.content
                && response.failure.is_none()
            {
                response.failure = checker.check(*received, data).err();
            }
            *received += data.len() as u64;
        };
        match &mut response.body {
            Body::Length { left } => {
                *left = left.checked_sub(bytes.len() as u64).ok_or(Failure::BadBody)?;
                check(&mut response.received, bytes);
            }
            Body::UntilClose => check(&mut response.received, bytes),
            Body::Chunked(decoder) => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    if decoder.is_done() {
                        return Err(Failure::BadBody);
                    }
                    let (data, used) = decoder.next(rest).map_err(|_| Failure::BadBody)?;
                    check(&mut response.received, data);
                    rest = &rest[used..];
                }
            }
        }
        Ok(())
    }

    fn progress(&self) -> Result<Progress, Failure> {
        let done = match self.response.as_ref().map(|response| &response.body) {
            Some(Body::Length { left }) => *left == 0,
            Some(Body::Chunked(decoder)) => decoder.is_done(),
            Some(Body::UntilClose) | None => false,
        };
        if done { self.finish() } else { Ok(Progress::More) }
    }

    fn finish(&self) -> Result<Progress, Failure> {
        let Some(response) = &self.response else { return Err(Failure::Closed) };
        match response.failure {
            Some(failure) => Err(failure),
            None if self.wanted().is_some_and(|wanted| wanted != response.received) => {
                Err(Failure::WrongLength)
            }
            None => {
                if let Content::Checked(checker) = &self.content {
                    checker.finish()?;
                }
                Ok(Progress::Done { keep_alive: response.head.keep_alive })
            }
        }
    }

    /// The length the response's body must have, where it is known.
    pub(crate) fn wanted(&self) -> Option<u64> {
        match self.job.action {
            Action::GetRange { len, .. } => Some(len),
            Action::GetWhole { size } => size,
            Action::Put { .. } => None,
        }
    }

    fn received(&self) -> u64 {
        self.response.as_ref().map_or(0, |response| response.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD_SEED: u64 = 9;

    fn exchange(action: Action, verify: bool) -> Exchange {
        let job = Job { operation: 0, object: 4, action };
        let start = if let Action::GetRange { start, .. } = action { start } else { 0 };
        let payload = Payload::new(PAYLOAD_SEED, 4);
        let content = match action {
            Action::Put { .. } => Content::Sent(payload),
            _ if verify => Content::Checked(Checker::new(payload, 0, start)),
            _ => Content::Ignored,
        };
        Exchange::new(job, content, Instant::now())
    }

    fn body(start: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Payload::new(PAYLOAD_SEED, 4).fill(start, &mut bytes);
        bytes
    }

    fn partial(start: u64, len: usize) -> Vec<u8> {
        let last = start + len as u64 - 1;
        let mut bytes = format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{last}/1000\r\nContent-Length: {len}\r\n\r\n").into_bytes();
        bytes.extend(body(start, len));
        bytes
    }

    const RANGE: Action = Action::GetRange { start: 100, len: 50 };
    const DONE: Progress = Progress::Done { keep_alive: true };

    #[test]
    fn a_request_names_its_range_or_its_length() {
        let mut out = Vec::new();
        exchange(RANGE, false).write_request("h:1", b"/o", &mut out);
        assert_eq!(
            out,
            b"GET /o HTTP/1.1\r\nHost: h:1\r\nUser-Agent: loadgen\r\nRange: bytes=100-149\r\n\r\n"
        );
        out.clear();
        exchange(Action::Put { size: 7, overwrites: false }, false).write_request("h:1", b"/o", &mut out);
        assert_eq!(out, b"PUT /o HTTP/1.1\r\nHost: h:1\r\nUser-Agent: loadgen\r\nContent-Length: 7\r\n\r\n");
    }

    #[test]
    fn a_range_is_done_however_it_is_cut() {
        let bytes = [b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), partial(100, 50)].concat();
        for step in 1..=bytes.len() {
            let mut exchange = exchange(RANGE, true);
            let (mut last, mut counted) = (Progress::More, 0);
            for piece in bytes.chunks(step) {
                let (progress, data) = exchange.feed(piece).unwrap();
                counted += data;
                last = progress;
            }
            assert_eq!((last, counted), (DONE, 50), "cut every {step}");
        }
    }

    #[test]
    fn bytes_may_go_unseen_only_when_nobody_verifies() {
        let bytes = partial(100, 50);
        let head = bytes.len() - 50;
        let mut blind = exchange(RANGE, false);
        assert_eq!(blind.unseen(), 0);
        blind.feed(&bytes[..head + 10]).unwrap();
        assert_eq!(blind.unseen(), 40);
        assert_eq!(blind.skip(39), Ok(Progress::More));
        assert_eq!(blind.skip(1), Ok(DONE));
        assert_eq!(blind.skip(1), Err(Failure::BadBody));

        let mut careful = exchange(RANGE, true);
        careful.feed(&bytes[..head + 10]).unwrap();
        assert_eq!(careful.unseen(), 0);
    }

    #[test]
    fn a_client_that_copies_is_fed_every_byte() {
        let bytes = partial(100, 50);
        let head = bytes.len() - 50;
        let mut copies = exchange(RANGE, false);
        copies.content = Content::Copied;
        copies.feed(&bytes[..head + 10]).unwrap();
        assert_eq!(copies.unseen(), 0, "nothing is left to the kernel");
        assert_eq!(copies.feed(&bytes[head + 10..]), Ok((DONE, 40)));
    }

    #[test]
    fn one_wrong_byte_is_corrupt() {
        let mut bytes = partial(100, 50);
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(exchange(RANGE, true).feed(&bytes), Err(Failure::Corrupt));
        assert_eq!(exchange(RANGE, false).feed(&bytes), Ok((DONE, 50)), "not asked to look");
    }

    #[test]
    fn another_range_or_length_than_asked_for_is_a_failure() {
        assert_eq!(exchange(RANGE, false).feed(&partial(101, 50)), Err(Failure::WrongRange));
        assert_eq!(exchange(RANGE, false).feed(&partial(100, 49)), Err(Failure::WrongLength));
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(
            exchange(RANGE, false).feed(whole),
            Err(Failure::Status(200)),
            "a server that ignores Range"
        );
        assert_eq!(
            exchange(Action::GetWhole { size: Some(6) }, false).feed(whole),
            Err(Failure::WrongLength)
        );
        assert_eq!(exchange(Action::GetWhole { size: None }, false).feed(whole), Ok((DONE, 5)));
    }

    #[test]
    fn an_error_answer_is_named_after_its_body_was_read() {
        let mut exchange = exchange(RANGE, true);
        assert_eq!(
            exchange.feed(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbu"),
            Ok((Progress::More, 2))
        );
        assert!(!exchange.is_good());
        assert_eq!(exchange.feed(b"sy"), Err(Failure::Status(503)));
    }

    #[test]
    fn bodies_without_a_length_end_by_chunk_or_close() {
        let mut chunked = exchange(Action::GetWhole { size: Some(3) }, false);
        assert_eq!(
            chunked.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            Ok((DONE, 3))
        );
        let mut closing = exchange(Action::GetWhole { size: Some(3) }, false);
        assert_eq!(closing.feed(b"HTTP/1.1 200 OK\r\n\r\nabc"), Ok((Progress::More, 3)));
        assert_eq!(closing.close(), Ok(Progress::Done { keep_alive: false }));
        let mut short = exchange(Action::GetWhole { size: Some(3) }, false);
        short.feed(b"HTTP/1.1 200 OK\r\n\r\nab").unwrap();
        assert_eq!(short.close(), Err(Failure::WrongLength));
    }

    #[test]
    fn a_close_in_the_middle_and_bytes_behind_the_end_are_failures() {
        let mut cut = exchange(RANGE, false);
        cut.feed(&partial(100, 50)[..80]).unwrap();
        assert_eq!(cut.close(), Err(Failure::Closed), "in the head");
        let mut short = exchange(RANGE, false);
        short.feed(&partial(100, 49)[..partial(100, 49).len() - 9]).unwrap();
        assert_eq!(short.close(), Err(Failure::ShortBody));
        let excess = [partial(100, 50), b"x".to_vec()].concat();
        assert_eq!(exchange(RANGE, false).feed(&excess), Err(Failure::BadBody));
        assert_eq!(exchange(RANGE, false).feed(b"not HTTP at all"), Err(Failure::BadHead));
    }

    #[test]
    fn a_put_takes_created_ok_and_no_content() {
        for status in [200, 201, 204] {
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(
                exchange(Action::Put { size: 1, overwrites: false }, false).feed(answer.as_bytes()),
                Ok((DONE, 0))
            );
        }
        let refused = b"HTTP/1.1 507 Full\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(
            exchange(Action::Put { size: 1, overwrites: false }, false).feed(refused),
            Err(Failure::Status(507))
        );
    }
}
