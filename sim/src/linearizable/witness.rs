//! The cheap check: the log says in which order the operations took effect; is that order one which
//! the clients can believe?

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use crate::history::{Answer, Call, History, Moment, Operation, Outcome};

/// Checks that the order of the log explains the history, in O(n log n).
///
/// The operations that took effect are put in the order of their indexes, a read behind the write
/// whose index it looked at. `Ok` is a proof: that order is a linearization. A write of unknown
/// outcome has no index; it is put before the first operation that saw its effect, if that explains
/// it.
///
/// `Err` is no proof of the contrary. Either the history is not linearizable, or the indexes are
/// not true, or an unknown write was seen only by a compare-and-set answered with
/// [`Answer::Refused`]. Ask [`check`](super::check) which.
pub fn witness(history: &History) -> Result<(), Violation> {
    let mut order: Vec<Placed<'_>> = history.operations().iter().filter_map(Placed::new).collect();
    // Reads of one index commute; put by invocation, none stands behind one that began after its
    // end.
    order.sort_by_key(|placed| (placed.index, !placed.writes(), placed.operation.invoked));
    for pair in order.windows(2) {
        if pair[0].index == pair[1].index && pair[0].writes() && pair[1].writes() {
            return Err(Violation::SharedIndex {
                first: Box::new(*pair[0].operation),
                second: Box::new(*pair[1].operation),
            });
        }
    }
    let mut replay = Replay::new(history);
    order.iter().try_for_each(|placed| replay.place(placed))
}

/// Why the order of the log does not explain a history.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Violation {
    /// The answer is not the one which the order of the log leads to.
    Answer {
        /// The operation that was told something else.
        operation: Box<Operation>,
        /// What its register holds at that place of the log.
        state: Option<u64>,
    },
    /// An operation was over before another began, and yet took effect after it.
    Order {
        /// It stands first in the log, and began when the other was over.
        placed_first: Box<Operation>,
        /// It was over, and stands behind.
        over_first: Box<Operation>,
    },
    /// Two writes claim one place of the log.
    SharedIndex {
        /// One of them.
        first: Box<Operation>,
        /// The other.
        second: Box<Operation>,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer { operation, state } => {
                write!(f, "the log has {state:?} there, but {operation}")
            }
            Self::Order { placed_first, over_first } => {
                write!(f, "[{over_first}] was over before [{placed_first}] began, but is behind it")
            }
            Self::SharedIndex { first, second } => {
                write!(f, "[{first}] and [{second}] have one place in the log")
            }
        }
    }
}

impl std::error::Error for Violation {}

/// An operation that took effect, with the parts of its outcome.
struct Placed<'a> {
    operation: &'a Operation,
    at: Moment,
    answer: Answer,
    index: u64,
}

impl<'a> Placed<'a> {
    fn new(operation: &'a Operation) -> Option<Self> {
        let Outcome::Done { at, answer, index } = operation.outcome else { return None };
        Some(Self { operation, at, answer, index })
    }

    fn writes(&self) -> bool {
        self.operation.request.call != Call::Read
    }

    /// Whether the operation is answered so when it meets `state`.
    fn fits(&self, state: Option<u64>) -> bool {
        match (self.operation.request.call, self.answer) {
            (_, Answer::Found { value }) => value == state,
            (Call::CompareAndSet { expected, .. }, Answer::Applied) => expected == state,
            (Call::CompareAndSet { expected, .. }, Answer::Refused) => expected != state,
            (Call::Delete | Call::Read | Call::Write { .. }, Answer::Applied | Answer::Refused) => {
                true
            }
        }
    }
}

/// The map as it stands after the operations that have been placed.
struct Replay<'a> {
    state: BTreeMap<u64, Option<u64>>,
    /// Of the operations placed so far, the one that was invoked last.
    newest: Option<&'a Operation>,
    /// Writes of unknown outcome not placed yet, by key and by what they leave, the earliest last.
    unknown: BTreeMap<(u64, Option<u64>), Vec<&'a Operation>>,
}

impl<'a> Replay<'a> {
    fn new(history: &'a History) -> Self {
        let mut unknown = BTreeMap::<_, Vec<&Operation>>::new();
        for operation in history.operations() {
            let unplaced = operation.outcome == Outcome::Unknown;
            if let Some(left) = operation.request.call.leaves().filter(|_| unplaced) {
                unknown.entry((operation.request.key, left)).or_default().push(operation);
            }
        }
        for writes in unknown.values_mut() {
            writes.sort_by_key(|operation| Reverse(operation.invoked));
        }
        Self { state: BTreeMap::new(), newest: None, unknown }
    }

    fn place(&mut self, placed: &Placed<'a>) -> Result<(), Violation> {
        let key = placed.operation.request.key;
        if let Some(needed) = placed.operation.met() {
            self.recall(key, needed);
        }
        let state = self.state(key);
        if !placed.fits(state) {
            return Err(Violation::Answer { operation: Box::new(*placed.operation), state });
        }
        if let Some(newest) = self.newest.filter(|newest| placed.at < newest.invoked) {
            return Err(Violation::Order {
                placed_first: Box::new(*newest),
                over_first: Box::new(*placed.operation),
            });
        }
        self.take_effect(placed.operation);
        Ok(())
    }

    /// Places writes of unknown outcome so that `key` holds `needed`, if there are any that can.
    fn recall(&mut self, key: u64, mut needed: Option<u64>) {
        let mut chain = Vec::new();
        while self.state(key) != needed {
            let found = self.unknown.get_mut(&(key, needed)).and_then(Vec::pop);
            let Some(operation) = found else { return };
            chain.push(operation);
            let Call::CompareAndSet { expected, .. } = operation.request.call else { break };
            needed = expected;
        }
        while let Some(operation) = chain.pop() {
            self.take_effect(operation);
        }
    }

    fn take_effect(&mut self, operation: &'a Operation) {
        let state = self.state(operation.request.key);
        let changes = match operation.request.call {
            Call::CompareAndSet { expected, .. } => expected == state,
            Call::Delete | Call::Read | Call::Write { .. } => true,
        };
        if let Some(left) = operation.request.call.leaves().filter(|_| changes) {
            self.state.insert(operation.request.key, left);
        }
        if self.newest.is_none_or(|newest| newest.invoked < operation.invoked) {
            self.newest = Some(operation);
        }
    }

    fn state(&self, key: u64) -> Option<u64> {
        self.state.get(&key).copied().flatten()
    }
}
