//! What each server's disk must hold: a model that learns of every batch when it is begun and when
//! it is acknowledged, and is held against what a restart finds.

use std::collections::VecDeque;

use kontiki::storage::{Entry, HardState, Recovered, WriteBatch};
use kontiki::{LogId, NodeId};

use super::{Invariant, Judge, ORIGIN, State, hash};

/// The durable log of one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) base: LogId,
    /// Hash of the log up to the base, if anybody knows it.
    base_prefix: Option<u64>,
    entries: VecDeque<Slot>,
    pub(super) term: u64,
    pub(super) vote: u64,
    pub(super) commit: u64,
    /// Acknowledged, but not promised to survive.
    unsynced: Vec<WriteBatch>,
    /// Begun, and not acknowledged.
    in_flight: Option<WriteBatch>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Slot {
    term: u64,
    hash: u64,
    is_change: bool,
    prefix: Option<u64>,
}

impl Disk {
    pub(super) fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    /// Whether something is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let at = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(at).ok()?).map(|slot| slot.term)
    }

    fn prefix_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return self.base_prefix;
        }
        let at = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(at).ok()?).and_then(|slot| slot.prefix)
    }

    /// Whether it holds `at`, or a snapshot that covers it.
    pub(super) fn holds(&self, at: LogId) -> bool {
        at.index <= self.base.index || self.term_at(at.index) == Some(at.term)
    }

    fn take(&mut self, batch: &WriteBatch, prefix_of: impl Fn(LogId) -> Option<u64>) {
        if let Some(base) = &batch.reset_to {
            self.entries.clear();
            self.base = base.log_id;
            self.base_prefix = prefix_of(base.log_id);
        }
        if let Some(base) = &batch.compact_to {
            let prefix = self.prefix_at(base.log_id.index);
            let count = base.log_id.index.saturating_sub(self.base.index);
            let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.entries.len());
            self.entries.drain(..count);
            self.base = base.log_id;
            self.base_prefix = prefix.or_else(|| prefix_of(base.log_id));
        }
        if let Some(first) = batch.entries.first() {
            let keep = first.log_id().index.saturating_sub(self.base.index + 1);
            self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        }
        for entry in &batch.entries {
            let slot = self.slot(entry, &prefix_of);
            self.entries.push_back(slot);
        }
        if let Some(state) = &batch.hard_state {
            self.hard_state(*state);
        }
    }

    fn slot(&self, entry: &Entry, prefix_of: impl Fn(LogId) -> Option<u64>) -> Slot {
        let own = hash(hash(0, &entry.head()), entry.payload());
        let before = self.entries.back().map_or(self.base_prefix, |slot| slot.prefix);
        let prefix = before.map(|before| hash(before, &own.to_le_bytes()));
        let prefix = prefix.or_else(|| prefix_of(entry.log_id()));
        Slot { term: entry.log_id().term, hash: own, is_change: entry.is_change(), prefix }
    }

    fn hard_state(&mut self, state: HardState) {
        (self.term, self.vote, self.commit) = numbers(state);
    }

    /// Term and vote as last written, whether that has been acknowledged or not.
    fn last_vote(&self) -> (u64, u64) {
        let written = self.unsynced.iter().chain(&self.in_flight);
        let last = written.filter_map(|batch| batch.hard_state).last().map(numbers);
        last.map_or((self.term, self.vote), |(term, vote, _)| (term, vote))
    }

    /// The changes of the membership behind `index` in the log, once `batch` is written.
    fn changes_behind(&self, index: u64, batch: &WriteBatch) -> Vec<u64> {
        let end = batch.entries.first().map_or(u64::MAX, |entry| entry.log_id().index);
        let kept = (self.base.index + 1..).zip(&self.entries).filter(|(_, slot)| slot.is_change);
        let kept = kept.map(|(at, _)| at).filter(|at| (index + 1..end).contains(at));
        let new = batch.entries.iter().filter(|entry| entry.is_change());
        let new = new.map(|entry| entry.log_id().index).filter(|&at| at > index);
        kept.chain(new).collect()
    }

    fn same_as(&self, found: &Self) -> bool {
        let hashes = |disk: &Self| disk.entries.iter().map(|slot| slot.hash).collect::<Vec<_>>();
        let heads = |disk: &Self| (disk.base, disk.term, disk.vote, disk.commit);
        heads(self) == heads(found) && hashes(self) == hashes(found)
    }

    fn is_prefix_of(&self, whole: &Self) -> bool {
        let mut both = self.entries.iter().zip(&whole.entries);
        self.base <= whole.base
            && self.last() <= whole.last()
            && (self.base != whole.base || both.all(|(a, b)| a.hash == b.hash))
    }

    fn describe(&self) -> String {
        let Self { base, term, vote, commit, .. } = self;
        format!("base {base} last {} term {term} vote {vote} commit {commit}", self.last())
    }
}

