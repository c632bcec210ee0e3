//! Reads and writes of files.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::rc::Rc;
use std::sync::Arc;

use super::support::{pattern, until, with_ring};
use crate::io::buffer::Buffer;
use crate::io::bulk::socket::Descriptor;

const KIB: usize = 1 << 10;

#[test]
fn a_direct_file_is_written_and_read_in_one_region_and_in_several() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = dir.path().join("file");
    let open =
        OpenOptions::new().read(true).write(true).create_new(true).custom_flags(libc::O_DIRECT).open(&path);
    let file = Arc::new(open.unwrap());
    let bytes = pattern(256 * KIB);
    with_ring(async |bulk| {
        let descriptor = Descriptor::of_shared(&file);
        let mut from = Vec::new();
        for half in bytes.chunks(128 * KIB) {
            let mut buffer = Buffer::new(half.len());
            buffer.extend(half);
            from.push(buffer);
        }
        let from = Rc::new(from);
        assert_eq!(bulk.write(&descriptor, &from, 0..128 * KIB, 0).await.unwrap(), 128 * KIB);
        assert_eq!(bulk.write(&descriptor, &from, 64 * KIB..256 * KIB, 64 << 10).await.unwrap(), 192 * KIB);
        assert!(std::fs::read(&path).unwrap() == bytes);

        let (read, mut whole) = bulk.read(&descriptor, Buffer::new(256 * KIB), 0..256 * KIB, 0).await;
        whole.set_len(read.unwrap());
        assert!(*whole == *bytes);
        let into = vec![Buffer::new(64 * KIB), Buffer::new(64 * KIB)];
        let (read, mut into) = bulk.read(&descriptor, into, 4 * KIB..128 * KIB, 8 << 10).await;
        assert_eq!(read.unwrap(), 124 * KIB);
        for part in &mut into {
            part.set_len(64 * KIB);
        }
        assert!(into[0][4 * KIB..] == bytes[8 * KIB..68 * KIB] && *into[1] == bytes[68 * KIB..132 * KIB]);
        let (read, _) = bulk.read(&descriptor, Buffer::new(64 * KIB), 0..64 * KIB, 252 << 10).await;
        assert_eq!(read.unwrap(), 4 * KIB, "up to the end");
        let (read, _) = bulk.read(&descriptor, Buffer::new(64 * KIB), 0..64 * KIB, 1).await;
        assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EINVAL), "a wrong alignment is an error");
    });
}

#[test]
fn an_entry_that_is_queued_never_reaches_another_file_of_the_same_number() {
    with_ring(async |bulk| {
        let (mut first_out, first) = std::io::pipe().unwrap();
        let first = Rc::new(first);
        let from = Rc::new(b"for the first".to_vec());
        let descriptor = Descriptor::of(&first);
        let mut write = Box::pin(bulk.write(&descriptor, &from, 0..13, 0));
        assert!(poll_once(write.as_mut()).is_pending(), "queued, not yet handed over");
        drop(write);
        drop((descriptor, first, from));
        let others: Vec<_> = (0..8).map(|_| std::io::pipe().unwrap()).collect();
        until("the write", || bulk.depth() == 0).await;
        let mut received = String::new();
        first_out.read_to_string(&mut received).unwrap();
        assert_eq!(received, "for the first");
        for (mut out, end) in others {
            drop(end);
            assert_eq!(out.read(&mut [0; 100]).unwrap(), 0);
        }
    });
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}
