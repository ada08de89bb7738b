//! What the clients of a run asked of a map, when, and what they were told.
//!
//! A [`History`] is all that a judge needs: it says nothing of nodes, terms or faults. It is
//! written while the run goes on, saved as JSON when the run fails, and read back by whoever looks
//! into it.
//!
//! ```
//! use std::time::Duration;
//!
//! use kontiki_sim::history::{Answer, Call, Done, History, Request};
//!
//! let mut history = History::default();
//! let ms = Duration::from_millis;
//! let call = Call::Write { value: 7 };
//! let write = history.invoke(ms(1), Request { client: 1, key: 9, call });
//! let read = history.invoke(ms(2), Request { client: 2, key: 9, call: Call::Read });
//! history.done(write, Done { at: ms(5), answer: Answer::Applied, index: 3 });
//! history.done(read, Done { at: ms(6), answer: Answer::Found { value: Some(7) }, index: 3 });
//!
//! let saved = serde_json::to_string(&history).unwrap();
//! assert_eq!(serde_json::from_str::<History>(&saved).unwrap(), history);
//! assert_eq!(kontiki_sim::linearizable::witness(&history), Ok(()));
//! ```

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// The operations of one run, in the order in which they were invoked or given.
///
/// Each operation in it is well formed: it does not end before it began, and its answer is one that
/// its call can have. Reading one from JSON checks that too.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Vec<Operation>", into = "Vec<Operation>")]
pub struct History {
    operations: Vec<Operation>,
    /// How many events were recorded: the step of the next.
    steps: u64,
}

impl History {
    /// Records that a client is about to send `request`.
    ///
    /// Until it is told otherwise, its outcome is unknown. Events are recorded in the order in
    /// which they happen, also those of one instant; `at` never goes back.
    pub fn invoke(&mut self, at: Duration, request: Request) -> OperationId {
        let invoked = self.moment(at);
        self.operations.push(Operation { request, invoked, outcome: Outcome::Unknown });
        OperationId(self.operations.len() - 1)
    }

    /// Records that the client was told that `operation` took effect.
    ///
    /// # Panics
    ///
    /// If the operation ended already, ends before it began, or cannot be answered so.
    pub fn done(&mut self, operation: OperationId, done: Done) {
        let Done { at, answer, index } = done;
        let at = self.moment(at);
        self.end(operation, Outcome::Done { at, answer, index });
    }

    /// Records that the client was told that `operation` never took effect and never will.
    ///
    /// # Panics
    ///
    /// If the operation ended already, or ends before it began.
    pub fn not_applied(&mut self, operation: OperationId, at: Duration) {
        let at = self.moment(at);
        self.end(operation, Outcome::NotApplied { at });
    }

    /// All operations, whatever their outcome.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    fn moment(&mut self, at: Duration) -> Moment {
        self.steps += 1;
        Moment { at, step: self.steps }
    }

    fn end(&mut self, operation: OperationId, outcome: Outcome) {
        let operation = &mut self.operations[operation.0];
        assert_eq!(operation.outcome, Outcome::Unknown, "an operation ends once: {operation}");
        operation.outcome = outcome;
        assert!(operation.is_well_formed(), "no operation ends so: {operation}");
    }
}

impl From<History> for Vec<Operation> {
    fn from(history: History) -> Self {
        history.operations
    }
}

impl TryFrom<Vec<Operation>> for History {
    type Error = MalformedOperation;

    fn try_from(operations: Vec<Operation>) -> Result<Self, Self::Error> {
        if let Some(bad) = operations.iter().find(|operation| !operation.is_well_formed()) {
            return Err(MalformedOperation { operation: Box::new(*bad) });
        }
        let last = |operation: &Operation| operation.invoked.max(operation.ended()).step;
        let steps = operations.iter().map(last).max().unwrap_or(0);
        Ok(Self { operations, steps })
    }
}

/// Names one operation of the history that gave it out.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct OperationId(usize);

/// A request of a client with what became of it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "harnesses and tests build it by literal")]
pub struct Operation {
    /// What was asked, and by whom.
    pub request: Request,
    /// When it was sent; it cannot have taken effect earlier.
    pub invoked: Moment,
    /// What the client learnt.
    pub outcome: Outcome,
}

impl Operation {
    /// When the client heard of it; when it was sent if it never did.
    fn ended(&self) -> Moment {
        match self.outcome {
            Outcome::Done { at, .. } | Outcome::NotApplied { at } => at,
            Outcome::Unknown => self.invoked,
        }
    }

    /// What the register held before it, if the answer tells.
    pub(crate) fn met(&self) -> Option<Option<u64>> {
        let Outcome::Done { answer, .. } = self.outcome else { return None };
        match (self.request.call, answer) {
            (_, Answer::Found { value }) => Some(value),
            (Call::CompareAndSet { expected, .. }, Answer::Applied) => Some(expected),
            (_, Answer::Applied | Answer::Refused) => None,
        }
    }

