//! One program, three mains: the same cluster on smol, on async-std and on tokio, and one with a
//! node on each.
//!
//! `cargo run --example runtimes` prints who was elected on each of them. The program knows only
//! `Runtime`; the application passes the value it wants.

use std::error::Error;
use std::sync::Arc;

use kontiki::runtime::{AsyncStd, Runtime, Smol, Tokio};
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore};
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

/// The program: three nodes, on whatever runtimes it is given.
async fn program(what: &str, runtimes: [Arc<dyn Runtime>; 3]) -> Result<(), Box<dyn Error>> {
    let network = Network::new(Arc::clone(&runtimes[0]));
    let member = |n: u64| Member::voter(n.into(), "", format!("node-{n}"));
    let mut nodes = Vec::new();
    for (n, runtime) in (1..).zip(runtimes) {
        let mut config = Config::default();
        (config.id, config.address) = (Some(u64::into(n)), format!("node-{n}"));
        let parts = Parts {
            group: GroupId::default(),
            runtime,
            transport: network.endpoint(format!("node-{n}")),
            log: Box::new(MemoryLogStore::new()),
            snapshots: Arc::new(MemorySnapshotStore::new()),
            state_machine: typed::machine(Count::default()).0,
            config,
        };
        let node = Raft::start(parts).await?;
        node.bootstrap((1..=3).map(member).collect()).await?;
        nodes.push(node);
    }
    let mut sum = 0;
    for node in &nodes {
        sum = Client::<Count>::new(node.clone()).propose(&14).await?.1;
    }
    let leader = nodes.iter().position(|node| node.status().established);
    let leader = leader.ok_or("nobody leads any more")? + 1;
    println!("{what}: node {leader} was elected, and the count is {sum}");
    for node in nodes {
        node.shutdown().await?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let smol: Arc<dyn Runtime> = Arc::new(Smol::new());
    smol::block_on(program("smol", std::array::from_fn(|_| Arc::clone(&smol))))?;

    let async_std: Arc<dyn Runtime> = Arc::new(AsyncStd::new());
    let all = std::array::from_fn(|_| Arc::clone(&async_std));
    async_std::task::block_on(program("async-std", all))?;

    let owner = tokio::runtime::Runtime::new()?;
    let tokio: Arc<dyn Runtime> = Arc::new(Tokio::new(owner.handle().clone()));
    owner.block_on(program("tokio", std::array::from_fn(|_| Arc::clone(&tokio))))?;

    smol::block_on(program("one node on each", [smol, async_std, tokio]))
}