impl Judge {
    /// A server has begun to write.
    pub(crate) fn write_begun(&self, id: NodeId, batch: &WriteBatch) {
        let mut state = self.lock();
        state.hard_state_follows(id, batch);
        state.one_change_at_a_time(id, batch);
        let disk = state.disks.entry(id).or_default();
        if let Some(first) = batch.entries.first() {
            let replaced = disk.last() + 1;
            if first.log_id().index + 1 < replaced {
                state.sometimes("more than one entry was replaced");
            }
        }
        let disk = state.disks.entry(id).or_default();
        let last = disk.last();
        disk.in_flight = Some(batch.clone());
        if let Some(base) = &batch.reset_to {
            // A new cluster's log begins behind its first snapshot.
            if base.log_id.index > 1 {
                state.sometimes("a snapshot took the place of a log");
            }
            if base.log_id.index < last {
                state.sometimes("a snapshot took the place of a longer log");
            }
        }
        if let Some(base) = &batch.compact_to {
            state.sometimes("a log was compacted");
            if base.log_id.index == last {
                state.sometimes("a log was compacted to its end");
            }
        }
        let changes = batch.entries.iter().filter(|entry| entry.is_change());
        let changes: Vec<u64> = changes.map(|entry| entry.log_id().index).collect();
        state.changes.extend(changes);
    }

