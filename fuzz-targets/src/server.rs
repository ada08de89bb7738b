//! One core with its disk, driven as the library's driver does it, step by step.

use bytes::Bytes;
use futures::executor::block_on;
use kontiki::fuzzing::{self, Core, Sent, Write};
use kontiki::storage::{
    Base, Entry, HardState, LogReader as _, LogStore as _, MemoryLogStore, Recovered, SnapshotMeta,
    WriteBatch,
};
use kontiki::transport::Message;
use kontiki::{Config, Fatal, LogId, Member, NodeId};

use crate::wire::{Envelope, Raft};

pub(crate) struct Server {
    pub(crate) core: Core,
    id: NodeId,
    config: Config,
    log: MemoryLogStore,
    writing: Option<Write>,
    /// The snapshots on the disk.
    snapshots: Vec<SnapshotMeta>,
    /// What left and was not looked at, the newest last.
    pub(crate) sent: Vec<Sent>,
    pub(crate) snapshot_sends: Vec<(u64, SnapshotMeta)>,
    /// Term, commit index and applied index as last seen.
    seen: (u64, u64, u64),
}

impl Server {
    /// Server `id` of a cluster that was formed of `members`; of none yet if there are none.
    pub(crate) fn new(id: u64, members: Vec<Member>) -> Self {
        let mut config = Config::default();
        // Small, so that everything that has a limit reaches it.
        config.log_cache_bytes_max = 400;
        config.append_bytes_max = 200;
        config.appends_in_flight_max = 3;
        let mut log = MemoryLogStore::new();
        let mut snapshots = Vec::new();
        if !members.is_empty() {
            let log_id = LogId { term: 1, index: 1 };
            let system = fuzzing::encode_membership(&fuzzing::first_membership(members));
            snapshots.push(SnapshotMeta { log_id, system: system.clone(), size_bytes: 0 });
            let formed = WriteBatch {
                reset_to: Some(Base { log_id, system }),
                hard_state: Some(HardState::new(1, None, 1)),
                sync: true,
                ..WriteBatch::default()
            };
            block_on(log.write(formed)).expect("memory does not fail");
        }
        let core = start(id.into(), &config, &mut log, &snapshots);
        Self {
            seen: (core.term(), core.commit(), core.applied_to().index),
            core,
            id: id.into(),
            config,
            log,
            writing: None,
            snapshots,
            sent: Vec::new(),
            snapshot_sends: Vec::new(),
        }
    }

    /// Takes in a message of the engine; one that is no message is lost.
    pub(crate) fn message(&mut self, from: u64, raft: Raft) {
        if let Some(message) = self.read(from, raft) {
            self.core.message(message);
        }
    }

    /// Takes in the head of a snapshot, as if it had been stored.
    pub(crate) fn snapshot(&mut self, from: u64, raft: Raft) {
        let Some(meta) = raft.snapshot.as_ref() else { return };
        let log_id = LogId { term: meta.term, index: meta.index };
        let system = Bytes::copy_from_slice(&meta.system);
        let meta = SnapshotMeta { log_id, system, size_bytes: meta.size };
        if let Some(message) = self.read(from, raft).filter(fuzzing::is_sound_snapshot) {
            self.snapshots.retain(|known| known.log_id != log_id);
            self.snapshots.push(meta);
            self.core.snapshot(message);
        }
    }

    fn read(&self, from: u64, raft: Raft) -> Option<Message> {
        let bytes = Envelope::raft(from, self.id.raft_id(), raft).encode();
        Message::decode(bytes.into()).ok()
    }

    /// Takes out what may leave, and does the reads that are waited for.
    pub(crate) fn turn(&mut self) {
        let log = self.log.clone();
        self.core
            .fetch(|range, bytes_max| block_on(log.read(range, bytes_max)).unwrap_or_default());
        self.sent.extend(self.core.take_sends());
        self.snapshot_sends.extend(self.core.take_snapshot_sends());
        self.core.take_rest();
        let older = self.sent.len().saturating_sub(SENT_MAX);
        self.sent.drain(..older);
        self.check();
    }

    pub(crate) fn begin_write(&mut self) -> bool {
        if self.writing.is_none() {
            self.writing = self.core.take_write();
        }
        self.writing.is_some()
    }

    /// The write under way is durable, and told of.
    pub(crate) fn finish_write(&mut self) {
        self.begin_write();
        let Some(write) = self.writing.take() else { return };
        block_on(self.log.write(write.batch)).expect("memory does not fail");
        match write.installs {
            Some(at) => {
                self.core.installed(write.number);
                // The engine may have stopped.
                if self.core.fatal().is_none() {
                    self.core.applied(at);
                }
            }
            None => self.core.persisted(write.number),
        }
        self.sent.extend(write.then_send);
        self.turn();
    }

