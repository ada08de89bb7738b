//! The operations on one key, reduced to what a search must know of them.

use std::collections::BTreeMap;

use crate::history::{Answer, Call, History, Moment, Operation, Outcome};

/// The register of one key with all that was done to it.
#[derive(Clone)]
pub(super) struct Register {
    /// How many different values the steps speak of. Value 0 is the empty register.
    pub(super) values: usize,
    pub(super) steps: Vec<Step>,
}

/// One operation: it needs something of the register, and leaves something there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) call: Moment,
    /// None if the operation need not take effect at all.
    pub(super) end: Option<Moment>,
    pub(super) need: Need,
    /// The value it leaves; none if it changes nothing.
    pub(super) set: Option<usize>,
    /// Its place in the history.
    pub(super) source: usize,
}

/// What must be in the register for the answer to be true.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Need {
    Any,
    Equal(usize),
    Other(usize),
}

impl Register {
    /// The registers of a history by key. What was not applied, and reads without answer, are no
    /// steps.
    pub(super) fn all(history: &History) -> BTreeMap<u64, Self> {
        let mut registers = BTreeMap::<u64, (Self, BTreeMap<u64, usize>)>::new();
        for (source, operation) in history.operations().iter().enumerate() {
            let (register, names) = registers.entry(operation.request.key).or_default();
            let name = |value: Option<u64>| {
                let Some(value) = value else { return 0 };
                let fresh = names.len() + 1;
                *names.entry(value).or_insert(fresh)
            };
            register.steps.extend(step(operation, source, name));
            register.values = names.len() + 1;
        }
        registers.into_iter().map(|(key, (register, _))| (key, register)).collect()
    }

    /// Whether some answer says no more than that the register did not hold a value.
    pub(super) fn has_refusals(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.need, Need::Other(_)))
    }

    /// Leaves out the writes of unknown outcome that nobody can have seen.
    ///
    /// A write that may never have happened explains nothing unless a step that needs its value
    /// follows at once. One whose value nobody needs would only be tried at every turn.
    ///
    /// A refused compare-and-set breaks the argument: it is explained by any write that gets in
    /// between. Then all of them stay.
    pub(super) fn drop_unseen(&mut self) {
        if self.has_refusals() {
            return;
        }
        let mut needed = vec![false; self.values];
        for step in &self.steps {
            if let Need::Equal(value) = step.need {
                needed[value] = true;
            }
        }
        let seen = |step: &Step| step.end.is_some() || step.set.is_none_or(|value| needed[value]);
        self.steps.retain(seen);
    }
}

impl Default for Register {
    fn default() -> Self {
        Self { values: 1, steps: Vec::new() }
    }
}

fn step(
    operation: &Operation,
    source: usize,
    mut name: impl FnMut(Option<u64>) -> usize,
) -> Option<Step> {
    let (answer, end) = match operation.outcome {
        Outcome::Done { at, answer, .. } => (answer, Some(at)),
        Outcome::NotApplied { .. } => return None,
        // An exchange of unknown outcome that changes nothing is one that never took effect.
        Outcome::Unknown if operation.request.call == Call::Read => return None,
        Outcome::Unknown => (Answer::Applied, None),
    };
    let found = match answer {
        Answer::Applied | Answer::Refused => Need::Any,
        Answer::Found { value } => Need::Equal(name(value)),
    };
    let (need, set) = match operation.request.call {
        Call::CompareAndSet { expected, value } => match answer {
            Answer::Applied => (Need::Equal(name(expected)), Some(name(Some(value)))),
            Answer::Found { value: met } if met == expected => (found, Some(name(Some(value)))),
            Answer::Found { .. } => (found, None),
            Answer::Refused => (Need::Other(name(expected)), None),
        },
        Call::Delete => (found, Some(0)),
        Call::Read => (found, None),
        Call::Write { value } => (found, Some(name(Some(value)))),
    };
    Some(Step { call: operation.invoked, end, need, set, source })
}
