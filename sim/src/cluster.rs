//! The servers of a run: started, killed, wiped, brought back, each with everything that it is made
//! of under watch.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use kontiki::http::{Server as HttpServer, ServerConfig};
use kontiki::operator::{AllowAll, ApiConfig, OperatorApi};
use kontiki::runtime::Runtime as _;
use kontiki::runtime::sim::{Sim, SimFiles, SimProcess};
use kontiki::storage::{
    FileLogStore, FileSnapshotStore, FileStoreConfig, LogStore, MemoryLogStore,
    MemorySnapshotStore, SnapshotStore, StorageError,
};
use kontiki::transport::Transport;
use kontiki::{GroupId, Member, NodeId, Parts, Raft, RaftRole, StartError, StateMachine};
use kontiki_transport_memory::{Faults, Network};
use kontiki_transport_tcp::{TcpConfig, TcpTransport};

use crate::history::History;
use crate::judge::{Invariant, Judge};
use crate::kit::Workload;
use crate::log::{Pace, WatchedLog};
use crate::machine::{Registers, Watch, WatchedMachine};
use crate::options::{DiskKind, Options, Stream, stream};
use crate::wire::{Links, Wire, address};

/// Everything that a run consists of.
pub(crate) struct Cluster {
    pub(crate) sim: Sim,
    pub(crate) options: Options,
    pub(crate) judge: Judge,
    pub(crate) links: Arc<Links>,
    pub(crate) history: Mutex<History>,
    /// The application's own, in place of the simulator's.
    pub(crate) workload: Option<Arc<dyn Workload>>,
    /// How many operators are at work on the membership.
    pub(crate) operators: AtomicU64,
    /// How many changes that may cost a voter are under way.
    pub(crate) with_care: AtomicU64,
    network: Option<Network>,
    servers: Mutex<BTreeMap<u64, Server>>,
}

/// One server through its lives.
struct Server {
    id: NodeId,
    /// How often it lost everything.
    wipes: u64,
    /// How often it has gone to another address.
    moves: u64,
    state: State,
    raft: Option<Raft>,
    registers: Registers,
    log: MemoryLogStore,
    snapshots: MemorySnapshotStore,
    pace: Arc<Pace>,
    /// Whether its disk was made to fail; that may show only in a later life.
    disk_failed: bool,
}

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// Never started.
    Absent,
    /// Its process is dead.
    Down,
    /// Its process runs; its node may have stopped.
    Up,
    /// What it had stored is gone or damaged; it must come back as another.
    Lost,
    /// Its node has stopped by itself; the process only waits to be killed.
    Stopped,
}

impl Cluster {
    pub(crate) fn new(options: Options, workload: Option<Arc<dyn Workload>>) -> Arc<Self> {
        let sim = Sim::new(options.seed);
        let network = (!options.network.is_streams()).then(|| {
            let network = Network::new(sim.process(0));
            network.set_encoded(true);
            network
        });
        let servers = options.servers().map(|n| (n, Server::new(n))).collect();
        let judge = Judge::new(sim.clone());
        let cluster = Self {
            links: Arc::new(Links::new(&options, sim.clone(), judge.clone())),
            judge,
            history: Mutex::default(),
            workload,
            operators: AtomicU64::new(0),
            with_care: AtomicU64::new(0),
            network,
            servers: Mutex::new(servers),
            sim,
            options,
        };
        cluster.set_faulty(true);
        Arc::new(cluster)
    }

    /// Whether messages are lost, doubled, late.
    pub(crate) fn set_faulty(&self, faulty: bool) {
        let Some(network) = &self.network else { return };
        let rate = |ppm: u32| if faulty { f64::from(ppm) / 1e6 } else { 0.0 };
        let micros = std::time::Duration::from_micros;
        network.set_faults(Faults {
            loss: rate(self.options.loss_ppm),
            duplication: rate(self.options.duplication_ppm),
            delay: micros(200)..micros(self.options.delay_us),
        });
    }

