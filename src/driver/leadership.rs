//! Handing leadership over, with an end: the target leads, or the old leader serves again.

use std::time::Instant;

use super::Driver;
use super::forward::{self, Forwarded, Waiter};
use super::request::{Answered, ChangeAsker, Decision, TransferAsker};
use crate::error::{Fatal, NoLeader};
use crate::id::NodeId;
use crate::membership::{MembershipError, Role};
use crate::raft::TransferError;
use crate::transport::{Reply, Verb};

#[derive(Debug)]
pub(super) struct Transfer {
    to: NodeId,
    asker: TransferAsker,
    deadline: Instant,
    /// When the wait for a new leader ends, once this one has stepped down.
    patience: Instant,
}

impl Driver {
    pub(super) fn transfer_asked(
        &mut self,
        to: NodeId,
        answer: Answered<(), TransferError>,
        deadline: Instant,
    ) {
        if self.node.is_leader() {
            return self.transfer(to, TransferAsker::Local(answer), deadline);
        }
        let Some(leader) = self.leader_peer() else {
            // The handle waits for a leader and asks again, until its deadline.
            let _ = answer.send(Err(NoLeader.into()));
            return;
        };
        let verb = Verb::Transfer { to };
        if let Err(Forwarded { waiter: Waiter::Transfer(answer), .. }) =
            self.forward(&leader, verb, Waiter::Transfer(answer), deadline)
        {
            let _ = answer.send(Err(NoLeader.into()));
        }
    }

    /// Begins to hand over, as leader.
    pub(super) fn transfer(&mut self, to: NodeId, asker: TransferAsker, deadline: Instant) {
        if !self.node.is_established() || !self.is_membership_told() {
            return self.transfer_ended(asker, Err(NoLeader.into()));
        }
        let decided = match self.node.membership().member(to) {
            None => Some(Err(TransferError::NotFound { id: to })),
            Some(member) if member.role == Role::Learner => {
                Some(Err(TransferError::NotVoter { id: to }))
            }
            Some(_) if self.transfer.is_some() => Some(Err(TransferError::InProgress)),
            Some(_) if to == self.shared.id() => Some(Ok(())),
            Some(_) => None,
        };
        if let Some(decided) = decided {
            return self.tell_if_leading(Decision::Transfer(asker, decided), deadline);
        }
        let patience = self.now + 3 * self.config.election_timeout;
        self.transfer = Some(Transfer { to, asker, deadline, patience });
        self.node.handle_transfer(to.raft_id());
    }

    /// Looks whether a transfer has ended.
    pub(super) fn settle_transfer(&mut self) {
        let Some(transfer) = &self.transfer else { return };
        let target = transfer.to.raft_id();
        let over = transfer.patience.min(transfer.deadline) <= self.now;
        let result = if self.node.is_leader() {
            match self.node.transferee() {
                Some(_) => return,
                // The engine gave up after an election timeout.
                None => Err(TransferError::TimedOut),
            }
        } else if self.node.leader() == target {
            Ok(())
        } else if self.node.leader() != 0 || over {
            Err(TransferError::TimedOut)
        } else {
            return;
        };
        if let Some(transfer) = self.transfer.take() {
            self.transfer_ended(transfer.asker, result);
        }
    }

    pub(super) fn transfer_ended(
        &mut self,
        asker: TransferAsker,
        result: Result<(), TransferError>,
    ) {
        match asker {
            // Whoever asked may have gone.
            TransferAsker::Local(answer) => drop(answer.send(result)),
            TransferAsker::Remote(id) => {
                let reply = result.map(|()| Reply::Transferred);
                self.answer_to(id, reply.map_err(|error| forward::refuse_transfer(&error)));
            }
            TransferAsker::Removal(removal) => {
                let removal = *removal;
                if self.node.is_leader() {
                    // With nobody able to take over, this leader commits its own removal and steps
                    // down.
                    let (change, on) = (&removal.change, removal.planned_on);
                    return self.change_now(change, on, removal.asker, removal.deadline);
                }
                let ChangeAsker::Local(answer) = removal.asker else {
                    // The server that asked asks the new leader.
                    return self.change_ended(removal.asker, Err(NoLeader.into()));
                };
                self.change_asked(removal.change, removal.planned_on, answer, removal.deadline);
            }
        }
    }

    pub(super) fn fail_transfer(&mut self, fatal: &Fatal) {
        let Some(transfer) = self.transfer.take() else { return };
        match transfer.asker {
            // Whoever asked may have gone.
            TransferAsker::Local(answer) => {
                drop(answer.send(Err(TransferError::Stopped(fatal.clone()))));
            }
            TransferAsker::Remote(_) => {}
            TransferAsker::Removal(removal) => {
                self.change_ended(removal.asker, Err(MembershipError::Stopped(fatal.clone())));
            }
        }
    }
}
