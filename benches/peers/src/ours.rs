//! kontiki, on smol as it comes (one thread for everything), and on tokio as openraft is run.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use kontiki::runtime::{ByteReader, Runtime, Smol, Tokio};
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore, SnapshotMeta};
use kontiki::{BoxError, Command, Config, GroupId, Member, Parts, Raft, Snapshot, StateMachine};
use kontiki_transport_memory::Network;

use crate::load::{self, Load, Run};
use crate::threads;

pub(crate) fn on_smol(loads: &[Load]) -> Option<Vec<Run>> {
    let smol: Arc<dyn Runtime> = Arc::new(Smol::new());
    smol::block_on(run(loads, &smol, &smol))
}

pub(crate) fn on_tokio(loads: &[Load]) -> Option<Vec<Run>> {
    let (servers, clients) = (threads::servers(), threads::clients());
    let tokio = |runtime: &tokio::runtime::Runtime| -> Arc<dyn Runtime> {
        Arc::new(Tokio::new(runtime.handle().clone()))
    };
    smol::block_on(run(loads, &tokio(&servers), &tokio(&clients)))
}

/// The same cluster under each load in turn.
async fn run(
    loads: &[Load],
    servers: &Arc<dyn Runtime>,
    clients: &Arc<dyn Runtime>,
) -> Option<Vec<Run>> {
    let nodes = cluster(servers).await;
    let leader = nodes.iter().find(|node| node.status().established).expect("somebody leads");
    let mut runs = Vec::new();
    for &load in loads {
        let spawn = |stop| {
            let leader = leader.clone();
            let (done, measured) = oneshot::channel();
            clients.spawn(Box::pin(async move {
                let propose = || leader.propose(load.command());
                // Nobody awaits it any more if another client's command was refused.
                let _ = done.send(load::client(stop, propose).await);
            }));
            async { measured.await.expect("a client does not panic") }
        };
        runs.push(load::measure(load, spawn).await?);
    }
    for node in nodes {
        node.shutdown().await.expect("nothing failed");
    }
    Some(runs)
}

async fn cluster(runtime: &Arc<dyn Runtime>) -> Vec<Raft> {
    let network = Network::new(Arc::clone(runtime));
    network.set_encoded(false);
    let member = |n: u64| Member::voter(n.into(), "", format!("node-{n}"));
    let mut nodes = Vec::new();
    for n in 1..=3_u64 {
        let mut config = Config::default();
        (config.id, config.address) = (Some(n.into()), format!("node-{n}"));
        let parts = Parts {
            group: GroupId::default(),
            runtime: Arc::clone(runtime),
            transport: network.endpoint(format!("node-{n}")),
            log: Box::new(MemoryLogStore::new()),
            snapshots: Arc::new(MemorySnapshotStore::new()),
            state_machine: Box::new(Nothing),
            config,
        };
        let node = Raft::start(parts).await.expect("an empty store starts");
        node.bootstrap((1..=3).map(member).collect()).await.expect("it is blank");
        nodes.push(node);
    }
    while !nodes.iter().any(|node| node.status().established) {
        smol::Timer::after(Duration::from_millis(10)).await;
    }
    nodes
}

/// A state machine without state.
struct Nothing;

#[async_trait]
impl StateMachine for Nothing {
    async fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<Bytes>, BoxError> {
        Ok(vec![Bytes::new(); commands.len()])
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, BoxError> {
        Ok(Box::new(Self))
    }

    async fn restore(&mut self, _: &SnapshotMeta, _: ByteReader) -> Result<(), BoxError> {
        Ok(())
    }
}

#[async_trait]
impl Snapshot for Nothing {
    async fn write_to(
        self: Box<Self>,
        _: &mut (dyn futures::io::AsyncWrite + Send + Unpin),
    ) -> Result<(), BoxError> {
        Ok(())
    }
}
