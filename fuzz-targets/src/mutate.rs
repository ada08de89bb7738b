//! Mutations that a seed decides: of one input, and of two together.

/// Makes new inputs of old ones.
#[derive(Clone, Debug)]
pub struct Mutator {
    dice: fastrand::Rng,
    words: &'static [&'static [u8]],
}

impl Mutator {
    /// A mutator that `seed` decides, with pieces to put in.
    #[must_use]
    pub fn new(seed: u64, words: &'static [&'static [u8]]) -> Self {
        Self { dice: fastrand::Rng::with_seed(seed), words }
    }

    /// A new input: one of `corpus` with one to eight mutations.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.one_of(corpus);
        let other = self.one_of(corpus);
        for _ in 0..1 << self.dice.u8(..4) {
            self.mutate(&mut bytes, &other);
        }
        bytes.truncate(INPUT_BYTES_MAX);
        bytes
    }

    fn one_of(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        if corpus.is_empty() || self.dice.u8(..64) == 0 {
            let len = self.dice.usize(..256);
            return (0..len).map(|_| self.dice.u8(..)).collect();
        }
        corpus[self.dice.usize(..corpus.len())].clone()
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.dice.usize(..=bytes.len());
        let end = (at + 1 + self.dice.usize(..16)).min(bytes.len());
        match self.dice.u8(..14) {
            0 | 1 => self.at(bytes, at, |dice, byte| *byte ^= 1 << dice.u8(..8)),
            2 | 3 => self.at(bytes, at, |dice, byte| *byte = dice.u8(..)),
            4 => self.at(bytes, at, |dice, byte| {
                *byte = byte.wrapping_add(dice.u8(..8)).wrapping_sub(4);
            }),
            5 => drop(bytes.drain(at..end)),
            6 => bytes.truncate(at),
            7 => {
                let copy = bytes[at..end].to_vec();
                let to = self.dice.usize(..=bytes.len());
                drop(bytes.splice(to..to, copy));
            }
            8 => {
                let new: Vec<u8> =
                    (0..1 + self.dice.usize(..8)).map(|_| self.dice.u8(..)).collect();
                drop(bytes.splice(at..at, new));
            }
            9 | 10 => self.number(bytes, at),
            11 => {
                bytes.truncate(at);
                bytes.extend(&other[self.dice.usize(..=other.len())..]);
            }
            12 => {
                let from = self.dice.usize(..=other.len());
                let until = (from + self.dice.usize(..64)).min(other.len());
                drop(bytes.splice(at..at, other[from..until].iter().copied()));
            }
            _ => self.word(bytes, at),
        }
    }

    fn at(&mut self, bytes: &mut [u8], at: usize, change: impl Fn(&mut fastrand::Rng, &mut u8)) {
        if let Some(byte) = bytes.get_mut(at) {
            change(&mut self.dice, byte);
        }
    }

    /// Overwrites a little-endian number by one at the edge of something, or moves it a little.
    fn number(&mut self, bytes: &mut [u8], at: usize) {
        let width = [2, 4, 8][self.dice.usize(..3)];
        let Some(field) = bytes.get_mut(at..at + width) else { return };
        let old = field.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
        let new = match self.dice.u8(..6) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX >> 1,
            3 => 1 << self.dice.u8(..64),
            4 => old.wrapping_add(self.dice.u64(1..4)),
            _ => old.wrapping_sub(self.dice.u64(1..4)),
        };
        field.copy_from_slice(&new.to_le_bytes()[..width]);
    }

    fn word(&mut self, bytes: &mut Vec<u8>, at: usize) {
        if self.words.is_empty() {
            return;
        }
        let word = self.words[self.dice.usize(..self.words.len())];
        let over = if self.dice.bool() { word.len() } else { 0 };
        let end = (at + over).min(bytes.len());
        drop(bytes.splice(at..end, word.iter().copied()));
    }
}

/// The longest input that is tried.
const INPUT_BYTES_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_makes_one_sequence_of_inputs_and_few_are_alike() {
        let corpus = vec![b"hello".to_vec(), vec![0; 100]];
        let all = |seed| {
            let mut mutator = Mutator::new(seed, &[b"word"]);
            (0..1_000).map(|_| mutator.next(&corpus)).collect::<Vec<_>>()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        let different: std::collections::BTreeSet<_> = all(1).into_iter().collect();
        assert!(different.len() > 800, "{}", different.len());
        assert!(different.iter().any(|input| input.windows(4).any(|part| part == b"word")));
    }
}
