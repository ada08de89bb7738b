//! Requests between servers (D9, D16): sent once, never again; what certainly had no effect is told
//! apart from what may have had one.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Driver;
use super::request::{Answered, ChangeAsker, Decision, ProposeCaller, TransferAsker};
use crate::error::NoLeader;
use crate::id::{ClusterId, NodeId};
use crate::membership::{Change, Membership, MembershipError, Role};
use crate::raft::{ProposeError, TransferError};
use crate::transport::{Answer, MessageBody, Peer, Refusal, Reply, Request, RequestId, Verb};

/// A request that is under way.
#[derive(Debug)]
pub(super) struct Forwarded {
    to: Option<NodeId>,
    deadline: Instant,
    pub(super) waiter: Waiter,
}

/// Who waits for the answer.
#[derive(Debug)]
pub(super) enum Waiter {
    Change(Answered<Membership, MembershipError>),
    Join,
    Propose { commands: Vec<Bytes>, callers: Vec<ProposeCaller> },
    Read { round: u64 },
    Transfer(Answered<(), TransferError>),
}

impl Forwarded {
    pub(super) fn is_proposal(&self) -> bool {
        matches!(self.waiter, Waiter::Propose { .. })
    }
}

impl Driver {
    /// Sends a request; if it certainly did not leave, or too many are under way, gives back who
    /// waits.
    pub(super) fn forward(
        &mut self,
        peer: &Peer,
        verb: Verb,
        waiter: Waiter,
        deadline: Instant,
    ) -> Result<(), Forwarded> {
        self.requests_sent += 1;
        let number = self.requests_sent;
        let patience = deadline.saturating_duration_since(self.now);
        let request = Request {
            id: RequestId { origin: self.shared.id(), incarnation: self.incarnation, number },
            hops: HOPS_MAX,
            term: self.node.term(),
            patience_ms: u32::try_from(patience.as_millis()).unwrap_or(u32::MAX),
            verb,
        };
        let forwarded = Forwarded { to: peer.id, deadline, waiter };
        let full = self.forwarded.len() >= self.config.waiting_requests_max;
        if full || !self.send_to(peer, MessageBody::Request(request)) {
            self.forwards_rest = true;
            return Err(forwarded);
        }
        self.forwarded.insert(number, forwarded);
        Ok(())
    }

    /// Takes in what another server asks.
    pub(super) fn requested(&mut self, request: Request) {
        if !self.requests_seen.is_new(&request, self.node.term()) {
            return;
        }
        let id = request.id;
        let patience = Duration::from_millis(request.patience_ms.into());
        let deadline = self.now + patience.min(self.config.verb_timeout);
        // Meant for this server as leader of a term in which it led, but not now. A copy may have
        // been carried out: before a restart, or so long ago that nobody remembers.
        let led = request.hops == HOPS_MAX;
        let leads = self.node.is_leader() && self.node.term() == request.term;
        let forgotten = self.requests_seen.may_have_forgotten(request.term);
        if request.counts() && led && !leads && forgotten {
            return self.answer_to(id, Err(Refusal::Unknown));
        }
        if !self.node.is_leader() {
            return self.pass_on(request);
        }
        if request.is_late(self.node.term()) {
            return self.answer_to(id, Err(Refusal::NotLeader));
        }
        match request.verb {
            Verb::Propose { commands } => {
                let fits = |command: &Bytes| command.len() <= self.config.command_bytes_max;
                let fit = self.log_backlog().is_none() && commands.iter().all(fits);
                let first = if fit { self.node.handle_proposal(commands) } else { None };
                let result = match first {
                    Some(first) => Ok(Reply::Appended { first }),
                    None if fit => Err(Refusal::NotLeader),
                    None => Err(Refusal::Overloaded),
                };
                self.answer_to(id, result);
            }
            Verb::ReadIndex => self.read_for(id, deadline),
            Verb::Change { change, planned_on } => {
                self.change(change, planned_on, ChangeAsker::Remote(id), deadline);
            }
            Verb::Transfer { to } => self.transfer(to, TransferAsker::Remote(id), deadline),
            Verb::Join { member } => {
                let asker = ChangeAsker::Joiner(id, member.address.clone());
                if self.has_taken_part(member.id) {
                    let used = MembershipError::UsedId { id: member.id };
                    return self.tell_if_leading(Decision::Change(asker, Err(used)), deadline);
                }
                self.change(Change::Add(member), None, asker, deadline);
            }
        }
    }

