//! A table whose entries are found by number, and whose numbers are not mistaken for those of entries that were removed.

use std::{
    hash::{Hash, Hasher},
    marker::PhantomData,
};

/// An entry's number: its place, and how often the place was used before.
pub(crate) struct Ix<T> {
    at: u32,
    epoch: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Ix<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ix<T> {}

impl<T> PartialEq for Ix<T> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at && self.epoch == other.epoch
    }
}

impl<T> Eq for Ix<T> {}

impl<T> Hash for Ix<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.at.hash(state);
    }
}

impl<T> std::fmt::Debug for Ix<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.at, self.epoch)
    }
}

#[derive(Debug)]
struct Place<T> {
    epoch: u32,
    entry: Option<T>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Places there are, taken or free.
    pub(crate) const fn places(&self) -> usize {
        self.places.len()
    }

    /// The entries in these places.
    pub(crate) fn slice(&self, from: usize, to: usize) -> impl Iterator<Item = &T> {
        self.places
            .get(from..to)
            .unwrap_or_default()
            .iter()
            .filter_map(|place| place.entry.as_ref())
    }

    /// Puts an entry in; `None` when the table has 2³² of them.
    pub(crate) fn insert(&mut self, entry: T) -> Option<Ix<T>> {
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                let at = u32::try_from(self.places.len()).ok()?;
                self.places.push(Place { epoch: 0, entry: None });
                at
            }
        };
        let place = self.places.get_mut(at as usize)?;
        place.entry = Some(entry);
        Some(Ix { at, epoch: place.epoch, of: PhantomData })
    }

    /// The entry of that number, unless it was removed.
    #[inline]
    pub(crate) fn get(&self, ix: Ix<T>) -> Option<&T> {
        self.places.get(ix.at as usize).filter(|place| place.epoch == ix.epoch)?.entry.as_ref()
    }

    /// The same, to be changed.
    #[inline]
    pub(crate) fn get_mut(&mut self, ix: Ix<T>) -> Option<&mut T> {
        self.places.get_mut(ix.at as usize).filter(|place| place.epoch == ix.epoch)?.entry.as_mut()
    }

    /// Takes the entry out; its number is never valid again.
    pub(crate) fn remove(&mut self, ix: Ix<T>) -> Option<T> {
        let place = self.places.get_mut(ix.at as usize).filter(|place| place.epoch == ix.epoch)?;
        let entry = place.entry.take()?;
        place.epoch = place.epoch.wrapping_add(1);
        self.free.push(ix.at);
        Some(entry)
    }

    /// All entries, by place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ix<T>, &T)> {
        (0_u32..).zip(&self.places).filter_map(|(at, place)| {
            Some((Ix { at, epoch: place.epoch, of: PhantomData }, place.entry.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_entry_is_not_found_under_its_number() {
        let mut slab = Slab::default();
        let first = slab.insert("a").unwrap();
        assert_eq!(slab.remove(first), Some("a"));
        let second = slab.insert("b").unwrap();
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&"b")));
        assert_eq!((slab.remove(first), slab.len()), (None, 1));
    }
}
