//! Contradictions that are plain to see, however many operations are concurrent.

use crate::history::Moment;

use super::register::{Need, Register, Step};

/// Whether a value must have been in the register where it cannot have been.
///
/// A value that is written once is there for one stretch of time. Of the operations that write it
/// or need it, and did take effect, take the first end and the last call. If the end comes first,
/// the value is there all the time between them: such zones of two values must not overlap (Gibbons
/// and Korach). If the call comes first, it is there at some moment between them, which must not
/// lie in the zone of another.
///
/// The search would find that too, but among many concurrent operations not in any time that one
/// would wait.
pub(super) fn contradict(register: &Register) -> bool {
    let mut values = vec![Value::default(); register.values];
    for step in &register.steps {
        if let Some(value) = step.set {
            values[value].writers += 1;
            values[value].written = Some(step.call);
            values[value].include(step);
        }
        if let Need::Equal(value) = step.need {
            values[value].needed |= step.end.is_some();
            values[value].include(step);
        }
    }
    // The empty register needs no writer.
    let values = &values[1..];
    if values.iter().any(|value| value.needed && value.writers == 0) {
        return true;
    }
    let once = values.iter().filter(|value| value.writers == 1);
    let spans: Vec<_> = once.filter_map(Value::span).collect();
    if spans.iter().any(|span| span.first_end < span.written) {
        return true;
    }
    let (mut zones, moments): (Vec<Span>, Vec<Span>) =
        spans.into_iter().partition(|span| span.first_end < span.last_call);
    zones.sort_by_key(|span| span.first_end);
    if zones.windows(2).any(|pair| pair[1].first_end < pair[0].last_call) {
        return true;
    }
    moments.iter().any(|span| {
        let begun = zones.partition_point(|zone| zone.first_end < span.last_call);
        begun > 0 && span.first_end < zones[begun - 1].last_call
    })
}

/// What is said of one value.
#[derive(Clone, Default)]
struct Value {
    writers: usize,
    needed: bool,
    written: Option<Moment>,
    last_call: Option<Moment>,
    first_end: Option<Moment>,
}

#[derive(Clone, Copy)]
struct Span {
    written: Moment,
    last_call: Moment,
    first_end: Moment,
}

impl Value {
    /// What need not have happened says nothing.
    fn include(&mut self, step: &Step) {
        if let Some(end) = step.end {
            self.last_call = self.last_call.max(Some(step.call));
            self.first_end = self.first_end.into_iter().chain([end]).min();
        }
    }

    fn span(&self) -> Option<Span> {
        let Self { written, last_call, first_end, .. } = *self;
        Some(Span { written: written?, last_call: last_call?, first_end: first_end? })
    }
}
