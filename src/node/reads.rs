//! Read-index rounds (thesis 6.4): many reads share one, and each attempt has a context of its own.

use std::collections::BTreeMap;

/// Callers by how far their read has come. Pure; what a caller is, the driver knows.
#[derive(Debug)]
pub(crate) struct Reads<T> {
    /// Not part of a round yet.
    waiting: Vec<T>,
    /// The round under way: its number, and who shares it.
    round: Option<(u64, Vec<T>)>,
    /// Confirmed; they wait until this index is applied here.
    confirmed: BTreeMap<u64, Vec<T>>,
    rounds: u64,
    /// How many there are in all.
    count: usize,
}

impl<T> Reads<T> {
    pub(crate) fn new() -> Self {
        Self { waiting: Vec::new(), round: None, confirmed: BTreeMap::new(), rounds: 0, count: 0 }
    }

    pub(crate) fn push(&mut self, caller: T) {
        self.waiting.push(caller);
        self.count += 1;
    }

    /// Starts a round if somebody waits and none is under way. One that begins while another is
    /// under way must not join it: its index may be older than the read.
    pub(crate) fn begin(&mut self) -> Option<u64> {
        if self.round.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.rounds += 1;
        self.round = Some((self.rounds, std::mem::take(&mut self.waiting)));
        Some(self.rounds)
    }

    /// The round is lost, or can no longer be trusted to end: whoever shared it waits for the next.
    pub(crate) fn abandon(&mut self) {
        if let Some((_, callers)) = self.round.take() {
            self.waiting.extend(callers);
        }
    }

    /// Like [`abandon`](Self::abandon), if round `number` still is under way.
    pub(crate) fn abandon_round(&mut self, number: u64) {
        if self.round.as_ref().is_some_and(|(round, _)| *round == number) {
            self.abandon();
        }
    }

    /// Round `number` is confirmed at `index`; an answer of an earlier round is ignored.
    pub(crate) fn confirm(&mut self, number: u64, index: u64) {
        if let Some((_, callers)) = self.round.take_if(|(round, _)| *round == number) {
            self.confirmed.entry(index).or_default().extend(callers);
        }
    }

    /// Takes out everyone whose index is applied, with that index.
    pub(crate) fn take_up_to(&mut self, applied: u64) -> Vec<(u64, T)> {
        let mut taken = Vec::new();
        while let Some(first) = self.confirmed.first_entry().filter(|e| *e.key() <= applied) {
            let index = *first.key();
            taken.extend(first.remove().into_iter().map(|caller| (index, caller)));
        }
        self.count -= taken.len();
        taken
    }

    /// Takes out those who need not wait for their index, because they wait elsewhere.
    pub(crate) fn take_confirmed(&mut self, elsewhere: impl Fn(&T) -> bool) -> Vec<(u64, T)> {
        let mut taken = Vec::new();
        for (&index, callers) in &mut self.confirmed {
            taken.extend(callers.extract_if(.., |c| elsewhere(c)).map(|caller| (index, caller)));
        }
        self.confirmed.retain(|_, callers| !callers.is_empty());
        self.count -= taken.len();
        taken
    }

    /// Takes out everyone for whom `over` says so; the flag tells who was confirmed.
    pub(crate) fn take_over(&mut self, over: impl Fn(&T) -> bool) -> Vec<(bool, T)> {
        let mut taken = Vec::new();
        let round = self.round.iter_mut().map(|(_, callers)| callers);
        for callers in round.chain([&mut self.waiting]) {
            taken.extend(callers.extract_if(.., |c| over(c)).map(|caller| (false, caller)));
        }
        for callers in self.confirmed.values_mut() {
            taken.extend(callers.extract_if(.., |c| over(c)).map(|caller| (true, caller)));
        }
        self.count -= taken.len();
        taken
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_never_joins_a_round_that_began_before_it() {
        let mut reads = Reads::new();
        assert_eq!(reads.begin(), None);
        reads.push("a");
        assert_eq!(reads.begin(), Some(1));
        reads.push("b");
        assert_eq!(reads.begin(), None);
        reads.confirm(1, 7);
        assert_eq!(reads.take_up_to(6), []);
        assert_eq!(reads.take_up_to(7), [(7, "a")]);
        assert_eq!(reads.begin(), Some(2));
        reads.abandon();
        reads.confirm(2, 8);
        assert_eq!(reads.take_up_to(9), [], "an abandoned round confirms nothing");
        assert_eq!(reads.begin(), Some(3));
        reads.abandon_round(2);
        reads.confirm(3, 8);
        assert_eq!(reads.take_up_to(9), [(8, "b")], "only its own round was abandoned");
    }

    #[test]
    fn everyone_is_counted_until_taken_out() {
        let mut reads = Reads::new();
        (1..=3).for_each(|n| reads.push(n));
        reads.begin();
        reads.push(4);
        assert_eq!(reads.len(), 4);
        assert_eq!(reads.take_over(|&n| n == 1 || n == 4).len(), 2);
        reads.confirm(1, 5);
        assert_eq!(reads.len(), 2);
        assert_eq!(reads.take_confirmed(|&n| n == 2), [(5, 2)]);
        assert_eq!(reads.take_up_to(5), [(5, 3)]);
        assert_eq!(reads.len(), 0);
    }
}