    /// Applies what may be applied; `false` if there is nothing.
    pub(crate) fn apply(&mut self) -> bool {
        let Some((missing, entries, last)) = self.core.take_apply(300) else { return false };
        let mut next = missing.start;
        while next < missing.end {
            let read = block_on(self.log.read(next..missing.end, 300));
            let read = read.expect("what is to be applied is in the log");
            assert!(!read.is_empty(), "what is to be applied is in the log");
            read.iter().for_each(|entry| follow(&mut next, entry));
        }
        entries.iter().for_each(|entry| follow(&mut next, entry));
        assert_eq!(next, last.index + 1, "the job ends where it says");
        self.core.applied(last);
        self.turn();
        true
    }

    /// Writes and applies until there is nothing to do.
    pub(crate) fn settle(&mut self) {
        self.turn();
        while self.begin_write() || self.apply() {
            self.finish_write();
            if self.core.fatal().is_some() {
                return;
            }
        }
    }

    /// A snapshot of its own, which keeps `keep` entries before it.
    pub(crate) fn take_snapshot(&mut self, keep: u64) {
        let log_id = self.core.applied_to();
        let newest = self.core.newest_snapshot().map_or(0, |meta| meta.log_id.index);
        if newest == 0 || log_id.index <= newest {
            return;
        }
        let system = fuzzing::encode_membership(self.core.membership_at(log_id.index));
        let meta = SnapshotMeta { log_id, system, size_bytes: 0 };
        self.snapshots.push(meta.clone());
        self.core.snapshot_taken(meta, keep);
    }

    /// The process dies and starts again; `written` says whether the write under way got done.
    pub(crate) fn crash(&mut self, written: bool) {
        if let Some(write) = self.writing.take().filter(|_| written) {
            block_on(self.log.write(write.batch)).expect("memory does not fail");
        }
        self.log = self.log.crash(0);
        self.sent.clear();
        self.snapshot_sends.clear();
        self.core = start(self.id, &self.config, &mut self.log, &self.snapshots);
        self.seen = (0, 0, 0);
        self.check();
    }

    /// What must hold at all times. A loss that a peer tells of ends a node in good order; a panic
    /// of the engine does not.
    pub(crate) fn check(&mut self) {
        if let Some(Fatal::Engine(reason)) = self.core.fatal() {
            panic!("the engine was given what it cannot take: {reason}");
        }
        let core = &self.core;
        let now = (core.term(), core.commit(), core.applied_to().index);
        let grows = now.0 >= self.seen.0 && now.1 >= self.seen.1 && now.2 >= self.seen.2;
        assert!(grows, "term, commit and applied fell: {:?} to {now:?}", self.seen);
        let ends = core.is_installing() || now.1 <= core.last().index;
        assert!(ends, "committed past the end of the log: {now:?}");
        assert!(now.2 <= now.1, "applied past what is committed: {now:?}");
        self.seen = now;
    }
}

fn start(
    id: NodeId,
    config: &Config,
    log: &mut MemoryLogStore,
    snapshots: &[SnapshotMeta],
) -> Core {
    let recovered = block_on(log.recover()).expect("memory does not fail");
    let usable = snapshots.iter().filter(|meta| is_in(&recovered, meta.log_id));
    let newest = usable.max_by_key(|meta| meta.log_id).cloned();
    let applied = newest.as_ref().map(|meta| meta.log_id).unwrap_or_default();
    Core::start(id, config, recovered, newest, applied)
        .unwrap_or_else(|error| panic!("what a core wrote itself is refused: {error}"))
}

/// Whether a place is a part of this log's history.
fn is_in(recovered: &Recovered, at: LogId) -> bool {
    let before = recovered.terms.partition_point(|run| run.index <= at.index);
    let run = before.checked_sub(1).map(|run| recovered.terms[run].term);
    at == recovered.base.log_id || at.index <= recovered.last.index && run == Some(at.term)
}

fn follow(next: &mut u64, entry: &Entry) {
    assert_eq!(entry.log_id().index, *next, "entries are applied one after the other");
    *next += 1;
}

/// The answer of a peer that takes everything; `None` if none is due.
pub(crate) fn agree(message: &Message) -> Option<Raft> {
    use crate::wire::*;
    let Body::Raft(asked) = Envelope::decode(&message.encode().into_bytes()).body else {
        return None;
    };
    let mut answer = Raft { term: asked.term, ..Raft::default() };
    match asked.kind {
        APPEND => {
            answer.kind = APPEND_RESPONSE;
            answer.index = asked.entries.last().map_or(asked.index, |entry| entry.index);
            answer.commit = asked.commit;
        }
        HEARTBEAT => {
            answer.kind = HEARTBEAT_RESPONSE;
            answer.context = asked.context;
            answer.commit = asked.commit;
        }
        PRE_VOTE => answer.kind = PRE_VOTE_RESPONSE,
        VOTE => answer.kind = VOTE_RESPONSE,
        _ => return None,
    }
    Some(answer)
}

const SENT_MAX: usize = 64;
