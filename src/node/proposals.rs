//! Which caller waits for which entry.

use std::collections::VecDeque;

use crate::id::LogId;

/// Callers by the place of their entry. Pure; what a caller is, the driver knows.
#[derive(Debug)]
pub(crate) struct Proposals<T> {
    /// In order of index.
    waiting: VecDeque<(LogId, T)>,
    /// Those whose index was given away again by a later leader; few.
    displaced: Vec<(LogId, T)>,
}

impl<T> Proposals<T> {
    pub(crate) fn new() -> Self {
        Self { waiting: VecDeque::new(), displaced: Vec::new() }
    }

    /// Registers a caller for the entry at `log_id`.
    pub(crate) fn register(&mut self, log_id: LogId, caller: T) {
        if self.waiting.back().is_some_and(|(last, _)| last.index >= log_id.index) {
            let at = self.waiting.partition_point(|(place, _)| place.index < log_id.index);
            self.displaced.extend(self.waiting.drain(at..));
        }
        self.waiting.push_back((log_id, caller));
    }

    /// Takes out everyone who waits for an index up to `applied`, in order of index.
    pub(crate) fn take_up_to(&mut self, applied: u64) -> Vec<(LogId, T)> {
        let count = self.waiting.partition_point(|(place, _)| place.index <= applied);
        let mut taken: Vec<_> = self.waiting.drain(..count).collect();
        if !self.displaced.is_empty() {
            taken.extend(self.displaced.extract_if(.., |(place, _)| place.index <= applied));
            taken.sort_by_key(|(place, _)| place.index);
        }
        taken
    }

    /// Takes out everyone for whom `over` says so, wherever they stand: the order of entries need
    /// not be the order of deadlines.
    pub(crate) fn take_over(&mut self, over: impl Fn(&T) -> bool) -> Vec<T> {
        if !self.waiting.iter().chain(&self.displaced).any(|(_, caller)| over(caller)) {
            return Vec::new();
        }
        let (taken, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, caller)| over(caller));
        self.waiting = rest.into();
        let displaced = self.displaced.extract_if(.., |(_, caller)| over(caller));
        taken.into_iter().chain(displaced).map(|(_, caller)| caller).collect()
    }

    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = T> {
        self.waiting.drain(..).chain(self.displaced.drain(..)).map(|(_, caller)| caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> LogId {
        LogId { term, index }
    }

    #[test]
    fn an_index_given_away_again_keeps_both_callers_until_it_is_applied() {
        let mut proposals = Proposals::new();
        proposals.register(at(1, 5), "a");
        proposals.register(at(1, 6), "b");
        proposals.register(at(3, 6), "c");
        assert_eq!(proposals.take_up_to(5), [(at(1, 5), "a")]);
        assert_eq!(proposals.take_up_to(6), [(at(3, 6), "c"), (at(1, 6), "b")]);
        assert_eq!(proposals.take_up_to(9), []);
    }

    #[test]
    fn those_whose_time_is_over_go_wherever_they_stand() {
        let mut proposals = Proposals::new();
        [1, 4, 2, 3].into_iter().zip(1..).for_each(|(n, i)| proposals.register(at(1, i), n));
        assert!(proposals.take_over(|&n| n < 1).is_empty());
        assert_eq!(proposals.take_over(|&n| n < 3), [1, 2]);
        assert_eq!(proposals.take_all().collect::<Vec<_>>(), [4, 3]);
    }
}
