//! Membership changes as this node proposed them: begun, and judged by the entry that was applied.

use raft::eraftpb::{self, EntryType};

use super::{Node, engine};
use crate::id::{LogId, NodeId};
use crate::membership::{Change, ChangeRecord, Membership, MembershipError, Role};
use crate::mutant::Mutant;

/// How a change that this node proposed ended.
#[derive(Debug)]
pub(crate) enum ChangeOutcome {
    /// It is in force; a joint change only when its joint configuration has been left.
    Done(Membership),
    /// A snapshot took the place of the log where it stood.
    Lost,
    /// Another leader's entry took its place: it never happened.
    Superseded,
}

impl Node {
    /// Proposes a change. `Ok(None)`: there is nothing to do, the membership is that already.
    pub(crate) fn handle_change(
        &mut self,
        change: &Change,
        planned_on: Option<u64>,
    ) -> Result<Option<LogId>, MembershipError> {
        let now = self.current().index();
        if planned_on.is_some_and(|planned| planned != now) {
            return Err(MembershipError::Superseded { now });
        }
        if Mutant::SecondChangeTaken.is_planted() {
            self.pending_change = None;
            self.raw.raft.pending_conf_index = 0;
        }
        if self.pending_change.is_some() || self.raw.raft.has_pending_conf() {
            return Err(MembershipError::InProgress);
        }
        let Some(record) = self.current().plan(change)? else { return Ok(None) };
        self.check_ready(&record)?;
        let mut at = None;
        self.guarded(|node| {
            at = node.propose_record(&record);
            node.pending_change = at.map(|log_id| (log_id, record.is_joint()));
        });
        if at.is_none() {
            return Err(MembershipError::InProgress);
        }
        Ok(at)
    }

    /// Whoever has never answered, perhaps since it does not know yet that it was taken in, is made
    /// no voter: with few others nothing could ever be committed again, not even its removal. And a
    /// voter that asks to join, having nothing, has lost what it had.
    fn check_ready(&self, record: &ChangeRecord) -> Result<(), MembershipError> {
        let now = self.current();
        let voters = record.members.values().filter(|member| member.role == Role::Voter);
        let votes = |id| now.member(id).is_some_and(|member| member.role == Role::Voter);
        let silent =
            |id: NodeId| self.progress(id.raft_id()).is_none_or(|(matched, _, _)| matched == 0);
        match voters.map(|member| member.id).find(|&id| !votes(id) && silent(id)) {
            Some(id) => Err(MembershipError::NotReady { id }),
            None => Ok(()),
        }
    }

    /// Whether a restart would know that the membership in force is committed, so that others may.
    pub(crate) fn is_membership_durable(&self) -> bool {
        self.change_barrier <= self.durable
    }

    fn propose_record(&mut self, record: &ChangeRecord) -> Option<LogId> {
        let mut entry = eraftpb::Entry::default();
        entry.entry_type = EntryType::EntryConfChangeV2;
        entry.data = engine::change_to_engine(record.encode());
        let at = self.append(vec![entry])?;
        // The engine answers a change that it refuses by an empty entry in its place, and says that
        // all is well.
        (self.raw.raft.pending_conf_index == at.index).then_some(at)
    }

    /// Looks whether a committed entry settles the change that this node proposed.
    pub(super) fn note_committed(&mut self, log_id: LogId, number: u64) {
        let Some((at, joint)) = self.pending_change else { return };
        if log_id.index < at.index {
            return;
        }
        if log_id.index == at.index && log_id.term != at.term {
            self.pending_change = None;
            self.changes_done.push((number, ChangeOutcome::Superseded));
            return;
        }
        if joint && self.current().is_joint() {
            return;
        }
        self.pending_change = None;
        self.changes_done.push((number, ChangeOutcome::Done(self.current().clone())));
    }
}
