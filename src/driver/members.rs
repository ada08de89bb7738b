//! Changing the membership as leader: one change at a time, promotion of learners that caught up,
//! removal of oneself.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Driver;
use super::forward::{self, Forwarded, Waiter};
use super::request::{Answered, ChangeAsker, Decision, PendingRemoval, TransferAsker};
use crate::error::{Fatal, NoLeader};
use crate::id::NodeId;
use crate::membership::{Change, Membership, MembershipError};
use crate::mutant::Mutant;
use crate::node::ChangeOutcome;
use crate::transport::{Reply, Verb};

/// The change that this leader has proposed and that is not settled.
#[derive(Debug)]
pub(super) struct PendingChange {
    asker: ChangeAsker,
    deadline: Instant,
}

/// How learners that are to become voters catch up: in rounds (thesis 4.2.1).
#[derive(Debug, Default)]
pub(super) struct Promotions(BTreeMap<NodeId, Round>);

#[derive(Debug)]
struct Round {
    /// It is over when the learner has the log up to here.
    target: u64,
    began: Instant,
    number: u32,
}

impl Driver {
    pub(super) fn change_asked(
        &mut self,
        change: Change,
        planned_on: Option<u64>,
        answer: Answered<Membership, MembershipError>,
        deadline: Instant,
    ) {
        if self.node.is_leader() {
            return self.change(change, planned_on, ChangeAsker::Local(answer), deadline);
        }
        let Some(leader) = self.leader_peer() else {
            // The handle waits for a leader and asks again, until its deadline.
            let _ = answer.send(Err(NoLeader.into()));
            return;
        };
        let verb = Verb::Change { change, planned_on };
        if let Err(Forwarded { waiter: Waiter::Change(answer), .. }) =
            self.forward(&leader, verb, Waiter::Change(answer), deadline)
        {
            let _ = answer.send(Err(NoLeader.into()));
        }
    }

    /// Makes a change as leader.
    pub(super) fn change(
        &mut self,
        change: Change,
        planned_on: Option<u64>,
        asker: ChangeAsker,
        deadline: Instant,
    ) {
        if !self.node.is_established() {
            return self.change_ended(asker, Err(NoLeader.into()));
        }
        let busy = self.change.is_some() || !self.is_membership_told();
        if busy && !Mutant::SecondChangeTaken.is_planted() {
            return self.change_ended(asker, Err(MembershipError::InProgress));
        }
        if change == Change::Remove(self.shared.id())
            && self.transfer.is_none()
            && let Some(heir) = self.heir()
            && self.node.membership().plan(&change).is_ok()
        {
            let removal = PendingRemoval { change, planned_on, asker, deadline };
            return self.transfer(heir, TransferAsker::Removal(Box::new(removal)), deadline);
        }
        self.change_now(&change, planned_on, asker, deadline);
    }

    /// Whether everybody may know of the membership in force. Until then no answer depends on it:
    /// whoever hears that a server is gone may take it away.
    pub(super) fn is_membership_told(&self) -> bool {
        self.shared.status().membership.index() == self.node.membership().index()
    }

    /// Makes a change, also the removal of this leader itself.
    pub(super) fn change_now(
        &mut self,
        change: &Change,
        planned_on: Option<u64>,
        asker: ChangeAsker,
        deadline: Instant,
    ) {
        let decided = match self.node.handle_change(change, planned_on) {
            Ok(Some(_)) => {
                self.change = Some(PendingChange { asker, deadline });
                return;
            }
            _ if matches!(asker, ChangeAsker::Leader) => return,
            Ok(None) => Ok(self.node.membership().clone()),
            Err(error) => Err(error),
        };
        self.tell_if_leading(Decision::Change(asker, decided), deadline);
    }

    /// The voter that is best able to lead instead of this server.
    pub(super) fn heir(&self) -> Option<NodeId> {
        let me = self.shared.id();
        let others = self.node.membership().voters().filter(|member| member.id != me);
        let able = others.filter_map(|member| {
            let (matched, recent, _) = self.node.progress(member.id.raft_id())?;
            recent.then_some((matched, member.id))
        });
        able.max().map(|(_, id)| id)
    }

    pub(super) fn settle_changes(&mut self) {
        let outcomes = self.node.take_changes();
        let index = self.node.membership().index();
        if std::mem::replace(&mut self.membership_seen, index) != index {
            self.remember_leavers();
        }
        if !outcomes.is_empty() {
            // Who is answered finds the status as it was told.
            self.publish();
        }
        for outcome in outcomes {
            let Some(change) = self.change.take() else { continue };
            let result = match outcome {
                ChangeOutcome::Done(membership) => Ok(membership),
                ChangeOutcome::Superseded => Err(NoLeader.into()),
                ChangeOutcome::Lost => Err(MembershipError::Unknown),
            };
            self.change_ended(change.asker, result);
        }
    }

    pub(super) fn change_ended(
        &mut self,
        asker: ChangeAsker,
        result: Result<Membership, MembershipError>,
    ) {
        match asker {
            ChangeAsker::Leader => {}
            // Whoever asked may have gone.
            ChangeAsker::Local(answer) => drop(answer.send(result)),
            ChangeAsker::Remote(id) => {
                let reply = result.map(|after| Reply::Changed { membership: after.encode() });
                self.answer_to(id, reply.map_err(|error| forward::refuse_change(&error)));
            }
            ChangeAsker::Joiner(id, address) => {
                let cluster = crate::transport::Inbox::local(&*self.shared).cluster;
                let reply = result.map(|_| forward::joined(cluster));
                let reply = reply.map_err(|error| forward::refuse_change(&error));
                self.answer_joiner(id, address, reply);
            }
        }
    }

    /// Looks how far the learners are that are to become voters; promotes one whose last round was
    /// short.
    pub(super) fn promote(&mut self) {
        if !self.node.is_established() {
            self.promotions.0.clear();
            return;
        }
        let commit = self.node.commit();
        let waiting = self.node.membership().staging.clone();
        self.promotions.0.retain(|id, _| waiting.contains(id));
        for id in waiting {
            let now = self.now;
            let round = self.promotions.0.entry(id);
            let round = round.or_insert(Round { target: commit, began: now, number: 1 });
            let matched = self.node.progress(id.raft_id()).map_or(0, |(matched, _, _)| matched);
            if matched < round.target {
                continue;
            }
            let short = now.duration_since(round.began) <= self.config.election_timeout;
            if short && now > round.began {
                self.promotions.0.remove(&id);
                if self.change.is_none() {
                    let deadline = now + self.config.verb_timeout;
                    self.change(Change::Promote(id), None, ChangeAsker::Leader, deadline);
                }
                return;
            }
            if round.number == ROUNDS_MAX {
                tracing::warn!(%id, "a learner does not keep up; it is not promoted yet");
                round.number = 0;
            }
            *round = Round { target: commit, began: now, number: round.number + 1 };
        }
    }

    pub(super) fn sweep_changes(&mut self) {
        let now = self.now;
        if let Some(change) = self.change.take_if(|change| change.deadline <= now) {
            // The core still knows of it, and refuses others until it is settled.
            self.change_ended(change.asker, Err(MembershipError::Unknown));
        }
    }

    pub(super) fn fail_changes(&mut self, fatal: &Fatal) {
        if let Some(change) = self.change.take()
            && let ChangeAsker::Local(answer) = change.asker
        {
            tracing::debug!(%fatal, "a membership change ends with its node");
            let _ = answer.send(Err(MembershipError::Unknown));
        }
    }
}

/// After how many rounds without keeping up a learner is reported.
const ROUNDS_MAX: u32 = 10;
