//! Packets that come late, in another order, or not at all: they wait here in between.
//!
//! The kernel's own way (`netem`) is not in every kernel; the packet queue nearly always is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::wall;

#[derive(Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) base: Duration,
    pub(crate) jitter: Duration,
    pub(crate) loss_percent: u64,
}

/// Delays what is queued, until it is dropped.
pub(crate) struct Delayer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<u64>>>,
}

impl Delayer {
    pub(crate) fn start(seed: u64, weather: Weather) -> Result<Self, String> {
        let failed = |error: io::Error| format!("the packet queue: {error}");
        let mut queue = nfq::Queue::open().map_err(failed)?;
        queue.bind(QUEUE).map_err(failed)?;
        queue.set_queue_max_len(QUEUE, PACKETS_MAX).map_err(failed)?;
        queue.set_nonblocking(true);
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = wall::spawn(move || delay(&mut queue, seed, weather, &seen));
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Lets everything go that waits; how many packets there were.
    pub(crate) fn finish(mut self) -> Result<u64, String> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is taken here alone");
        let done = thread.join().map_err(|_| "the packet queue's thread panicked")?;
        done.map_err(|error| format!("the packet queue: {error}"))
    }
}

impl Drop for Delayer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A packet that waits. Ordered by when it is due, then by when it came.
struct Waiting {
    due: Instant,
    number: u64,
    packet: nfq::Message,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Waiting {}

fn delay(
    queue: &mut nfq::Queue,
    seed: u64,
    weather: Weather,
    stop: &AtomicBool,
) -> io::Result<u64> {
    let mut dice = Rng::with_seed(seed);
    let mut waiting = BinaryHeap::new();
    let mut number = 0;
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        while let Some(packet) = received(queue)? {
            number += 1;
            if dice.u64(..100) < weather.loss_percent {
                decide(queue, packet, nfq::Verdict::Drop)?;
                continue;
            }
            let late = weather.base + weather.jitter.mul_f64(dice.f64());
            waiting.push(Reverse(Waiting { due: wall::now() + late, number, packet }));
        }
        let now = wall::now();
        while waiting.peek().is_some_and(|Reverse(next)| stopping || next.due <= now) {
            let Some(Reverse(next)) = waiting.pop() else { break };
            decide(queue, next.packet, nfq::Verdict::Accept)?;
        }
        if stopping {
            return Ok(number);
        }
        wall::pause(1);
    }
}

fn decide(
    queue: &mut nfq::Queue,
    mut packet: nfq::Message,
    verdict: nfq::Verdict,
) -> io::Result<()> {
    packet.set_verdict(verdict);
    match queue.verdict(packet) {
        // The kernel drops what waits when the rule goes that sent it here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn received(queue: &mut nfq::Queue) -> io::Result<Option<nfq::Message>> {
    match queue.recv() {
        Ok(packet) => Ok(Some(packet)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        // The word that a packet was gone already when it was decided on.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // More came than it holds: the kernel dropped some, which is what this is for.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub(crate) const QUEUE: u16 = 0;
const PACKETS_MAX: u32 = 4096;
