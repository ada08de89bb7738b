//! Turns what the engine has ready into writes, messages and work: the one place where its cycle is
//! driven.

use raft::eraftpb::{self, EntryType, MessageType};
use raft::{Ready, StateRole};

use super::{Node, Outgoing, engine};
use crate::id::LogId;
use crate::membership::Membership;
use crate::mutant::Mutant;
use crate::storage::{Base, SnapshotMeta};
use crate::transport::RaftKind;

impl Node {
    pub(super) fn settle(&mut self) {
        self.fix_election_timeout();
        if Mutant::OldTermCommitted.is_planted() && self.is_leader() {
            self.commit_by_count();
        }
        while self.fatal.is_none() && self.raw.has_ready() {
            let mut ready = self.raw.ready();
            if let Some(meta) = incoming_snapshot(&ready, &self.staged_snapshot) {
                self.begin_install(ready, meta);
                return;
            }
            let number = ready.number();
            let replaces = self.plan_write(&mut ready);
            self.plan_messages(&mut ready);
            self.plan_reads(&mut ready);
            let committed = ready.take_committed_entries();
            self.raw.advance_append_async(ready);
            if replaces {
                self.truncate_barrier = number;
            }
            self.hand_out(&committed, number);
            self.pass_idle(number);
            for peer in std::mem::take(&mut self.snapshots_gone) {
                self.raw.report_snapshot(peer, raft::SnapshotStatus::Failure);
            }
        }
        self.fix_election_timeout();
        let stable = self.raw.raft.raft_log.persisted.min(self.raw.raft.raft_log.committed);
        self.raw.mut_store().evict(stable);
    }

    /// W2: entries, the truncation they imply and the hard state of one Ready are one batch.
    fn plan_write(&mut self, ready: &mut Ready) -> bool {
        let number = ready.number();
        let hard_state = ready.hs().map(engine::hard_state_from_engine);
        if hard_state.is_some() && ready.must_sync() && self.changes_vote(ready) {
            self.vote_barrier = number;
        }
        let entries = ready.take_entries();
        if ready.must_sync() {
            let ours = entries.iter().map(engine::entry_from_engine).collect();
            let replaces = self.writes.add(number, ours, hard_state);
            self.writes.must_sync();
            if !Mutant::EntriesNotReadable.is_planted() {
                self.raw.mut_store().append(entries);
            }
            return replaces;
        }
        if let Some(state) = hard_state {
            self.writes.remember(state);
        }
        if self.is_writing() {
            self.writes.add(number, Vec::new(), None);
        }
        false
    }

    fn changes_vote(&mut self, ready: &Ready) -> bool {
        let Some(state) = ready.hs() else { return false };
        let changed = (state.term, state.vote) != self.vote;
        self.vote = (state.term, state.vote);
        changed
    }

    fn plan_messages(&mut self, ready: &mut Ready) {
        // W1: what a leader may send at once tells of its term, which must be durable before
        // anybody hears of it.
        let vote_durable =
            self.vote_barrier <= self.durable || Mutant::LeaderBeforeVote.is_planted();
        for mut message in ready.take_messages() {
            self.plan_message(&mut message, vote_durable);
        }
        for mut message in ready.take_persisted_messages() {
            // An answer to a heartbeat says nothing about the log, so it need not wait for the
            // disk.
            let at_once = vote_durable && message.msg_type == MessageType::MsgHeartbeatResponse;
            let at_once = at_once || Mutant::AckBeforeSync.is_planted();
            self.plan_message(&mut message, at_once || !self.is_writing());
        }
    }

    fn plan_message(&mut self, message: &mut eraftpb::Message, at_once: bool) {
        let snapshot = self.raw.store().snapshot_meta();
        let Some(ours) = engine::message_from_engine(message, snapshot) else { return };
        if ours.kind == RaftKind::Snapshot {
            let index = message.get_snapshot().get_metadata().index;
            match &ours.snapshot {
                Some(meta) if meta.log_id.index == index => {
                    self.snapshot_sends.push((message.to, meta.clone()));
                }
                _ => self.snapshots_gone.push(message.to),
            }
            return;
        }
        let outgoing = Outgoing { to: message.to, message: ours };
        if at_once {
            self.sends.push(outgoing);
        } else {
            self.writes.then_send(outgoing);
        }
    }

    fn plan_reads(&mut self, ready: &mut Ready) {
        for state in ready.take_read_states() {
            let Some((incarnation, round)) = state.request_ctx.split_at_checked(8) else {
                continue;
            };
            if let (Ok(incarnation), Ok(round)) = (incarnation.try_into(), round.try_into()) {
                let context = (u64::from_le_bytes(incarnation), u64::from_le_bytes(round));
                self.read_states.push((context.0, context.1, state.index));
            }
        }
    }

