//! The handle on a running node.

use std::sync::Arc;

mod leadership;
mod lifecycle;
mod membership;
mod verbs;

pub use self::leadership::TransferError;
pub use self::lifecycle::{BootstrapError, JoinError, StartError};
pub use self::verbs::{Applied, Consistency, ProposeError, ReadError, ReadGuarantee};
use crate::config::Config;
use crate::driver::{Ask, Shared, StatusWatch};
use crate::id::{GroupId, NodeId};
use crate::runtime::Runtime;
use crate::state_machine::StateMachine;
use crate::status::Status;
use crate::storage::{LogStore, SnapshotStore};
use crate::transport::Transport;

/// Everything a node is made of. Plain fields: each is named where it is passed.
#[expect(
    clippy::exhaustive_structs,
    reason = "users build it by literal; a new part would be theirs to give"
)]
pub struct Parts {
    /// How it behaves.
    pub config: Config,
    /// Which group it belongs to; [`GroupId::default`] for the only one.
    pub group: GroupId,
    /// What its tasks, its time and its chance come from.
    pub runtime: Arc<dyn Runtime>,
    /// What carries its messages.
    pub transport: Arc<dyn Transport>,
    /// Its log.
    pub log: Box<dyn LogStore>,
    /// Its snapshots.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// The application's state.
    pub state_machine: Box<dyn StateMachine>,
}

/// A handle on a running node; clones are handles on the same node.
///
/// The node ends with [`shutdown`](Self::shutdown), or when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Raft {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    runtime: Arc<dyn Runtime>,
    verb_timeout: std::time::Duration,
    tick: std::time::Duration,
}

impl Raft {
    /// This server's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.shared().id()
    }

    /// The node as it is now; no trip to its task.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared().status()
    }

    /// Tells of changes of the status.
    #[must_use]
    pub fn watch(&self) -> StatusWatch {
        StatusWatch::new(Arc::clone(self.shared()))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let (answer, _) = futures::channel::oneshot::channel();
        // If it has stopped already there is nothing to end.
        let _ = self.shared.asks.push_last(Ask::Shutdown(answer));
    }
}
