//! What servers say of themselves: roles, indexes, memberships, why they stopped.

use std::collections::BTreeSet;

use kontiki::{Fatal, Membership, NodeId, RaftRole, Status};

use super::{Invariant, Judge, State};

impl Judge {
    /// A server starts anew: its indexes may be lower than before.
    pub(crate) fn started(&self, id: NodeId) {
        self.lock().indexes.remove(&id);
    }

    /// A server's status as it was just now; `disk_failed` if its disk was made to fail.
    pub(crate) fn status(&self, status: &Status, disk_failed: bool) {
        let mut state = self.lock();
        let id = status.id;
        if status.role == RaftRole::Leader && status.stopped.is_none() {
            let leader = *state.leaders.entry(status.term).or_insert(id);
            state.check(Invariant::ElectionSafety, leader == id, || {
                format!("servers {leader} and {id} both lead in term {}", status.term)
            });
        }
        let (commit, applied) = (status.commit, status.applied);
        let before = state.indexes.insert(id, (commit, applied)).unwrap_or_default();
        state.check(Invariant::CommitMonotone, before.0 <= commit && before.1 <= applied, || {
            format!("server {id} was at commit and applied {before:?}, now {commit} and {applied}")
        });
        let last = status.last.index;
        state.check(Invariant::IndexesInOrder, applied <= commit && commit <= last, || {
            format!("server {id} has applied {applied}, commit {commit}, last {last}")
        });
        state.learn(&status.membership);
        if let Some(fatal) = &status.stopped {
            state.stopped(id, fatal, disk_failed);
        }
    }

    /// The newest membership that anybody has told of.
    pub(crate) fn membership(&self) -> Membership {
        self.lock().memberships.last_key_value().map(|(_, m)| m.clone()).unwrap_or_default()
    }
}

impl State {
    fn learn(&mut self, membership: &Membership) {
        let index = membership.index();
        if index == 0 {
            return;
        }
        if let Some(known) = self.memberships.get(&index).cloned() {
            self.check(Invariant::MembershipSafety, known == *membership, || {
                format!("at {index} one server has {membership:?}, another {known:?}")
            });
            return;
        }
        self.counts.membership_changes += 1;
        let voters = |m: &Membership| m.voters().map(|one| one.id).collect::<BTreeSet<NodeId>>();
        if let Some((&at, before)) = self.memberships.range(..index).next_back()
            && self.changes.range(at + 1..index).next().is_none()
        {
            let before = before.clone();
            let (old, new) = (voters(&before), voters(membership));
            let step = old.symmetric_difference(&new).count();
            let joint = before.is_joint() || membership.is_joint();
            self.check(Invariant::MembershipSafety, joint || step <= 1, || {
                format!("from {before:?} to {membership:?} in one step")
            });
            if membership.is_joint() {
                let outgoing: BTreeSet<_> = membership.outgoing_voters().map(|m| m.id).collect();
                self.check(Invariant::MembershipSafety, outgoing == old, || {
                    format!("{membership:?} leaves another configuration than {before:?}")
                });
                self.sometimes("a joint configuration was entered");
            } else if before.is_joint() {
                self.check(Invariant::MembershipSafety, old == new, || {
                    format!("{membership:?} is not the new half of {before:?}")
                });
                self.sometimes("a joint configuration was left");
            }
            if new.len() > old.len() {
                self.sometimes("a learner was promoted");
            }
            if new.len() < old.len() {
                self.sometimes("a voter was taken out");
            }
        }
        self.memberships.insert(index, membership.clone());
        self.judge_waiting();
    }

    fn stopped(&mut self, id: NodeId, fatal: &Fatal, disk_failed: bool) {
        let excused = match fatal {
            Fatal::Shutdown => true,
            Fatal::Storage(_) => disk_failed || self.damaged.contains(&id),
            _ => self.damaged.contains(&id),
        };
        if matches!(fatal, Fatal::Storage(_)) && excused {
            self.sometimes("a failing disk stopped its server");
        }
        self.check(Invariant::NoPanic, excused, || format!("server {id} stopped: {fatal}"));
    }
}