    /// Starts a server's process on what it has kept.
    pub(crate) fn start(self: &Arc<Self>, n: u64) {
        let id = {
            let mut servers = self.lock();
            let Some(server) = servers.get_mut(&n) else { return };
            if !matches!(server.state, State::Absent | State::Down) {
                return;
            }
            server.state = State::Up;
            server.id
        };
        self.judge.started(id);
        let (cluster, process) = (Arc::clone(self), self.sim.process(n));
        let running = process.clone();
        process.spawn(Box::pin(async move { cluster.serve(n, running).await }));
    }

    async fn serve(self: Arc<Self>, n: u64, process: Arc<SimProcess>) {
        let raft = match self.bring_up(n, &process).await {
            Ok(raft) => raft,
            Err(error) => return self.failed_to_start(n, &error),
        };
        self.with(n, |server| server.raft = Some(raft.clone()));
        let _server = self.serve_http(n, &process, &raft).await;
        let (founder, blank) = (n <= self.options.voters, raft.status().cluster.is_nil());
        if blank && founder && self.wipes(n) == 0 {
            let all = (1..=self.options.voters).map(|n| self.member(n)).collect();
            // Stopped meanwhile, it says so in its status.
            let _ = raft.bootstrap(all).await;
        }
        let mut watch = raft.watch();
        loop {
            let status = watch.changed().await;
            self.judge.status(&status, self.disk_failed(n));
            if status.stopped.is_some() {
                return self.with(n, |server| server.state = State::Stopped);
            }
        }
    }

    async fn bring_up(&self, n: u64, process: &Arc<SimProcess>) -> Result<Raft, StartError> {
        let id = self.id(n);
        let (log, snapshots) = self.stores(n, process).await?;
        let transport = self.transport(n, process).await?;
        let mut config = self.options.config();
        config.id = Some(id);
        config.name = format!("n{n}");
        config.address = self.address(n);
        let machine: Box<dyn StateMachine> = match &self.workload {
            Some(workload) => workload.machine(),
            None => {
                let registers = Registers::default();
                self.with(n, |server| server.registers = registers.clone());
                Box::new(registers)
            }
        };
        let watch = Watch {
            id,
            judge: self.judge.clone(),
            process: Arc::clone(process),
            snapshot_ms: self.options.snapshot_ms,
        };
        let machine = WatchedMachine { inner: machine, watch, at: 0, chain: 0 };
        Raft::start(Parts {
            config,
            group: GroupId::default(),
            runtime: process.clone(),
            transport,
            log,
            snapshots,
            state_machine: Box::new(machine),
        })
        .await
    }

    async fn stores(
        &self,
        n: u64,
        process: &Arc<SimProcess>,
    ) -> Result<(Box<dyn LogStore>, Arc<dyn SnapshotStore>), StorageError> {
        let dice = stream(self.options.seed ^ (n << 32) ^ process.random(), Stream::Wire);
        let watch = |inner: Box<dyn LogStore>, pace| WatchedLog {
            inner,
            process: Arc::clone(process),
            id: self.id(n),
            judge: self.judge.clone(),
            links: Arc::clone(&self.links),
            pace,
            dice,
        };
        if self.options.disk == DiskKind::Objects {
            let (log, snapshots, pace) = self.with(n, |server| {
                (server.log.clone(), server.snapshots.clone(), Arc::clone(&server.pace))
            });
            return Ok((Box::new(watch(Box::new(log), Some(pace))), Arc::new(snapshots)));
        }
        let mut config = FileStoreConfig::default();
        config.segment_bytes = self.options.segment_bytes;
        let [log, snapshots] = self.directories(n, process);
        let log = FileLogStore::open(log, config).await?;
        let snapshots = FileSnapshotStore::open(snapshots).await?;
        Ok((Box::new(watch(Box::new(log), None)), Arc::new(snapshots)))
    }

