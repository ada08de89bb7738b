//! Whether a history could have come from one map that does one thing at a time.
//!
//! A history is linearizable if each operation that took effect can be given one moment between its
//! invocation and its answer so that the answers are those of a map which executes them in that
//! order. Two judges ask that question:
//!
//! - [`witness()`] tries the one order which the log suggests. It takes a millisecond for ten
//!   thousand operations, and its yes is a proof. Run it on every history.
//! - [`check`] searches all orders, with no use for the indexes. Its no is a proof too, and it is
//!   the one to ask when the witness says no, or when the indexes themselves are on trial.
//!
//! The search is exponential in the worst case, so it has a [`Budget`], and a third verdict: a run
//! whose history is [`Verdict::Unknown`] has not passed.

mod events;
mod explain;
mod memo;
mod register;
mod search;
mod witness;
mod zones;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::history::{History, Operation};

pub use witness::{Violation, witness};

use register::Register;
use search::{Progress, Search};

/// Searches for a linearization of `history`.
///
/// Each key is a register of its own, and is searched by itself; all take turns, so that a hard one
/// does not keep a bad one from being found. What is left of the budget then goes into making the
/// counterexample small.
pub fn check(history: &History, budget: Budget) -> Verdict {
    let mut budget = budget;
    let registers = Register::all(history);
    let searches = registers.iter().map(|(key, register)| (*key, Search::new(register.clone())));
    let mut open: Vec<(u64, Search)> = searches.collect();
    while !open.is_empty() {
        let (steps_before, keys_before) = (budget.steps, open.len());
        open = match turn(open, &mut budget) {
            Ok(still_open) => still_open,
            Err(bad) => {
                let found = explain::explain(history, bad, &registers[&bad], budget);
                return Verdict::NotLinearizable(found);
            }
        };
        if budget.steps == steps_before && open.len() == keys_before {
            let limit = if budget.steps == 0 { Limit::Steps } else { Limit::Memory };
            let keys = open.into_iter().map(|(key, _)| key).collect();
            return Verdict::Unknown(Undecided { keys, limit });
        }
    }
    Verdict::Linearizable
}

/// Lets each search go on for a slice, with an equal share of the memory; those that must wait for
/// more of it get it when others are through. Returns what is still open, or a key that is bad.
fn turn(open: Vec<(u64, Search)>, budget: &mut Budget) -> Result<Vec<(u64, Search)>, u64> {
    let share = budget.memory_bytes / open.len();
    let mut still_open = Vec::with_capacity(open.len());
    for (key, mut search) in open {
        match search.run(&mut budget.steps, SLICE, share) {
            Progress::Linearizable => {}
            Progress::More | Progress::Starved => still_open.push((key, search)),
            Progress::NotLinearizable => return Err(key),
        }
    }
    Ok(still_open)
}

/// How much a search may use before it gives up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "callers build it by literal")]
pub struct Budget {
    /// How often the search may look at an operation; some ten million a second.
    pub steps: u64,
    /// How much it may remember of where it has been, over all keys. Beside that it needs some 300
    /// bytes for each operation of the history.
    pub memory_bytes: usize,
}

impl Default for Budget {
    /// 20 million steps and 256 MiB: some seconds.
    fn default() -> Self {
        Self { steps: 20_000_000, memory_bytes: 256 << 20 }
    }
}

/// What the search found.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "there is no fourth verdict")]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    NotLinearizable(Counterexample),
    /// The budget did not suffice. A run with such a history has not passed.
    Unknown(Undecided),
}

/// Operations on one key that no order explains, as few as the budget allowed to find.
///
/// It shows where to look. Operations left out had no part in it; an answer of one that is shown
/// may speak of a value whose write is not, because that was not the trouble.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counterexample {
    /// The key.
    pub key: u64,
    /// The operations, by invocation.
    pub operations: Vec<Operation>,
    /// How many operations on that key the history has.
    pub out_of: usize,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, operations, out_of } = self;
        let shown = operations.len();
        write!(f, "no order explains key {key}, nor these {shown} of its {out_of} operations:")?;
        operations.iter().try_for_each(|operation| write!(f, "\n  {operation}"))
    }
}

/// What the search could not decide, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Undecided {
    /// The keys that are still open; all others are linearizable.
    pub keys: Vec<u64>,
    /// What ran out.
    pub limit: Limit,
}

impl fmt::Display for Undecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no verdict on keys {:?}: out of {}", self.keys, self.limit)
    }
}

/// A part of the budget.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Limit {
    /// [`Budget::memory_bytes`].
    Memory,
    /// [`Budget::steps`].
    Steps,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Steps => f.write_str("steps"),
        }
    }
}

/// How many steps a key may take before it is the turn of the next.
const SLICE: u64 = 4096;
