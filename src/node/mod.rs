//! The core: consensus as a function of inputs. No clock, no I/O, no task, no chance.
//!
//! Inputs are `handle_*` methods, which never fail: a broken invariant or a panic of the engine
//! makes the node [`fatal`](Node::fatal), and it is not asked anything any more. Outputs are taken
//! out by the driver after any number of inputs: messages, one write at a time, one apply at a
//! time, reads that reach behind memory. Outputs of one kind are in order; of different kinds they
//! may be worked on at once. What must follow a write travels inside it.
//!
//! The rules W1 to W7 that the comments name are those a driver of this engine must keep;
//! `docs/architecture.md` lists them with the test of each.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use raft::eraftpb::{self, MessageType};
use raft::{RawNode, Ready, SnapshotStatus, StateRole};

mod change;
mod election;
mod engine;
mod history;
mod inspect;
mod log;
mod proposals;
mod reads;
mod ready;
mod start;
#[cfg(test)]
mod tests;
mod writes;

pub(crate) use self::change::ChangeOutcome;
#[cfg(test)]
pub(crate) use self::engine::check as check_engine;
use self::history::History;
use self::inspect::Verdict;
pub(crate) use self::inspect::is_sound_snapshot;
pub(crate) use self::log::Fetch;
use self::log::LogCache;
pub(crate) use self::proposals::Proposals;
pub(crate) use self::reads::Reads;
pub(crate) use self::start::Start;
use self::writes::Writes;
pub(crate) use self::writes::{Outgoing, WriteJob};
use crate::error::{Fatal, panic_text};
use crate::id::LogId;
use crate::membership::Membership;
use crate::mutant::Mutant;
use crate::status::RaftRole;
use crate::storage::{Base, Entry, SnapshotMeta};
use crate::transport::{RaftKind, RaftMessage};

pub(crate) struct Node {
    raw: RawNode<LogCache>,
    seed: u64,
    election_ticks: usize,
    /// Campaigns begun, for the jitter.
    attempt: u64,
    history: History,
    writes: Writes,
    /// The newest number whose write is durable.
    durable: u64,
    /// Term and vote as last handed over to be written.
    vote: (u64, u64),
    /// W1: the newest number that changed them.
    vote_barrier: u64,
    /// W3: the newest number that replaced entries handed over before.
    truncate_barrier: u64,
    /// The write that must be durable before anybody hears of the membership in force.
    change_barrier: u64,
    /// The last index handed to the state machine, and the last it has applied.
    applying: u64,
    applied: LogId,
    /// The last index that is committed and durable, so that it may be applied.
    appliable: u64,
    sends: Vec<Outgoing>,
    snapshot_sends: Vec<(u64, SnapshotMeta)>,
    /// Peers that the engine meant to send a snapshot which has been replaced since.
    snapshots_gone: Vec<u64>,
    /// Confirmed read rounds: incarnation, round, index.
    read_states: Vec<(u64, u64, u64)>,
    /// The change that this node proposed last and that is not settled, and whether it is a joint
    /// one.
    pending_change: Option<(LogId, bool)>,
    /// How changes ended, and the write that must be durable before anybody hears of it.
    changes_done: Vec<(u64, ChangeOutcome)>,
    /// A snapshot that is stored here and shown to the engine.
    staged_snapshot: Option<SnapshotMeta>,
    /// A snapshot that is being installed. Until it is, the engine must not be touched.
    installing: Option<(Ready, SnapshotMeta)>,
    malformed: u64,
    fatal: Option<Fatal>,
}

/// Entries to apply: those in memory, and the range before them that must be read first.
#[derive(Debug)]
pub(crate) struct ApplyJob {
    pub(crate) missing: std::ops::Range<u64>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) last: LogId,
}

impl Node {
    pub(crate) fn handle_tick(&mut self) {
        self.guarded(|node| {
            if !node.is_leader() && node.must_not_campaign() {
                return;
            }
            node.raw.tick();
            node.remind_heir();
            if node.is_campaigning() && node.raw.raft.election_elapsed == 0 {
                node.attempt += 1;
            }
        });
    }

    pub(crate) fn handle_message(&mut self, from: u64, message: RaftMessage) {
        if message.kind == RaftKind::Snapshot {
            // It comes as a stream, and goes to the engine when it is stored: the engine would take
            // it for there.
            self.malformed += 1;
            return;
        }
        self.take_in(from, message);
    }

