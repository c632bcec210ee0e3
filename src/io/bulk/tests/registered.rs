//! Registered memory: charged once for all rings, refused clearly, and never needed.

use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::support::{Tracked, pattern, runtime, skipped};
use crate::io::buffer::Buffer;
use crate::io::bulk::registry::{Refused, Registry};
use crate::io::bulk::socket::Descriptor;
use crate::io::bulk::{Bulk, Counts};
use crate::io::send_mode::Mode;

const MIB: usize = 1 << 20;

/// Runs a test in a thread that may lock no more than `limit`.
fn with_limit(limit: usize, test: impl FnOnce() + Send + 'static) {
    let run = move || {
        if let Ok(mut sets) = capabilities(None) {
            sets.effective.remove(CapabilitySet::IPC_LOCK);
            set_capabilities(None, sets).unwrap();
        }
        let maximum = getrlimit(Resource::Memlock).maximum;
        let limit = limit as u64;
        if maximum.is_some_and(|maximum| maximum < limit) {
            let raised = Rlimit { current: Some(limit), maximum: Some(limit) };
            if setrlimit(Resource::Memlock, raised).is_err() {
                skipped(&format!("{limit} bytes may not be locked here"));
                return;
            }
        } else {
            setrlimit(Resource::Memlock, Rlimit { current: Some(limit), maximum }).unwrap();
        }
        test();
    };
    std::thread::spawn(run).join().unwrap();
}

/// Both tests set the limit of the process, so they are one.
#[test]
fn memory_is_charged_once_for_all_rings_and_a_limit_that_is_too_low_is_named() {
    // Three buffers, and the rings themselves.
    let limit = 7 * MIB;
    with_limit(limit, move || {
        let refused = Registry::new(limit as u64 + 1).err().unwrap();
        assert!(matches!(refused, Refused::Limit { .. }));
        let line = refused.to_string();
        for part in ["7 MiB may be locked", "8 MiB are needed", "LimitMEMLOCK=", "ulimit -l"] {
            assert!(line.contains(part) && !line.contains('\n'), "{line}");
        }

        let demanded = Registry::for_sending(Mode::ZeroCopy, false, limit as u64 + 1).err().unwrap();
        assert!(demanded.contains("network.send") && demanded.contains("ulimit -l"), "{demanded}");
        assert!(Registry::for_sending(Mode::Auto, false, limit as u64 + 1).is_ok(), "goes without");

        let registry = Arc::new(Registry::for_sending(Mode::ZeroCopy, false, limit as u64).unwrap());
        let add = |buffer: &mut Buffer| {
            #[expect(unsafe_code, reason = "registered memory")]
            // SAFETY: nobody names it after the buffer has gone.
            unsafe {
                registry.add(buffer.as_mut_ptr(), buffer.capacity())
            }
        };
        let mut buffers: Vec<Buffer> = (0..4).map(|_| Buffer::new(2 * MIB)).collect();
        for buffer in &mut buffers {
            buffer.set_len(2 * MIB);
        }
        let indices: Vec<Option<u16>> = buffers.iter_mut().map(add).collect();
        assert_eq!(indices, [Some(0), Some(1), Some(2), None], "the fourth is over the limit");

        // Were it charged to each ring, the second ring could not have it.
        let bytes = pattern(2 * MIB);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let file = Rc::new(file);
        let mut spare = buffers.into_iter();
        for (ring, index) in indices.into_iter().enumerate().take(3) {
            let buffer = spare.next().unwrap();
            runtime(async || {
                let bulk = Bulk::start(&registry, Counts::default()).unwrap();
                let (memory, _) = Tracked::over(buffer, index);
                let (read, memory) = bulk.read(&Descriptor::of(&file), memory, 0..2 * MIB, 0).await;
                assert_eq!(read.unwrap(), 2 * MIB, "ring {ring}");
                assert!(memory.bytes() == bytes);
                assert_eq!(bulk.registered(), 3);
            });
        }
        // What is not registered is read into all the same.
        runtime(async || {
            let bulk = Bulk::start(&registry, Counts::default()).unwrap();
            let (memory, _) = Tracked::over(spare.next().unwrap(), Some(999));
            let (read, memory) = bulk.read(&Descriptor::of(&file), memory, 0..2 * MIB, 0).await;
            assert_eq!(read.unwrap(), 2 * MIB);
            assert!(memory.bytes() == bytes);
        });
    });
}