    async fn transport(
        &self,
        n: u64,
        process: &Arc<SimProcess>,
    ) -> Result<Arc<dyn Transport>, StorageError> {
        let inner: Arc<dyn Transport> = match &self.network {
            Some(network) => network.endpoint(self.address(n)),
            None => {
                let (runtime, net) = (process.clone(), process.clone());
                TcpTransport::bind(runtime, net, &self.address(n), TcpConfig::default())
                    .await
                    .map_err(StorageError::io("binding"))?
            }
        };
        Ok(Arc::new(Wire {
            inner,
            sim: self.sim.clone(),
            process: Arc::clone(process),
            id: self.id(n),
            links: Arc::clone(&self.links),
            judge: self.judge.clone(),
            messages: self.network.is_some(),
        }))
    }

    async fn serve_http(
        &self,
        n: u64,
        process: &Arc<SimProcess>,
        raft: &Raft,
    ) -> Option<HttpServer> {
        if !self.options.http {
            return None;
        }
        let (allow, runtime) = (Arc::new(AllowAll::new()), process.clone());
        let api = OperatorApi::new(raft.clone(), allow, runtime.clone(), ApiConfig::default());
        let at = http_address(n);
        let config = ServerConfig::default();
        let server = HttpServer::bind(runtime, process.clone(), &at, Arc::new(api), config).await;
        server.ok()
    }

    fn failed_to_start(&self, n: u64, error: &StartError) {
        let id = self.id(n);
        // A disk that fails may keep a server from starting, but must not leave damage behind.
        let corrupt = matches!(error, StartError::Storage(StorageError::Corrupt { .. }));
        if !self.judge.is_damaged(id) && (corrupt || !self.disk_failed(n)) {
            let what = format!("server {id} does not start: {error}");
            return self.judge.violated(Invariant::NoPanic, what);
        }
        let lost = self.judge.is_damaged(id);
        if lost {
            self.judge.sometimes("a damaged disk was found out");
        }
        let state = if lost { State::Lost } else { State::Stopped };
        self.with(n, |server| server.state = state);
    }

    /// Kills a server's process, if it runs; `true` if it did.
    pub(crate) fn kill(&self, n: u64) -> bool {
        let running = matches!(self.state(n), State::Up | State::Stopped);
        if running {
            self.sim.kill(n);
            self.bury(n);
        }
        running
    }

    /// What is left to do when a process has died.
    pub(crate) fn bury(&self, n: u64) {
        let leads = self.raft(n).is_some_and(|raft| raft.status().role == RaftRole::Leader);
        self.judge.died(self.id(n), leads);
        let keep = self.sim.process(n).random();
        let raft = self.with(n, |server| {
            server.state = State::Down;
            let keep = usize::try_from(keep).unwrap_or(0) % (server.log.unsynced() + 1);
            server.log = server.log.crash(keep);
            server.raft.take()
        });
        drop(raft);
        if let Some(network) = &self.network {
            // Without a process nobody listens there.
            let _ = network.endpoint(self.address(n)).detach(GroupId::default()).now_or_never();
        }
    }

    /// Takes everything from a server that is down; it will be another one.
    pub(crate) fn wipe(&self, n: u64) {
        // Its directories are left behind; the new one has others.
        let old = self.with(n, |server| {
            let wipes = server.wipes + 1;
            let (id, moves) = (NodeId::from(n + 100 * wipes), server.moves);
            let new = Server { wipes, id, moves, ..Server::new(n) };
            std::mem::replace(server, Server { state: State::Down, ..new })
        });
        drop(old);
    }

    /// Everyone whose process has died without being told to.
    pub(crate) fn fallen(&self) -> Vec<u64> {
        let up = self.numbers(|state| matches!(state, State::Up | State::Stopped));
        // A new life has begun for the world, but the server was not started in it.
        up.into_iter().filter(|&n| self.sim.tasks(n) == 0).collect()
    }