    /// The write has been acknowledged; if it was synced, all of it must survive from here on.
    pub(crate) fn write_done(&self, id: NodeId, synced: bool) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(disk) = state.disks.get_mut(&id) else { return };
        let Some(batch) = disk.in_flight.take() else { return };
        if !synced {
            disk.unsynced.push(batch);
            return;
        }
        let prefixes = &state.prefixes;
        let prefix_of = |at: LogId| prefix_of(prefixes, at);
        let mut batches = std::mem::take(&mut disk.unsynced);
        batches.push(batch);
        batches.iter().for_each(|batch| disk.take(batch, prefix_of));
        let (commit, last) = (disk.commit, disk.last());
        let mut wrong = None;
        for entry in batches.iter().flat_map(|batch| &batch.entries) {
            let at = entry.log_id();
            let Some(prefix) = disk.term_at(at.index).and_then(|_| disk.prefix_at(at.index)) else {
                continue;
            };
            if disk.term_at(at.index) != Some(at.term) {
                continue;
            }
            let known = *state.prefixes.entry((at.index, at.term)).or_insert(prefix);
            state.counts.checks += 1;
            if known != prefix {
                wrong.get_or_insert(at);
            }
        }
        if let Some(at) = wrong {
            let what = format!("server {id} holds {at} after another log than others do");
            state.violated(Invariant::LogMatching, what);
        }
        state.check(Invariant::IndexesInOrder, commit <= last, || {
            format!("server {id} stored commit {commit}, but its log ends at {last}")
        });
    }

    /// A server has read what its disk kept; it must be what was acknowledged, or that and the
    /// whole of what was being written.
    ///
    /// `false`: on a damaged disk the end is missing; such a server must not come back.
    pub(crate) fn recovered(&self, id: NodeId, recovered: &Recovered, entries: &[Entry]) -> bool {
        let mut state = self.lock();
        let state = &mut *state;
        if recovered.dropped_bytes > 0 {
            state.sometimes("a torn write was dropped");
        }
        let prefixes = &state.prefixes;
        let prefix_of = |at: LogId| prefix_of(prefixes, at);
        let mut found = Disk {
            base: recovered.base.log_id,
            base_prefix: prefix_of(recovered.base.log_id),
            ..Disk::default()
        };
        let batch = WriteBatch {
            entries: entries.to_vec(),
            hard_state: Some(recovered.hard_state),
            ..WriteBatch::default()
        };
        found.take(&batch, prefix_of);
        let model = state.disks.entry(id).or_default();
        let mut expected = model.clone();
        let at_least = expected.describe();
        let pending: Vec<WriteBatch> =
            expected.unsynced.drain(..).chain(expected.in_flight.take()).collect();
        let (lost, in_flight) = (!expected.same_as(&found), !pending.is_empty());
        let mut matches = !lost;
        for batch in pending {
            if matches {
                break;
            }
            expected.take(&batch, prefix_of);
            matches = expected.same_as(&found);
        }
        *model = found.clone();
        if in_flight {
            let whole = lost && matches;
            state.sometimes(match whole {
                true => "a write that was never acknowledged survived",
                false => "a crash took a write that was not acknowledged",
            });
        }
        let damaged = state.damaged.contains(&id);
        if damaged && !matches && found.is_prefix_of(&expected) {
            state.sometimes("damage at the end looked like a torn write");
            return false;
        }
        let invariant = if damaged { Invariant::DamageFound } else { Invariant::DurableBeforeAck };
        let voted = (found.term, found.vote) < (expected.term, expected.vote);
        let invariant = if voted && !damaged { Invariant::VoteDurable } else { invariant };
        state.check(invariant, matches, || {
            format!("server {id} was promised {at_least}, and found {}", found.describe())
        });
        true
    }

    /// Something that had been synced on this server's disk was damaged.
    pub(crate) fn damaged(&self, id: NodeId) {
        self.lock().damaged.insert(id);
    }

    pub(crate) fn is_damaged(&self, id: NodeId) -> bool {
        self.lock().damaged.contains(&id)
    }
}

impl State {
    /// A server's term never goes back, and in one term it votes for one only.
    fn hard_state_follows(&mut self, id: NodeId, batch: &WriteBatch) {
        let Some((term, vote, commit)) = batch.hard_state.map(numbers) else { return };
        let before = self.disks.entry(id).or_default().last_vote();
        let follows = term > before.0 || term == before.0 && (before.1 == 0 || vote == before.1);
        self.check(Invariant::VoteDurable, follows, || {
            format!(
                "server {id} writes term {term} vote {vote:016x} after term {} vote {:016x}",
                before.0, before.1
            )
        });
        self.commit_told(id, term, commit);
    }

    /// Nobody proposes a change of the membership before the last one is committed.
    fn one_change_at_a_time(&mut self, id: NodeId, batch: &WriteBatch) {
        if !batch.entries.iter().any(Entry::is_change) {
            return;
        }
        let committed = self.told.max(self.committed());
        let pending = self.disks.entry(id).or_default().changes_behind(committed, batch);
        self.check(Invariant::MembershipSafety, pending.len() <= 1, || {
            format!("the log of server {id} has changes at {pending:?}, and {committed} committed")
        });
    }
}

/// Term, vote and commit index.
fn numbers(state: HardState) -> (u64, u64, u64) {
    let encoded = state.encode();
    let number =
        |at: usize| encoded[at..at + 8].iter().rev().fold(0, |n, &byte| (n << 8) | u64::from(byte));
    (number(0), number(8), number(16))
}

fn prefix_of(prefixes: &std::collections::BTreeMap<(u64, u64), u64>, at: LogId) -> Option<u64> {
    if at == ORIGIN || at == LogId::default() {
        return Some(0);
    }
    prefixes.get(&(at.index, at.term)).copied()
}
