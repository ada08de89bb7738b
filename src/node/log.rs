//! The engine's view of the log: the tail in memory, the terms of all of it, the rest on request.
//!
//! Memory only and infallible (raft-rs panics on every storage error): a disk can only fail in the
//! driver's jobs. What the engine reads to hand out or to look for configuration changes is
//! answered with headers; payloads are for messages and for the apply job, which reads behind the
//! tail by itself.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use raft::eraftpb::{Entry, EntryType, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use super::engine;
use crate::id::LogId;
use crate::membership::Membership;
use crate::storage::{self, SnapshotMeta};

pub(super) struct LogCache {
    initial: RaftState,
    /// Where the log begins: the entry before the first.
    base: LogId,
    /// First entry of each run of equal terms behind the base.
    runs: Vec<LogId>,
    /// Configuration entries behind the base, whole.
    changes: BTreeMap<u64, Entry>,
    tail: VecDeque<Entry>,
    /// Index of the first entry in `tail`, or the next index if it is empty.
    tail_start: u64,
    tail_bytes: u64,
    bytes_max: u64,
    snapshot: Option<(SnapshotMeta, Snapshot)>,
    wants_snapshot: Cell<bool>,
    /// What a fetch brought, kept while the engine asks again.
    staged: Vec<Entry>,
    missed: RefCell<Vec<Fetch>>,
    /// How many reads were taken to be done and are not.
    fetching: usize,
}

/// A read that reached behind the tail: the driver does it, and the engine asks again.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) range: Range<u64>,
    pub(crate) bytes_max: u64,
    pub(super) context: GetEntriesContext,
}

impl LogCache {
    /// The view of a recovered log; `membership` is the one in force at the applied index.
    pub(super) fn new(recovered: &storage::Recovered, membership: &Membership, max: u64) -> Self {
        let changes = recovered.changes.iter().cloned().map(engine::entry_to_engine);
        Self {
            initial: RaftState {
                hard_state: engine::hard_state_to_engine(recovered.hard_state),
                conf_state: engine::conf_state(membership),
            },
            base: recovered.base.log_id,
            runs: recovered.terms.clone(),
            changes: changes.map(|entry| (entry.index, entry)).collect(),
            tail: VecDeque::new(),
            tail_start: recovered.last.index + 1,
            tail_bytes: 0,
            bytes_max: max,
            snapshot: None,
            wants_snapshot: Cell::new(false),
            staged: Vec::new(),
            missed: RefCell::default(),
            fetching: 0,
        }
    }

    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        self.truncate(first.index);
        for entry in entries {
            assert_eq!(entry.index, self.last() + 1, "the log has no holes");
            if self.runs.last().is_none_or(|run| run.term != entry.term) {
                self.runs.push(LogId { term: entry.term, index: entry.index });
            }
            if entry.entry_type != EntryType::EntryNormal {
                self.changes.insert(entry.index, entry.clone());
            }
            self.tail_bytes += cost(&entry);
            self.tail.push_back(entry);
        }
    }

    fn truncate(&mut self, from: u64) {
        assert!(from > self.base.index, "what is compacted is never replaced");
        while self.tail_start <= self.last() && self.last() >= from {
            let gone = self.tail.pop_back().expect("the last entry is in the tail");
            self.tail_bytes -= cost(&gone);
        }
        if self.tail.is_empty() {
            self.tail_start = self.tail_start.min(from);
        }
        self.runs.retain(|run| run.index < from);
        self.changes.split_off(&from);
        self.staged.retain(|entry| entry.index < from);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.tail_bytes
    }

    /// Drops entries up to `stable` from memory, oldest first, while the tail is over its budget.
    pub(super) fn evict(&mut self, stable: u64) {
        while self.tail_bytes > self.bytes_max && self.tail_start <= stable {
            let Some(gone) = self.tail.pop_front() else { return };
            self.tail_bytes -= cost(&gone);
            self.tail_start += 1;
        }
    }

    /// Moves the beginning of the log behind `to`.
    pub(super) fn compact(&mut self, to: LogId) {
        while self.tail_start <= to.index
            && let Some(gone) = self.tail.pop_front()
        {
            self.tail_bytes -= cost(&gone);
            self.tail_start += 1;
        }
        self.changes = self.changes.split_off(&(to.index + 1));
        if let Some(term) = self.term_of(to.index + 1) {
            self.runs.retain(|run| run.index > to.index + 1);
            self.runs.insert(0, LogId { term, index: to.index + 1 });
        } else {
            self.runs.clear();
        }
        self.base = to;
    }

    /// Forgets everything: the log now begins behind `to`, where a snapshot ends.
    pub(super) fn reset(&mut self, to: LogId) {
        self.tail.clear();
        self.tail_bytes = 0;
        self.tail_start = to.index + 1;
        self.changes.clear();
        self.runs.clear();
        self.staged.clear();
        self.base = to;
    }

    pub(super) fn set_snapshot(&mut self, meta: SnapshotMeta, membership: &Membership) {
        let snapshot = engine::snapshot_to_engine(meta.log_id, membership);
        self.snapshot = Some((meta, snapshot));
    }

    pub(super) fn snapshot_meta(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref().map(|(meta, _)| meta)
    }

    /// Whether the engine wanted a newer snapshot than there is, since this was last asked.
    pub(super) fn take_wants_snapshot(&self) -> bool {
        self.wants_snapshot.take()
    }

    pub(super) fn stage(&mut self, entries: Vec<Entry>) {
        self.staged = entries;
    }

    pub(super) fn take_fetches(&mut self) -> Vec<Fetch> {
        let fetches = std::mem::take(self.missed.get_mut());
        self.fetching += fetches.len();
        fetches
    }

    pub(super) fn end_fetch(&mut self) {
        self.fetching -= 1;
    }

    /// The entries of `range` that are in memory: the end of it, without a hole.
    pub(super) fn cached(&self, range: Range<u64>) -> impl Iterator<Item = &Entry> {
        let from = range.start.max(self.tail_start).min(range.end);
        let skip = usize::try_from(from - self.tail_start.min(from)).unwrap_or(usize::MAX);
        let take = usize::try_from(range.end - from).unwrap_or(usize::MAX);
        self.tail.iter().skip(skip).take(take)
    }

    pub(super) fn base(&self) -> LogId {
        self.base
    }

    pub(super) fn last(&self) -> u64 {
        self.tail_start + self.tail.len() as u64 - 1
    }

    pub(super) fn last_id(&self) -> LogId {
        let index = self.last();
        LogId { term: self.term_of(index).expect("the last entry has a term"), index }
    }

    pub(super) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last() {
            return None;
        }
        let run = self.runs.partition_point(|run| run.index <= index).checked_sub(1)?;
        Some(self.runs[run].term)
    }

    fn header(&self, index: u64) -> Entry {
        if let Some(change) = self.changes.get(&index) {
            return change.clone();
        }
        let mut entry = Entry::default();
        entry.index = index;
        entry.term = self.term_of(index).expect("the index is in the log");
        entry
    }

    fn payloads(&self, range: Range<u64>, bytes_max: u64) -> Option<Vec<Entry>> {
        if range.start >= self.tail_start {
            return Some(within(self.cached(range), bytes_max));
        }
        let at = self.staged.iter().position(|entry| entry.index == range.start)?;
        let count = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        Some(within(self.staged[at..].iter().take(count), bytes_max))
    }
}

