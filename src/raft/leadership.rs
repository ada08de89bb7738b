//! Who leads: handing leadership over.

use crate::error::{Fatal, NoLeader};
use crate::id::NodeId;

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
