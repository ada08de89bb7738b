//! Histories: good ones as a map would make them, spoilt ones, and ones that are pure chance.

use std::time::Duration;

use fastrand::Rng;

use crate::history::{Answer, Call, History, Moment, Operation, Outcome, Request};

/// How a history looks.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) operations: usize,
    pub(super) clients: u64,
    pub(super) keys: u64,
    /// One in so many ends without an answer.
    pub(super) unknown_one_in: u32,
    /// Reads in a hundred operations.
    pub(super) reads: u32,
    /// Compare-and-sets and deletes, half of each, in a hundred operations.
    pub(super) others: u32,
    /// How many different values there are, if writes do not each have their own.
    pub(super) values: Option<u64>,
    pub(super) telling: Telling,
}

/// What the answers say.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Telling {
    /// Whatever they can say.
    Anything,
    /// Reads and compare-and-sets say what they found, others that they were applied.
    Found,
}

impl Shape {
    pub(super) fn tiny(rng: &mut Rng) -> Self {
        Self {
            operations: rng.choice([2, 3, 4, 5, 6, 7, 8, 8, 8, 8]).unwrap(),
            clients: rng.u64(1..=4),
            keys: rng.choice([1, 1, 1, 2]).unwrap(),
            unknown_one_in: rng.choice([3, 8, 1000]).unwrap(),
            reads: rng.u32(30..=70),
            others: rng.u32(0..=40),
            values: rng.choice([None, None, Some(2), Some(3)]).unwrap(),
            telling: if rng.bool() { Telling::Anything } else { Telling::Found },
        }
    }
}

/// What happens within one map, at a moment between call and return of each operation.
pub(super) fn good(rng: &mut Rng, shape: Shape) -> Vec<Operation> {
    let mut drafts = drafts(rng, shape);
    drafts.sort_by_key(|draft| draft.effect);
    let mut state = vec![None; shape.keys as usize];
    let mut index = 0;
    let mut fresh = 0;
    let mut operations = Vec::new();
    for draft in drafts {
        let value = match shape.values {
            Some(values) => rng.u64(1..=values),
            None => {
                fresh += 1;
                fresh
            }
        };
        let key = rng.u64(0..shape.keys);
        let found = state[key as usize];
        let call = call(rng, shape, value, found);
        let request = Request { client: draft.client, key, call };
        let happens = !draft.unknown || rng.bool();
        let (applied, left) = match call {
            Call::CompareAndSet { expected, value } if expected == found => (true, Some(value)),
            Call::CompareAndSet { .. } => (false, found),
            Call::Delete => (true, None),
            Call::Read => (true, found),
            Call::Write { value } => (true, Some(value)),
        };
        if happens {
            state[key as usize] = left;
            index += u64::from(call != Call::Read);
        }
        let at = moment(draft.end);
        let outcome = match draft.unknown {
            false => Outcome::Done { at, answer: answer(rng, shape, call, applied, found), index },
            true if !happens && rng.bool() => Outcome::NotApplied { at },
            true => Outcome::Unknown,
        };
        operations.push(Operation { request, invoked: moment(draft.call), outcome });
    }
    operations
}

/// One change that often, but not always, is one too many.
pub(super) fn spoil(rng: &mut Rng, operations: &mut [Operation]) {
    let spread = operations.len() as u64;
    let other = rng.usize(0..operations.len());
    let borrowed = operations[other];
    let operation = &mut operations[rng.usize(0..spread as usize)];
    match (rng.u32(0..7), &mut operation.outcome, borrowed.outcome) {
        // It is told what another was told.
        (0 | 1, Outcome::Done { answer, .. }, Outcome::Done { answer: told, .. })
            if (operation.request.call == Call::Read) == (borrowed.request.call == Call::Read)
                && told != Answer::Refused =>
        {
            *answer = told;
        }
        (0..=2, Outcome::Done { answer: Answer::Found { value }, .. }, _) => {
            *value = if rng.bool() { None } else { Some(rng.u64(1..=spread)) };
        }
        // It never happened, they say.
        (3, Outcome::Done { at, .. }, _) => operation.outcome = Outcome::NotApplied { at: *at },
        (4, Outcome::Done { index, .. }, _) => *index = rng.u64(0..=spread),
        // It takes as long, but earlier or later.
        (_, Outcome::Done { at, .. }, _) => {
            let took = at.at - operation.invoked.at;
            let longest = operation.invoked.at + Duration::from_millis(20);
            operation.invoked = moment(rng.u64(0..=longest.as_millis() as u64));
            at.at = operation.invoked.at + took;
        }
        _ => operation.invoked = moment(0),
    }
}

/// Answers without sense.
pub(super) fn chance(rng: &mut Rng, shape: Shape) -> Vec<Operation> {
    let values = shape.values.unwrap_or(4);
    let mut operations = good(rng, shape);
    for operation in &mut operations {
        if let Outcome::Done { answer, .. } = &mut operation.outcome {
            let found = Some(rng.u64(0..=values)).filter(|value| *value > 0);
            let applied =
                rng.bool() || !matches!(operation.request.call, Call::CompareAndSet { .. });
            *answer = self::answer(rng, shape, operation.request.call, applied, found);
        }
    }
    operations
}

pub(super) fn history(operations: Vec<Operation>) -> History {
    History::try_from(operations).expect("well formed")
}

pub(super) fn moment(at_ms: u64) -> Moment {
    Moment { at: Duration::from_millis(at_ms), step: 0 }
}

struct Draft {
    client: u64,
    call: u64,
    effect: u64,
    end: u64,
    unknown: bool,
}

/// Each client does one thing after the other; what nobody waits for may take effect much later.
fn drafts(rng: &mut Rng, shape: Shape) -> Vec<Draft> {
    let mut free = vec![0; shape.clients as usize];
    let one = |_| {
        let client = rng.usize(0..free.len());
        let call = free[client] + rng.u64(0..=3);
        let mut effect = call + rng.u64(0..=4);
        let end = effect + rng.u64(0..=4);
        free[client] = end;
        let unknown = rng.u32(0..shape.unknown_one_in) == 0;
        if unknown {
            effect += rng.u64(0..=20);
        }
        Draft { client: client as u64, call, effect, end, unknown }
    };
    (0..shape.operations).map(one).collect()
}

fn call(rng: &mut Rng, shape: Shape, value: u64, found: Option<u64>) -> Call {
    let dice = rng.u32(0..100);
    if dice < shape.reads {
        return Call::Read;
    }
    if dice >= shape.reads + shape.others {
        return Call::Write { value };
    }
    if rng.u32(0..4) == 0 {
        return Call::Delete;
    }
    let expected = match rng.u32(0..4) {
        0 => Some(rng.u64(1..=value)),
        1 => None,
        _ => found,
    };
    Call::CompareAndSet { expected, value }
}

fn answer(rng: &mut Rng, shape: Shape, call: Call, applied: bool, found: Option<u64>) -> Answer {
    let tells = match shape.telling {
        Telling::Anything => rng.bool(),
        Telling::Found => matches!(call, Call::CompareAndSet { .. }),
    };
    if tells || call == Call::Read {
        return Answer::Found { value: found };
    }
    if applied { Answer::Applied } else { Answer::Refused }
}
