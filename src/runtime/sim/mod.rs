//! A world of its own: tasks, clock, chance, sockets and disks in one thread, and one seed decides
//! everything.
//!
//! Each simulated process gets a [`Runtime`] and a [`Net`] (a [`SimProcess`]) and any number of
//! disks ([`SimFiles`]); killing it drops its tasks, resets its connections and keeps of its disks
//! what was durable. Production code runs unmodified inside. Virtual time jumps to the next timer
//! whenever every task waits.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant, SystemTime};

mod clock;
mod disk;
mod faults;
mod net;
mod trace;

use async_trait::async_trait;
use futures::channel::oneshot;

use self::clock::{Clocks, SimTimer};
use self::disk::Disk;
pub use self::disk::SimFiles;
use self::faults::Faults;
pub use self::faults::Link;
use self::net::Network;
use self::trace::Trace;
use super::{BoxFuture, BoxStream, Listener, Net, Runtime, Timer};

/// A simulated world; clones are the same world.
#[derive(Clone)]
pub struct Sim {
    world: Arc<Mutex<World>>,
    ready: Arc<Ready>,
}

struct World {
    seed: u64,
    epoch: Instant,
    now: Duration,
    dice: fastrand::Rng,
    tasks: BTreeMap<u64, Task>,
    timers: BTreeMap<(Duration, u64), Waker>,
    count: u64,
    /// How often each process was killed; what belongs to an earlier life is dead.
    lives: BTreeMap<u64, u64>,
    clocks: Clocks,
    faults: Faults,
    net: Network,
    disks: BTreeMap<(u64, String), Disk>,
    trace: Trace,
}

struct Task {
    process: u64,
    /// `None` while it is being polled.
    future: Option<BoxFuture<'static>>,
    waker: Waker,
}

/// The tasks that can go on. Apart from the world, so that a waker may be used under its lock.
#[derive(Default)]
struct Ready(Mutex<Vec<u64>>);

struct TaskWaker {
    id: u64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = lock(&self.ready.0);
        if !ready.contains(&self.id) {
            ready.push(self.id);
        }
    }
}

/// Why a simulation could not go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Stuck {
    /// Every task waits, and no timer is left that could wake one.
    #[error("every task waits for ever (seed {seed}, after {after:?})")]
    Deadlock {
        /// The world's seed.
        seed: u64,
        /// The virtual time that had passed.
        after: Duration,
    },
    /// The limit of virtual time has passed.
    #[error("not done within {limit:?} of virtual time (seed {seed})")]
    Limit {
        /// The world's seed.
        seed: u64,
        /// The limit.
        limit: Duration,
    },
}

impl Sim {
    /// A world that `seed` decides.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "an origin for instants; only differences are used"
    )]
    pub fn new(seed: u64) -> Self {
        let world = World {
            seed,
            epoch: Instant::now(),
            now: Duration::ZERO,
            dice: fastrand::Rng::with_seed(seed),
            tasks: BTreeMap::new(),
            timers: BTreeMap::new(),
            count: 0,
            lives: BTreeMap::new(),
            clocks: Clocks::default(),
            faults: Faults::default(),
            net: Network::default(),
            disks: BTreeMap::new(),
            trace: Trace::default(),
        };
        Self { world: Arc::new(Mutex::new(world)), ready: Arc::default() }
    }

    /// The process with this number, in its present life. Number 0 is good for the harness itself.
    #[must_use]
    pub fn process(&self, id: u64) -> Arc<SimProcess> {
        let life = self.lock().life(id);
        Arc::new(SimProcess { sim: self.clone(), id, life })
    }

    /// Kills a process: its tasks are dropped where they wait, its connections are reset, its disks
    /// keep what was durable, and of the rest what chance decides. [`process`](Self::process) then
    /// gives its next life.
    pub fn kill(&self, id: u64) {
        let mut world = self.lock();
        *world.lives.entry(id).or_insert(0) += 1;
        world.trace.event("kill", &[id]);
        world.faults.forget(id);
        let dead: Vec<u64> =
            world.tasks.iter().filter(|(_, task)| task.process == id).map(|(&id, _)| id).collect();
        let tasks: Vec<_> = dead.iter().filter_map(|id| world.tasks.remove(id)).collect();
        let unheard = world.net.reset(id);
        let World { disks, dice, .. } = &mut *world;
        disks.iter_mut().filter(|((owner, _), _)| *owner == id).for_each(|(_, d)| d.crash(dice));
        drop(world);
        // Futures of the application: dropped without the lock, since they may use the world.
        drop((tasks, unheard));
    }

    /// Runs everything for this much virtual time.
    pub fn run_for(&self, time: Duration) {
        let end = self.elapsed() + time;
        while self.step(end) {}
        let mut world = self.lock();
        world.now = world.now.max(end);
    }

    /// Runs everything until `future`, a task of process 0, is done.
    ///
    /// # Errors
    ///
    /// [`Stuck`] if it cannot get done, or not within `limit` of virtual time.
    pub fn run_until<T: Send + 'static>(
        &self,
        limit: Duration,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Stuck> {
        let (done, mut result) = oneshot::channel();
        self.process(0).spawn(Box::pin(async move {
            // The receiver is in this function.
            let _ = done.send(future.await);
        }));
        let end = self.elapsed() + limit;
        loop {
            if let Ok(Some(value)) = result.try_recv() {
                return Ok(value);
            }
            if self.step(end) {
                continue;
            }
            let world = self.lock();
            let (seed, after) = (world.seed, world.now);
            return Err(match world.timers.is_empty() {
                true => Stuck::Deadlock { seed, after },
                false => Stuck::Limit { seed, limit },
            });
        }
    }

    /// Virtual time since the world began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.lock().now
    }

    /// A hash of everything that has happened: chunks delivered, timers, file operations, what was
    /// [`record`](Self::record)ed. Equal for equal seeds, whatever the process or the machine.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.lock().trace.hash()
    }

    /// Keeps the trace as lines of text too, from here on.
    pub fn keep_trace(&self) {
        self.lock().trace.keep();
    }

    /// The lines kept so far.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.lines()
    }

    /// Adds a line of the harness's own to the trace.
    pub fn record(&self, line: &str) {
        self.lock().trace.text(line);
    }

    /// Polls one task, or jumps to the next timer; `false` if neither is possible before `end`.
    fn step(&self, end: Duration) -> bool {
        let mut world = self.lock();
        let mut ready = lock(&self.ready.0);
        if ready.is_empty() {
            drop(ready);
            let Some((&(at, number), _)) = world.timers.first_key_value() else { return false };
            if at > end {
                return false;
            }
            let waker = world.timers.remove(&(at, number));
            world.now = world.now.max(at);
            let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
            world.trace.event("timer", &[nanos]);
            drop(world);
            waker.into_iter().for_each(Waker::wake);
            return true;
        }
        let pick = world.dice.usize(..ready.len());
        let id = ready.swap_remove(pick);
        drop(ready);
        let World { tasks, faults, .. } = &mut *world;
        let Some(task) = tasks.get_mut(&id) else { return true };
        if faults.holds_back(task.process, id) {
            return true;
        }
        let Some(mut future) = task.future.take() else { return true };
        let waker = task.waker.clone();
        drop(world);
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut world = self.lock();
        if done {
            world.tasks.remove(&id);
        } else if let Some(task) = world.tasks.get_mut(&id) {
            task.future = Some(future);
            return true;
        }
        // Done, or killed while it ran; dropped without the lock.
        drop(world);
        drop(future);
        true
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").finish_non_exhaustive()
    }
}