    fn take_in(&mut self, from: u64, mut message: RaftMessage) {
        self.guarded(|node| match node.inspect(from, &mut message) {
            Verdict::Fine => {
                let message = engine::message_to_engine(from, node.raw.raft.id, message);
                // What the engine refuses is lost, as on the wire; raft is built for that.
                if node.raw.step(message).is_err() {
                    node.malformed += 1;
                }
            }
            Verdict::Malformed => node.malformed += 1,
            Verdict::Useless => {}
            Verdict::Committed(at) => node.learn_commit(at),
            Verdict::DataLoss(reason) => node.fatal = Some(Fatal::DataLoss(reason)),
        });
    }

    /// Appends commands to the log as one proposal. `None`: this node cannot propose, and nothing
    /// happened. A place is no promise: the node may have become fatal over it.
    pub(crate) fn handle_proposal(&mut self, commands: Vec<Bytes>) -> Option<LogId> {
        if !self.can_propose() || commands.is_empty() {
            return None;
        }
        let mut first = None;
        self.guarded(|node| {
            first = node.append(commands.into_iter().map(engine::application_entry).collect());
        });
        first
    }

    /// Starts a read-index round; `false` if this node cannot confirm one now.
    pub(crate) fn handle_read(&mut self, incarnation: u64, round: u64) -> bool {
        if !self.is_established() {
            return false;
        }
        let mut begun = false;
        self.guarded(|node| {
            let before = node.reads_in_engine();
            let mut context = incarnation.to_le_bytes().to_vec();
            context.extend(round.to_le_bytes());
            node.raw.read_index(context);
            // The engine drops a read without a word; the count tells.
            begun = node.reads_in_engine() > before;
        });
        begun
    }

    /// The write with this number, and every one before it, is durable.
    pub(crate) fn handle_persisted(&mut self, number: u64) {
        self.durable = self.durable.max(number);
        self.guarded(|node| {
            // W3: what was replaced meanwhile must not count as stored before its replacement is.
            if node.durable >= node.truncate_barrier {
                node.raw.on_persist_ready(node.durable);
            }
        });
    }

    /// The reset that a snapshot asked for is durable: the engine may go on from there.
    pub(crate) fn handle_installed(&mut self, number: u64) {
        let Some((ready, meta)) = self.installing.take() else { return };
        self.durable = self.durable.max(number);
        self.guarded(|node| {
            let store = node.raw.mut_store();
            store.reset(meta.log_id);
            node.raw.advance_append_async(ready);
            node.raw.on_persist_ready(number);
            node.raw.advance_apply_to(meta.log_id.index);
            node.truncate_barrier = 0;
            node.staged_snapshot = None;
            if node.pending_change.take().is_some() {
                node.changes_done.push((number, ChangeOutcome::Lost));
            }
            let membership = Membership::decode(meta.system.clone()).unwrap_or_default();
            node.raw.mut_store().set_snapshot(meta.clone(), &membership);
            node.history = History::new(meta.log_id.index, membership);
            node.applying = meta.log_id.index;
            node.appliable = meta.log_id.index;
        });
    }

    /// The state machine has applied everything up to `applied`.
    pub(crate) fn handle_applied(&mut self, applied: LogId) {
        self.applied = applied;
        self.guarded(|node| {
            if applied.index <= node.raw.raft.raft_log.applied {
                return;
            }
            node.raw.advance_apply_to(applied.index);
            if node.is_leader() && node.raw.raft.prs().conf().to_conf_state().auto_leave {
                // The engine appends the entry that leaves the joint configuration, but tells
                // nobody.
                node.raw.raft.bcast_append();
            }
        });
    }

    pub(crate) fn handle_fetched(&mut self, fetch: Fetch, entries: Vec<Entry>) {
        self.raw.mut_store().end_fetch();
        self.guarded(|node| {
            let entries = entries.into_iter().map(engine::entry_to_engine).collect();
            node.raw.mut_store().stage(entries);
            node.raw.on_entries_fetched(fetch.context);
            node.raw.mut_store().stage(Vec::new());
        });
    }

    /// A snapshot of this node's own is durable; `keep` entries before it stay in the log.
    pub(crate) fn handle_snapshot_taken(&mut self, meta: SnapshotMeta, keep: u64) {
        self.guarded(|node| {
            if node.snapshot().is_some_and(|newest| newest.log_id >= meta.log_id) {
                return;
            }
            let membership = node.history.at(meta.log_id.index).clone();
            let at = meta.log_id.index.min(node.raw.raft.raft_log.applied);
            node.raw.mut_store().set_snapshot(meta, &membership);
            node.compact(at.saturating_sub(keep));
            if node.is_leader() {
                // Whoever waits for a snapshot need not wait for the next heartbeat.
                node.raw.raft.bcast_append();
            }
        });
    }

