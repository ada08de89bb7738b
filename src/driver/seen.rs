//! Which requests of other servers were taken in: a transport may deliver one twice, and what is
//! carried out twice would be a command applied twice, or a refusal that is not true.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::NodeId;
use crate::mutant::Mutant;
use crate::transport::Request;

/// Pure and bounded. It lives as long as the process: a copy that outlives a restart of the
/// receiver is taken for new.
#[derive(Debug, Default)]
pub(super) struct Seen {
    paths: BTreeMap<Path, Numbers>,
    count: u64,
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
}

impl Seen {
    /// Whether the request is new; from then on it is not. One that is too old to tell is not new:
    /// its asker ends it as unknown.
    pub(super) fn is_new(&mut self, request: &Request) -> bool {
        if Mutant::CopyCarriedOut.is_planted() {
            return true;
        }
        let path = (request.id.origin, request.id.incarnation, request.hops);
        if !self.paths.contains_key(&path) && self.paths.len() == PATHS_MAX {
            let oldest = self.paths.iter().min_by_key(|(_, numbers)| numbers.used);
            let oldest = oldest.map(|(&path, _)| path).expect("the map is full");
            self.paths.remove(&oldest);
        }
        self.count += 1;
        let numbers = self.paths.entry(path).or_default();
        numbers.used = self.count;
        numbers.take(request.id.number)
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

    #[test]
    fn a_request_is_new_once_per_path() {
        let mut seen = Seen::default();
        assert!(seen.is_new(&request(1, 5)));
        assert!(!seen.is_new(&request(1, 5)));
        assert!(seen.is_new(&request(1, 4)), "it was overtaken");
        assert!(seen.is_new(&request(2, 5)), "of another start");
        assert!(seen.is_new(&Request { hops: 1, ..request(1, 5) }), "passed on in between");
    }

    #[test]
    fn what_is_remembered_is_limited_and_what_is_forgotten_is_not_new() {
        let mut seen = Seen::default();
        let limit = NUMBERS_MAX as u64;
        assert!((1..=limit).all(|number| seen.is_new(&request(1, 2 * number))));
        assert!(seen.is_new(&request(1, 3)), "it was overtaken by as many as may");
        assert!(!seen.is_new(&request(1, 1)), "one more");
        assert!(!seen.is_new(&request(1, 2)));
        let paths = PATHS_MAX as u64;
        assert!((2..=paths).all(|start| seen.is_new(&request(start, 1))));
        assert_eq!(seen.paths.len(), PATHS_MAX);
        assert!(!seen.is_new(&request(1, 2)), "still remembered, and used last");
        assert!(seen.is_new(&request(paths + 1, 1)));
        assert_eq!(seen.paths.len(), PATHS_MAX);
        assert!(!seen.is_new(&request(1, 2)));
        assert!(seen.is_new(&request(2, 1)), "the oldest was forgotten");
    }
}
