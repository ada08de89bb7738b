//! What the application replicates.

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::AsyncWrite;

use crate::id::LogId;
use crate::runtime::ByteReader;
use crate::storage::SnapshotMeta;

/// An error of the application's own.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The application's state, changed by committed commands only.
///
/// # To implement
///
/// Deterministic: the same commands in the same order give the same state and the same answers on
/// every server. No clock, no chance, no order of a hash map. Any error stops this node, because
/// after one replica fails to apply, going on would be divergence; a command that the application
/// refuses is an *answer*.
#[async_trait]
pub trait StateMachine: Send + 'static {
    /// How far a durable one got before this start; [`LogId::default`] for one that starts empty
    /// and is rebuilt from the last snapshot and the log.
    async fn applied(&mut self) -> Result<LogId, BoxError> {
        Ok(LogId::default())
    }

    /// Applies committed commands in order; gives one answer each, in order.
    async fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<Bytes>, BoxError>;

    /// Captures the state as it is now; quick. It is written out later, while `apply` goes on.
    async fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, BoxError>;

    /// Replaces the state by what a snapshot holds. If it fails, the state must not be used any
    /// more.
    async fn restore(&mut self, meta: &SnapshotMeta, snapshot: ByteReader) -> Result<(), BoxError>;
}

/// A captured state.
#[async_trait]
pub trait Snapshot: Send {
    /// Writes the state out; may be slow.
    async fn write_to(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BoxError>;
}

/// A committed command.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "tests of state machines build it by literal")]
pub struct Command {
    /// Its place in the log; unique, and higher than that of every command before.
    pub log_id: LogId,
    /// What was proposed.
    pub data: Bytes,
}
