//! Regions made into entries: which operation of the kernel carries what.

use std::os::fd::RawFd;

use io_uring::squeue::Entry;
use io_uring::{opcode, types::Fd};

use super::memory::Region;

/// All of it, and an error instead of a signal.
const WHOLE: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
/// Asks that a notification says whether the kernel copied (`IORING_SEND_ZC_REPORT_USAGE`).
const REPORT_USAGE: u16 = 1 << 3;

/// The gather list of an entry, and the header that points to it; it stays until the operation ends.
pub(super) struct Message {
    header: libc::msghdr,
    vectors: Vec<libc::iovec>,
}

impl Message {
    pub(super) fn header(&self) -> *const libc::msghdr {
        &raw const self.header
    }

    #[expect(clippy::unnecessary_box_returns, reason = "the kernel is given its address")]
    pub(super) fn new(regions: &[Region]) -> Box<Self> {
        let mut vectors: Vec<libc::iovec> = regions.iter().map(|region| region.iovec()).collect();
        #[expect(unsafe_code, reason = "a struct of C")]
        // SAFETY: all zeros is an empty header: no name, no list, no control data.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = vectors.as_mut_ptr();
        header.msg_iovlen = vectors.len();
        Box::new(Self { header, vectors })
    }
}

/// Entries linked to one another, and what they need beside the regions.
pub(super) struct Entries {
    pub(super) chain: Vec<Entry>,
    pub(super) message: Option<Box<Message>>,
    /// Bytes that are sent from our memory.
    pub(super) zero_copy: usize,
}

impl Entries {
    fn one(entry: Entry, message: Option<Box<Message>>) -> Self {
        Self { chain: vec![entry], message, zero_copy: 0 }
    }
}

/// One send of all regions, copied.
pub(super) fn send(fd: RawFd, regions: &[Region]) -> Entries {
    if let [region] = regions {
        let entry = opcode::Send::new(Fd(fd), region.start, region.len as u32).flags(WHOLE).build();
        return Entries::one(entry, None);
    }
    let message = Message::new(regions);
    let entry = opcode::SendMsg::new(Fd(fd), message.header()).flags(WHOLE as u32).build();
    Entries::one(entry, Some(message))
}

/// One send for each region, registered ones zero-copy: a single one can name one registered buffer only.
pub(super) fn send_zero_copy(fd: RawFd, regions: &[Region]) -> Entries {
    let mut zero_copy = 0;
    let chain = regions.iter().enumerate().map(|(i, region)| {
        let flags = if i + 1 < regions.len() { WHOLE | libc::MSG_MORE } else { WHOLE };
        let len = region.len as u32;
        if region.index.is_none() {
            return opcode::Send::new(Fd(fd), region.start, len).flags(flags).build();
        }
        zero_copy += region.len;
        opcode::SendZc::new(Fd(fd), region.start, len)
            .buf_index(region.index)
            .flags(flags)
            .zc_flags(REPORT_USAGE)
            .build()
    });
    let chain = chain.collect();
    Entries { chain, message: None, zero_copy }
}

/// One receive into all regions.
pub(super) fn recv(fd: RawFd, regions: &[Region]) -> Entries {
    if let [region] = regions {
        let entry = opcode::Recv::new(Fd(fd), region.start, region.len as u32).flags(libc::MSG_WAITALL);
        return Entries::one(entry.build(), None);
    }
    let mut message = Message::new(regions);
    let entry = opcode::RecvMsg::new(Fd(fd), &raw mut message.header).flags(libc::MSG_WAITALL as u32).build();
    Entries::one(entry, Some(message))
}

/// One read into all regions.
pub(super) fn read(fd: RawFd, regions: &[Region], offset: u64) -> Entries {
    let fd = Fd(fd);
    match regions {
        [Region { start, len, index: Some(index) }] => {
            let entry = opcode::ReadFixed::new(fd, *start, *len as u32, *index).offset(offset).build();
            Entries::one(entry, None)
        }
        [Region { start, len, index: None }] => {
            Entries::one(opcode::Read::new(fd, *start, *len as u32).offset(offset).build(), None)
        }
        _ => {
            let message = Message::new(regions);
            let (list, count) = (message.vectors.as_ptr(), message.vectors.len() as u32);
            Entries::one(opcode::Readv::new(fd, list, count).offset(offset).build(), Some(message))
        }
    }
}

/// One write of all regions.
pub(super) fn write(fd: RawFd, regions: &[Region], offset: u64) -> Entries {
    let fd = Fd(fd);
    match regions {
        [Region { start, len, index: Some(index) }] => {
            let entry = opcode::WriteFixed::new(fd, *start, *len as u32, *index).offset(offset).build();
            Entries::one(entry, None)
        }
        [Region { start, len, index: None }] => {
            Entries::one(opcode::Write::new(fd, *start, *len as u32).offset(offset).build(), None)
        }
        _ => {
            let message = Message::new(regions);
            let (list, count) = (message.vectors.as_ptr(), message.vectors.len() as u32);
            Entries::one(opcode::Writev::new(fd, list, count).offset(offset).build(), Some(message))
        }
    }
}