    /// Whether a server is known to have acknowledged something under its id. If it asks to join
    /// all the same, it has lost that. One that asks again because the answer was lost has not:
    /// until it hears of its cluster, it takes part in nothing.
    ///
    /// What it acknowledged to an earlier leader this one does not know. But every voter has:
    /// founders form the cluster themselves, and nobody else is made one before. A learner that
    /// asks a new leader is taken in again: nobody counts on it, and it votes when it has all.
    pub(super) fn has_taken_part(&self, id: NodeId) -> bool {
        let mut everyone = self.node.membership().everyone();
        everyone.any(|one| one.id == id && one.role == Role::Voter)
            || self.node.progress(id.raft_id()).is_some_and(|(matched, _, _)| matched > 0)
    }

    /// A request that only the leader can carry out goes on to it, for a hop or two; the answer
    /// goes straight back.
    fn pass_on(&mut self, mut request: Request) {
        let id = request.id;
        let joiner = match &request.verb {
            Verb::Join { member } => Some(member.address.clone()),
            _ => None,
        };
        let leader = self.leader_peer().filter(|leader| leader.id != Some(id.origin));
        if request.hops > 0
            && let Some(leader) = leader
        {
            request.hops -= 1;
            if self.send_to(&leader, MessageBody::Request(request)) {
                return;
            }
        }
        match joiner {
            Some(address) => self.answer_joiner(id, address, Err(Refusal::NotLeader)),
            None => self.answer_to(id, Err(Refusal::NotLeader)),
        }
    }

    /// Answers another server's request; lost if nobody knows where it is.
    pub(super) fn answer_to(&mut self, id: RequestId, result: Result<Reply, Refusal>) {
        let membership = self.node.membership();
        let Some(peer) = self.peers.find(membership, id.origin.raft_id()) else { return };
        self.send_to(&peer, MessageBody::Answer(Answer { id, result }));
    }

    pub(super) fn answer_joiner(
        &mut self,
        id: RequestId,
        address: String,
        result: Result<Reply, Refusal>,
    ) {
        let peer = Peer { id: Some(id.origin), address };
        self.send_to(&peer, MessageBody::Answer(Answer { id, result }));
    }

    /// Takes in the answer to a request of this server.
    pub(super) fn answered(&mut self, answer: Answer) {
        if answer.id.incarnation != self.incarnation || answer.id.origin != self.shared.id() {
            return;
        }
        let Some(forwarded) = self.forwarded.remove(&answer.id.number) else { return };
        match (forwarded.waiter, answer.result) {
            (Waiter::Propose { callers, .. }, Ok(Reply::Appended { first })) => {
                self.register(first, callers);
            }
            // Nothing was done, so it may go to the next leader until its deadline.
            (Waiter::Propose { commands, callers }, Err(refusal))
                if refusal != Refusal::Unknown =>
            {
                self.forwards_rest = true;
                self.put_back(commands, callers);
            }
            (Waiter::Read { round }, Ok(Reply::ReadAt { index })) => {
                self.reads.confirm(round, index);
            }
            (Waiter::Read { round }, _) => {
                self.forwards_rest = true;
                self.reads.abandon_round(round);
            }
            (Waiter::Join, result) => self.join_answered(result),
            (Waiter::Change(caller), Ok(Reply::Changed { membership })) => {
                let result = Membership::decode(membership).map_err(|_| MembershipError::Unknown);
                // Whoever asked may have gone.
                let _ = caller.send(result);
            }
            (Waiter::Change(caller), Err(refusal)) => {
                let _ = caller.send(Err(change_refused(&refusal)));
            }
            (Waiter::Transfer(caller), Ok(Reply::Transferred)) => {
                let _ = caller.send(Ok(()));
            }
            (Waiter::Transfer(caller), Err(refusal)) => {
                let _ = caller.send(Err(transfer_refused(&refusal)));
            }
            (waiter, _) => self.end_unknown(waiter),
        }
    }