impl raft::Storage for LogCache {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        assert!(high <= self.last() + 1, "entries past the end of the log");
        if low <= self.base.index {
            return Err(StorageError::Compacted.into());
        }
        if !context.can_async() {
            // All of the range, whatever its size: a short answer would hide a configuration
            // change.
            return Ok((low..high).map(|index| self.header(index)).collect());
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        if let Some(entries) = self.payloads(low..high, bytes_max) {
            return Ok(entries);
        }
        let mut missed = self.missed.borrow_mut();
        if self.fetching + missed.len() < FETCHES_MAX {
            missed.push(Fetch { range: low..high, bytes_max, context });
        }
        Err(StorageError::LogTemporarilyUnavailable.into())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term_of(index) {
            Some(term) => Ok(term),
            None if index < self.base.index => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The newest snapshot, if it names the receiver: the engine there ignores one that does not,
    /// so a server that was added since the last snapshot waits for the next, which is taken at
    /// once.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let least = request_index.max(self.base.index);
        let fit = self.snapshot.as_ref().filter(|(meta, snapshot)| {
            let members = snapshot.get_metadata().get_conf_state();
            let named = [&members.voters, &members.learners, &members.voters_outgoing];
            meta.log_id.index >= least && named.iter().any(|ids| ids.contains(&to))
        });
        let Some((_, snapshot)) = fit else {
            self.wants_snapshot.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        Ok(snapshot.clone())
    }
}

fn within<'a>(entries: impl Iterator<Item = &'a Entry>, bytes_max: u64) -> Vec<Entry> {
    let mut bytes = 0;
    let mut taken = Vec::new();
    for entry in entries {
        bytes += cost(entry);
        if bytes > bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}

/// What an entry counts for in all byte limits: its payload and what the structure around it takes.
fn cost(entry: &Entry) -> u64 {
    entry.data.len() as u64 + 128
}

/// How many reads behind the tail may be under way; the engine repeats the others.
pub(super) const FETCHES_MAX: usize = 16;
