//! The way of a read: one confirmation of leadership for everyone who waits, then the state machine
//! has to catch up.

use std::time::Instant;

use super::Driver;
use super::forward::Waiter;
use super::request::{Answered, Decision, ReadAsker, ReadCaller};
use crate::error::{Fatal, NoLeader};
use crate::membership::MembershipError;
use crate::mutant::Mutant;
use crate::raft::{ReadError, ReadGuarantee, TransferError};
use crate::transport::{Refusal, Reply, RequestId, Verb};

impl Driver {
    pub(super) fn read(&mut self, answer: Answered<ReadGuarantee, ReadError>, deadline: Instant) {
        let limit = self.config.waiting_requests_max;
        if self.reads.len() >= limit {
            // Whoever asked may have gone.
            let _ = answer.send(Err(ReadError::Overloaded { limit }));
            return;
        }
        self.reads.push(ReadCaller { asker: ReadAsker::Local(answer), deadline });
    }

    pub(super) fn read_for(&mut self, id: RequestId, deadline: Instant) {
        if self.reads.len() >= self.config.waiting_requests_max {
            return self.answer_to(id, Err(Refusal::Overloaded));
        }
        self.reads.push(ReadCaller { asker: ReadAsker::Remote(id), deadline });
    }

    /// Tells what this leader has decided from the membership alone, once it is known to have led
    /// when it did: it may have been replaced without having heard, and would deny what its
    /// successor has told.
    pub(super) fn tell_if_leading(&mut self, decision: Decision, deadline: Instant) {
        if Mutant::DecidedWithoutRound.is_planted() {
            return self.tell(decision);
        }
        if self.reads.len() >= self.config.waiting_requests_max {
            return self.withhold(decision, NoLeader);
        }
        let asker = ReadAsker::Decided(Box::new(decision));
        self.reads.push(ReadCaller { asker, deadline });
    }

    fn tell(&mut self, decision: Decision) {
        match decision {
            Decision::Change(asker, result) => self.change_ended(asker, result),
            Decision::Transfer(asker, result) => self.transfer_ended(asker, result),
        }
    }

    /// A decision that is not known to be a leader's is not told; who asked may ask again.
    fn withhold<E>(&mut self, decision: Decision, error: E)
    where
        MembershipError: From<E>,
        TransferError: From<E>,
    {
        self.tell(match decision {
            Decision::Change(asker, _) => Decision::Change(asker, Err(error.into())),
            Decision::Transfer(asker, _) => Decision::Transfer(asker, Err(error.into())),
        });
    }

    /// Starts a round for all who wait: here if this node leads, at the leader otherwise.
    pub(super) fn begin_reads(&mut self) {
        if self.node.is_established() {
            if Mutant::ReadWithoutRound.is_planted()
                && let Some(round) = self.reads.begin()
            {
                self.reads.confirm(round, self.node.commit());
            }
            if let Some(round) = self.reads.begin()
                && !self.node.handle_read(self.incarnation, round)
            {
                self.reads.abandon();
            }
            return;
        }
        if Mutant::ReadBeforeOwnCommit.is_planted()
            && self.node.is_leader()
            && let Some(round) = self.reads.begin()
        {
            self.reads.confirm(round, self.node.commit());
        }
        if self.node.is_leader() || self.forwards_rest {
            return;
        }
        // A leader that we do not know any more may still answer, but may as well have lost the
        // question.
        let Some(leader) = self.leader_peer() else { return };
        self.refuse_remote_reads();
        let Some(round) = self.reads.begin() else { return };
        let deadline = self.now + self.config.election_timeout;
        let sent = self.forward(&leader, Verb::ReadIndex, Waiter::Read { round }, deadline);
        if sent.is_err() {
            self.reads.abandon();
        }
    }

    /// Reads that others asked of this node while it led.
    fn refuse_remote_reads(&mut self) {
        let remote = |caller: &ReadCaller| matches!(caller.asker, ReadAsker::Remote(_));
        for (_, caller) in self.reads.take_over(remote) {
            if let ReadAsker::Remote(id) = caller.asker {
                self.answer_to(id, Err(Refusal::NotLeader));
            }
        }
    }

    /// Leadership has moved: a round may never end, or its answer may not come from a leader any
    /// more. What this node has decided as leader nobody can confirm now.
    pub(super) fn restart_reads(&mut self) {
        self.reads.abandon();
        let decided = |caller: &ReadCaller| matches!(caller.asker, ReadAsker::Decided(_));
        for (_, caller) in self.reads.take_over(decided) {
            if let ReadAsker::Decided(decision) = caller.asker {
                self.withhold(*decision, NoLeader);
            }
        }
    }

    pub(super) fn answer_reads(&mut self) {
        if self.reads.len() == 0 {
            return;
        }
        // Who asked from elsewhere waits there until the index is applied; a decision is made.
        let elsewhere = |caller: &ReadCaller| !matches!(caller.asker, ReadAsker::Local(_));
        for (index, caller) in self.reads.take_confirmed(elsewhere) {
            self.answer_read(caller, index);
        }
        let planted = Mutant::ReadBeforeApplied.is_planted();
        let applied = if planted { u64::MAX } else { self.node.applied().index };
        for (index, caller) in self.reads.take_up_to(applied) {
            self.answer_read(caller, index);
        }
    }

    fn answer_read(&mut self, caller: ReadCaller, index: u64) {
        match caller.asker {
            ReadAsker::Local(answer) => {
                let index = self.node.applied().index.max(index);
                // Whoever asked may have gone.
                let _ = answer.send(Ok(ReadGuarantee { index }));
            }
            ReadAsker::Remote(id) => self.answer_to(id, Ok(Reply::ReadAt { index })),
            ReadAsker::Decided(decision) => self.tell(*decision),
        }
    }

    pub(super) fn sweep_reads(&mut self) {
        let now = self.now;
        for (confirmed, caller) in self.reads.take_over(|caller| caller.deadline <= now) {
            let error = if confirmed { ReadError::TimedOut } else { ReadError::NoLeader(NoLeader) };
            match caller.asker {
                ReadAsker::Local(answer) => drop(answer.send(Err(error))),
                ReadAsker::Remote(id) => self.answer_to(id, Err(Refusal::NotLeader)),
                ReadAsker::Decided(decision) => self.withhold(*decision, NoLeader),
            }
        }
    }

    pub(super) fn fail_reads(&mut self, fatal: &Fatal) {
        for (_, caller) in self.reads.take_over(|_| true) {
            match caller.asker {
                // Whoever asked may have gone.
                ReadAsker::Local(answer) => {
                    drop(answer.send(Err(ReadError::Stopped(fatal.clone()))));
                }
                ReadAsker::Remote(_) => {}
                ReadAsker::Decided(decision) => self.withhold(*decision, fatal.clone()),
            }
        }
    }
}
