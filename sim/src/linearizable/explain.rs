//! From a register that no order explains to the few operations that show why.

use crate::history::{History, Operation, Outcome};

use super::register::{Need, Register, Step};
use super::search::{Progress, Search};
use super::{Budget, Counterexample};

/// Leaves out what can be left out of `register` so that still no order explains the rest, with
/// what is left of the budget.
///
/// Only such parts are left out as a register that can be explained could do without: a step that
/// changes nothing, or a value together with all that depends on it. So the rest is a reason and
/// not an artefact. Writes that were not applied, and were seen nevertheless, are shown with it.
pub(super) fn explain(
    history: &History,
    key: u64,
    register: &Register,
    budget: Budget,
) -> Counterexample {
    let steps = shrink(register, budget);
    let all = history.operations();
    let mut operations: Vec<Operation> = steps.iter().map(|step| all[step.source]).collect();
    let on_key = || all.iter().filter(|operation| operation.request.key == key);
    let not_applied = |operation: &&Operation| {
        // Who found nothing says nothing of a delete in particular.
        let left = operation.request.call.leaves().filter(Option::is_some);
        let seen = |other: &Operation| left.is_some() && other.met() == left;
        matches!(operation.outcome, Outcome::NotApplied { .. }) && operations.iter().any(seen)
    };
    let seen_nevertheless: Vec<Operation> = on_key().filter(not_applied).copied().collect();
    operations.extend(seen_nevertheless);
    operations.sort_by_key(|operation| operation.invoked);
    Counterexample { key, operations, out_of: on_key().count() }
}

/// What can be left out at once.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// The step at this place, which changes nothing.
    Step(usize),
    /// All writes of this value.
    Value(usize),
}

/// Delta debugging, in halves, quarters and so on.
fn shrink(register: &Register, mut budget: Budget) -> Vec<Step> {
    let mut parts = parts(register);
    let mut best = register.clone();
    let mut size = parts.len();
    while size > 1 {
        size = size.div_ceil(2);
        let mut at = 0;
        while at < parts.len() {
            let end = parts.len().min(at + size);
            let fewer: Vec<Part> = parts[..at].iter().chain(&parts[end..]).copied().collect();
            let rest = only(register, &fewer);
            // To build it costs something too.
            let cost = rest.steps.len() as u64 + 1;
            let Some(left) = budget.steps.checked_sub(cost) else { return best.steps };
            budget.steps = left;
            // No attempt uses up what the others need.
            let slice = budget.steps / ATTEMPTS_MIN;
            let mut search = Search::new(rest.clone());
            let progress = search.run(&mut budget.steps, slice, budget.memory_bytes);
            if progress == Progress::NotLinearizable {
                parts = fewer;
                best = rest;
            } else {
                at = end;
            }
        }
    }
    best.steps
}

/// All that can be left out.
pub(super) fn parts(register: &Register) -> Vec<Part> {
    let steps = register.steps.iter().enumerate();
    let idle = steps.filter(|(_, step)| step.set.is_none()).map(|(at, _)| Part::Step(at));
    (0..register.values).map(Part::Value).chain(idle).collect()
}

/// The register as it is when only `parts` matter.
pub(super) fn only(register: &Register, parts: &[Part]) -> Register {
    let mut values = vec![false; register.values];
    let mut idle = vec![false; register.steps.len()];
    for part in parts {
        match *part {
            Part::Step(at) => idle[at] = true,
            Part::Value(value) => values[value] = true,
        }
    }
    let whole = values.iter().all(|kept| *kept);
    let reduce = |(at, step): (usize, &Step)| {
        let kept = step.set.map_or(idle[at], |value| values[value]);
        let need = match step.need {
            // A write that met the value is now one of which nobody knows what it met; a read that
            // met it is gone.
            Need::Equal(value) if !values[value] => step.set.map(|_| Need::Any),
            // What a refused exchange met may just have been taken away.
            Need::Other(_) if !whole => None,
            need => Some(need),
        };
        need.filter(|_| kept).map(|need| Step { need, ..*step })
    };
    let mut steps: Vec<Step> = register.steps.iter().enumerate().filter_map(reduce).collect();
    if !whole {
        drop_idle_deletes(&mut steps);
    }
    Register { values: register.values, steps }
}

/// Leaves out deletes which nobody can have noticed: those over before there was anything to
/// delete, and those begun when the last to find nothing had found it.
fn drop_idle_deletes(steps: &mut Vec<Step>) {
    let writes = steps.iter().filter(|step| step.set.is_some_and(|value| value != 0));
    let first_write = writes.map(|step| step.call).min();
    let witnesses = steps.iter().filter(|step| step.need == Need::Equal(0));
    // Open to the end, if one of them is.
    let last_witness =
        witnesses.map(|step| step.end.map_or((true, None), |end| (false, Some(end))));
    let last_witness = last_witness.max();
    steps.retain(|step| {
        let early = step.end.is_some_and(|end| first_write.is_none_or(|write| end < write));
        let late = match last_witness {
            None => true,
            Some((true, _)) => false,
            Some((false, end)) => end < Some(step.call),
        };
        step.set != Some(0) || !(early || late)
    });
}

const ATTEMPTS_MIN: u64 = 16;
