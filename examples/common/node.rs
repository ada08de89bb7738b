//! One durable server: log and snapshots in a directory, peers over TCP.

use std::path::Path;
use std::sync::Arc;

use kontiki::runtime::{Net, OsFiles, Runtime};
use kontiki::storage::{FileLogStore, FileSnapshotStore, FileStoreConfig, StorageError};
use kontiki::typed::{self, Shared};
use kontiki::{Config, GroupId, Parts, Raft};
use kontiki_transport_tcp::{TcpConfig, TcpTransport};

use crate::service::COMMAND_BYTES_MAX;
use crate::store::Store;

pub(crate) struct Node {
    pub(crate) raft: Raft,
    pub(crate) store: Shared<Store>,
    /// Where its peers reach it.
    pub(crate) peer_address: String,
}

impl Node {
    /// Where its peers know it, if that is not where it listens.
    pub(crate) fn known_elsewhere(&self) -> Option<String> {
        let membership = self.raft.status().membership;
        let known = membership.member(self.raft.id())?.address.clone();
        (known != self.peer_address).then_some(known)
    }
}

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Starts a server on what `directory` holds, reached by its peers at the config's address.
pub(crate) async fn start<R: Runtime + Net>(
    runtime: Arc<R>,
    directory: &Path,
    mut config: Config,
    segment_bytes: u64,
) -> Result<Node, Failure> {
    // The directory first: a second process on it must be told so, and not that the port is taken.
    let mut segments = FileStoreConfig::default();
    segments.segment_bytes = segment_bytes;
    let failed = |error| match error {
        StorageError::Busy { .. } => {
            format!("{} is in use by another process", directory.display())
        }
        error => format!("{}: {error}", directory.display()),
    };
    let files = OsFiles::new(directory.join("log"))?;
    let log = FileLogStore::open(Arc::new(files), segments).await.map_err(failed)?;
    let files = OsFiles::new(directory.join("snapshots"))?;
    let snapshots = FileSnapshotStore::open(Arc::new(files)).await.map_err(failed)?;
    let listen = config.address.clone();
    let bound = TcpTransport::bind(runtime.clone(), runtime.clone(), &listen, TcpConfig::default());
    let transport = bound.await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let peer_address = transport.local_address().to_owned();
    let (state_machine, store) = typed::machine(Store::default());
    config.address = peer_address.clone();
    config.command_bytes_max = COMMAND_BYTES_MAX;
    let parts = Parts {
        config,
        group: GroupId::default(),
        runtime,
        transport,
        log: Box::new(log),
        snapshots: Arc::new(snapshots),
        state_machine,
    };
    let raft = Raft::start(parts).await.map_err(|e| format!("{}: {e}", directory.display()))?;
    Ok(Node { raft, store, peer_address })
}
