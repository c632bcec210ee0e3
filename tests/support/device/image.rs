//! The blocks of a device: pages that were never written are zeroes and take no memory, and copies share pages.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};

pub const PAGE: usize = 4096;

/// All pages of zeroes are this one.
static ZEROES: LazyLock<Arc<[u8; PAGE]>> = LazyLock::new(|| Arc::new([0; PAGE]));

/// Bytes for a place on a device, cut at pages so that images and logs share them.
#[derive(Debug, Clone)]
pub enum Bytes {
    Page(Arc<[u8; PAGE]>),
    /// Less than a page.
    Part(Vec<u8>),
}

/// What one write puts into one page.
#[derive(Debug, Clone)]
pub struct Piece {
    pub offset: u64,
    pub bytes: Bytes,
}

impl Piece {
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Page(page) => &page[..],
            Bytes::Part(part) => part,
        }
    }

    /// Bytes of memory that it takes.
    pub fn weight(&self) -> u64 {
        match &self.bytes {
            Bytes::Page(page) if Arc::ptr_eq(page, &ZEROES) => 0,
            _ => self.bytes().len() as u64,
        }
    }

    /// A part of it, for a write that was torn.
    pub fn slice(&self, from: usize, to: usize) -> Self {
        Self { offset: self.offset + from as u64, bytes: Bytes::Part(self.bytes()[from..to].to_vec()) }
    }
}

/// Cuts a write at pages.
pub fn pieces(offset: u64, data: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(data.len() / PAGE + 2);
    let mut done = 0;
    while done < data.len() {
        let at = offset + done as u64;
        let len = (PAGE - at as usize % PAGE).min(data.len() - done);
        let part = &data[done..done + len];
        let bytes = match <&[u8; PAGE]>::try_from(part) {
            Ok([0, .., 0]) if part.iter().all(|byte| *byte == 0) => Bytes::Page(Arc::clone(&ZEROES)),
            Ok(page) => Bytes::Page(Arc::new(*page)),
            Err(_) => Bytes::Part(part.to_vec()),
        };
        pieces.push(Piece { offset: at, bytes });
        done += len;
    }
    pieces
}

/// As many zeroes.
pub fn zeroes(offset: u64, len: u64) -> Vec<Piece> {
    let (mut at, end) = (offset, offset + len);
    let mut pieces = Vec::new();
    while at < end {
        let len = (PAGE - at as usize % PAGE).min((end - at) as usize);
        let bytes = if len == PAGE { Bytes::Page(Arc::clone(&ZEROES)) } else { Bytes::Part(vec![0; len]) };
        pieces.push(Piece { offset: at, bytes });
        at += len as u64;
    }
    pieces
}

#[derive(Debug, Clone, Default)]
pub struct Image {
    pages: HashMap<u64, Arc<[u8; PAGE]>>,
}

impl Image {
    /// The bytes of a file, which may be sparse.
    pub fn load(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut image = Self::default();
        let mut at = 0;
        while at < len {
            let Some((from, to)) = next_data(&file, at, len)? else { break };
            let mut block = vec![0; PAGE];
            for offset in (from / PAGE as u64 * PAGE as u64..to).step_by(PAGE) {
                let have = PAGE.min((len - offset) as usize);
                file.read_exact_at(&mut block[..have], offset)?;
                if block[..have].iter().any(|byte| *byte != 0) {
                    pieces(offset, &block[..have]).iter().for_each(|piece| image.put(piece));
                }
            }
            at = to;
        }
        Ok(image)
    }

    pub fn put(&mut self, piece: &Piece) {
        let (number, within) = (piece.offset / PAGE as u64, piece.offset as usize % PAGE);
        match &piece.bytes {
            Bytes::Page(page) => {
                self.pages.insert(number, Arc::clone(page));
            }
            Bytes::Part(part) => {
                let page = self.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(page)[within..within + part.len()].copy_from_slice(part);
            }
        }
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = at as usize % PAGE;
            let part = (PAGE - within).min(len - done);
            if let Some(page) = self.pages.get(&(at / PAGE as u64)) {
                out[done..done + part].copy_from_slice(&page[within..within + part]);
            }
            done += part;
        }
        out
    }
}

/// The next range at or after `at` that is no hole.
fn next_data(file: &File, at: u64, len: u64) -> std::io::Result<Option<(u64, u64)>> {
    use rustix::fs::SeekFrom;
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(from) => Ok(Some((from, rustix::fs::seek(file, SeekFrom::Hole(from))?))),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        // A file system that knows of no holes.
        Err(rustix::io::Errno::INVAL) => Ok(Some((at, len))),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn an_image_reads_what_was_put_and_copies_stay_apart() {
    let mut image = Image::default();
    pieces(1000, &[7; 9000]).iter().for_each(|piece| image.put(piece));
    let copy = image.clone();
    pieces(4096, &[9; 4096]).iter().for_each(|piece| image.put(piece));
    zeroes(1000, 10).iter().for_each(|piece| image.put(piece));
    let mut expected = vec![0; 12_000];
    expected[1000..10_000].fill(7);
    assert!(copy.read(0, 12_000) == expected);
    expected[4096..8192].fill(9);
    expected[1000..1010].fill(0);
    assert!(image.read(0, 12_000) == expected);
    assert!(image.read(5000, 4000) == expected[5000..9000]);
}
