//! A server killed before and after each single thing it does to its stores, while it forms a
//! cluster, joins one, takes a snapshot or is sent one: it comes back with all it acknowledged, and
//! gets done what it was doing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::channel::oneshot;
use futures::io::AsyncWrite;
use kontiki::runtime::sim::Sim;
use kontiki::runtime::{ByteReader, Runtime};
use kontiki::storage::{
    LogReader, LogStore, MemoryLogStore, MemorySnapshotStore, Recovered, SnapshotMeta,
    SnapshotSink, SnapshotStore, StorageError, WriteBatch,
};
use kontiki::typed::{self, Client, Shared, State};
use kontiki::{Config, GroupId, JoinError, LogId, Member, Parts, Raft, Role};
use kontiki_transport_memory::Network;

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Journal(Vec<u64>);

impl State for Journal {
    type Command = u64;
    type Answer = ();

    fn apply(&mut self, _: LogId, line: u64) {
        self.0.push(line);
    }
}

/// Kills a process when its turn has come.
#[derive(Clone)]
struct Fuse {
    sim: Sim,
    process: u64,
    left: Arc<AtomicI64>,
}

impl Fuse {
    async fn burn(&self) -> Result<(), StorageError> {
        if self.left.fetch_sub(1, Ordering::SeqCst) != 0 {
            return Ok(());
        }
        self.sim.kill(self.process);
        // A task of that process is never polled again; one that streams to it hears of the end.
        let mut again = false;
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if std::mem::replace(&mut again, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        Err(StorageError::Poisoned)
    }
}

struct MortalLog(MemoryLogStore, Fuse);

#[async_trait]
impl LogStore for MortalLog {
    async fn recover(&mut self) -> Result<Recovered, StorageError> {
        self.0.recover().await
    }

    async fn write(&mut self, batch: WriteBatch) -> Result<(), StorageError> {
        self.1.burn().await?;
        self.0.write(batch).await?;
        self.1.burn().await?;
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.0.reader()
    }
}

#[derive(Clone)]
struct MortalSnapshots(MemorySnapshotStore, Fuse);

impl std::fmt::Debug for MortalSnapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl SnapshotStore for MortalSnapshots {
    async fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotSink>, StorageError> {
        Ok(Box::new(MortalSink(self.0.create(meta).await?, self.1.clone())))
    }

    async fn list(&self) -> Result<Vec<SnapshotMeta>, StorageError> {
        self.0.list().await
    }

    async fn open(&self, meta: &SnapshotMeta, from: u64) -> Result<ByteReader, StorageError> {
        self.0.open(meta, from).await
    }

    async fn remove(&self, meta: &SnapshotMeta) -> Result<(), StorageError> {
        self.1.burn().await?;
        self.0.remove(meta).await?;
        self.1.burn().await?;
        Ok(())
    }
}

struct MortalSink(Box<dyn SnapshotSink>, Fuse);

#[async_trait]
impl SnapshotSink for MortalSink {
    async fn commit(self: Box<Self>) -> Result<SnapshotMeta, StorageError> {
        self.1.burn().await?;
        let meta = self.0.commit().await?;
        self.1.burn().await?;
        Ok(meta)
    }
}

impl AsyncWrite for MortalSink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

struct Server {
    /// `None` if it was killed while it started.
    raft: Option<Raft>,
    journal: Shared<Journal>,
    log: MemoryLogStore,
    snapshots: MemorySnapshotStore,
}

/// Servers, each in a process of its own; process 0 is the test.
struct World {
    sim: Sim,
    runtime: Arc<dyn Runtime>,
    network: Network,
    servers: BTreeMap<u64, Server>,
    /// The server that is killed, and after how many steps of its stores.
    victim: u64,
    fuse: Arc<AtomicI64>,
    proposed: u64,
    acknowledged: Vec<u64>,
}

fn member(n: u64) -> Member {
    Member::voter(n.into(), "", format!("a{n}"))
}

impl World {
    fn new(sim: &Sim, victim: u64) -> Self {
        let runtime: Arc<dyn Runtime> = sim.process(0);
        Self {
            sim: sim.clone(),
            network: Network::new(Arc::clone(&runtime)),
            runtime,
            servers: BTreeMap::new(),
            victim,
            fuse: Arc::new(AtomicI64::new(i64::MAX)),
            proposed: 0,
            acknowledged: Vec::new(),
        }
    }

