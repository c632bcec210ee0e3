//! What a device was asked for, in the order of all devices and of their clients, and what is left of it after a power cut.
//!
//! A moment is a number that the process which serves the devices gives out: each write and flush has one, and clients ask for
//! theirs ([`super::Rig::moment`]). A flush makes every write durable that came before it. A real disk promises that only of
//! writes that it had answered; here one write is answered before the next request is looked at, so that is the same.

use serde::{Deserialize, Serialize};

use super::image::{Bytes, Image, PAGE, Piece};
use super::support::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    Write { offset: u64, len: u64 },
    Flush,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub at: u64,
    pub what: What,
}

/// What becomes of the writes that no flush has covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loss {
    /// All are lost.
    All,
    /// None is lost.
    None,
    /// Those from some moment on are lost.
    Later,
    /// Of a thousand so many are kept, whole.
    Writes { kept: u64 },
    /// Of a thousand pieces of `size` bytes so many are kept, so writes are torn.
    Torn { kept: u64, size: usize },
}

#[derive(Debug)]
enum Entry {
    Write { len: u64, pieces: Vec<Piece> },
    Flush,
}

/// The log of one device, from an image on.
#[derive(Debug, Default)]
pub struct Log {
    start: Image,
    entries: Vec<(u64, Entry)>,
}

impl Log {
    pub fn from(start: Image) -> Self {
        Self { start, entries: Vec::new() }
    }

    pub fn write(&mut self, at: u64, pieces: &[Piece]) {
        let len = pieces.iter().map(|piece| piece.bytes().len() as u64).sum();
        self.entries.push((at, Entry::Write { len, pieces: pieces.to_vec() }));
    }

    pub fn flush(&mut self, at: u64) {
        self.entries.push((at, Entry::Flush));
    }

    pub fn events(&self) -> Vec<Event> {
        let what = |entry: &Entry| match entry {
            Entry::Write { len, pieces } => {
                What::Write { offset: pieces.first().map_or(0, |piece| piece.offset), len: *len }
            }
            Entry::Flush => What::Flush,
        };
        self.entries.iter().map(|(at, entry)| Event { at: *at, what: what(entry) }).collect()
    }

    /// What is on the device after the power went just before moment `at`.
    pub fn after_cut(&self, at: u64, loss: Loss, seed: u64) -> Image {
        let mut random = Random::new(seed);
        let happened = &self.entries[..self.entries.partition_point(|(moment, _)| *moment < at)];
        let flushed = happened.iter().rposition(|(_, entry)| matches!(entry, Entry::Flush)).unwrap_or(0);
        let mut image = self.start.clone();
        writes(&happened[..flushed]).flatten().for_each(|piece| image.put(piece));
        let open: Vec<&Vec<Piece>> = writes(&happened[flushed..]).collect();
        let until = match loss {
            Loss::Later => random.below(open.len() as u64 + 1) as usize,
            Loss::All => 0,
            _ => open.len(),
        };
        for pieces in &open[..until] {
            match loss {
                Loss::Writes { kept } if random.below(1000) >= kept => {}
                Loss::Torn { kept, size } => {
                    for piece in pieces.iter().flat_map(|piece| torn(piece, size)) {
                        if random.below(1000) < kept {
                            image.put(&piece);
                        }
                    }
                }
                _ => pieces.iter().for_each(|piece| image.put(piece)),
            }
        }
        image
    }
}

fn writes(entries: &[(u64, Entry)]) -> impl Iterator<Item = &Vec<Piece>> {
    entries.iter().filter_map(|(_, entry)| match entry {
        Entry::Write { pieces, .. } => Some(pieces),
        Entry::Flush => None,
    })
}

fn torn(piece: &Piece, size: usize) -> Vec<Piece> {
    if size >= PAGE && matches!(piece.bytes, Bytes::Page(_)) {
        return vec![piece.clone()];
    }
    let len = piece.bytes().len();
    (0..len).step_by(size).map(|from| piece.slice(from, (from + size).min(len))).collect()
}

#[test]
fn after_a_cut_what_was_flushed_is_there_and_of_the_rest_a_part() {
    use super::image::pieces;
    let mut log = Log::from(Image::default());
    log.write(1, &pieces(0, &[1; PAGE]));
    log.flush(2);
    for at in 3..103 {
        log.write(at, &pieces(at * PAGE as u64, &[2; PAGE]));
    }
    log.flush(103);
    log.write(104, &pieces(0, &[3; PAGE]));
    let page = |image: &Image, number: u64| {
        let bytes = image.read(number * PAGE as u64, PAGE);
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        bytes[0]
    };
    let kept = |at, loss| {
        let image = log.after_cut(at, loss, 7);
        (page(&image, 0), (3..103).filter(|number| page(&image, *number) == 2).count())
    };
    assert_eq!(kept(2, Loss::All), (0, 0));
    assert_eq!(kept(3, Loss::All), (1, 0));
    assert_eq!(kept(103, Loss::All), (1, 0));
    assert_eq!(kept(53, Loss::None), (1, 50));
    let (_, some) = kept(103, Loss::Writes { kept: 500 });
    assert!((30..70).contains(&some), "{some}");
    assert!(kept(103, Loss::Later).1 < 100);
    assert_eq!(kept(104, Loss::All), (1, 100));
    assert_eq!(kept(105, Loss::All), (1, 100));
    assert_eq!(kept(105, Loss::None), (3, 100));
}

#[test]
fn a_torn_write_is_there_in_pieces() {
    use super::image::pieces;
    let mut log = Log::from(Image::default());
    log.write(1, &pieces(0, &[1; 64 * PAGE]));
    for size in [512, PAGE] {
        let image = log.after_cut(2, Loss::Torn { kept: 500, size }, 3);
        let bytes = image.read(0, 64 * PAGE);
        let whole = bytes.chunks(size).all(|piece| piece.iter().all(|byte| *byte == piece[0]));
        let kept = bytes.chunks(size).filter(|piece| piece[0] == 1).count();
        let all = 64 * PAGE / size;
        assert!(whole && kept > all / 4 && kept < all * 3 / 4, "{kept} of {all} pieces of {size}");
    }
}