    pub(crate) fn handle_unreachable(&mut self, peer: u64) {
        self.guarded(|node| node.raw.report_unreachable(peer));
    }

    /// How sending a snapshot to `peer` ended.
    pub(crate) fn handle_snapshot_sent(&mut self, peer: u64, arrived: bool) {
        if !arrived && Mutant::SnapshotLossUnreported.is_planted() {
            return;
        }
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.guarded(|node| node.raw.report_snapshot(peer, status));
    }

    /// Begins to hand leadership over; it ends when the target leads, or in an election timeout.
    pub(crate) fn handle_transfer(&mut self, to: u64) {
        self.guarded(|node| node.raw.transfer_leader(to));
    }

    /// The engine asks once whoever is to lead; but the word may be lost, or come when a change of
    /// the membership that is committed must be taken in first, and then it is ignored.
    fn remind_heir(&mut self) {
        let raft = &mut self.raw.raft;
        let heir = raft.lead_transferee.and_then(|id| Some((id, raft.prs().get(id)?.matched)));
        if let Some((id, matched)) = heir
            && matched == raft.raft_log.last_index()
        {
            raft.send_timeout_now(id);
        }
    }

    /// Makes the last known commit index part of a write, for a clean end.
    pub(crate) fn flush(&mut self) {
        self.writes.flush();
    }

