//! What applications do all day: propose and read.

use bytes::Bytes;

use crate::error::{Fatal, NoLeader};
use crate::id::LogId;

/// A command that is committed and applied on this server.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Applied {
    /// Its place in the log.
    pub log_id: LogId,
    /// What the state machine answered.
    pub answer: Bytes,
}

/// Why a command was not applied. All but [`Unknown`](Self::Unknown) promise that it was not and never will be.
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
    /// It may still be applied, or may not: the deadline passed, or the leader was lost, while it was under way. To
    /// be safe, propose only commands that may be repeated, or read before trying again.
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
