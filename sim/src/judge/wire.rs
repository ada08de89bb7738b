//! What servers let each other know, held against what their disks hold at that moment.

use kontiki::transport::{Glance, RaftKind};
use kontiki::{LogId, NodeId};

use super::{Invariant, Judge, State};
use crate::plan::Moment;

impl Judge {
    /// A server sends a message; gives what an aimed crash may wait for.
    pub(crate) fn sending(
        &self,
        from: NodeId,
        to: Option<NodeId>,
        glance: &Glance,
    ) -> Option<Moment> {
        let mut state = self.lock();
        state.counts.messages += 1;
        let numbers = [
            from.raft_id(),
            to.map_or(0, |to| to.raft_id()),
            glance.term,
            glance.log_id.term,
            glance.log_id.index,
            glance.last.index,
            u64::from(glance.reject),
        ];
        state.sim.record_event(name(glance.kind), &numbers);
        state.term_is_durable(from, glance);
        if glance.kind == RaftKind::Append {
            // A heartbeat says no more than its receiver is known to have.
            state.commit_told(from, glance.term, glance.commit);
        }
        match glance.kind {
            RaftKind::Append | RaftKind::Heartbeat => state.leader_speaks(from, glance),
            RaftKind::AppendResponse if !glance.reject => state.acknowledges(from, glance),
            RaftKind::Vote => {
                state.votes(from, from, glance.term);
                Some(Moment::Campaigned)
            }
            RaftKind::VoteResponse if !glance.reject => {
                let to = to?;
                state.votes(from, to, glance.term);
                Some(Moment::Voted)
            }
            RaftKind::AppendResponse => {
                state.sometimes("an append was refused");
                None
            }
            RaftKind::PreVoteResponse if glance.reject => {
                state.sometimes("a vote was refused before it was asked for");
                None
            }
            RaftKind::VoteResponse => {
                state.sometimes("a vote was refused");
                None
            }
            RaftKind::TimeoutNow => {
                state.sometimes("a leader handed over");
                None
            }
            _ => None,
        }
    }
}

impl State {
    /// Nobody hears of a term that the sender could forget.
    fn term_is_durable(&mut self, from: NodeId, glance: &Glance) {
        let asks = matches!(glance.kind, RaftKind::PreVote | RaftKind::PreVoteResponse);
        let term = if asks { glance.term.saturating_sub(1) } else { glance.term };
        let durable = self.disks.get(&from).map_or(0, |disk| disk.term);
        // An answer to a pre-vote of a later term repeats that term.
        let echo = glance.kind == RaftKind::PreVoteResponse;
        self.check(Invariant::VoteDurable, echo || term <= durable, || {
            format!("server {from} speaks of term {term}, but stored {durable} ({:?})", glance.kind)
        });
    }

    fn votes(&mut self, from: NodeId, to: NodeId, term: u64) {
        let (stored_term, stored_vote) =
            self.disks.get(&from).map_or((0, 0), |disk| (disk.term, disk.vote));
        // Having gone on to a later term in the same write, it cannot vote in this one again.
        let durable = stored_term > term || stored_term == term && stored_vote == to.raft_id();
        self.check(Invariant::VoteDurable, durable, || {
            format!(
                "server {from} votes for {to} in term {term}, but stored term {stored_term} \
                 vote {stored_vote:016x}"
            )
        });
        if from == to && *self.candidates.entry(term).or_insert(from) != from {
            self.sometimes("two servers campaigned in one term");
        }
        let voted = *self.votes.entry((from, term)).or_insert(to);
        self.check(Invariant::VoteDurable, voted == to, || {
            format!("server {from} votes for {to} in term {term}, after voting for {voted}")
        });
    }

    fn acknowledges(&mut self, from: NodeId, glance: &Glance) -> Option<Moment> {
        let index = glance.log_id.index;
        let disk = self.disks.get(&from);
        let last = disk.map_or(0, super::Disk::last);
        self.check(Invariant::DurableBeforeAck, index <= last, || {
            format!("server {from} acknowledges {index}, but its disk ends at {last}")
        });
        let held = self.disks.get(&from).and_then(|disk| disk.term_at(index));
        let sent = self.appended.get(&(glance.term, index)).copied();
        if let (Some(held), Some(sent)) = (held, sent) {
            self.check(Invariant::DurableBeforeAck, held == sent, || {
                format!(
                    "server {from} acknowledges {index} to the leader of term {}, which sent it \
                     in term {sent}; its disk has one of term {held}",
                    glance.term
                )
            });
        }
        Some(Moment::Acknowledged)
    }

    fn leader_speaks(&mut self, from: NodeId, glance: &Glance) -> Option<Moment> {
        if glance.kind == RaftKind::Append {
            self.appended.insert((glance.term, glance.last.index), glance.last.term);
        }
        let leader = *self.leaders.entry(glance.term).or_insert(from);
        self.check(Invariant::ElectionSafety, leader == from, || {
            format!("servers {leader} and {from} both lead in term {}", glance.term)
        });
        if !self.heard.insert(glance.term) {
            return None;
        }
        self.counts.elections += 1;
        if self.memberships.last_key_value().is_some_and(|(_, newest)| newest.is_joint()) {
            self.sometimes("a leader was elected in a joint configuration");
        }
        let committed = self.applied.last_key_value();
        let committed = committed.map(|(&index, one)| LogId { term: one.term, index });
        if let Some(at) = committed.filter(|at| at.term < glance.term) {
            let has = self.disks.get(&from).is_some_and(|disk| disk.holds(at));
            self.check(Invariant::LeaderCompleteness, has, || {
                format!(
                    "server {from} leads in term {} without {at}, which is committed",
                    glance.term
                )
            });
        }
        Some(Moment::Elected)
    }
}

/// How a message is called in the trace.
fn name(kind: RaftKind) -> &'static str {
    match kind {
        RaftKind::Append => "append",
        RaftKind::AppendResponse => "append response",
        RaftKind::Heartbeat => "heartbeat",
        RaftKind::HeartbeatResponse => "heartbeat response",
        RaftKind::PreVote => "pre-vote",
        RaftKind::PreVoteResponse => "pre-vote response",
        RaftKind::Snapshot => "snapshot",
        RaftKind::TimeoutNow => "timeout now",
        RaftKind::Vote => "vote",
        RaftKind::VoteResponse => "vote response",
        _ => "message",
    }
}