    pub(crate) fn take_sends(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.sends)
    }

    pub(crate) fn take_snapshot_sends(&mut self) -> Vec<(u64, SnapshotMeta)> {
        std::mem::take(&mut self.snapshot_sends)
    }

    /// Confirmed read rounds: incarnation, round and index.
    pub(crate) fn take_reads(&mut self) -> Vec<(u64, u64, u64)> {
        std::mem::take(&mut self.read_states)
    }

    pub(crate) fn take_changes(&mut self) -> Vec<ChangeOutcome> {
        let durable = self.durable;
        let told = self.changes_done.extract_if(.., |(number, _)| *number <= durable);
        told.map(|(_, outcome)| outcome).collect()
    }

    pub(crate) fn take_fetches(&mut self) -> Vec<Fetch> {
        self.raw.mut_store().take_fetches()
    }

    /// Everything that waits to be written, as one write; the one before must be done.
    pub(crate) fn take_write(&mut self) -> Option<WriteJob> {
        self.writes.take()
    }

    /// Everything that waits to be applied, up to `bytes_max` or so; the job before must be done.
    pub(crate) fn take_apply(&mut self, bytes_max: u64) -> Option<ApplyJob> {
        let (from, end) = (self.applying + 1, self.appliable + 1);
        if from >= end || self.installing.is_some() {
            return None;
        }
        let end = end.min(from + APPLY_ENTRIES_MAX);
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for entry in self.raw.store().cached(from..end) {
            bytes += entry.data.len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(engine::entry_from_engine(entry));
        }
        let cached_from = entries.first().map_or(end, |entry| entry.log_id().index);
        if cached_from > from {
            // Read first what memory does not hold; a part of it will do, the rest is the next job.
            entries.clear();
        }
        let last = entries.last().map_or(cached_from - 1, |entry| entry.log_id().index);
        self.applying = last;
        let term = self.raw.store().term_of(last).unwrap_or_default();
        let last = LogId { term, index: last };
        Some(ApplyJob { missing: from..cached_from, entries, last })
    }

    /// Whether the engine asked for a snapshot that there is not.
    pub(crate) fn take_wants_snapshot(&self) -> bool {
        self.raw.store().take_wants_snapshot()
    }

    pub(crate) fn take_malformed(&mut self) -> u64 {
        std::mem::take(&mut self.malformed)
    }

    pub(crate) fn fatal(&self) -> Option<&Fatal> {
        self.fatal.as_ref()
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Whether it leads and has committed an entry of its own term: only then its commit index is
    /// the cluster's.
    pub(crate) fn is_established(&self) -> bool {
        self.is_leader() && self.raw.raft.commit_to_current_term()
    }

    pub(crate) fn can_propose(&self) -> bool {
        let raft = &self.raw.raft;
        let member = raft.prs().get(raft.id).is_some();
        self.is_leader() && member && raft.lead_transferee.is_none() && self.installing.is_none()
    }

    /// Whom the leader hands over to, while it does.
    pub(crate) fn transferee(&self) -> Option<u64> {
        self.raw.raft.lead_transferee
    }

    pub(crate) fn role(&self) -> RaftRole {
        match self.raw.raft.state {
            StateRole::Follower => RaftRole::Follower,
            StateRole::Leader => RaftRole::Leader,
            StateRole::Candidate | StateRole::PreCandidate => RaftRole::Candidate,
        }
    }

    pub(crate) fn raft_id(&self) -> u64 {
        self.raw.raft.id
    }

    /// The engine's name of the leader, or 0.
    pub(crate) fn leader(&self) -> u64 {
        self.raw.raft.leader_id
    }

    pub(crate) fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// While a snapshot is being installed the engine counts it already, the log does not hold it
    /// yet.
    pub(crate) fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed.min(self.last().index)
    }

    pub(crate) fn applied(&self) -> LogId {
        self.applied
    }

    pub(crate) fn last(&self) -> LogId {
        self.raw.store().last_id()
    }

    /// How many bytes of entries are in memory. Those that are durable and committed leave it when
    /// this is over the budget; whatever is left over it cannot leave.
    pub(crate) fn cached_bytes(&self) -> u64 {
        self.raw.store().bytes()
    }

    pub(crate) fn snapshot(&self) -> Option<&SnapshotMeta> {
        self.raw.store().snapshot_meta()
    }

    pub(crate) fn membership(&self) -> &Membership {
        self.history.current()
    }

    pub(crate) fn membership_at(&self, index: u64) -> &Membership {
        self.history.at(index)
    }

    pub(crate) fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// How far a peer has the log, as this leader knows: matched index, heard of lately, being sent
    /// a snapshot.
    pub(crate) fn progress(&self, peer: u64) -> Option<(u64, bool, bool)> {
        let progress = self.raw.raft.prs().get(peer)?;
        let snapshot = progress.state == raft::ProgressState::Snapshot;
        Some((progress.matched, progress.recent_active, snapshot))
    }

    /// W5: the only voter must not elect itself while the end of its log is not durable. In a joint
    /// configuration it may be the only one of both.
    fn must_not_campaign(&self) -> bool {
        let raft = &self.raw.raft;
        !self.is_log_durable() && raft.prs().conf().voters().ids().iter().all(|id| id == raft.id)
    }

    fn is_log_durable(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        log.persisted == log.last_index()
    }

    fn reads_in_engine(&self) -> usize {
        let raft = &self.raw.raft;
        raft.pending_read_count() + raft.ready_read_count()
    }

    /// Appends entries as this leader; `None` if the engine refuses.
    fn append(&mut self, entries: Vec<eraftpb::Entry>) -> Option<LogId> {
        let raft = &self.raw.raft;
        let first = LogId { term: raft.term, index: raft.raft_log.last_index() + 1 };
        let mut message = eraftpb::Message::default();
        message.msg_type = MessageType::MsgPropose;
        message.from = raft.id;
        message.entries = entries.into();
        self.raw.step(message).ok()?;
        self.pump();
        Some(first)
    }

    fn compact(&mut self, to: u64) {
        if to <= self.raw.store().base().index {
            return;
        }
        let Some(term) = self.raw.store().term_of(to) else { return };
        let log_id = LogId { term, index: to };
        let system = self.history.at(to).encode();
        self.writes.compact(Base { log_id, system });
        self.raw.mut_store().compact(log_id);
        self.history.forget_before(to);
    }

    /// Sends followers all that they may be sent: the engine sends one message a proposal and then
    /// waits a round trip.
    fn pump(&mut self) {
        let raft = &mut self.raw.raft;
        let last = raft.raft_log.last_index();
        let peers: Vec<u64> =
            raft.prs().iter().map(|(&id, _)| id).filter(|&id| id != raft.id).collect();
        for peer in peers {
            let mut next = 0;
            while let Some(progress) = raft.prs().get(peer)
                && !progress.is_paused()
                && progress.state == raft::ProgressState::Replicate
                && (next + 1..=last).contains(&progress.next_idx)
            {
                next = progress.next_idx;
                raft.send_append(peer);
            }
        }
    }

    /// Runs an input, then takes everything out of the engine. A panic of the engine ends the node,
    /// not the process.
    fn guarded(&mut self, input: impl FnOnce(&mut Self)) {
        if self.fatal.is_some() || self.installing.is_some() {
            return;
        }
        let run = AssertUnwindSafe(|| {
            input(self);
            self.settle();
        });
        if let Err(panic) = catch_unwind(run) {
            self.fatal = Some(Fatal::Engine(panic_text(&*panic)));
        }
    }
}

/// How many entries one apply job holds at most.
const APPLY_ENTRIES_MAX: u64 = 8_192;