    /// Starts a server on what its stores kept; `None` if it is killed meanwhile.
    async fn start(&mut self, n: u64) -> Option<Raft> {
        let (log, snapshots) = match self.servers.remove(&n) {
            Some(old) => (old.log.crash(0), old.snapshots),
            None => (MemoryLogStore::new(), MemorySnapshotStore::new()),
        };
        let endless = Arc::new(AtomicI64::new(i64::MAX));
        let left = if n == self.victim { Arc::clone(&self.fuse) } else { endless };
        let fuse = Fuse { sim: self.sim.clone(), process: n, left };
        let (state_machine, journal) = typed::machine(Journal::default());
        let mut config = Config::default();
        (config.id, config.address) = (Some(n.into()), format!("a{n}"));
        config.snapshot_after_entries = 5;
        config.trailing_entries = 1;
        config.verb_timeout = Duration::from_secs(3);
        let parts = Parts {
            config,
            group: GroupId::default(),
            runtime: self.sim.process(n),
            transport: self.network.endpoint(format!("a{n}")),
            log: Box::new(MortalLog(log.clone(), fuse.clone())),
            snapshots: Arc::new(MortalSnapshots(snapshots.clone(), fuse)),
            state_machine,
        };
        // In its own process, where it may be killed.
        let (done, started) = oneshot::channel();
        self.sim.process(n).spawn(Box::pin(async move {
            let _ = done.send(Raft::start(parts).await);
        }));
        let raft = started.await.ok().map(Result::unwrap);
        self.servers.insert(n, Server { raft: raft.clone(), journal, log, snapshots });
        raft
    }

    /// Proposes another line on server `n`; `false` if that server is gone.
    async fn write(&mut self, n: u64) -> bool {
        let Some(raft) = self.servers[&n].raft.clone() else { return false };
        self.proposed += 1;
        if Client::<Journal>::new(raft.clone()).propose(&self.proposed).await.is_ok() {
            self.acknowledged.push(self.proposed);
        }
        raft.status().stopped.is_none()
    }

    /// Waits until `holds` of the victim; `false` if it is killed first.
    async fn wait(&self, raft: &Raft, holds: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..1_000 {
            if raft.status().stopped.is_some() {
                return false;
            }
            if holds(self) {
                return true;
            }
            self.runtime.timer(self.runtime.now() + Duration::from_millis(20)).await;
        }
        panic!("it never came about: {:#?}", raft.status());
    }

    fn lines(&self, n: u64) -> Vec<u64> {
        self.servers[&n].journal.read(|journal| journal.0.clone())
    }

    /// Nothing acknowledged is missing, and nothing was applied twice.
    fn check(&self, n: u64) {
        let lines = self.lines(n);
        assert!(lines.is_sorted_by(|a, b| a < b), "{lines:?}");
        let missing: Vec<_> =
            self.acknowledged.iter().filter(|line| !lines.contains(line)).collect();
        assert!(missing.is_empty(), "{missing:?} were acknowledged, but there is {lines:?}");
    }

    /// The victim forms a cluster, alone or with two others, and takes snapshots.
    async fn form(&mut self, count: u64) {
        let members: Vec<_> = (1..=count).map(member).collect();
        for n in 2..=count {
            self.start(n).await.unwrap().bootstrap(members.clone()).await.unwrap();
        }
        while let victim = self.victim
            && self.acknowledged.len() < 14
        {
            let Some(raft) = self.start(victim).await else { continue };
            if raft.status().cluster.is_nil() && raft.bootstrap(members.clone()).await.is_err() {
                continue;
            }
            while self.acknowledged.len() < 14 && self.write(victim).await {}
        }
        self.check(self.victim);
    }