    fn end_unknown(&mut self, waiter: Waiter) {
        match waiter {
            Waiter::Propose { callers, .. } => {
                callers.into_iter().for_each(|caller| caller.resolve(Err(ProposeError::Unknown)));
            }
            Waiter::Read { round } => self.reads.abandon_round(round),
            // Whoever asked may have gone.
            Waiter::Change(caller) => drop(caller.send(Err(MembershipError::Unknown))),
            Waiter::Transfer(caller) => drop(caller.send(Err(TransferError::Unknown))),
            Waiter::Join => self.join_answered(Err(Refusal::Unknown)),
        }
    }

    /// The connection to a server is lost, and with it perhaps an answer: nobody waits for it much
    /// longer.
    pub(super) fn forwarded_to_unreachable(&mut self, peer: NodeId) {
        let grace = self.now + self.config.election_timeout;
        let asked = self.forwarded.values_mut().filter(|one| one.to == Some(peer));
        asked.for_each(|one| one.deadline = one.deadline.min(grace));
    }

    /// Leadership has moved: an answer of the old leader is due soon or never.
    pub(super) fn forwarded_to_old_leader(&mut self) {
        let grace = self.now + self.config.election_timeout;
        self.forwarded.values_mut().for_each(|one| one.deadline = one.deadline.min(grace));
    }

    pub(super) fn sweep_forwarded(&mut self) {
        let now = self.now;
        let over = self.forwarded.iter().filter(|(_, one)| one.deadline <= now);
        let over: Vec<u64> = over.map(|(&number, _)| number).collect();
        for number in over {
            if let Some(forwarded) = self.forwarded.remove(&number) {
                self.end_unknown(forwarded.waiter);
            }
        }
    }

    pub(super) fn fail_forwarded(&mut self) {
        for (_, forwarded) in std::mem::take(&mut self.forwarded) {
            self.end_unknown(forwarded.waiter);
        }
    }
}

/// How often a request may be passed on.
const HOPS_MAX: u8 = 2;

/// The errors of the two verbs that carry one over the wire: a code, and who or what it is about.
pub(super) fn refuse_change(error: &MembershipError) -> Refusal {
    let mut detail = Detail::default();
    let code = match error {
        MembershipError::AddressTaken { address, id } => {
            detail = Detail { id: Some(*id), text: address.clone(), ..detail };
            1
        }
        MembershipError::InProgress => 2,
        MembershipError::LastVoter => 3,
        MembershipError::BadMember => 4,
        MembershipError::NotFound { id } => {
            detail.id = Some(*id);
            5
        }
        MembershipError::RoleTaken { id, role } => {
            detail = Detail { id: Some(*id), number: *role as u64, ..detail };
            6
        }
        MembershipError::Superseded { now } => {
            detail.number = *now;
            7
        }
        MembershipError::UsedId { id } => {
            detail.id = Some(*id);
            8
        }
        MembershipError::TooLarge => 9,
        MembershipError::NotReady { id } => {
            detail.id = Some(*id);
            10
        }
        MembershipError::NoLeader(_) => return Refusal::NotLeader,
        MembershipError::Stopped(_) | MembershipError::Unknown => return Refusal::Unknown,
    };
    Refusal::Because { code, detail: detail.encode() }
}

