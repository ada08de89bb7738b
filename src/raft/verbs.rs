//! What applications do all day: propose and read.

use bytes::Bytes;
use futures::channel::oneshot;

use super::Raft;
use crate::config::COMMAND_OVERHEAD_BYTES;
use crate::driver::{Ask, ProposeCaller, Rejected};
use crate::error::{Fatal, NoLeader};
use crate::id::LogId;

impl Raft {
    /// Replicates `command`, applies it, and gives what the state machine answered here.
    ///
    /// Any node takes it: one that does not lead passes it on, and the answer is what *its* state
    /// machine says, so that whoever asked reads its own write here. Dropping the future does not
    /// take the command back.
    ///
    /// # Errors
    ///
    /// All but [`ProposeError::Unknown`] promise that the command was not applied and never will
    /// be. It ends within [`Config::verb_timeout`](crate::Config::verb_timeout), give or take a
    /// tick.
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<Applied, ProposeError> {
        let command = command.into();
        let shared = self.shared();
        let bytes_max = shared.command_bytes_max;
        if command.len() > bytes_max {
            return Err(ProposeError::TooLarge { bytes: command.len(), bytes_max });
        }
        let permit = shared.budget.take(command.len() + COMMAND_OVERHEAD_BYTES);
        let permit = permit.map_err(|limit| ProposeError::Overloaded { limit })?;
        let (answer, answered) = oneshot::channel();
        let caller = ProposeCaller { answer, deadline: None, permit };
        match shared.asks.push(Ask::Propose(command, caller)) {
            Ok(()) => {}
            Err(Rejected::Full(_)) => {
                return Err(ProposeError::Overloaded { limit: shared.asks.items_max() });
            }
            Err(Rejected::Closed(_)) => return Err(self.fatal().into()),
        }
        // A task that was dropped in the middle, as a runtime does when it shuts down, leaves the
        // outcome open.
        answered.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Returns when reading this server's state machine is as fresh as `consistency` asks.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]; trying again is always safe.
    pub async fn read(&self, consistency: Consistency) -> Result<ReadGuarantee, ReadError> {
        let shared = self.shared();
        if consistency == Consistency::Stale {
            return Ok(ReadGuarantee { index: shared.status().applied });
        }
        let (answer, answered) = oneshot::channel();
        match shared.asks.push(Ask::Read(answer)) {
            Ok(()) => {}
            Err(Rejected::Full(_)) => {
                return Err(ReadError::Overloaded { limit: shared.asks.items_max() });
            }
            Err(Rejected::Closed(_)) => return Err(self.fatal().into()),
        }
        answered.await.unwrap_or_else(|_| Err(self.fatal().into()))
    }
}

/// A command that is committed and applied on this server.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Applied {
    /// Its place in the log.
    pub log_id: LogId,
    /// What the state machine answered.
    pub answer: Bytes,
}

/// Why a command was not applied. All but [`Unknown`](Self::Unknown) promise that it was not and
/// never will be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Nobody is known to lead, and nobody turned up before the deadline.
    #[error(transparent)]
    NoLeader(#[from] NoLeader),
    /// Too much waits already; try again later.
    #[error("overloaded: more than {limit} bytes or requests wait")]
    Overloaded {
        /// The limit that was hit, in bytes or requests.
        limit: usize,
    },
    /// The node has stopped, and the command was not proposed.
    #[error(transparent)]
    Stopped(#[from] Fatal),
    /// Another leader's entry took its place in the log.
    #[error("superseded by another leader's entry")]
    Superseded,
    /// The command is too long.
    #[error("a command of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// It may still be applied, or may not: the deadline passed, or the leader was lost, while it
    /// was under way. To be safe, propose only commands that may be repeated, or read before trying
    /// again.
    #[error("the outcome is not known")]
    Unknown,
}

impl ProposeError {
    /// Whether the command certainly was not applied and never will be.
    #[must_use]
    pub fn is_not_applied(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// Whether trying again later, as it is, may succeed and cannot apply it twice.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::NoLeader(_) | Self::Overloaded { .. } | Self::Superseded)
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Consistency {
    /// Sees everything that was acknowledged before it began (read index, thesis 6.4).
    #[default]
    Linearizable,
    /// Whatever this server has applied.
    Stale,
}

/// From here on, reading this server's state machine is as fresh as was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ReadGuarantee {
    /// The index that is applied here.
    pub index: u64,
}

/// Why a read could not be given its guarantee.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Nobody is known to lead, or could confirm that it leads, before the deadline.
    #[error(transparent)]
    NoLeader(#[from] NoLeader),
    /// Too many requests wait already; try again later.
    #[error("overloaded: more than {limit} requests wait")]
    Overloaded {
        /// The limit.
        limit: usize,
    },
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] Fatal),
    /// This server did not apply the log so far before the deadline.
    #[error("this server did not catch up in time")]
    TimedOut,
}