    pub(crate) fn directories(&self, n: u64, process: &Arc<SimProcess>) -> [Arc<SimFiles>; 2] {
        let wipes = self.wipes(n);
        [process.files(&format!("log-{wipes}")), process.files(&format!("snapshots-{wipes}"))]
    }

    pub(crate) fn numbers(&self, which: impl Fn(State) -> bool) -> Vec<u64> {
        self.lock().iter().filter(|(_, one)| which(one.state)).map(|(&n, _)| n).collect()
    }

    pub(crate) fn raft(&self, n: u64) -> Option<Raft> {
        self.lock().get(&n).and_then(|server| server.raft.clone())
    }

    pub(crate) fn registers(&self, n: u64) -> Registers {
        self.with(n, |server| server.registers.clone())
    }

    pub(crate) fn state(&self, n: u64) -> State {
        self.lock().get(&n).map_or(State::Absent, |server| server.state)
    }

    pub(crate) fn id(&self, n: u64) -> NodeId {
        self.lock().get(&n).map_or_else(|| NodeId::from(n), |server| server.id)
    }

    /// Where a server is reached.
    pub(crate) fn address(&self, n: u64) -> String {
        address(n, self.with(n, |server| server.moves))
    }

    /// Gives a server that is down another address.
    pub(crate) fn relocate(&self, n: u64) {
        self.with(n, |server| server.moves += 1);
    }

    pub(crate) fn member(&self, n: u64) -> Member {
        Member::voter(self.id(n), format!("n{n}"), self.address(n))
    }

    pub(crate) fn set_slowness(&self, n: u64, times: u32) {
        self.with(n, |server| server.pace.times.store(times, Ordering::Relaxed));
        let files = self.directories(n, &self.sim.process(n));
        files.iter().for_each(|files| files.set_slowness(times));
    }

    /// Lets a server's disk answer nothing, or go on.
    pub(crate) fn set_stuck(&self, n: u64, stuck: bool) {
        self.with(n, |server| server.pace.stuck.store(stuck, Ordering::Relaxed));
        let files = self.directories(n, &self.sim.process(n));
        files.iter().for_each(|files| files.set_stuck(stuck));
    }

    /// Makes the next write of a server's log fail.
    pub(crate) fn fail_sync(&self, n: u64) {
        if self.options.disk == DiskKind::Objects {
            self.with(n, |server| server.log.fail_next_write());
        }
        self.directories(n, &self.sim.process(n))[0].fail_next_sync();
    }

    /// Notes that a server's disk fails, so that it may stop.
    pub(crate) fn note_disk_failure(&self, n: u64) {
        self.judge.count(|counts| counts.disk_faults += 1);
        self.with(n, |server| server.disk_failed = true);
    }

    /// Makes a server's disk full, or gives it room again.
    pub(crate) fn set_full(&self, n: u64, full: bool) {
        let files = self.directories(n, &self.sim.process(n));
        files.iter().for_each(|files| files.set_bytes_max(full.then_some(0)));
    }

    pub(crate) fn disk_failed(&self, n: u64) -> bool {
        self.with(n, |server| server.disk_failed)
    }

    fn wipes(&self, n: u64) -> u64 {
        self.with(n, |server| server.wipes)
    }

    fn with<T>(&self, n: u64, act: impl FnOnce(&mut Server) -> T) -> T {
        act(self.lock().get_mut(&n).expect("every number in a plan is checked before"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    fn new(n: u64) -> Self {
        Self {
            id: NodeId::from(n),
            wipes: 0,
            moves: 0,
            state: State::Absent,
            raft: None,
            registers: Registers::default(),
            log: MemoryLogStore::new(),
            snapshots: MemorySnapshotStore::new(),
            pace: Arc::default(),
            disk_failed: false,
        }
    }
}

/// Where a server's operator API is.
pub(crate) fn http_address(server: u64) -> String {
    format!("server-{server}:80")
}
