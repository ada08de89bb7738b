//! What the API tests do not mount: one node on each runtime.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use kontiki::runtime::{AsyncStd, Runtime, Smol, Tokio};
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore};
use kontiki::transport::Transport;
use kontiki::typed::{self, Client, State};
use kontiki::{Config, GroupId, LogId, Member, Parts, Raft};
use kontiki_transport_memory::Network;

#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Count(u64);

impl State for Count {
    type Command = u64;
    type Answer = u64;
    fn apply(&mut self, _: LogId, add: u64) -> u64 {
        self.0 += add;
        self.0
    }
}

async fn count_to_six(
    runtimes: [Arc<dyn Runtime>; 3],
    endpoint: impl Fn(&str) -> Arc<dyn Transport>,
) {
    let member = |n: u64| Member::voter(n.into(), "", format!("node-{n}"));
    let mut nodes = Vec::new();
    for (n, runtime) in (1_u64..).zip(runtimes) {
        let mut config = Config::default();
        (config.id, config.address) = (Some(n.into()), format!("node-{n}"));
        config.snapshot_after_entries = 2;
        let parts = Parts {
            group: GroupId::default(),
            runtime,
            transport: endpoint(&config.address),
            log: Box::new(MemoryLogStore::new()),
            snapshots: Arc::new(MemorySnapshotStore::new()),
            state_machine: typed::machine(Count::default()).0,
            config,
        };
        let node = Raft::start(parts).await.unwrap();
        node.bootstrap((1..=3).map(member).collect()).await.unwrap();
        nodes.push(node);
    }
    let mut sums = Vec::new();
    for node in nodes.iter().chain(&nodes) {
        sums.push(Client::<Count>::new(node.clone()).propose(&1).await.unwrap().1);
    }
    assert_eq!(sums, [1, 2, 3, 4, 5, 6]);
    for node in nodes {
        node.shutdown().await.unwrap();
    }
}

#[test]
fn three_runtimes_make_one_cluster_in_one_process() {
    let owner = tokio::runtime::Runtime::new().unwrap();
    let runtimes: [Arc<dyn Runtime>; 3] = [
        Arc::new(Smol::new()),
        Arc::new(AsyncStd::new()),
        Arc::new(Tokio::new(owner.handle().clone())),
    ];
    let network = Network::new(Arc::clone(&runtimes[0]));
    smol::block_on(count_to_six(runtimes, |address| network.endpoint(address)));
}
