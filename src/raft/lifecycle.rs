//! How a node begins and ends: start, bootstrap, join, shutdown.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use futures::channel::oneshot;

use super::{Handle, Parts, Raft};
use crate::config::ConfigError;
use crate::driver::{self, Ask, Rejected};
use crate::error::{Fatal, NoLeader};
use crate::id::{ClusterId, GroupId, NodeId};
use crate::membership::{Member, Membership, MembershipError};
use crate::state_machine::BoxError;
use crate::storage::StorageError;
use crate::transport::TransportError;

impl Raft {
    /// Starts a node on what its stores hold. One with empty stores is blank: it does nothing until
    /// it is told to [`bootstrap`](Self::bootstrap) or [`join`](Self::join).
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let (runtime, verb_timeout) = (Arc::clone(&parts.runtime), parts.config.verb_timeout);
        let tick = parts.config.tick;
        let shared = driver::start(parts).await?;
        Ok(Self { handle: Arc::new(Handle { shared, runtime, verb_timeout, tick }) })
    }

    /// Forms a new cluster of `members`, this server among them, on an empty store.
    ///
    /// The usual way is a cluster of this one server, which the others join. Several first members
    /// are possible too: each must be told to bootstrap with the very same list. One that asked to
    /// [`join`](Self::join) instead would be refused like a voter that has lost its log.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::NotBlank`] on a store that has any state; see there for the others.
    pub async fn bootstrap(&self, members: Vec<Member>) -> Result<ClusterId, BootstrapError> {
        let (answer, answered) = oneshot::channel();
        if let Err(Rejected::Full(_)) = self.shared().asks.push(Ask::Bootstrap(members, answer)) {
            return Err(BootstrapError::Overloaded { limit: self.shared().asks.items_max() });
        }
        // A mailbox that is closed has dropped the answer.
        answered.await.unwrap_or_else(|_| Err(self.fatal().into()))
    }

    /// Whether the cluster of this server is the one that [`bootstrap`](Self::bootstrap) forms of
    /// `members`, so that whoever is told to bootstrap again can tell whether that is done already.
    #[must_use]
    pub fn was_formed_of(&self, members: Vec<Member>) -> bool {
        self.status().cluster == driver::cluster_of(&Membership::first(members))
    }

    /// Asks the cluster that is reached at one of `addresses` to take this blank server in.
    ///
    /// Returns when it is a learner; it becomes a voter by itself as soon as it has caught up.
    ///
    /// # Errors
    ///
    /// See [`JoinError`].
    pub async fn join(&self, addresses: &[String]) -> Result<(), JoinError> {
        let (answer, answered) = oneshot::channel();
        if let Err(Rejected::Full(_)) =
            self.shared().asks.push(Ask::Join(addresses.to_vec(), answer))
        {
            return Err(JoinError::Overloaded { limit: self.shared().asks.items_max() });
        }
        // A mailbox that is closed has dropped the answer.
        answered.await.unwrap_or_else(|_| Err(self.fatal().into()))
    }

    /// Ends the node: takes nothing more, finishes the write under way, lets go of its stores and
    /// its transport.
    ///
    /// Whoever waits is told. It ends within [`Config::verb_timeout`](crate::Config::verb_timeout):
    /// a disk, a state machine or a transport that hangs for so long is left behind as it is. A
    /// leader does not hand over by itself; see [`transfer_leadership`](Self::transfer_leadership).
    ///
    /// # Errors
    ///
    /// Why it had stopped before.
    pub async fn shutdown(self) -> Result<(), Fatal> {
        let (answer, answered) = oneshot::channel();
        // If it has stopped before, the answer is dropped, and the reason told below.
        let _ = self.shared().asks.push_last(Ask::Shutdown(answer));
        match answered.await {
            Ok(result) => result,
            Err(_) => match self.fatal() {
                Fatal::Shutdown => Ok(()),
                fatal => Err(fatal),
            },
        }
    }

    /// Why the node has stopped; [`Fatal::Shutdown`] too if its task was simply dropped with its
    /// runtime.
    pub(super) fn fatal(&self) -> Fatal {
        self.shared().ending().unwrap_or(Fatal::Shutdown)
    }

    pub(super) fn check_running(&self) -> Result<(), Fatal> {
        self.status().stopped.map_or(Ok(()), Err)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.handle.runtime.now() + self.handle.verb_timeout
    }

    /// Waits for the status to change, or a few ticks; `false` when `deadline` has passed or the
    /// node has stopped.
    pub(super) async fn wait_for_change(&self, deadline: Instant) -> bool {
        let now = self.handle.runtime.now();
        if now >= deadline || self.check_running().is_err() {
            return false;
        }
        let mut watch = self.watch();
        let mut changed = pin!(watch.changed());
        let pause = (now + 4 * self.handle.tick).min(deadline);
        let mut timer = self.handle.runtime.timer(pause);
        poll_fn(|cx| {
            let over = changed.as_mut().poll(cx).is_ready() || timer.as_mut().poll(cx).is_ready();
            if over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        true
    }
}

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
    StateMachine(Arc<dyn std::error::Error + Send + Sync>),
    /// The store could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The transport does not carry what the config allows, or not to the address it names.
    #[error("the transport: {0}")]
    Transport(#[from] TransportError),
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
    /// Too many requests wait already; try again later.
    #[error("overloaded: more than {limit} requests wait")]
    Overloaded {
        /// The limit.
        limit: usize,
    },
    /// The store has state already.
    #[error("the store has state already; a cluster is formed on empty stores only")]
    NotBlank,
    /// This server is not among the first members, or none of them votes, or two share an id or
    /// address, or all together take more than 64 KiB.
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
    /// Too many requests wait already; try again later.
    #[error("overloaded: more than {limit} requests wait")]
    Overloaded {
        /// The limit.
        limit: usize,
    },
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
