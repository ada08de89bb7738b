//! The set of situations that a search has been in.

/// A set of 128-bit fingerprints that grows only when told how far it may.
///
/// An open table of its own, because its size must be known to the byte, and because its keys are
/// evenly spread already.
#[derive(Default)]
pub(super) struct Memo {
    /// Its length is a power of two, or nothing. Zero is an empty place.
    table: Vec<u128>,
    len: usize,
}

impl Memo {
    /// Makes room for one more, unless that takes more than `bytes` while the table is copied.
    pub(super) fn reserve(&mut self, bytes: usize) -> bool {
        if self.len < self.table.len() / 4 * 3 {
            return true;
        }
        let doubled = (self.table.len() * 2).max(TABLE_MIN);
        if (self.table.len() + doubled).saturating_mul(size_of::<u128>()) > bytes {
            return false;
        }
        let old = std::mem::replace(&mut self.table, vec![0; doubled]);
        self.len = 0;
        for fingerprint in old.into_iter().filter(|fingerprint| *fingerprint != 0) {
            self.insert(fingerprint);
        }
        true
    }

    /// Whether `fingerprint` is new. There must be room.
    pub(super) fn insert(&mut self, fingerprint: u128) -> bool {
        let fingerprint = fingerprint.max(1);
        let mask = self.table.len() - 1;
        // The lower bits alone choose the place.
        let mut place = fingerprint as usize & mask;
        while self.table[place] != 0 {
            if self.table[place] == fingerprint {
                return false;
            }
            place = (place + 1) & mask;
        }
        self.table[place] = fingerprint;
        self.len += 1;
        true
    }
}

const TABLE_MIN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_all_that_it_was_told_and_grows_no_further_than_allowed() {
        const BYTES: usize = 80_000;
        let mut memo = Memo::default();
        let mut told = 0_u128;
        // Odd multiples of one number differ in their lower bits; zero is told too.
        let fingerprint =
            |number: u128| number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        while memo.reserve(BYTES) {
            assert!(memo.insert(fingerprint(told)));
            assert!(!memo.insert(fingerprint(told)));
            told += 1;
        }
        // The old table and one of twice its size have to fit in beside each other.
        assert!(memo.table.len() * size_of::<u128>() <= BYTES / 3 * 2);
        assert!(memo.table.len() * size_of::<u128>() > BYTES / 6);
        assert!((0..told).all(|number| !memo.insert(fingerprint(number))));
    }

    #[test]
    fn takes_nothing_if_it_may_not() {
        assert!(!Memo::default().reserve(TABLE_MIN * size_of::<u128>() - 1));
    }
}
