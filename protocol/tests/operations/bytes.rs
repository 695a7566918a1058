//! Bytes as choices: what a fuzzer turns over, or a seed makes.

pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    pub fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// A number in 0..n; 0 when the bytes are over.
    pub fn below(&mut self, n: u8) -> u8 {
        self.next().unwrap_or(0) % n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.below(u8::try_from(from.len()).unwrap()))]
    }
}
