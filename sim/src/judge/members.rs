//! What servers say of themselves: roles, indexes, memberships, why they stopped.

use std::collections::BTreeSet;

use kontiki::{Fatal, Membership, NodeId, RaftRole, Status};

use super::disk::Disk;
use super::{Invariant, Judge, State};

impl Judge {
    /// A server starts anew: its indexes may be lower than before.
    pub(crate) fn started(&self, id: NodeId) {
        self.lock().indexes.remove(&id);
    }

    /// A server's process is dead; `led` if it led.
    pub(crate) fn died(&self, id: NodeId, led: bool) {
        let mut state = self.lock();
        state.counts.crashes += 1;
        if state.disks.get(&id).is_some_and(Disk::is_writing) {
            state.sometimes("a server died while it was writing");
            if led {
                state.sometimes("a leader died while it was writing");
            }
        }
        if let Some(what) = state.busy.remove(&id) {
            state.sometimes(what);
        }
    }

    /// A server begins or ends some long work of its state machine; the name is for its death
    /// meanwhile.
    pub(crate) fn busy(&self, id: NodeId, what: Option<&'static str>) {
        let mut state = self.lock();
        match what {
            Some(what) => drop(state.busy.insert(id, what)),
            None => drop(state.busy.remove(&id)),
        }
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
        state.leads_as_voter(status);
        let (commit, applied) = (status.commit, status.applied);
        let before = state.indexes.insert(id, (commit, applied)).unwrap_or_default();
        state.check(Invariant::CommitMonotone, before.0 <= commit && before.1 <= applied, || {
            format!("server {id} was at commit and applied {before:?}, now {commit} and {applied}")
        });
        let last = status.last.index;
        state.check(Invariant::IndexesInOrder, applied <= commit && commit <= last, || {
            format!("server {id} has applied {applied}, commit {commit}, last {last}")
        });
        state.commit_told(id, status.term, commit);
        state.learn(&status.membership);
        state.is_committed(status);
        if let Some(fatal) = &status.stopped {
            state.stopped(id, fatal, disk_failed);
        }
    }

    /// An operator has been told that a change was made: from here on no restart may forget that it
    /// is committed, since a server that was taken out may be gone for good.
    pub(crate) fn change_told(&self, after: &Membership) {
        let mut state = self.lock();
        let durable = state.disks.values().map(|disk| disk.commit).max().unwrap_or(0);
        state.check(Invariant::DurableBeforeAck, after.index() <= durable, || {
            format!("a change at {} was told, and every disk says commit {durable}", after.index())
        });
    }

    /// Whether something is true of a membership that was told of, of the entry at `since` or
    /// later; before anything was told (0), anything may be.
    pub(crate) fn is_true_since(&self, since: u64, holds: impl Fn(&Membership) -> bool) -> bool {
        since == 0 || self.lock().memberships.range(since..).any(|(_, m)| holds(m))
    }

    /// Whether a server has ever been a member, as far as anybody has told.
    pub(crate) fn was_member(&self, id: NodeId) -> bool {
        self.lock().memberships.values().any(|membership| membership.member(id).is_some())
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
        self.nobody_returns(membership);
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
            let leader = self.leaders.last_key_value().map(|(_, leader)| *leader);
            if leader.is_some_and(|leader| old.contains(&leader) && !new.contains(&leader)) {
                self.sometimes("a leader was taken out");
            }
        }
        self.memberships.insert(index, membership.clone());
        self.judge_waiting();
    }

    /// A server tells of no membership that is not committed. How soon it tells of one that is, the
    /// end of the run looks at: until a restart would know of it, it must not.
    fn is_committed(&mut self, status: &Status) {
        let (id, index, commit) = (status.id, status.membership.index(), status.commit);
        self.check(Invariant::MembershipSafety, index <= commit, || {
            format!("server {id} tells of the membership of {index}, with {commit} committed")
        });
    }

    /// Who leads votes, as far as it knows itself.
    fn leads_as_voter(&mut self, status: &Status) {
        let (id, membership) = (status.id, &status.membership);
        let later = self.changes.range(membership.index() + 1..).next();
        if later.is_some_and(|&change| change <= status.commit) {
            // A later one may be in force, which it does not tell of yet.
            return;
        }
        let leads = status.role == RaftRole::Leader && status.stopped.is_none();
        let mut voters = membership.voters().chain(membership.outgoing_voters());
        let votes = voters.any(|voter| voter.id == id);
        self.check(Invariant::MembershipSafety, !leads || votes, || {
            format!(
                "server {id} leads in term {}, and does not vote in {membership:?}",
                status.term
            )
        });
    }

    /// Who was taken out never comes back: it may have forgotten what it had acknowledged.
    fn nobody_returns(&mut self, membership: &Membership) {
        let earlier = || self.memberships.range(..membership.index()).rev().map(|(_, m)| m);
        let Some(before) = earlier().next() else { return };
        let back = membership.members().map(|member| member.id).find(|&id| {
            let left = before.member(id).is_none();
            left && earlier().any(|old| old.member(id).is_some())
        });
        self.check(Invariant::MembershipSafety, back.is_none(), || {
            format!("{back:?} was removed before {}, and is back", membership.index())
        });
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