    fn is_well_formed(&self) -> bool {
        let answered = match self.outcome {
            Outcome::Done { answer, .. } => self.request.call.can_answer(answer),
            Outcome::NotApplied { .. } | Outcome::Unknown => true,
        };
        answered && self.invoked <= self.ended()
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { client, key, call } = self.request;
        write!(f, "client {client}, {}: {call} at key {key}", self.invoked)?;
        match self.outcome {
            Outcome::Done { at, answer, index } => write!(f, " {answer}, {at}, index {index}"),
            Outcome::NotApplied { at } => write!(f, " was not applied, {at}"),
            Outcome::Unknown => f.write_str(", outcome unknown"),
        }
    }
}

/// What a client asks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "harnesses and tests build it by literal")]
pub struct Request {
    /// Who asks. A client may ask again while an earlier request has no answer.
    pub client: u64,
    /// The key it is about; each key is a register that is empty at first.
    pub key: u64,
    /// What is to be done there.
    pub call: Call,
}

/// What can be done with the register of a key.
///
/// Give every write its own value: the judges do not count on it, but two writes of one value
/// cannot be told apart, so that less is found, in more time.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(clippy::exhaustive_enums, reason = "harnesses and models match all of them")]
pub enum Call {
    /// Write `value` if the register holds `expected`, else change nothing.
    CompareAndSet {
        /// What must be there.
        expected: Option<u64>,
        /// What is there afterwards.
        value: u64,
    },
    /// Empty the register.
    Delete,
    /// Tell what it holds.
    Read,
    /// Write `value`, whatever is there.
    Write {
        /// What is there afterwards.
        value: u64,
    },
}

impl Call {
    /// What it leaves in the register if it changes it.
    pub(crate) fn leaves(self) -> Option<Option<u64>> {
        match self {
            Self::CompareAndSet { value, .. } | Self::Write { value } => Some(Some(value)),
            Self::Delete => Some(None),
            Self::Read => None,
        }
    }

    fn can_answer(self, answer: Answer) -> bool {
        match answer {
            Answer::Applied => self != Self::Read,
            Answer::Found { .. } => true,
            Answer::Refused => matches!(self, Self::CompareAndSet { .. }),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CompareAndSet { expected: Some(expected), value } => {
                write!(f, "set {expected} to {value}")
            }
            Self::CompareAndSet { expected: None, value } => write!(f, "set nothing to {value}"),
            Self::Delete => f.write_str("delete"),
            Self::Read => f.write_str("read"),
            Self::Write { value } => write!(f, "write {value}"),
        }
    }
}

/// What the client knows of an operation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(clippy::exhaustive_enums, reason = "judges match all of them")]
pub enum Outcome {
    /// It took effect, at some moment between its invocation and its answer.
    Done {
        /// When the client heard of it.
        at: Moment,
        /// What it was told.
        answer: Answer,
        /// A write's place in the log; for a read, the index that was applied when it looked.
        index: u64,
    },
    /// It took no effect and never will. Judges leave it out, so that its value must not be seen.
    NotApplied {
        /// When the client heard of it.
        at: Moment,
    },
    /// Nobody told: a write takes effect at some moment after its invocation, or never.
    Unknown,
}

/// The end of an operation that took effect, as [`History::done`] takes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "harnesses build it by literal")]
pub struct Done {
    /// When the client heard of it.
    pub at: Duration,
    /// What it was told.
    pub answer: Answer,
    /// A write's place in the log; for a read, the index that was applied when it looked.
    pub index: u64,
}

/// What a client is told about an operation that took effect.
///
/// The more a state machine tells, the more is checked: answer [`Answer::Found`] wherever possible.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(clippy::exhaustive_enums, reason = "harnesses and models match all of them")]
pub enum Answer {
    /// The write, the removal or the exchange was made; no word of what was there before.
    Applied,
    /// What the operation met, before any effect of its own. Every call can be answered so: whether
    /// a compare-and-set changed anything follows from it.
    Found {
        /// The value that was there.
        value: Option<u64>,
    },
    /// The compare-and-set met something else than it expected, no word of what. Judges work
    /// hardest for this one.
    Refused,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied => f.write_str("was applied"),
            Self::Found { value: Some(value) } => write!(f, "found {value}"),
            Self::Found { value: None } => f.write_str("found nothing"),
            Self::Refused => f.write_str("was refused"),
        }
    }
}

/// A point in the real-time order of a run.
///
/// One that is less than another happened before it. Two that are equal may have happened in either
/// order: give all of them step 0 where only a clock is known.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "harnesses and tests build it by literal")]
pub struct Moment {
    /// The time since the run began, by one clock for all clients.
    pub at: Duration,
    /// The order of the events of one instant.
    pub step: u64,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:?}", self.at)?;
        if self.step > 0 { write!(f, " (event {})", self.step) } else { Ok(()) }
    }
}

/// An operation that ends before it began, or whose answer no such call can have.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct MalformedOperation {
    /// The first such operation.
    pub operation: Box<Operation>,
}

impl fmt::Display for MalformedOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no operation ends so: {}", self.operation)
    }
}

impl std::error::Error for MalformedOperation {}
