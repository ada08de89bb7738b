//! What waits to be written: everything that arrives while one write is under way becomes the next
//! (group commit).

use crate::id::LogId;
use crate::mutant::Mutant;
use crate::storage::{Base, Entry, HardState, WriteBatch};
use crate::transport::{RaftKind, RaftMessage};

/// A message on its way out.
#[derive(Debug, PartialEq)]
pub(crate) struct Outgoing {
    /// The engine's name of the receiver.
    pub(crate) to: u64,
    pub(crate) message: RaftMessage,
}

/// One write, and what must wait for it.
#[derive(Debug, Default)]
pub(crate) struct WriteJob {
    /// To be reported when it is done.
    pub(crate) number: u64,
    pub(crate) batch: WriteBatch,
    /// To be sent when it is done, and after it was reported.
    pub(crate) then_send: Vec<Outgoing>,
    /// The snapshot that this write installs.
    pub(crate) installs: Option<LogId>,
}

/// The next write, growing while the one before is under way.
#[derive(Debug, Default)]
pub(super) struct Writes {
    next: WriteJob,
    waiting: bool,
    /// A commit index that is worth no write of its own; it rides along with the next.
    lazy_hard_state: Option<HardState>,
    /// The highest index ever handed over to be written.
    handed: u64,
    /// The number of the last write taken to be done.
    pub(super) taken: u64,
}

impl Writes {
    pub(super) fn new(last: u64) -> Self {
        Self { handed: last, ..Self::default() }
    }

    /// Adds entries and what goes with them. Says whether they replace some that were handed over
    /// before.
    pub(super) fn add(
        &mut self,
        number: u64,
        entries: Vec<Entry>,
        state: Option<HardState>,
    ) -> bool {
        self.next.number = number;
        self.waiting = true;
        if let Some(state) = state {
            self.next.batch.hard_state = Some(state);
            self.lazy_hard_state = None;
        }
        let Some(first) = entries.first().map(|entry| entry.log_id().index) else {
            return false;
        };
        self.next.batch.sync = true;
        let replaces = first <= self.handed;
        if replaces {
            self.next.batch.entries.retain(|entry| entry.log_id().index < first);
            // What never becomes durable must not be acknowledged.
            let stands = |message: &RaftMessage| !is_ack(message) || message.log_id.index < first;
            if !Mutant::ReplacedAcknowledged.is_planted() {
                self.next.then_send.retain(|outgoing| stands(&outgoing.message));
            }
        }
        self.handed = first + entries.len() as u64 - 1;
        match self.next.batch.entries.is_empty() {
            true => self.next.batch.entries = entries,
            false => self.next.batch.entries.extend(entries),
        }
        replaces
    }

    pub(super) fn must_sync(&mut self) {
        self.next.batch.sync = true;
    }

    pub(super) fn remember(&mut self, state: HardState) {
        self.lazy_hard_state = Some(state);
    }

    /// Messages that leave when everything up to now is durable. Acknowledgements are cumulative,
    /// so a newer one replaces an older one to the same peer.
    pub(super) fn then_send(&mut self, outgoing: Outgoing) {
        if is_ack(&outgoing.message) {
            self.next.then_send.retain(|old| {
                let same = old.to == outgoing.to && old.message.term == outgoing.message.term;
                !(same && is_ack(&old.message))
            });
        }
        if self.next.then_send.len() == THEN_SEND_MAX {
            self.next.then_send.remove(0);
        }
        self.next.then_send.push(outgoing);
        self.waiting = true;
    }

    pub(super) fn compact(&mut self, base: Base) {
        self.next.batch.compact_to = Some(base);
        self.waiting = true;
    }

    pub(super) fn install(&mut self, number: u64, base: Base, state: Option<HardState>) {
        let (at, lazy) = (base.log_id, self.lazy_hard_state.take());
        self.next.number = number;
        self.next.installs = Some(at);
        self.next.batch = WriteBatch {
            reset_to: Some(base),
            hard_state: state.or(lazy).or(self.next.batch.hard_state),
            sync: true,
            ..WriteBatch::default()
        };
        self.handed = at.index;
        self.waiting = true;
    }

    /// Flushes the last hard state, for a clean end.
    pub(super) fn flush(&mut self) {
        self.waiting |= self.lazy_hard_state.is_some();
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting
    }

    pub(super) fn take(&mut self) -> Option<WriteJob> {
        if !std::mem::take(&mut self.waiting) {
            return None;
        }
        let mut job = std::mem::take(&mut self.next);
        self.taken = self.taken.max(job.number);
        // W2: it is newer than the one in the batch, and the entries may be younger than it.
        job.batch.hard_state = self.lazy_hard_state.take().or(job.batch.hard_state);
        Some(job)
    }
}

fn is_ack(message: &RaftMessage) -> bool {
    message.kind == RaftKind::AppendResponse && !message.reject
}

/// How many messages may wait for a write; the oldest is lost first, as on the wire.
pub(super) const THEN_SEND_MAX: usize = 1_024;
