//! What the API tests do not mount: one node on each runtime, another transport, and the real
//! server from outside.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../examples/custom_transport/postman.rs"]
mod postman;

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use kontiki::runtime::sim::Sim;
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

#[test]
fn the_example_of_a_transport_carries_a_cluster() {
    let sim = Sim::new(3);
    let runtimes = [1, 2, 3].map(|n| sim.process(n) as Arc<dyn Runtime>);
    let postman = postman::Postman::new();
    let run = async move { count_to_six(runtimes, |address| postman.letterbox(address)).await };
    sim.run_until(Duration::from_secs(60), run).unwrap();
}

fn kv(arguments: &[&str]) -> Output {
    let mut program = std::env::current_exe().unwrap();
    // From the test's own file in `deps` to the examples, which `cargo test` has built.
    program.pop();
    program.pop();
    Command::new(program.join("examples").join("kv")).args(arguments).output().unwrap()
}

/// Runs `kv` with what must make it end at once, and gives its one line.
fn refused(arguments: &[&str]) -> String {
    let output = kv(arguments);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_bad_start_of_the_server_ends_with_one_clear_line() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    let with = |peer: &str, http: &str, more: &[&str]| {
        let start = ["--name", "n1", "--data", data, "--peer", peer, "--http", http];
        refused(&[&start[..], more].concat())
    };
    let blank = with(free, free, &[]);
    assert_eq!(blank, "kv: the directory is empty: pass --bootstrap or --join\n");
    let both = with(free, free, &["--bootstrap", "--join", "127.0.0.1:1"]);
    assert!(both.contains("cannot be used with"), "{both}");
    let runtime = with(free, free, &["--runtime", "other"]);
    assert!(runtime.contains("invalid value"), "{runtime}");
    for (peer, http) in [(taken.as_str(), free), (free, taken.as_str())] {
        let line = with(peer, http, &["--bootstrap"]);
        assert!(line.starts_with(&format!("kv: cannot listen on {taken}")), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}

#[test]
fn a_directory_in_use_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let files = kontiki::runtime::OsFiles::new(&log).unwrap();
    let opened = kontiki::storage::FileLogStore::open(Arc::new(files), Default::default());
    let _held = smol::block_on(opened).unwrap();
    let data = directory.path().to_str().unwrap();
    let start = ["--name", "n1", "--data", data, "--peer", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let line = refused(&[&start[..], &["--bootstrap"]].concat());
    assert!(line.contains("is in use by another process"), "{line}");
    assert_eq!(line.lines().count(), 1);
}
