//! Fixed scripts in the simulator, where one seed decides everything, so that the instructions of
//! two runs can be compared. `cargo xtask instructions` counts them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kontiki::runtime::sim::Sim;
use kontiki::runtime::{ByteReader, Runtime};
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore, SnapshotMeta};
use kontiki::{BoxError, Command, Config, GroupId, Member, Parts, Raft, Snapshot, StateMachine};
use kontiki_transport_memory::Network;

fn main() {
    let script = std::env::args().nth(1);
    let (rounds, at_once) = match script.as_deref() {
        // What one command costs that nothing is shared with.
        Some("alone") => (1_000, 1),
        // What one costs among many: 256 wait at any time.
        Some("crowd") => (100, 256),
        _ => panic!("alone or crowd?"),
    };
    let sim = Sim::new(SEED);
    let done = sim.run_until(Duration::from_secs(600), run(sim.clone(), rounds, at_once));
    assert_eq!(done.expect("it comes to an end"), rounds * at_once);
}

async fn run(sim: Sim, rounds: usize, at_once: usize) -> usize {
    let nodes = cluster(&sim).await;
    let leader = nodes.iter().find(|node| node.status().established).expect("somebody leads");
    let command = Bytes::from_static(&[7; 256]);
    let mut applied = 0;
    for _ in 0..rounds {
        let proposals = (0..at_once).map(|_| leader.propose(command.clone()));
        let outcomes = futures::future::join_all(proposals).await;
        applied += outcomes.into_iter().filter(Result::is_ok).count();
    }
    applied
}

async fn cluster(sim: &Sim) -> Vec<Raft> {
    let network = Network::new(sim.process(0));
    network.set_encoded(false);
    let member = |n: u64| Member::voter(n.into(), "", format!("node-{n}"));
    let mut nodes = Vec::new();
    for n in 1..=3_u64 {
        let mut config = Config::default();
        (config.id, config.address) = (Some(n.into()), format!("node-{n}"));
        let parts = Parts {
            group: GroupId::default(),
            runtime: sim.process(n),
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
    let process = sim.process(0);
    while !nodes.iter().any(|node| node.status().established) {
        process.timer(process.now() + Duration::from_millis(10)).await;
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

const SEED: u64 = 1947;