    /// Entries that are committed and durable here. Configuration changes take effect in the engine
    /// now, in order, exactly once; the rest waits for the state machine.
    ///
    /// That a change is committed is written at once, and told only then: an operator who hears of
    /// it may take a removed server away, and a restart that had forgotten it would wait for that
    /// server's vote for ever.
    fn hand_out(&mut self, committed: &[eraftpb::Entry], number: u64) {
        for entry in committed {
            self.appliable = entry.index;
            if entry.entry_type != EntryType::EntryNormal {
                self.apply_change(entry);
                if !Mutant::CommittedChangeForgotten.is_planted() {
                    self.writes.add(number, Vec::new(), None);
                    self.writes.must_sync();
                    self.change_barrier = number;
                }
            }
            self.note_committed(LogId { term: entry.term, index: entry.index }, number);
        }
    }

    /// If nothing is being written or waits to be, there is nothing to wait for.
    fn pass_idle(&mut self, number: u64) {
        if self.is_writing() {
            if Mutant::CountedBeforeSync.is_planted() {
                self.raw.on_persist_ready(number);
            }
            return;
        }
        self.durable = number;
        self.raw.on_persist_ready(number);
    }

    /// Whether a write is under way or waits.
    fn is_writing(&self) -> bool {
        self.writes.is_waiting() || self.durable < self.writes.taken
    }

    fn begin_install(&mut self, mut ready: Ready, meta: SnapshotMeta) {
        let number = ready.number();
        let state = ready.hs().map(engine::hard_state_from_engine);
        if self.changes_vote(&ready) {
            self.vote_barrier = number;
        }
        for mut message in ready.take_persisted_messages() {
            self.plan_message(&mut message, false);
        }
        let base = Base { log_id: meta.log_id, system: meta.system.clone() };
        self.writes.install(number, base, state);
        self.installing = Some((ready, meta));
    }

    /// Commits whatever a quorum has, of any term, as nobody should.
    fn commit_by_count(&mut self) {
        let raft = &mut self.raw.raft;
        let most = raft.mut_prs().maximal_committed_index().0;
        if let Ok(term) = raft.raft_log.term(most)
            && raft.raft_log.maybe_commit(most, term)
        {
            raft.bcast_append();
        }
    }

    fn fix_election_timeout(&mut self) {
        let raft = &mut self.raw.raft;
        let ticks = super::election::timeout_ticks(
            self.seed,
            raft.id,
            raft.term,
            self.attempt,
            self.election_ticks,
        );
        raft.set_randomized_election_timeout(ticks);
        debug_assert!(raft.state != StateRole::Leader || raft.leader_id == raft.id);
    }
}

fn incoming_snapshot(ready: &Ready, staged: &Option<SnapshotMeta>) -> Option<SnapshotMeta> {
    let index = ready.snapshot().get_metadata().index;
    if index == 0 {
        return None;
    }
    let meta = staged.as_ref().filter(|meta| meta.log_id.index == index);
    Some(meta.expect("the engine was shown only snapshots that are stored here").clone())
}

impl Node {
    /// The membership in the engine after `entry`; an impossible change changes nothing, on every
    /// node alike.
    pub(super) fn apply_change(&mut self, entry: &eraftpb::Entry) {
        let Some(change) = engine::parse_change(&entry.data) else { return };
        let record = engine::change_from_engine(&entry.data);
        let record = crate::membership::ChangeRecord::decode(record).ok();
        let after = self.history.current().after(record.as_ref(), entry.index);
        let Some(membership) = after else { return };
        let state = self.raw.apply_conf_change(&change);
        let state = state.expect("the engine takes every change that follows");
        assert!(
            engine::same_conf_state(&membership, &state),
            "membership {membership:?} is not what the engine makes of it: {state:?}"
        );
        self.history.push(entry.index, membership);
        self.step_down_if_removed();
        if self.is_campaigning() {
            // The votes so far were asked of others.
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
    }

    /// A leader that votes no more would lead for ever and elect nobody; the engine leaves this to
    /// us (3.10).
    fn step_down_if_removed(&mut self) {
        let id = self.raw.raft.id;
        let votes = self.raw.raft.prs().conf().to_conf_state();
        let votes = votes.voters.contains(&id) || votes.voters_outgoing.contains(&id);
        let stays = votes || Mutant::RemovedLeaderStays.is_planted();
        if self.raw.raft.state != StateRole::Leader || stays {
            return;
        }
        let raft = &mut self.raw.raft;
        raft.bcast_append();
        let best = raft.prs().iter().filter(|&(&peer, _)| peer != id);
        let best =
            best.filter(|&(&peer, _)| raft.prs().conf().to_conf_state().voters.contains(&peer));
        let best =
            best.max_by_key(|&(&peer, progress)| (progress.matched, peer)).map(|(&peer, _)| peer);
        if let Some(best) = best {
            raft.send_timeout_now(best);
        }
        let term = raft.term;
        raft.become_follower(term, raft::INVALID_ID);
    }

    /// The membership that a stored snapshot brings, so that the engine's message can be answered.
    pub(crate) fn handle_snapshot(&mut self, from: u64, message: crate::transport::RaftMessage) {
        self.staged_snapshot.clone_from(&message.snapshot);
        self.take_in(from, message);
        if self.installing.is_none() {
            self.staged_snapshot = None;
        }
    }

    pub(super) fn current(&self) -> &Membership {
        self.history.current()
    }
}
