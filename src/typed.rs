//! Commands and answers as types: the simplest way to a replicated state.
//!
//! One layer on top that nothing below knows: a [`State`] says what a command does, [`machine`]
//! makes a state machine of it, [`Shared`] reads it, [`Client`] proposes. Commands, answers and
//! snapshots are JSON, so that enums can grow: a new variant is fine once every server knows it, a
//! field needs `#[serde(default)]`.
//!
//! ```
//! use kontiki::typed::{self, State};
//!
//! #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
//! struct Counter(u64);
//!
//! impl State for Counter {
//!     type Command = u64;
//!     type Answer = u64;
//!     fn apply(&mut self, _at: kontiki::LogId, add: u64) -> u64 {
//!         self.0 += add;
//!         self.0
//!     }
//! }
//!
//! let (machine, counter) = typed::machine(Counter::default());
//! assert_eq!(counter.read(|counter| counter.0), 0);
//! # drop(machine);
//! ```

use std::marker::PhantomData;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::LogId;
use crate::raft::{ProposeError, Raft};
use crate::runtime::ByteReader;
use crate::state_machine::{BoxError, Command, Snapshot, StateMachine};
use crate::storage::SnapshotMeta;

/// A replicated state, changed by typed commands.
///
/// Deterministic, as [`StateMachine`] says. `Clone` is how it is captured for a snapshot: make it
/// cheap for a large one (an `Arc`, a persistent map).
pub trait State: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What can be done.
    type Command: Serialize + DeserializeOwned + Send;
    /// What comes of it; also a refusal, which is an answer like any other.
    type Answer: Serialize + DeserializeOwned + Send;

    /// Does it. `at` is the command's place in the log: unique, and rising.
    fn apply(&mut self, at: LogId, command: Self::Command) -> Self::Answer;
}

/// Makes a state machine of `initial`, and a handle for reading what it makes of it.
#[must_use]
pub fn machine<S: State>(initial: S) -> (Box<dyn StateMachine>, Shared<S>) {
    let shared = Shared(Arc::new(RwLock::new(initial)));
    (Box::new(Machine(shared.clone())), shared)
}

/// The state as this server has applied it. How fresh that is, [`Raft::read`] says.
#[derive(Debug)]
pub struct Shared<S>(Arc<RwLock<S>>);

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Shared<S> {
    /// Looks at the state. Commands wait meanwhile, so be brief.
    pub fn read<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        // A panic in `apply` stops the node; what it left is not used again by anybody but readers.
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Proposes commands of a [`State`].
#[derive(Debug)]
pub struct Client<S> {
    raft: Raft,
    state: PhantomData<fn(S)>,
}

impl<S> Clone for Client<S> {
    fn clone(&self) -> Self {
        Self::new(self.raft.clone())
    }
}

impl<S> Client<S> {
    /// A client of the node that `raft` is a handle on, whose state machine was made by [`machine`]
    /// of an `S`.
    #[must_use]
    pub fn new(raft: Raft) -> Self {
        Self { raft, state: PhantomData }
    }
}

impl<S: State> Client<S> {
    /// Replicates and applies a command; gives its place in the log and what came of it.
    ///
    /// # Errors
    ///
    /// Those of [`Raft::propose`], and [`TypedError::Encoding`].
    pub async fn propose(&self, command: &S::Command) -> Result<(LogId, S::Answer), TypedError> {
        let bytes = serde_json::to_vec(command).map_err(|e| TypedError::Encoding(e.to_string()))?;
        let applied = self.raft.propose(bytes).await?;
        let answer = serde_json::from_slice(&applied.answer)
            .map_err(|e| TypedError::Answer { log_id: applied.log_id, reason: e.to_string() })?;
        Ok((applied.log_id, answer))
    }
}

/// Why a typed command has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TypedError {
    /// It was applied, but the answer is not one of this type.
    #[error("the command at {log_id} was applied, but its answer is unreadable: {reason}")]
    Answer {
        /// Where it stands.
        log_id: LogId,
        /// What is wrong with the answer.
        reason: String,
    },
    /// It has no JSON form, and was not proposed.
    #[error("the command cannot be encoded: {0}")]
    Encoding(String),
    /// Proposing failed.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

struct Machine<S>(Shared<S>);

#[async_trait]
impl<S: State> StateMachine for Machine<S> {
    async fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<Bytes>, BoxError> {
        let mut state = self.0.0.write().map_err(|_| "an earlier command panicked")?;
        let apply = |command: Command| {
            let typed = serde_json::from_slice(&command.data)?;
            let answer = state.apply(command.log_id, typed);
            Ok(serde_json::to_vec(&answer)?.into())
        };
        commands.into_iter().map(apply).collect()
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, BoxError> {
        Ok(Box::new(Captured(self.0.read(S::clone))))
    }

    async fn restore(&mut self, _: &SnapshotMeta, mut from: ByteReader) -> Result<(), BoxError> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).await?;
        let restored = serde_json::from_slice(&bytes)?;
        *self.0.0.write().map_err(|_| "an earlier command panicked")? = restored;
        Ok(())
    }
}

struct Captured<S>(S);

#[async_trait]
impl<S: State> Snapshot for Captured<S> {
    async fn write_to(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BoxError> {
        sink.write_all(&serde_json::to_vec(&self.0)?).await?;
        Ok(())
    }
}
