//! Errors that several verbs share; each verb has its own enum in its own file.

use std::sync::Arc;

use crate::membership::MembershipError;
use crate::raft::{BootstrapError, JoinError, ProposeError, ReadError, StartError, TransferError};
use crate::storage::StorageError;

/// Why a node has stopped for good. The process lives on; the other nodes go on without this one.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fatal {
    /// What this node promised to remember is gone: a peer knows more of this node's log than it
    /// has itself.
    #[error("this node lost data that it had acknowledged: {0}")]
    DataLoss(String),
    /// The consensus engine refused or panicked; always a bug, ours or its own.
    #[error("the consensus engine failed: {0}")]
    Engine(String),
    /// The node was shut down, or every handle on it is gone.
    #[error("the node was shut down")]
    Shutdown,
    /// The state machine failed; going on would be divergence.
    #[error("the state machine failed: {0}")]
    StateMachine(Arc<str>),
    /// The store failed.
    #[error("storage failed: {0}")]
    Storage(#[from] StorageError),
}

impl PartialEq for Fatal {
    /// Two reasons are equal if they read the same.
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Fatal {}

/// What a panic said, if it said anything.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic").to_owned()
}

/// Nobody is known to lead the cluster, and nobody turned up before the deadline. Nothing was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no cluster leader")]
#[expect(clippy::exhaustive_structs, reason = "it has nothing to say")]
pub struct NoLeader;

/// Any error of this library, for a `main` that only wants to print it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is the error of the verb it is named after")]
pub enum Error {
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Fatal(#[from] Fatal),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
}
