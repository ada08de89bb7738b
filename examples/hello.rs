//! Three nodes in one process elect a leader, apply commands, lose the leader and go on; each step
//! is printed.
use std::{error::Error, sync::Arc};

use kontiki::runtime::Smol;
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore};
use kontiki::typed::{self, Client, State};
use kontiki::{Config, GroupId, LogId, Member, Parts, Raft, StartError};
use kontiki_transport_memory::Network;

#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Crew(Vec<String>);

impl State for Crew {
    type Command = String;
    type Answer = usize;
    fn apply(&mut self, _at: LogId, name: String) -> usize {
        self.0.push(name);
        self.0.len()
    }
}

async fn start(network: &Network, n: u64) -> Result<Raft, StartError> {
    let mut config = Config::default();
    (config.id, config.address) = (Some(n.into()), format!("node-{n}"));
    let parts = Parts {
        group: GroupId::default(),
        runtime: Arc::new(Smol::new()),
        transport: network.endpoint(format!("node-{n}")),
        log: Box::new(MemoryLogStore::new()),
        snapshots: Arc::new(MemorySnapshotStore::new()),
        state_machine: typed::machine(Crew::default()).0,
        config,
    };
    Raft::start(parts).await
}

async fn hello() -> Result<(), Box<dyn Error>> {
    let network = Network::new(Arc::new(Smol::new()));
    let member = |n: u64| Member::voter(n.into(), "", format!("node-{n}"));
    let mut nodes = Vec::new();
    for n in 1..=3 {
        nodes.push(start(&network, n).await?);
        nodes[n as usize - 1].bootstrap((1..=3).map(member).collect()).await?;
    }
    for name in ["Thor", "Knut", "Bengt", "Erik"] {
        let (at, count) = Client::<Crew>::new(nodes[0].clone()).propose(&name.to_owned()).await?;
        let leader = nodes.iter().position(|node| node.status().established);
        println!("{name} is number {count}, at {at}; who leads: {leader:?}");
        if let Some(leader) = leader.filter(|_| name == "Knut") {
            nodes.remove(leader).shutdown().await?;
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    smol::block_on(hello())
}