impl World {
    fn life(&self, process: u64) -> u64 {
        self.lives.get(&process).copied().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Wakes `waker` at `at`.
    fn wake_at(&mut self, at: Duration, waker: Waker) {
        let number = self.number();
        self.timers.insert((at, number), waker);
    }
}

/// One life of a simulated process: its tasks, its view of the clock, its sockets. After the
/// process is killed its calls have no effect any more.
#[derive(Debug)]
pub struct SimProcess {
    sim: Sim,
    id: u64,
    life: u64,
}

impl SimProcess {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// A directory of its disk.
    #[must_use]
    pub fn files(self: &Arc<Self>, directory: &str) -> Arc<SimFiles> {
        SimFiles::open(Arc::clone(self), directory)
    }

    /// Whether this life of it goes on.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.is_alive(&self.sim.lock())
    }

    fn is_alive(&self, world: &World) -> bool {
        world.life(self.id) == self.life
    }
}

impl Runtime for SimProcess {
    fn spawn(&self, task: BoxFuture<'static>) {
        let mut world = self.sim.lock();
        if !self.is_alive(&world) {
            drop(world);
            drop(task);
            return;
        }
        let id = world.number();
        let waker = Waker::from(Arc::new(TaskWaker { id, ready: Arc::clone(&self.sim.ready) }));
        world.tasks.insert(id, Task { process: self.id, future: Some(task), waker: waker.clone() });
        waker.wake();
    }

    fn now(&self) -> Instant {
        let world = self.sim.lock();
        world.epoch + world.clocks.of(self.id).local(world.now)
    }

    fn timer(&self, deadline: Instant) -> Pin<Box<dyn Timer>> {
        Box::pin(SimTimer::new(self.sim.clone(), self.id, deadline))
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static> {
        let (done, end) = oneshot::channel();
        self.spawn(Box::pin(async move {
            work();
            // Nobody may wait for the end.
            let _ = done.send(());
        }));
        Box::pin(async move {
            // Cancelled only by a kill, which drops whoever waits too.
            let _ = end.await;
        })
    }

    fn wall_clock(&self) -> SystemTime {
        let world = self.sim.lock();
        let clock = world.clocks.of(self.id);
        SystemTime::UNIX_EPOCH + clock.wall(WALL_CLOCK_AT_START + clock.local(world.now))
    }

    fn random(&self) -> u64 {
        self.sim.lock().dice.u64(..)
    }
}

#[async_trait]
impl Net for SimProcess {
    async fn dial(&self, address: &str) -> std::io::Result<BoxStream> {
        net::dial(self, address).await
    }

    async fn listen(&self, address: &str) -> std::io::Result<Box<dyn Listener>> {
        net::listen(self, address)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of others runs under these locks, so a poisoned one still holds a whole value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Half past nine in the evening of 2026-01-01 or so: a date that looks like one.
const WALL_CLOCK_AT_START: Duration = Duration::from_secs(1_767_303_000);

#[cfg(test)]
mod tests;
