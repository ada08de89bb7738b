//! One durable server: log and snapshots in a directory, peers over TCP.

use std::path::Path;
use std::sync::Arc;

use kontiki::runtime::{Net, OsFiles, Runtime};
use kontiki::storage::{FileLogStore, FileSnapshotStore, FileStoreConfig};
use kontiki::typed::{self, Shared};
use kontiki::{Config, GroupId, Parts, Raft};
use kontiki_transport_tcp::{TcpConfig, TcpTransport};

use crate::store::Store;

pub(crate) struct Node {
    pub(crate) raft: Raft,
    pub(crate) store: Shared<Store>,
    /// Where its peers reach it.
    pub(crate) peer_address: String,
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
    let log = FileLogStore::open(Arc::new(OsFiles::new(directory.join("log"))?), segments).await?;
    let snapshots = OsFiles::new(directory.join("snapshots"))?;
    let snapshots = FileSnapshotStore::open(Arc::new(snapshots)).await?;
    let listen = &config.address;
    let bound = TcpTransport::bind(runtime.clone(), runtime.clone(), listen, TcpConfig::default());
    let transport = bound.await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let peer_address = transport.local_address().to_owned();
    let (state_machine, store) = typed::machine(Store::default());
    config.address = peer_address.clone();
    let parts = Parts {
        config,
        group: GroupId::default(),
        runtime,
        transport,
        log: Box::new(log),
        snapshots: Arc::new(snapshots),
        state_machine,
    };
    Ok(Node { raft: Raft::start(parts).await?, store, peer_address })
}
