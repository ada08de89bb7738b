//! Clocks of simulated processes: each may run fast or slow, and its wall clock may jump. A process
//! sees its own only.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Sim;
use crate::runtime::Timer;

#[derive(Default)]
pub(super) struct Clocks(BTreeMap<u64, Clock>);

/// Local time as a function of the world's.
#[derive(Clone, Copy, Default)]
pub(super) struct Clock {
    /// Since when it runs at its present rate, in the world's time and in its own.
    since: (Duration, Duration),
    drift_ppm: i32,
    /// How far the wall clock is off, in milliseconds.
    wall_off_ms: i64,
}

impl Clocks {
    pub(super) fn of(&self, process: u64) -> Clock {
        self.0.get(&process).copied().unwrap_or_default()
    }

    fn change(&mut self, process: u64, now: Duration, change: impl FnOnce(&mut Clock)) {
        let clock = self.0.entry(process).or_default();
        clock.since = (now, clock.local(now));
        change(clock);
    }
}

impl Clock {
    pub(super) fn local(&self, world: Duration) -> Duration {
        let passed = world.saturating_sub(self.since.0);
        self.since.1 + scaled(passed, 1_000_000 + i64::from(self.drift_ppm), 1_000_000)
    }

    /// The first moment of the world at which this clock shows `local`.
    fn world(&self, local: Duration) -> Duration {
        let ahead = local.saturating_sub(self.since.1);
        let rate = 1_000_000 + i64::from(self.drift_ppm);
        let mut at = self.since.0 + scaled(ahead, 1_000_000, rate);
        // Rounding must not make a timer early.
        while self.local(at) < local {
            at += Duration::from_nanos(1);
        }
        at
    }

    pub(super) fn wall(&self, right: Duration) -> Duration {
        let off = Duration::from_millis(self.wall_off_ms.unsigned_abs());
        if self.wall_off_ms < 0 { right.saturating_sub(off) } else { right + off }
    }
}

fn scaled(time: Duration, by: i64, of: i64) -> Duration {
    if by == of {
        return time;
    }
    let nanos = time.as_nanos() * u128::from(by.unsigned_abs()) / u128::from(of.unsigned_abs());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Sim {
    /// Makes a process's clock run fast (or slow, if negative) by this many millionths from here
    /// on, its timers too. It never goes back.
    ///
    /// # Panics
    ///
    /// Panics below minus nine hundred thousand: a clock does not stand still.
    pub fn set_drift(&self, process: u64, ppm: i32) {
        assert!(ppm >= -900_000, "a clock does not stand still");
        let mut world = self.lock();
        let now = world.now;
        world.trace.event("drift", &[process, u64::from(ppm.unsigned_abs())]);
        world.clocks.change(process, now, |clock| clock.drift_ppm = ppm);
    }

    /// Sets a process's wall clock this many milliseconds ahead (or back, if negative) of the
    /// right time. Timers do not notice.
    pub fn set_wall_clock(&self, process: u64, ahead_ms: i64) {
        let mut world = self.lock();
        let now = world.now;
        world.trace.event("wall", &[process, ahead_ms.unsigned_abs()]);
        world.clocks.change(process, now, |clock| clock.wall_off_ms = ahead_ms);
    }
}

/// A timer by the clock of its process.
pub(super) struct SimTimer {
    sim: Sim,
    process: u64,
    number: u64,
    /// In the time of its process, from the world's epoch.
    deadline: Duration,
    /// Where it stands among the world's timers.
    waits_at: Option<Duration>,
}

impl SimTimer {
    pub(super) fn new(sim: Sim, process: u64, deadline: Instant) -> Self {
        let mut world = sim.lock();
        let number = world.number();
        let deadline = deadline.saturating_duration_since(world.epoch);
        drop(world);
        Self { sim, process, number, deadline, waits_at: None }
    }
}

impl Timer for SimTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        let this = &mut *self;
        let mut world = this.sim.lock();
        this.deadline = deadline.saturating_duration_since(world.epoch);
        let Some(at) = this.waits_at.take() else { return };
        // Whoever waits for the old deadline waits for the new one now.
        if let Some(waker) = world.timers.remove(&(at, this.number)) {
            let at = world.clocks.of(this.process).world(this.deadline);
            world.timers.insert((at, this.number), waker);
            this.waits_at = Some(at);
        }
    }
}

impl Future for SimTimer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut world = this.sim.lock();
        let clock = world.clocks.of(this.process);
        let old = this.waits_at.take().and_then(|at| world.timers.remove(&(at, this.number)));
        if clock.local(world.now) >= this.deadline {
            drop(world);
            drop(old);
            return Poll::Ready(());
        }
        let at = clock.world(this.deadline);
        world.timers.insert((at, this.number), cx.waker().clone());
        this.waits_at = Some(at);
        drop(world);
        drop(old);
        Poll::Pending
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        let Some(at) = self.waits_at else { return };
        let waker = self.sim.lock().timers.remove(&(at, self.number));
        drop(waker);
    }
}
