//! What a harness does to a world: pauses, cuts, slow and lying links, crashes in the middle of a
//! file operation.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::task::Waker;
use std::time::Duration;

use super::Sim;

#[derive(Default)]
pub(super) struct Faults {
    /// Processes that stand still, with their tasks that could go on.
    paused: BTreeMap<u64, BTreeSet<u64>>,
    /// After how many file operations a process dies.
    dies_in: BTreeMap<u64, u64>,
}

impl Faults {
    /// Whether `task` must wait because its process stands still.
    pub(super) fn holds_back(&mut self, process: u64, task: u64) -> bool {
        let Some(held) = self.paused.get_mut(&process) else { return false };
        held.insert(task);
        true
    }

    /// A killed process stands still no more.
    pub(super) fn forget(&mut self, process: u64) {
        self.paused.remove(&process);
        self.dies_in.remove(&process);
    }

    /// Counts a file operation; whether the process dies at it.
    pub(super) fn dies_now(&mut self, process: u64) -> bool {
        let Some(left) = self.dies_in.get_mut(&process) else { return false };
        *left = left.saturating_sub(1);
        *left == 0
    }
}

/// What goes wrong on the way from one process to another. Connections stay as reliable as TCP
/// makes them: what is lost on the wire is late, so loss is a matter of latency here.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "harnesses build it by literal")]
pub struct Link {
    /// How long a chunk is under way, drawn for each anew; one never overtakes another. Default
    /// 200 µs to 1 ms.
    pub latency: Range<Duration>,
    /// How likely one bit of a chunk is flipped, in millionths. Default 0.
    pub flips_ppm: u32,
    /// How likely the connection is reset at a chunk, in millionths. Default 0.
    pub resets_ppm: u32,
}

impl Default for Link {
    fn default() -> Self {
        let latency = Duration::from_micros(200)..Duration::from_millis(1);
        Self { latency, flips_ppm: 0, resets_ppm: 0 }
    }
}

impl Sim {
    /// Stops all traffic between two processes: what is under way is held back, and nobody
    /// connects.
    pub fn partition(&self, a: u64, b: u64) {
        let mut world = self.lock();
        world.net.cut(a, b);
        world.net.cut(b, a);
    }

    /// Stops the traffic in one direction only. Connecting needs both.
    pub fn cut(&self, from: u64, to: u64) {
        self.lock().net.cut(from, to);
    }

    /// Lets the traffic in one direction flow again.
    pub fn mend(&self, from: u64, to: u64) {
        let wakers = self.lock().net.mend(|cut| cut == (from, to));
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Lets all traffic flow again.
    pub fn heal(&self) {
        let wakers = self.lock().net.mend(|_| true);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Sets what goes wrong on the way from one process to another, from here on.
    pub fn set_link(&self, from: u64, to: u64, link: Link) {
        self.lock().net.set_link(from, to, link);
    }

    /// Stops a process where it is, while time goes on: its tasks and timers wait, what is sent to
    /// it piles up.
    pub fn pause(&self, process: u64) {
        let mut world = self.lock();
        world.trace.event("pause", &[process]);
        world.faults.paused.entry(process).or_default();
    }

    /// Lets a process that was paused go on.
    pub fn resume(&self, process: u64) {
        let mut world = self.lock();
        world.trace.event("resume", &[process]);
        let held = world.faults.paused.remove(&process).unwrap_or_default();
        let wakers: Vec<Waker> =
            held.iter().filter_map(|id| world.tasks.get(id)).map(|t| t.waker.clone()).collect();
        drop(world);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Kills a process at its `count`th file operation from here on; whether that one is still
    /// done, chance decides.
    pub fn kill_at_file_operation(&self, process: u64, count: u64) {
        self.lock().faults.dies_in.insert(process, count.max(1));
    }

    /// Takes back what was to fail or kill at a later operation of some disk.
    pub fn disarm(&self) {
        let mut world = self.lock();
        world.faults.dies_in.clear();
        world.disks.values_mut().for_each(super::disk::Disk::disarm);
    }

    /// How many tasks a process has.
    #[must_use]
    pub fn tasks(&self, process: u64) -> usize {
        self.lock().tasks.values().filter(|task| task.process == process).count()
    }
}