pub(super) fn change_refused(refusal: &Refusal) -> MembershipError {
    let (code, detail) = match refusal {
        Refusal::NotLeader | Refusal::Overloaded => return NoLeader.into(),
        Refusal::Unknown => return MembershipError::Unknown,
        Refusal::Because { code, detail } => (*code, Detail::decode(detail.clone())),
    };
    match (code, detail.id) {
        (1, Some(id)) => MembershipError::AddressTaken { address: detail.text, id },
        (2, _) => MembershipError::InProgress,
        (3, _) => MembershipError::LastVoter,
        (4, _) => MembershipError::BadMember,
        (5, Some(id)) => MembershipError::NotFound { id },
        (6, Some(id)) => {
            let role = if detail.number == 0 { Role::Learner } else { Role::Voter };
            MembershipError::RoleTaken { id, role }
        }
        (7, _) => MembershipError::Superseded { now: detail.number },
        (8, Some(id)) => MembershipError::UsedId { id },
        (9, _) => MembershipError::TooLarge,
        (10, Some(id)) => MembershipError::NotReady { id },
        _ => MembershipError::Unknown,
    }
}

pub(super) fn refuse_transfer(error: &TransferError) -> Refusal {
    let mut detail = Detail::default();
    let code = match error {
        TransferError::InProgress => 1,
        TransferError::NotFound { id } => {
            detail.id = Some(*id);
            2
        }
        TransferError::NotVoter { id } => {
            detail.id = Some(*id);
            3
        }
        TransferError::TimedOut => 4,
        TransferError::NoLeader(_) => return Refusal::NotLeader,
        TransferError::Stopped(_) | TransferError::Unknown => return Refusal::Unknown,
    };
    Refusal::Because { code, detail: detail.encode() }
}

fn transfer_refused(refusal: &Refusal) -> TransferError {
    let (code, detail) = match refusal {
        Refusal::NotLeader | Refusal::Overloaded => return NoLeader.into(),
        Refusal::Unknown => return TransferError::Unknown,
        Refusal::Because { code, detail } => (*code, Detail::decode(detail.clone())),
    };
    match (code, detail.id) {
        (1, _) => TransferError::InProgress,
        (2, Some(id)) => TransferError::NotFound { id },
        (3, Some(id)) => TransferError::NotVoter { id },
        (4, _) => TransferError::TimedOut,
        _ => TransferError::Unknown,
    }
}

/// The reply to a joiner whose change succeeded.
pub(super) fn joined(cluster: ClusterId) -> Reply {
    Reply::Joined { cluster }
}

#[derive(Debug, Default)]
struct Detail {
    id: Option<NodeId>,
    number: u64,
    text: String,
}

impl Detail {
    fn encode(&self) -> Bytes {
        let mut bytes = self.id.map_or([0; 16], NodeId::to_bytes).to_vec();
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.text.as_bytes());
        bytes.into()
    }

    /// What cannot be read is left empty: the code alone says enough.
    fn decode(bytes: Bytes) -> Self {
        let Some((id, rest)) = bytes.split_first_chunk::<16>() else { return Self::default() };
        let Some((number, text)) = rest.split_first_chunk::<8>() else { return Self::default() };
        Self {
            id: NodeId::from_bytes(*id).ok(),
            number: u64::from_le_bytes(*number),
            text: String::from_utf8_lossy(text).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Role;

    #[test]
    fn errors_survive_the_way_through_another_server() {
        let id = NodeId::from(7);
        let errors = [
            MembershipError::AddressTaken { address: "a".into(), id },
            MembershipError::InProgress,
            MembershipError::LastVoter,
            MembershipError::NoLeader(NoLeader),
            MembershipError::BadMember,
            MembershipError::NotFound { id },
            MembershipError::RoleTaken { id, role: Role::Voter },
            MembershipError::RoleTaken { id, role: Role::Learner },
            MembershipError::Superseded { now: 9 },
            MembershipError::TooLarge,
            MembershipError::NotReady { id },
            MembershipError::UsedId { id },
            MembershipError::Unknown,
        ];
        for error in errors {
            assert_eq!(change_refused(&refuse_change(&error)), error);
        }
        let errors = [
            TransferError::InProgress,
            TransferError::NotFound { id },
            TransferError::NotVoter { id },
            TransferError::TimedOut,
            TransferError::NoLeader(NoLeader),
            TransferError::Unknown,
        ];
        for error in errors {
            assert_eq!(transfer_refused(&refuse_transfer(&error)), error);
        }
    }
}
