//! The smallest correct transport, line by line. `cargo run --example custom_transport` elects a
//! leader over it and applies a command; `tests/api` runs on it too.
//!
//! What a transport owes: `send` never waits; a message arrives at most once here, and undamaged;
//! a server that cannot be reached is said so; `detach` leaves nothing behind.

#[path = "custom_transport/postman.rs"]
mod postman;

use std::error::Error;
use std::sync::Arc;

use kontiki::runtime::Smol;
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore};
use kontiki::typed::{self, Client, State};
use kontiki::{Config, GroupId, LogId, Member, Parts, Raft};

use self::postman::Postman;

#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Letters(u64);

impl State for Letters {
    type Command = ();
    type Answer = u64;

    fn apply(&mut self, _: LogId, (): ()) -> u64 {
        self.0 += 1;
        self.0
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let postman = Postman::new();
    let member = |n: u64| Member::voter(n.into(), "", format!("house-{n}"));
    let mut nodes = Vec::new();
    for n in 1..=3_u64 {
        let mut config = Config::default();
        (config.id, config.address) = (Some(n.into()), format!("house-{n}"));
        let parts = Parts {
            group: GroupId::default(),
            runtime: Arc::new(Smol::new()),
            transport: postman.letterbox(&format!("house-{n}")),
            log: Box::new(MemoryLogStore::new()),
            snapshots: Arc::new(MemorySnapshotStore::new()),
            state_machine: typed::machine(Letters::default()).0,
            config,
        };
        let node = Raft::start(parts).await?;
        node.bootstrap((1..=3).map(member).collect()).await?;
        nodes.push(node);
    }
    let (at, count) = Client::<Letters>::new(nodes[0].clone()).propose(&()).await?;
    println!("letter {count} was delivered and applied at {at}");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    smol::block_on(run())
}
