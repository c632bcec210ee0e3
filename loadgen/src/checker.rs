//! Whether the bytes of an answer are those of the data set.
//!
//! The first bytes tell which generation of the object it is; from then on every byte must be of that generation. So an answer that mixes
//! two generations is corrupt, and one that is whole but older than what was acknowledged before the request is stale. Answers shorter
//! than [`TELLING`] bytes cannot tell, and are compared with generation 0.

use crate::exchange::Failure;
use crate::payload::{Payload, TELLING};

/// Checks one body, piece by piece.
#[derive(Clone, Debug)]
pub(crate) struct Checker {
    prepared: Payload,
    /// The oldest generation that will do.
    oldest: u64,
    start: u64,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// The first bytes, too few to tell.
    Unknown {
        first: [u8; TELLING],
        len: usize,
    },
    Known(Payload),
}

impl Checker {
    /// For a body that begins at `start` in the object whose generation 0 is `prepared`.
    pub(crate) fn new(prepared: Payload, oldest: u64, start: u64) -> Self {
        Self { prepared, oldest, start, state: State::Unknown { first: [0; TELLING], len: 0 } }
    }

    /// Checks the piece that stands `at` bytes behind the body's beginning.
    pub(crate) fn check(&mut self, at: u64, piece: &[u8]) -> Result<(), Failure> {
        let mut rest = piece;
        let mut offset = self.start + at;
        if let State::Unknown { first, len } = &mut self.state {
            let (head, tail) = piece.split_at(piece.len().min(TELLING - *len));
            first[*len..*len + head.len()].copy_from_slice(head);
            *len += head.len();
            if *len < TELLING {
                return Ok(());
            }
            let first = *first;
            let payload = self.tell(&first)?;
            matches(payload, self.start, &first)?;
            self.state = State::Known(payload);
            offset += head.len() as u64;
            rest = tail;
        }
        let State::Known(payload) = self.state else { return Ok(()) };
        matches(payload, offset, rest)
    }

    /// The body is complete.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        match &self.state {
            State::Unknown { first, len } => matches(self.prepared, self.start, &first[..*len]),
            State::Known(_) => Ok(()),
        }
    }

    fn tell(&self, first: &[u8]) -> Result<Payload, Failure> {
        match self.prepared.generation_of(self.start, first) {
            None => Err(Failure::Corrupt),
            Some(generation) if generation < self.oldest => Err(Failure::Stale),
            Some(generation) => Ok(self.prepared.generation(generation)),
        }
    }
}

fn matches(payload: Payload, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
    if payload.matches(offset, bytes) { Ok(()) } else { Err(Failure::Corrupt) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(generation: u64, start: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Payload::new(1, 1).generation(generation).fill(start, &mut bytes);
        bytes
    }

    fn verdict(oldest: u64, start: u64, body: &[u8], step: usize) -> Result<(), Failure> {
        let mut checker = Checker::new(Payload::new(1, 1), oldest, start);
        let mut at = 0;
        for piece in body.chunks(step) {
            checker.check(at, piece)?;
            at += piece.len() as u64;
        }
        checker.finish()
    }

    #[test]
    fn right_bytes_pass_at_any_offset_however_they_are_cut() {
        for start in 0..17 {
            for len in [0, 1, 7, 14, 15, 16, 100] {
                for step in [1, 3, 14, 15, 16, 100] {
                    assert_eq!(
                        verdict(0, start, &bytes(0, start, len), step),
                        Ok(()),
                        "{start} {len} {step}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_wrong_bit_is_found_wherever_it_is() {
        for start in 0..9 {
            for len in [1, 14, 15, 40] {
                for wrong in 0..len {
                    for bit in [0, 6] {
                        let mut body = bytes(0, start, len);
                        body[wrong] ^= 1 << bit;
                        let found = verdict(0, start, &body, 11);
                        assert_eq!(found, Err(Failure::Corrupt), "{start} {len} {wrong}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_newer_generation_is_right_and_an_older_one_stale() {
        assert_eq!(verdict(5, 3, &bytes(5, 3, 100), 7), Ok(()));
        assert_eq!(verdict(5, 3, &bytes(6, 3, 100), 7), Ok(()));
        assert_eq!(verdict(5, 3, &bytes(4, 3, 100), 7), Err(Failure::Stale));
    }

    #[test]
    fn two_generations_in_one_answer_are_corrupt() {
        let mixed = [bytes(1, 0, 64), bytes(2, 64, 64)].concat();
        assert_eq!(verdict(0, 0, &mixed, 128), Err(Failure::Corrupt));
    }
}
