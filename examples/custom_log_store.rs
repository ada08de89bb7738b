//! A log store on an existing database, redb, line by line: the smallest correct one, in
//! `examples/custom_log_store/ledger.rs`. `cargo run --example custom_log_store` counts its own
//! runs in a log that it keeps; `tests/conformance` judges it, crashes too, but for one case: a
//! second crash, while redb 2.6 repairs what the first left, can leave a database that cannot be
//! opened any more. Nothing is lost in silence then, but the server must be replaced.
//!
//! For most servers `FileLogStore` is the better choice, since a log in files writes less. This is
//! for those whose data is in a database already.

#[path = "custom_log_store/ledger.rs"]
mod ledger;

use std::error::Error;
use std::sync::Arc;

use kontiki::runtime::{Runtime, Smol};
use kontiki::storage::MemorySnapshotStore;
use kontiki::typed::{self, Client, State};
use kontiki::{BootstrapError, Config, GroupId, LogId, Member, Parts, Raft};
use kontiki_transport_memory::Network;

use self::ledger::Ledger;

#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Runs(u64);

impl State for Runs {
    type Command = ();
    type Answer = u64;

    fn apply(&mut self, _: LogId, (): ()) -> u64 {
        self.0 += 1;
        self.0
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let runtime: Arc<dyn Runtime> = Arc::new(Smol::new());
    let directory = std::path::Path::new("target/custom_log_store");
    std::fs::create_dir_all(directory)?;
    let log = Ledger::open(Arc::clone(&runtime), directory.join("ledger.redb")).await?;
    let mut config = Config::default();
    (config.id, config.address) = (Some(1.into()), "here".to_owned());
    // Nothing is compacted, so that the log alone is enough to come back from.
    config.snapshot_after_entries = 0;
    let parts = Parts {
        group: GroupId::default(),
        transport: Network::new(Arc::clone(&runtime)).endpoint("here"),
        log: Box::new(log),
        snapshots: Arc::new(MemorySnapshotStore::new()),
        state_machine: typed::machine(Runs::default()).0,
        runtime,
        config,
    };
    let node = Raft::start(parts).await?;
    match node.bootstrap(vec![Member::voter(1.into(), "", "here")]).await {
        Ok(_) | Err(BootstrapError::NotBlank) => {}
        Err(error) => return Err(error.into()),
    }
    let (at, count) = Client::<Runs>::new(node.clone()).propose(&()).await?;
    println!("this is run {count}, and stands at {at}");
    node.shutdown().await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    smol::block_on(run())
}
