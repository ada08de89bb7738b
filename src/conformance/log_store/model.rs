//! What a log must hold after a batch, kept as plainly as can be; and batches to write.

use bytes::Bytes;

use crate::conformance::pattern;
use crate::id::{ClusterId, GroupId, LogId};
use crate::storage::{Base, Entry, HardState, Identity, Recovered, WriteBatch};

/// A log as it must be.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    identity: Option<Identity>,
    base: Base,
    entries: Vec<Entry>,
    hard_state: HardState,
}

/// What a store says that it holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Contents {
    pub(super) identity: Option<Identity>,
    pub(super) base: Base,
    pub(super) hard_state: HardState,
    pub(super) last: LogId,
    pub(super) terms: Vec<LogId>,
    pub(super) changes: Vec<Entry>,
    pub(super) entries: Vec<Entry>,
}

impl Model {
    pub(super) fn write(&mut self, batch: &WriteBatch) {
        if batch.identity.is_some() {
            self.identity = batch.identity;
        }
        if let Some(base) = &batch.reset_to {
            self.entries.clear();
            self.base = base.clone();
        }
        if let Some(base) = &batch.compact_to {
            self.entries.retain(|entry| entry.log_id.index > base.log_id.index);
            self.base = base.clone();
        }
        if let Some(first) = batch.entries.first() {
            self.entries.retain(|entry| entry.log_id.index < first.log_id.index);
            self.entries.extend(batch.entries.iter().cloned());
        }
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state;
        }
    }

    pub(super) fn contents(&self) -> Contents {
        let mut terms: Vec<LogId> = Vec::new();
        for entry in &self.entries {
            if terms.last().is_none_or(|run| run.term != entry.log_id.term) {
                terms.push(entry.log_id);
            }
        }
        Contents {
            identity: self.identity,
            base: self.base.clone(),
            hard_state: self.hard_state,
            last: self.last(),
            terms,
            changes: self.entries.iter().filter(|entry| entry.is_change()).cloned().collect(),
            entries: self.entries.clone(),
        }
    }

    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(self.base.log_id, Entry::log_id)
    }
}

impl Contents {
    pub(super) fn new(recovered: Recovered, entries: Vec<Entry>) -> Self {
        let Recovered { identity, base, hard_state, last, terms, changes, dropped_bytes: _ } =
            recovered;
        Self { identity, base, hard_state, last, terms, changes, entries }
    }

    /// The first thing in which two differ.
    pub(super) fn difference(&self, wanted: &Self) -> String {
        let pairs = [
            ("identity", format!("{:?}", self.identity), format!("{:?}", wanted.identity)),
            ("base", format!("{:?}", self.base), format!("{:?}", wanted.base)),
            ("hard state", format!("{:?}", self.hard_state), format!("{:?}", wanted.hard_state)),
            ("last entry", format!("{:?}", self.last), format!("{:?}", wanted.last)),
            ("runs of terms", format!("{:?}", self.terms), format!("{:?}", wanted.terms)),
            ("changes", places(&self.changes), places(&wanted.changes)),
            ("entries", places(&self.entries), places(&wanted.entries)),
        ];
        let different = pairs.into_iter().find(|(_, found, wanted)| found != wanted);
        different.map_or_else(
            || "the payload of an entry is not what was written".to_owned(),
            |(what, found, wanted)| format!("its {what}: {found}, and not {wanted}"),
        )
    }
}

fn places(entries: &[Entry]) -> String {
    let places: Vec<String> = entries.iter().map(|entry| entry.log_id.to_string()).collect();
    places.join(" ")
}

/// Batches that fit each other, as chance has them.
pub(super) struct Script {
    dice: fastrand::Rng,
    term: u64,
    model: Model,
    always_sync: bool,
}

impl Script {
    pub(super) fn new(seed: u64, always_sync: bool) -> Self {
        let dice = fastrand::Rng::with_seed(seed);
        Self { dice, term: 1, model: Model::default(), always_sync }
    }

    /// Goes on from what a log holds.
    pub(super) fn go_on_from(&mut self, model: Model) {
        self.model = model;
    }

    pub(super) fn number(&mut self, below: usize) -> usize {
        self.dice.usize(..below)
    }

    pub(super) fn batch(&mut self) -> WriteBatch {
        let (base, last) = (self.model.base.log_id, self.model.last());
        let sync = self.always_sync || self.dice.u8(..3) > 0;
        let mut batch = WriteBatch { sync, ..WriteBatch::default() };
        if self.model.identity.is_none() {
            batch.identity = Some(identity());
        }
        match self.dice.u8(..20) {
            0 => batch.reset_to = Some(told(self.term, last.index + self.dice.u64(..5))),
            1..=3 if last.index > base.index => {
                let index = self.dice.u64(base.index + 1..=last.index);
                let at = self.model.entries.iter().find(|entry| entry.log_id.index == index);
                batch.compact_to = at.map(|entry| told(entry.log_id.term, index));
            }
            4 => {}
            _ => self.append(&mut batch),
        }
        if self.dice.bool() || batch.entries.is_empty() {
            batch.hard_state = Some(HardState::new(self.term, Some(3.into()), last.index));
        }
        self.model.write(&batch);
        batch
    }

    fn append(&mut self, batch: &mut WriteBatch) {
        let (base, last) = (self.model.base.log_id, self.model.last());
        self.term += self.dice.u64(..2);
        let behind = (last.index - base.index).min(4);
        let replaced = if self.dice.u8(..4) == 0 { self.dice.u64(..=behind) } else { 0 };
        let first = last.index - replaced + 1;
        let count = self.dice.u64(1..6);
        for index in first..first + count {
            let len = if self.dice.u8(..40) == 0 { 6_000 } else { self.dice.usize(..300) };
            let at = LogId { term: self.term, index };
            batch.entries.push(match self.dice.u8(..6) {
                0 => change(at, len),
                _ => entry(at, len),
            });
        }
    }
}

/// A base that says where it is.
fn told(term: u64, index: u64) -> Base {
    base(LogId { term, index }, &format!("the system at {term}, {index}"))
}

pub(super) fn identity() -> Identity {
    Identity { cluster: ClusterId::from_random(1, 2), node: 7.into(), group: GroupId(3) }
}

pub(super) fn base(log_id: LogId, system: &str) -> Base {
    Base { log_id, system: Bytes::copy_from_slice(system.as_bytes()) }
}

pub(super) fn entry(log_id: LogId, len: usize) -> Entry {
    Entry::application(log_id, &payload(log_id, len))
}

/// An entry that changes the membership; what is in it, a store does not know.
pub(super) fn change(log_id: LogId, len: usize) -> Entry {
    let kind = crate::storage::EntryKind::Change;
    Entry { log_id, kind, data: payload(log_id, len).into() }
}

/// Another one for each place, so that nothing can stand in for something else.
fn payload(log_id: LogId, len: usize) -> Vec<u8> {
    pattern(log_id.term << 32 | log_id.index, len)
}

pub(super) fn at(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

/// A batch of entries of one term, synced.
pub(super) fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>) -> WriteBatch {
    let entries = indexes.map(|index| entry(at(term, index), 20)).collect();
    WriteBatch { entries, sync: true, ..WriteBatch::default() }
}
