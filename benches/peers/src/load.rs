//! Clients in a closed loop: each proposes, awaits the answer, and proposes again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cpu_time::ProcessTime;

/// How much load, for how long.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

impl Load {
    /// A command in memory of its own, as an application's commands are.
    pub(crate) fn command(self) -> Bytes {
        Bytes::from(vec![7; self.bytes])
    }
}

/// What one run has measured.
pub(crate) struct Run {
    pub(crate) rate: f64,
    /// Processor time of the whole process per command, clients included.
    pub(crate) cpu_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Tells clients to stop.
pub(crate) type Stop = Arc<AtomicBool>;

/// How long each command of one client took, in nanoseconds; `None` if one was refused.
pub(crate) type Latencies = Option<Vec<u32>>;

/// Starts the clients with `spawn`, waits, stops them; a quarter of the time first, to warm up.
/// `None` if a command was refused or not answered: whoever led was lost, and nothing can be said.
pub(crate) async fn measure<J: Future<Output = Latencies>>(
    load: Load,
    spawn: impl Fn(Stop) -> J,
) -> Option<Run> {
    run(load.clients, load.time / 4, &spawn).await?;
    run(load.clients, load.time, &spawn).await
}

async fn run<J: Future<Output = Latencies>>(
    clients: usize,
    time: Duration,
    spawn: impl Fn(Stop) -> J,
) -> Option<Run> {
    let stop = Stop::default();
    let watch = Watch::start();
    let tasks: Vec<J> = (0..clients).map(|_| spawn(Arc::clone(&stop))).collect();
    smol::Timer::after(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        let given_up = async {
            smol::Timer::after(PATIENCE).await;
            None
        };
        latencies.extend(smol::future::or(task, given_up).await?);
    }
    Some(watch.stop(latencies.len(), latencies))
}

/// One client.
pub(crate) async fn client<F, T, E>(stop: Stop, propose: impl Fn() -> F) -> Latencies
where
    F: Future<Output = Result<T, E>>,
{
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = now();
        propose().await.ok()?;
        latencies.push(u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX));
    }
    Some(latencies)
}

/// Wall clock and processor time, from one moment.
pub(crate) struct Watch {
    wall: Instant,
    cpu: ProcessTime,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { wall: now(), cpu: ProcessTime::now() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.wall.elapsed()
    }

    pub(crate) fn stop(self, commands: usize, mut latencies: Vec<u32>) -> Run {
        let (wall, cpu) = (self.wall.elapsed(), self.cpu.elapsed());
        latencies.sort_unstable();
        let percentile = |percent: usize| {
            let at = latencies.len().saturating_sub(1) * percent / 100;
            latencies.get(at).map_or(f64::NAN, |&nanoseconds| f64::from(nanoseconds) / 1e3)
        };
        Run {
            rate: commands as f64 / wall.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / commands as f64,
            p50_us: percentile(50),
            p99_us: percentile(99),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
fn now() -> Instant {
    Instant::now()
}

/// How long the last answers of a run are awaited.
const PATIENCE: Duration = Duration::from_secs(20);
