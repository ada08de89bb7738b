//! What handles and other servers ask of a driver, and who waits for the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures::channel::oneshot;

use crate::id::ClusterId;
use crate::membership::{Change, Member, Membership, MembershipError};
use crate::raft::{
    Applied, BootstrapError, JoinError, ProposeError, ReadError, ReadGuarantee, TransferError,
};
use crate::transport::RequestId;
use crate::{Fatal, NodeId};

pub(crate) type Answered<T, E> = oneshot::Sender<Result<T, E>>;

#[derive(Debug)]
pub(crate) enum Ask {
    Bootstrap(Vec<Member>, Answered<ClusterId, BootstrapError>),
    /// With the deadline of the call, of which this may be one attempt of several.
    Change(Change, Option<u64>, Answered<Membership, MembershipError>, Instant),
    Join(Vec<String>, Answered<(), JoinError>),
    Propose(Bytes, ProposeCaller),
    Read(Answered<ReadGuarantee, ReadError>),
    Shutdown(oneshot::Sender<Result<(), Fatal>>),
    /// With the deadline of the call, of which this may be one attempt of several.
    Transfer(NodeId, Answered<(), TransferError>, Instant),
}

/// Who waits for a command to be applied; holds its share of the waiting bytes until it is
/// answered.
#[derive(Debug)]
pub(crate) struct ProposeCaller {
    pub(crate) answer: Answered<Applied, ProposeError>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) permit: Permit,
}

impl ProposeCaller {
    pub(crate) fn resolve(self, result: Result<Applied, ProposeError>) {
        // Nobody may be waiting any more; the command stands all the same.
        let _ = self.answer.send(result);
        drop(self.permit);
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// Who waits for a read to be confirmed.
#[derive(Debug)]
pub(crate) struct ReadCaller {
    pub(crate) asker: ReadAsker,
    pub(crate) deadline: Instant,
}

#[derive(Debug)]
pub(crate) enum ReadAsker {
    Local(Answered<ReadGuarantee, ReadError>),
    Remote(RequestId),
    /// Somebody whose request this leader has decided without an entry.
    Decided(Box<Decision>),
}

/// What a leader answers from the membership alone, and to whom.
#[derive(Debug)]
pub(crate) enum Decision {
    Change(ChangeAsker, Result<Membership, MembershipError>),
    Transfer(TransferAsker, Result<(), TransferError>),
}

/// Who waits for a change of the membership.
#[derive(Debug)]
pub(crate) enum ChangeAsker {
    /// The leader itself, which promotes a learner that has caught up.
    Leader,
    Local(Answered<Membership, MembershipError>),
    Remote(RequestId),
    /// A blank server; it is answered at its own address.
    Joiner(RequestId, String),
}

/// Who waits for leadership to be handed over.
#[derive(Debug)]
pub(crate) enum TransferAsker {
    Local(Answered<(), TransferError>),
    Remote(RequestId),
    /// This leader is to be removed and hands over first.
    Removal(Box<PendingRemoval>),
}

/// The removal that waits for leadership to be handed over.
#[derive(Debug)]
pub(crate) struct PendingRemoval {
    pub(crate) change: Change,
    pub(crate) planned_on: Option<u64>,
    pub(crate) asker: ChangeAsker,
    pub(crate) deadline: Instant,
}

/// Bytes of commands that wait, counted over all callers.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
}

/// A share of a budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    /// Takes a share; the limit is the error. A single share fits whatever its size if nothing else
    /// is taken.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Result<Permit, usize> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let permit = Permit { budget: Arc::clone(self), bytes };
        if before > 0 && before + bytes > self.max { Err(self.max) } else { Ok(permit) }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
