//! What a core remembers of the metadata: versions that were asked for, and parts of blobs.
//!
//! A version is good while its slot's generation is the one it was read at. Parts change only where they were damaged: they are
//! good for as long as they fit, and forgotten when bytes do not fit them. Bounded by weight; nothing here is a promise, all of it can be asked again.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use super::describe::Description;
use crate::base::ids::BlobId;
use crate::base::parts::Parts;
use crate::limits::ANSWERS_MAX;
use crate::meta::types::BlobMeta;

/// A live version that was asked for.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) record: BlobMeta,
    /// Its parts, when it has at most one.
    pub(super) parts: Option<Arc<Parts>>,
    /// What responses say about it.
    pub(super) description: Description,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Version(String, Option<u64>),
    Parts(BlobId, u64),
}

#[derive(Clone)]
enum Value {
    /// With the generation of its slot at which it was the answer.
    Version(Rc<Answer>, u64),
    Parts(Arc<Parts>),
}

#[derive(Clone)]
struct ByMemory;

impl Weighter<Key, Value> for ByMemory {
    fn weight(&self, key: &Key, value: &Value) -> u64 {
        let key = match key {
            Key::Version(path, _) => path.len(),
            Key::Parts(..) => 0,
        };
        let value = match value {
            Value::Version(answer, _) => {
                answer.description.memory()
                    + answer.record.headers.len()
                    + answer.parts.as_deref().map_or(0, memory)
            }
            Value::Parts(parts) => memory(parts),
        };
        (key + value + 256) as u64
    }
}

fn memory(parts: &Parts) -> usize {
    parts.parts.iter().map(|part| part.sums.len() * 4 + 64).sum::<usize>()
        + parts.inline.iter().map(|(_, bytes)| bytes.len() + 64).sum::<usize>()
}

/// The memory of one core.
pub(super) struct Answers(RefCell<Cache<Key, Value, ByMemory>>);

impl Answers {
    pub(super) fn new() -> Self {
        Self(RefCell::new(Cache::with_weighter((ANSWERS_MAX / 1024) as usize, ANSWERS_MAX, ByMemory)))
    }

    /// The answer for a path and version, if it is still good at `generation`.
    pub(super) fn version(&self, path: &str, version: Option<u64>, generation: u64) -> Option<Rc<Answer>> {
        match self.0.borrow().get(&Key::Version(path.to_owned(), version)) {
            Some(Value::Version(answer, read_at)) if *read_at == generation => Some(Rc::clone(answer)),
            _ => None,
        }
    }

    pub(super) fn insert_version(
        &self,
        path: &str,
        version: Option<u64>,
        answer: &Rc<Answer>,
        generation: u64,
    ) {
        let key = Key::Version(path.to_owned(), version);
        self.0.borrow_mut().insert(key, Value::Version(Rc::clone(answer), generation));
    }

    /// The parts of a blob that begin with part `first`.
    pub(super) fn parts(&self, blob: BlobId, first: u64) -> Option<Arc<Parts>> {
        match self.0.borrow().get(&Key::Parts(blob, first)) {
            Some(Value::Parts(parts)) => Some(Arc::clone(parts)),
            _ => None,
        }
    }

    pub(super) fn insert_parts(&self, blob: BlobId, parts: &Arc<Parts>) {
        self.0.borrow_mut().insert(Key::Parts(blob, parts.first), Value::Parts(Arc::clone(parts)));
    }

    /// Forgets the parts of a blob that begin with part `first`: they, or the bytes, are damaged.
    pub(super) fn forget_parts(&self, blob: BlobId, first: u64) {
        self.0.borrow_mut().remove(&Key::Parts(blob, first));
    }
}
