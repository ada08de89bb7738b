//! Which requests of other servers were taken in: a transport may deliver one twice, and what is
//! carried out twice would be a command applied twice, or a refusal that is not true.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::NodeId;
use crate::mutant::Mutant;
use crate::transport::Request;

/// Pure and bounded. It lives as long as the process: a copy that outlives a restart of the
/// receiver is taken for new, and so is one that comes when its path has been forgotten. If the
/// receiver leads in another term by then, such a copy is not carried out but
/// [may have been](Self::may_have_forgotten) before; only if it leads in the same term still, after
/// a thousand paths that were used later, is it carried out again.
#[derive(Debug)]
pub(super) struct Seen {
    paths: BTreeMap<Path, Numbers>,
    count: u64,
    /// What was taken in up to this term may be forgotten.
    forgotten: u64,
}

/// The asker, its start, and how far the request has come: one that was passed on may come by again
/// on its way to a newer leader.
type Path = (NodeId, u64, u8);

#[derive(Debug, Default)]
struct Numbers {
    /// Every number below this counts as taken.
    before: u64,
    taken: BTreeSet<u64>,
    used: u64,
    /// The receiver's term when it was used last.
    term: u64,
}

impl Seen {
    /// That of a process which starts in `term`.
    pub(super) fn new(term: u64) -> Self {
        Self { paths: BTreeMap::new(), count: 0, forgotten: term }
    }

    /// Whether the request is new to this server, which is in `term`; from then on it is not. One
    /// that is too old to tell is not new: its asker ends it as unknown.
    pub(super) fn is_new(&mut self, request: &Request, term: u64) -> bool {
        if Mutant::CopyCarriedOut.is_planted() {
            return true;
        }
        let path = (request.id.origin, request.id.incarnation, request.hops);
        if !self.paths.contains_key(&path) && self.paths.len() == PATHS_MAX {
            let oldest = self.paths.iter().min_by_key(|(_, numbers)| numbers.used);
            let oldest = oldest.map(|(&path, _)| path).expect("the map is full");
            let gone = self.paths.remove(&oldest).map_or(0, |numbers| numbers.term);
            self.forgotten = self.forgotten.max(gone);
        }
        self.count += 1;
        let numbers = self.paths.entry(path).or_default();
        (numbers.used, numbers.term) = (self.count, term);
        numbers.take(request.id.number)
    }

    /// Whether a request that looks new, and was meant for the leader of `term`, may have been
    /// taken in before.
    pub(super) fn may_have_forgotten(&self, term: u64) -> bool {
        term <= self.forgotten
    }
}

impl Numbers {
    fn take(&mut self, number: u64) -> bool {
        if number < self.before || !self.taken.insert(number) {
            return false;
        }
        if self.taken.len() > NUMBERS_MAX
            && let Some(oldest) = self.taken.pop_first()
        {
            self.before = oldest.saturating_add(1);
        }
        true
    }
}

/// How many paths are remembered, three for each server that asks; the one that was not used for
/// the longest time is forgotten first.
const PATHS_MAX: usize = 1_024;
/// How many requests of one path may overtake each other.
const NUMBERS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{RequestId, Verb};

    fn request(incarnation: u64, number: u64) -> Request {
        let id = RequestId { origin: 2.into(), incarnation, number };
        Request { id, hops: 2, term: 1, patience_ms: 0, verb: Verb::ReadIndex }
    }

    impl Seen {
        fn takes(&mut self, request: &Request) -> bool {
            self.is_new(request, request.term)
        }
    }

    #[test]
    fn a_request_is_new_once_per_path() {
        let mut seen = Seen::new(0);
        assert!(seen.takes(&request(1, 5)));
        assert!(!seen.takes(&request(1, 5)));
        assert!(seen.takes(&request(1, 4)), "it was overtaken");
        assert!(seen.takes(&request(2, 5)), "of another start");
        assert!(seen.takes(&Request { hops: 1, ..request(1, 5) }), "passed on in between");
    }

    #[test]
    fn what_is_remembered_is_limited_and_what_is_forgotten_is_not_new() {
        let mut seen = Seen::new(0);
        let limit = NUMBERS_MAX as u64;
        assert!((1..=limit).all(|number| seen.takes(&request(1, 2 * number))));
        assert!(seen.takes(&request(1, 3)), "it was overtaken by as many as may");
        assert!(!seen.takes(&request(1, 1)), "one more");
        assert!(!seen.takes(&request(1, 2)));
        let paths = PATHS_MAX as u64;
        assert!((2..=paths).all(|start| seen.takes(&request(start, 1))));
        assert_eq!(seen.paths.len(), PATHS_MAX);
        assert!(!seen.takes(&request(1, 2)), "still remembered, and used last");
        assert!(!seen.may_have_forgotten(1));
        let later = Request { term: 2, ..request(paths + 1, 1) };
        assert!(seen.takes(&later));
        assert_eq!(seen.paths.len(), PATHS_MAX);
        assert!(seen.may_have_forgotten(1), "it was used in that term");
        assert!(!seen.may_have_forgotten(2));
        assert!(!seen.takes(&request(1, 2)));
        assert!(seen.takes(&request(2, 1)), "the oldest was forgotten");
    }
}
