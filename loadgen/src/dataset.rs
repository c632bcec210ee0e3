//! The data set: objects numbered from 0, and how large each is.
//!
//! With several sizes, objects take them in turn: object n has size n modulo their number. So small and large objects can live under one
//! URL template, and the size of any object is known without asking.

use crate::units::show_size;

/// The objects that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataSet {
    /// Empty where sizes are not known.
    sizes: Vec<u64>,
    objects: u64,
}

impl DataSet {
    /// Objects `0..objects` of `sizes` in turn.
    pub(crate) fn new(sizes: &[u64], objects: u64) -> Result<Self, String> {
        if objects == 0 {
            return Err("--objects must be at least 1".to_owned());
        }
        if sizes.len() as u64 > objects {
            return Err(format!("--object-size lists {} sizes for {objects} objects", sizes.len()));
        }
        Ok(Self { sizes: sizes.to_vec(), objects })
    }

    pub(crate) fn objects(&self) -> u64 {
        self.objects
    }

    pub(crate) fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// The size of object `object`, if it is known.
    pub(crate) fn size(&self, object: u64) -> Option<u64> {
        match self.sizes[..] {
            [] => None,
            [size] => Some(size),
            _ => Some(self.sizes[(object % self.sizes.len() as u64) as usize]),
        }
    }

    /// The size that all objects have at least.
    pub(crate) fn smallest(&self) -> Option<u64> {
        self.sizes.iter().copied().min()
    }

    /// What it is, for people.
    pub(crate) fn describe(&self) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(|&size| show_size(size)).collect();
        let sizes = if sizes.is_empty() { "unknown size".to_owned() } else { sizes.join(" / ") };
        format!("{} x {sizes}", self.objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_taken_in_turn() {
        let set = DataSet::new(&[10, 20, 30], 7).unwrap();
        assert_eq!((0..7).map(|n| set.size(n).unwrap()).collect::<Vec<_>>(), [10, 20, 30, 10, 20, 30, 10]);
        assert_eq!(set.smallest(), Some(10));
        assert_eq!(DataSet::new(&[], 2).unwrap().size(1), None);
    }

    #[test]
    fn sets_without_sense_are_refused() {
        assert!(DataSet::new(&[1], 0).is_err());
        assert!(DataSet::new(&[1, 2], 1).is_err());
    }
}
