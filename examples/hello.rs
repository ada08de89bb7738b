//! The first hour: three nodes in one process elect a leader, apply commands, lose the leader, and go on.
//!
//! `cargo run --example hello` prints each of these as it happens. Everything is in memory.

use std::sync::Arc;
use std::time::Duration;

use kontiki::runtime::Smol;
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore};
use kontiki::typed::{self, Client, State};
use kontiki::{Config, GroupId, LogId, Member, NodeId, Parts, Raft};
use kontiki_transport_memory::Network;

#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Greetings(Vec<String>);

impl State for Greetings {
    type Command = String;
    type Answer = usize;

    fn apply(&mut self, _: LogId, name: String) -> usize {
        self.0.push(name);
        self.0.len()
    }
}

async fn start(network: &Network, number: u64) -> Result<Raft, kontiki::Error> {
    let mut config = Config::default();
    config.id = Some(NodeId::from(number));
    config.address = format!("node-{number}");
    let parts = Parts {
        group: GroupId::default(),
        runtime: Arc::new(Smol::new()),
        transport: network.endpoint(config.address.clone()),
        log: Box::new(MemoryLogStore::new()),
        snapshots: Arc::new(MemorySnapshotStore::new()),
        state_machine: typed::machine(Greetings::default()).0,
        config,
    };
    Ok(Raft::start(parts).await?)
}

async fn leader(nodes: &[Raft]) -> usize {
    loop {
        if let Some(at) = nodes.iter().position(|node| node.status().established) {
            return at;
        }
        smol::Timer::after(Duration::from_millis(20)).await;
    }
}

async fn hello() -> Result<(), Box<dyn std::error::Error>> {
    let network = Network::new(Arc::new(Smol::new()));
    let members = |n: u64| Member::voter(n.into(), format!("n{n}"), format!("node-{n}"));
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let node = start(&network, number).await?;
        node.bootstrap((1..=3).map(members).collect()).await?;
        nodes.push(node);
    }
    let first = leader(&nodes).await;
    println!("node {} leads term {}", first + 1, nodes[first].status().term);
    for name in ["Thor", "Knut", "Bengt"] {
        let (log_id, count) =
            Client::<Greetings>::new(nodes[0].clone()).propose(&name.into()).await?;
        println!("{name} is greeted at {log_id}, number {count}");
    }
    nodes.remove(first).shutdown().await?;
    println!("the leader is gone");
    let next = leader(&nodes).await;
    let (log_id, count) =
        Client::<Greetings>::new(nodes[next].clone()).propose(&"Erik".into()).await?;
    println!(
        "another leads term {}: Erik is greeted at {log_id}, number {count}",
        nodes[next].status().term
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    smol::block_on(hello())
}