    /// The victim joins a cluster of one other server.
    async fn join(&mut self) {
        let first = self.start(1).await.unwrap();
        first.bootstrap(vec![member(1)]).await.unwrap();
        for _ in 0..7 {
            assert!(self.write(1).await);
        }
        loop {
            let Some(raft) = self.start(self.victim).await else { continue };
            match raft.join(&["a1".to_owned()]).await {
                Ok(()) | Err(JoinError::NotBlank) => {}
                Err(_) => continue,
            }
            let me = raft.id();
            let votes = |world: &Self| {
                let membership = raft.status().membership;
                membership.member(me).is_some_and(|member| member.role == Role::Voter)
                    && world.lines(1) == world.lines(world.victim)
            };
            if self.wait(&raft, votes).await && self.write(self.victim).await {
                break;
            }
        }
        self.check(1);
        self.check(self.victim);
    }

    /// The victim was cut off for so long that it is sent a snapshot.
    async fn install(&mut self, steps: i64) {
        let members: Vec<_> = (1..=3).map(member).collect();
        for n in 1..=3 {
            self.start(n).await.unwrap();
        }
        for n in 1..=3 {
            let raft = self.servers[&n].raft.clone().unwrap();
            raft.bootstrap(members.clone()).await.unwrap();
        }
        assert!(self.write(3).await);
        self.network.isolate("a3");
        while self.acknowledged.len() < 20 {
            assert!(self.write(1).await);
        }
        self.fuse.store(steps, Ordering::SeqCst);
        self.network.heal();
        let mut raft = self.servers[&3].raft.clone();
        loop {
            if let Some(raft) = &raft
                && self.wait(raft, |world| world.lines(3) == world.lines(1)).await
                && self.write(3).await
            {
                break;
            }
            raft = self.start(3).await;
        }
        let raft = raft.expect("it has just written");
        let equal = |world: &Self| (1..=2).all(|n| world.lines(n) == world.lines(3));
        assert!(self.wait(&raft, equal).await);
        self.check(3);
    }
}

/// Runs a story with every number of steps until the victim survives it.
fn at_every_step(
    least: i64,
    story: impl Fn(World, i64) -> Pin<Box<dyn Future<Output = ()> + Send>>,
    victim: u64,
) {
    for steps in 0.. {
        let sim = Sim::new(7);
        let world = World::new(&sim, victim);
        let fuse = Arc::clone(&world.fuse);
        sim.run_until(Duration::from_secs(600), story(world, steps)).unwrap();
        if fuse.load(Ordering::SeqCst) >= 0 {
            assert!(steps >= least, "the story has only {steps} steps");
            return;
        }
    }
}

#[test]
fn killed_at_any_step_of_forming_a_cluster_and_of_snapshots() {
    let story = |mut world: World, steps: i64| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        world.fuse.store(steps, Ordering::SeqCst);
        Box::pin(async move { world.form(1).await })
    };
    at_every_step(20, story, 1);
    let story = |mut world: World, steps: i64| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        world.fuse.store(steps, Ordering::SeqCst);
        Box::pin(async move { world.form(3).await })
    };
    at_every_step(20, story, 1);
}

#[test]
fn killed_at_any_step_of_joining_a_cluster() {
    let story = |mut world: World, steps: i64| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        world.fuse.store(steps, Ordering::SeqCst);
        Box::pin(async move { world.join().await })
    };
    at_every_step(8, story, 2);
}

#[test]
fn killed_at_any_step_of_installing_a_snapshot() {
    let story = |mut world: World, steps: i64| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { world.install(steps).await })
    };
    at_every_step(6, story, 3);
}
