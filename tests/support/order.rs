//! The order of a durable write, as rules over a trace: which steps must be over before which begin.
//!
//! A power cut may come between any two steps, and the kernel may put on disk early what nobody has asked it to sync. So the
//! bytes of a chunk are synced before they get their name; names are synced, up to the first directory that was there
//! before, ahead of the write that makes the row; and the row is synced before the client hears of it.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure in it is a failed test"
)]

use std::path::{Path, PathBuf};

use super::trace::{self, Step};

/// What an answer said was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Chunks in files, by name.
    PutFiles {
        blob_id: String,
        chunks: Vec<String>,
    },
    /// A chunk in the database, or none.
    PutInline,
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// How a report calls it.
    pub name: String,
    pub what: What,
    /// `<disk>/slots/<slot_id>`
    pub slot: PathBuf,
}

pub type Event = trace::Event<Deed>;

/// The steps between a request and its answer.
struct Window<'a> {
    /// All that was over before the answer, from the start of the trace.
    before: Vec<&'a Event>,
    asked: usize,
    answered: usize,
}

/// What breaks the order in which a durable write must happen; empty for a good trace.
pub fn violations(events: &[Event]) -> Vec<String> {
    let mut found = Vec::new();
    let mut asked = 0;
    let mut ordered: Vec<&Event> = events.iter().collect();
    ordered.sort_by_key(|event| event.done);
    for event in &ordered {
        match &event.step {
            Step::Asked => asked = event.done,
            Step::Answered(deed) => {
                let answered = event.begun;
                let before = ordered.iter().copied().filter(|step| step.done < answered).collect();
                let window = Window { before, asked, answered };
                found.extend(window.judge(deed).into_iter().map(|what| format!("{}: {what}", deed.name)));
            }
            _ => {}
        }
    }
    found
}

impl<'a> Window<'a> {
    fn judge(&self, deed: &Deed) -> Vec<String> {
        let mut found = Vec::new();
        let wal = deed.slot.join("meta.sqlite3-wal");
        // The commit counts from its last frame on.
        let frame = self.last(&wal, |step| *step == Step::Write).filter(|frame| frame.begun > self.asked);
        match frame {
            None => found.push(format!("nothing was written to {} for it", wal.display())),
            Some(frame) if self.synced(&wal, frame.done, self.answered) => {}
            Some(_) => {
                found.push(format!("{} was not synced between the commit and the answer", wal.display()))
            }
        }
        let commit = frame.map_or(self.answered, |frame| frame.begun);
        if let What::PutFiles { blob_id, chunks } = &deed.what {
            let blob = deed.slot.join("blobs").join(blob_id);
            for chunk in chunks {
                self.judge_chunk(&blob.join("chunks").join(chunk), commit, &mut found);
            }
            for dir in [&blob.join("chunks"), &blob, &deed.slot.join("blobs")] {
                self.judge_entry(dir, &Step::MakeDir, commit, "the commit", &mut found);
            }
        }
        self.judge_entry(&deed.slot, &Step::MakeDir, self.answered, "the answer", &mut found);
        self.judge_entry(
            &deed.slot.join("meta.sqlite3"),
            &Step::Create,
            self.answered,
            "the answer",
            &mut found,
        );
        self.judge_entry(&wal, &Step::Create, self.answered, "the answer", &mut found);
        found
    }

    /// Data, length, sync, name, sync of the name, commit.
    fn judge_chunk(&self, named: &Path, commit: usize, found: &mut Vec<String>) {
        let is_it = |event: &&&Event| matches!(&event.step, Step::Rename { to } if to == named);
        let Some(rename) = self.before.iter().rev().find(is_it) else {
            return found.push(format!("{} did not get its name before the answer", named.display()));
        };
        let shown = named.file_name().unwrap_or_default().to_string_lossy();
        let shaping =
            |step: &Step<Deed>| matches!(step, Step::Create | Step::Allocate | Step::Truncate | Step::Write);
        let shaped = self.last(&rename.path, shaping);
        let late = self.last(named, shaping).is_some_and(|late| late.done > rename.begun);
        if late || shaped.is_some_and(|shaped| shaped.done > rename.begun) {
            found.push(format!("chunk {shown} was shaped after it had its name"));
        }
        if !self.synced(&rename.path, shaped.map_or(0, |shaped| shaped.done), rename.begun) {
            found.push(format!(
                "the data of chunk {shown} was not synced between its last shaping and its name"
            ));
        }
        if rename.done > commit {
            found.push(format!("chunk {shown} got its name after the commit"));
        }
        let dir = named.parent().unwrap_or(named);
        if !self.synced(dir, rename.done, commit) {
            found.push(format!("the name of chunk {shown} was not synced before the commit"));
        }
    }

    /// A directory entry that the trace saw being made is synced before `deadline`.
    fn judge_entry(
        &self,
        path: &Path,
        how: &Step<Deed>,
        deadline: usize,
        named: &str,
        found: &mut Vec<String>,
    ) {
        let Some(made) = self.making(path, how) else { return };
        let parent = path.parent().unwrap_or(path);
        if !self.synced(parent, made.done, deadline) {
            found.push(format!("the entry of {} was not synced before {named}", path.display()));
        }
    }

    /// The event that made `path`. Files of the database are opened many times with leave to make them: the first time
    /// after their directory was made, and the first after each removal, makes them.
    fn making(&self, path: &Path, how: &Step<Deed>) -> Option<&'a Event> {
        let parent = path.parent().unwrap_or(path);
        let is_gone = |event: &&&Event| match event.step {
            Step::Unlink => event.path == path,
            Step::MakeDir => event.path == parent,
            _ => false,
        };
        let from = match how {
            Step::Create => self.before.iter().rev().find(is_gone)?.done,
            _ => 0,
        };
        self.before
            .iter()
            .copied()
            .find(|event| event.begun >= from && event.path == path && event.step == *how)
    }

    fn last(&self, path: &Path, is_it: impl Fn(&Step<Deed>) -> bool) -> Option<&'a Event> {
        self.before.iter().copied().rev().find(|event| event.path == path && is_it(&event.step))
    }

    /// Whether a whole sync of `path` lies between two moments.
    fn synced(&self, path: &Path, after: usize, before: usize) -> bool {
        self.before.iter().any(|event| {
            event.step == Step::Sync && event.path == path && event.begun >= after && event.done <= before
        })
    }
}
