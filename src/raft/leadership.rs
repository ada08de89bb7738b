//! Who leads: handing leadership over.

use futures::channel::oneshot;

use super::Raft;
use crate::driver::{Ask, Rejected};
use crate::error::{Fatal, NoLeader};
use crate::id::NodeId;

impl Raft {
    /// Hands leadership over to `to` (thesis 3.10); returns when it leads. Nothing to do if it
    /// leads already.
    ///
    /// Any node takes it. Commands wait meanwhile, or go to the new leader.
    ///
    /// # Errors
    ///
    /// See [`TransferError`].
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), TransferError> {
        let deadline = self.deadline();
        loop {
            let (answer, answered) = oneshot::channel();
            let result = match self.shared().asks.push(Ask::Transfer(to, answer, deadline)) {
                Ok(()) => answered.await.unwrap_or(Err(TransferError::Unknown)),
                Err(Rejected::Closed(_)) => Err(self.fatal().into()),
                Err(Rejected::Full(_)) => Err(NoLeader.into()),
            };
            match result {
                Err(TransferError::NoLeader(_)) if self.wait_for_change(deadline).await => {}
                result => return result,
            }
        }
    }
}

/// Why leadership was not handed over. The old leader serves again, unless it says otherwise.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// There is nobody to ask.
    #[error(transparent)]
    NoLeader(#[from] NoLeader),
    /// Another transfer is under way.
    #[error("another leadership transfer is in progress")]
    InProgress,
    /// There is no such member.
    #[error("id {id} was not found in the membership")]
    NotFound {
        /// Who was looked for.
        id: NodeId,
    },
    /// The target does not vote, so it cannot lead.
    #[error("member {id} is not a voter")]
    NotVoter {
        /// The target.
        id: NodeId,
    },
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] Fatal),
    /// The target did not take over within an election timeout.
    #[error("the target did not take over in time")]
    TimedOut,
    /// The answer was lost: look at who leads.
    #[error("the outcome of the leadership transfer is not known")]
    Unknown,
}
