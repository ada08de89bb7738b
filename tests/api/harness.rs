//! A cluster in one process, on any runtime.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kontiki::runtime::sim::Sim;
use kontiki::runtime::{AsyncStd, BoxFuture, Runtime, Smol, Tokio};
use kontiki::storage::{MemoryLogStore, MemorySnapshotStore};
use kontiki::typed::{self, Client, Shared, State};
use kontiki::{Config, GroupId, LogId, Member, NodeId, Parts, Raft, RaftRole, Status};

use crate::wires::Wires;

/// Everything that was ever written, in order.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Journal(pub(crate) Vec<String>);

impl State for Journal {
    type Command = String;
    type Answer = usize;

    fn apply(&mut self, _: LogId, line: String) -> usize {
        self.0.push(line);
        self.0.len()
    }
}

pub(crate) struct Server {
    pub(crate) raft: Raft,
    pub(crate) journal: Shared<Journal>,
    pub(crate) log: MemoryLogStore,
    pub(crate) snapshots: MemorySnapshotStore,
}

pub(crate) struct Cluster {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) network: Wires,
    pub(crate) config: Config,
    pub(crate) servers: BTreeMap<u64, Server>,
}

type Test = fn(Cluster) -> Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) fn on_smol(test: Test) {
    smol::block_on(guarded(Arc::new(Smol::new()), test));
}

pub(crate) fn on_async_std(test: Test) {
    async_std::task::block_on(guarded(Arc::new(AsyncStd::new()), test));
}

pub(crate) fn on_tokio(test: Test) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let adapter = Tokio::new(runtime.handle().clone());
    runtime.block_on(guarded(Arc::new(adapter), test));
}

pub(crate) fn on_sim(test: Test) {
    let sim = Sim::new(42);
    let runtime: Arc<dyn Runtime> = sim.process(0);
    let network = Wires::memory(Arc::clone(&runtime));
    let cluster = Cluster::new(runtime, network);
    sim.run_until(Duration::from_secs(600), test(cluster)).unwrap();
}

pub(crate) fn on_custom_transport(test: Test) {
    let sim = Sim::new(43);
    let cluster = Cluster::new(sim.process(0), Wires::postman());
    sim.run_until(Duration::from_secs(600), test(cluster)).unwrap();
}

/// The one guard of a test in real time: it fails where it would hang.
async fn guarded(runtime: Arc<dyn Runtime>, test: Test) {
    let cluster = Cluster::new(Arc::clone(&runtime), Wires::memory(Arc::clone(&runtime)));
    let mut over = runtime.timer(runtime.now() + Duration::from_secs(120));
    let mut test = test(cluster);
    std::future::poll_fn(|cx| {
        if test.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(());
        }
        assert!(over.as_mut().poll(cx).is_pending(), "the test hangs");
        std::task::Poll::Pending
    })
    .await;
}

pub(crate) fn address(n: u64) -> String {
    format!("server-{n}")
}

pub(crate) fn id(n: u64) -> NodeId {
    NodeId::from(n)
}

pub(crate) fn member(n: u64) -> Member {
    Member::voter(id(n), format!("n{n}"), address(n))
}

impl Cluster {
    fn new(runtime: Arc<dyn Runtime>, network: Wires) -> Self {
        let mut config = Config::default();
        config.tick = Duration::from_millis(10);
        config.heartbeat_interval = Duration::from_millis(30);
        config.election_timeout = Duration::from_millis(300);
        config.verb_timeout = Duration::from_secs(3);
        Self { runtime, network, config, servers: BTreeMap::new() }
    }

    pub(crate) fn parts(
        &self,
        n: u64,
        log: &MemoryLogStore,
        snapshots: &MemorySnapshotStore,
    ) -> Parts {
        let mut config = self.config.clone();
        config.id = Some(id(n));
        config.name = format!("n{n}");
        config.address = address(n);
        Parts {
            config,
            group: GroupId::default(),
            runtime: Arc::clone(&self.runtime),
            transport: self.network.endpoint(address(n)),
            log: Box::new(log.clone()),
            snapshots: Arc::new(snapshots.clone()),
            state_machine: typed::machine(Journal::default()).0,
        }
    }

    /// Starts server `n` on the stores that it has, or on new ones.
    pub(crate) async fn start(&mut self, n: u64) {
        self.start_at(n, address(n)).await;
    }

    /// The same, where others find it at `address`.
    pub(crate) async fn start_at(&mut self, n: u64, address: String) {
        let (log, snapshots) = match self.servers.remove(&n) {
            Some(old) => {
                let _ = old.raft.shutdown().await;
                (old.log, old.snapshots)
            }
            None => (MemoryLogStore::new(), MemorySnapshotStore::new()),
        };
        let (state_machine, journal) = typed::machine(Journal::default());
        let transport = self.network.endpoint(address.clone());
        let mut parts = Parts { state_machine, transport, ..self.parts(n, &log, &snapshots) };
        parts.config.address = address;
        let raft = Raft::start(parts).await.unwrap();
        self.servers.insert(n, Server { raft, journal, log, snapshots });
    }

    /// A cluster of `count` voters, all up.
    pub(crate) async fn form(&mut self, count: u64) -> u64 {
        let members: Vec<Member> = (1..=count).map(member).collect();
        for n in 1..=count {
            self.start(n).await;
        }
        for n in 1..=count {
            self.raft(n).bootstrap(members.clone()).await.unwrap();
        }
        self.leader().await
    }

    pub(crate) fn raft(&self, n: u64) -> Raft {
        self.servers[&n].raft.clone()
    }

    pub(crate) fn client(&self, n: u64) -> Client<Journal> {
        Client::new(self.raft(n))
    }

    pub(crate) fn lines(&self, n: u64) -> Vec<String> {
        self.servers[&n].journal.read(|journal| journal.0.clone())
    }

    pub(crate) async fn write(&self, n: u64, line: &str) -> usize {
        self.client(n).propose(&line.to_owned()).await.unwrap().1
    }

    /// Waits until `holds`; looks again every few milliseconds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        for _ in 0..4_000 {
            if holds(self) {
                return;
            }
            self.pause(5).await;
        }
        panic!("it never came about that {what}; {:#?}", self.statuses());
    }

    pub(crate) async fn pause(&self, ms: u64) {
        self.runtime.timer(self.runtime.now() + Duration::from_millis(ms)).await;
    }

    /// The server that leads and can serve, once there is exactly one that others follow.
    pub(crate) async fn leader(&self) -> u64 {
        let mut found = 0;
        self.until("somebody leads", |cluster| {
            let term = cluster.statuses().iter().map(|(_, status)| status.term).max();
            let leader = cluster.statuses().into_iter().find(|(_, status)| {
                status.role == RaftRole::Leader && status.established && Some(status.term) == term
            });
            found = leader.map_or(0, |(n, _)| n);
            found != 0
        })
        .await;
        found
    }

    fn statuses(&self) -> Vec<(u64, Status)> {
        self.servers.iter().map(|(n, server)| (*n, server.raft.status())).collect()
    }

    pub(crate) fn others(&self, n: u64) -> Vec<u64> {
        self.servers.keys().copied().filter(|other| *other != n).collect()
    }

    /// Runs a future beside the test.
    pub(crate) fn spawn(
        &self,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<AtomicBool> {
        let done = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&done);
        let task: BoxFuture<'static> = Box::pin(async move {
            future.await;
            flag.store(true, Ordering::SeqCst);
        });
        self.runtime.spawn(task);
        done
    }
}
