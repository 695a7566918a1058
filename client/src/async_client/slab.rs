//! Things under small numbers that are used again: no allocation once it has grown to what is in flight.

/// Items and the numbers that are free.
#[derive(Debug)]
pub(super) struct Slab<T> {
    items: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { items: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Keeps an item: its number.
    pub(super) fn insert(&mut self, item: T) -> usize {
        if let Some(number) = self.free.pop()
            && let Some(place) = self.items.get_mut(number)
        {
            *place = Some(item);
            return number;
        }
        self.items.push(Some(item));
        self.items.len() - 1
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.items.get_mut(number)?.as_mut()
    }

    pub(super) fn get(&self, number: usize) -> Option<&T> {
        self.items.get(number)?.as_ref()
    }

    pub(super) fn remove(&mut self, number: usize) -> Option<T> {
        let item = self.items.get_mut(number)?.take();
        if item.is_some() {
            self.free.push(number);
        }
        item
    }

    /// One past the highest number that was ever given.
    pub(super) const fn places(&self) -> usize {
        self.items.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.items.iter().enumerate().filter_map(|(number, item)| Some((number, item.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        self.items
            .iter_mut()
            .enumerate()
            .filter_map(|(number, item)| Some((number, item.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again_once_they_are_free() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.insert('c'), a);
        assert_eq!((slab.get(a), slab.get(b)), (Some(&'c'), Some(&'b')));
        assert_eq!(slab.iter_mut().count(), 2);
    }
}
