//! How a node begins and ends: start, bootstrap, join, shutdown.

use crate::config::ConfigError;
use crate::error::{Fatal, NoLeader};
use crate::id::{GroupId, NodeId};
use crate::membership::MembershipError;
use crate::state_machine::BoxError;
use crate::storage::StorageError;

/// Why a node did not start.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The config cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What is stored does not fit together; starting would endanger the cluster's data.
    #[error("the stored state is inconsistent: {0}")]
    Inconsistent(String),
    /// The state machine could not be brought up.
    #[error("the state machine failed: {0}")]
    StateMachine(std::sync::Arc<dyn std::error::Error + Send + Sync>),
    /// The store could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The store belongs to another group.
    #[error("the store is of group {found}, not {wanted}")]
    WrongGroup {
        /// Whose it is.
        found: GroupId,
        /// Whose it should be.
        wanted: GroupId,
    },
}

impl StartError {
    pub(crate) fn state_machine(error: BoxError) -> Self {
        Self::StateMachine(error.into())
    }
}

/// Why no cluster was formed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The store has state already.
    #[error("the store has state already; a cluster is formed on empty stores only")]
    NotBlank,
    /// This server is not among the first members, or none of them votes, or two share an id or address.
    #[error("impossible first membership: {0}")]
    Membership(&'static str),
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] Fatal),
}

/// Why a server did not join.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// It is in a cluster already.
    #[error("the store has state already; only a blank server can join")]
    NotBlank,
    /// No address answered in time.
    #[error("no server answered at {addresses:?}")]
    NoAnswer {
        /// Whom it asked.
        addresses: Vec<String>,
    },
    /// The cluster has no leader.
    #[error(transparent)]
    NoLeader(#[from] NoLeader),
    /// The cluster refused.
    #[error("the cluster refused {id}: {source}")]
    Refused {
        /// This server.
        id: NodeId,
        /// Why.
        source: MembershipError,
    },
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] Fatal),
}
