//! Every order, by hand: no keys apart, no memory, nothing shared with what it is to judge.

use std::collections::BTreeMap;

use crate::history::{Answer, Call, History, Moment, Operation, Outcome};

type Map = BTreeMap<u64, u64>;

/// Whether some order of the operations explains the history.
pub(super) fn linearizable(history: &History) -> bool {
    let counts = |operation: &&Operation| match operation.outcome {
        Outcome::Done { .. } => true,
        Outcome::NotApplied { .. } => false,
        Outcome::Unknown => operation.request.call != Call::Read,
    };
    let mut left: Vec<&Operation> = history.operations().iter().filter(counts).collect();
    some_order(&mut left, &Map::new())
}

fn some_order(left: &mut Vec<&Operation>, map: &Map) -> bool {
    if left.iter().all(|operation| operation.outcome == Outcome::Unknown) {
        return true;
    }
    for at in 0..left.len() {
        let operation = left[at];
        let too_early = |other: &&Operation| end(other).is_some_and(|end| end < operation.invoked);
        if left.iter().any(too_early) {
            continue;
        }
        let mut after = map.clone();
        if execute(operation, &mut after) {
            left.remove(at);
            let found = some_order(left, &after);
            left.insert(at, operation);
            if found {
                return true;
            }
        }
    }
    false
}

fn end(operation: &Operation) -> Option<Moment> {
    match operation.outcome {
        Outcome::Done { at, .. } => Some(at),
        _ => None,
    }
}

/// Executes the operation; false if its answer is not what the map says.
fn execute(operation: &Operation, map: &mut Map) -> bool {
    let key = operation.request.key;
    let found = map.get(&key).copied();
    let mut applied = true;
    match operation.request.call {
        Call::CompareAndSet { expected, value } if expected == found => {
            map.insert(key, value);
        }
        Call::CompareAndSet { .. } => applied = false,
        Call::Delete => {
            map.remove(&key);
        }
        Call::Read => {}
        Call::Write { value } => {
            map.insert(key, value);
        }
    }
    let Outcome::Done { answer, .. } = operation.outcome else { return true };
    match answer {
        Answer::Applied => applied,
        Answer::Found { value } => value == found,
        Answer::Refused => !applied,
    }
}
