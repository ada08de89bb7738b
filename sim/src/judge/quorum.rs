//! What is applied is durable on a quorum, at the first moment that anybody applies it.

use std::collections::BTreeSet;

use kontiki::{LogId, Member, Membership, NodeId};

use super::{Invariant, State};

/// An entry as it was first applied, and who had it on disk then.
#[derive(Clone, Debug)]
pub(super) struct FirstApply {
    by: NodeId,
    at: LogId,
    holders: BTreeSet<NodeId>,
}

impl State {
    /// Judges an entry now, or, if nobody has told yet which membership it was committed under, as
    /// soon as somebody does.
    pub(super) fn on_quorum(&mut self, by: NodeId, at: LogId) {
        let holders = self.disks.iter().filter(|(_, disk)| disk.holds(at));
        let first = FirstApply { by, at, holders: holders.map(|(id, _)| *id).collect() };
        self.judge_quorum(first);
    }

    /// A server has told or written how far it knows the log to be committed. Whoever is the first
    /// to know that, as a leader, must have counted an entry of its own term (thesis 3.6.2).
    pub(super) fn commit_told(&mut self, id: NodeId, term: u64, commit: u64) {
        if commit <= self.told.max(self.committed()) {
            return;
        }
        self.told = commit;
        let leads = self.leaders.get(&term) == Some(&id);
        let disk = self.disks.get(&id);
        let of = disk.and_then(|disk| disk.term_at(commit)).unwrap_or(term);
        // It tells no more than its own disk has, however much others have committed.
        let cut = disk.is_some_and(|disk| disk.last() == commit);
        self.check(Invariant::CommittedOnQuorum, !leads || cut || of == term, || {
            format!(
                "the leader of term {term}, server {id}, commits {commit}, which is of term {of}"
            )
        });
    }

    /// Another membership is known: whatever waited for it is judged.
    pub(super) fn judge_waiting(&mut self) {
        for first in std::mem::take(&mut self.unjudged) {
            self.judge_quorum(first);
        }
    }

    fn judge_quorum(&mut self, first: FirstApply) {
        let index = first.at.index;
        // The engine counts under the membership in force when it commits: that of the last change
        // before, or, if the change was committed together with it, the one before that.
        let known = self.memberships.range(..=index).rev().take(2);
        let candidates: Vec<Membership> = known.map(|(_, m)| m.clone()).collect();
        let Some(newest) = candidates.first().map(Membership::index) else { return };
        if candidates.iter().any(|membership| first.is_quorum_of(membership)) {
            self.counts.checks += 1;
            return;
        }
        if self.changes.range(newest + 1..).next().is_some_and(|&change| change <= index) {
            self.unjudged.push(first);
            return;
        }
        self.check(Invariant::CommittedOnQuorum, false, || {
            let FirstApply { by, at, holders } = &first;
            format!(
                "server {by} applied {at}, which only {holders:?} had on disk, of {candidates:?}"
            )
        });
    }
}

impl FirstApply {
    fn is_quorum_of(&self, membership: &Membership) -> bool {
        let majority = |voters: Vec<&Member>| {
            let holders = voters.iter().filter(|voter| self.holders.contains(&voter.id)).count();
            2 * holders > voters.len() || voters.is_empty()
        };
        majority(membership.voters().collect()) && majority(membership.outgoing_voters().collect())
    }
}
