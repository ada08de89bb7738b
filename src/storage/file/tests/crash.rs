//! The machine or the process ends, or a disk fails, at every single file operation of a script.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{SMALL, contents, entry, in_sim};
use crate::id::{ClusterId, GroupId, LogId};
use crate::runtime::sim::{Sim, SimFiles};
use crate::runtime::{FileId, FileOp, Files, OpenMode};
use crate::storage::file::FileLogStore;
use crate::storage::{
    Base, HardState, Identity, LogStore as _, MemoryLogStore, Recovered, StorageError, WriteBatch,
};

/// What the operation at which it happens does, and those behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// Everything fails from there on, as for a process that is killed; a write may be done by
    /// half.
    Killed,
    /// It fails, and what comes behind it works again.
    Once,
}

/// A disk on which something happens at the operation with a number.
#[derive(Debug)]
pub(super) struct Faulty {
    inner: Arc<SimFiles>,
    at: u64,
    fault: Fault,
    pub(super) done: AtomicU64,
}

impl Faulty {
    pub(super) fn new(inner: Arc<SimFiles>, at: u64, fault: Fault) -> Arc<Self> {
        Arc::new(Self { inner, at, fault, done: AtomicU64::new(0) })
    }

    /// Counts one operation; says whether it fails.
    fn fails(&self) -> bool {
        let number = self.done.fetch_add(1, Ordering::Relaxed);
        number == self.at || number > self.at && self.fault == Fault::Killed
    }

    fn check(&self) -> io::Result<()> {
        if self.fails() { Err(planted()) } else { Ok(()) }
    }

    async fn fail(&self, op: FileOp) -> io::Result<()> {
        match op {
            FileOp::Write { file, at, parts }
                if self.done.load(Ordering::Relaxed) == self.at + 1 =>
            {
                let bytes = Bytes::from(parts.concat());
                let half = bytes.slice(..bytes.len() / 2);
                self.inner.run(vec![FileOp::Write { file, at, parts: vec![half] }]).await?;
            }
            FileOp::SyncData { .. } if self.fault == Fault::Once => {
                self.inner.fail_next_sync();
                self.inner.run(vec![op]).await?;
            }
            _ => {}
        }
        Err(planted())
    }
}

fn planted() -> io::Error {
    io::Error::other("planted")
}

#[async_trait]
impl Files for Faulty {
    async fn lock(&self) -> io::Result<()> {
        self.inner.lock().await
    }

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.check()?;
        self.inner.list().await
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<FileId> {
        self.check()?;
        self.inner.open(name, mode).await
    }

    async fn run(&self, ops: Vec<FileOp>) -> io::Result<()> {
        for op in ops {
            if self.fails() {
                return self.fail(op).await;
            }
            self.inner.run(vec![op]).await?;
        }
        Ok(())
    }

    async fn read(&self, file: FileId, at: u64, len: usize) -> io::Result<Bytes> {
        self.check()?;
        self.inner.read(file, at, len).await
    }

    fn close(&self, file: FileId) {
        self.inner.close(file);
    }
}

/// Batches that do everything a log can do, several times, and what the log is before each of them
/// and after the last.
pub(super) struct Script {
    pub(super) batches: Vec<WriteBatch>,
    pub(super) states: Vec<String>,
}

fn base_at(term: u64, index: u64) -> Option<Base> {
    // Some memberships are longer than a sector.
    let len = if index.is_multiple_of(3) { 700 } else { 20 };
    let fill = u8::try_from(index % 251).unwrap();
    Some(Base { log_id: LogId { term, index }, system: vec![fill; len].into() })
}

pub(super) fn script(count: usize) -> Script {
    let mut dice = fastrand::Rng::with_seed(1);
    let (sim, model) = (Sim::new(0), MemoryLogStore::new());
    let (mut batches, mut states, mut term) = (Vec::new(), Vec::new(), 1);
    for number in 0..=count {
        let mut copy = model.clone();
        let (log, all) = in_sim(&sim, async move { contents(&mut copy).await });
        states.push(state(&log, &all));
        let batch = next_batch(number, &mut dice, &mut term, &log);
        let (mut copy, same) = (model.clone(), batch.clone());
        in_sim(&sim, async move { copy.write(same).await.unwrap() });
        batches.push(batch);
    }
    batches.truncate(count);
    Script { batches, states }
}

fn next_batch(
    number: usize,
    dice: &mut fastrand::Rng,
    term: &mut u64,
    log: &Recovered,
) -> WriteBatch {
    let (first, last) = (log.base.log_id.index + 1, log.last.index);
    let term_of = |index| log.terms[log.terms.partition_point(|run| run.index <= index) - 1].term;
    let mut batch = WriteBatch { sync: true, ..WriteBatch::default() };
    let append = |from: u64, term: u64, dice: &mut fastrand::Rng| {
        let count = dice.u64(1..5);
        (from..from + count).map(|index| entry(term, index, dice.usize(..400))).collect()
    };
    match number % 20 {
        0 if number.is_multiple_of(60) => {
            let (cluster, node) = (ClusterId::from_random(1, number as u64), 7.into());
            batch.identity = Some(Identity { cluster, node, group: GroupId(3) });
        }
        4 | 12 | 16 if last >= first => {
            let to = dice.u64(first..=last);
            batch.compact_to = base_at(term_of(to), to);
        }
        // Replaces a part of what is there.
        6 | 11 if last >= first => {
            *term += 1;
            batch.entries = append(dice.u64(first..=last), *term, dice);
        }
        // Longer than a segment.
        8 => batch.entries = vec![entry(*term, last + 1, 5_000)],
        // A snapshot behind the end of the log, or one that does not agree with it.
        14 => {
            *term += 1;
            let to = if dice.bool() { last + 5 } else { (last - 1).max(first) };
            batch.reset_to = base_at(*term, to);
            if dice.bool() {
                batch.entries = append(to + 1, *term, dice);
            }
        }
        _ => batch.entries = append(last + 1, *term, dice),
    }
    let state = HardState::new(*term, Some(3.into()), last);
    // Seldom: what a segment does not restate is to be missed at the end.
    batch.hard_state = (number % 20 < 3).then_some(state);
    batch
}

fn state(found: &Recovered, all: &[crate::storage::Entry]) -> String {
    format!("{:?}", (Recovered { dropped_bytes: 0, ..found.clone() }, all))
}

/// What is in the log.
pub(super) async fn look(files: Arc<dyn Files>) -> Result<String, StorageError> {
    let mut store = FileLogStore::open(files, SMALL).await?;
    let (found, all) = contents(&mut store).await;
    Ok(state(&found, &all))
}

/// Writes the script from `next` on until something fails.
pub(super) async fn play(files: Arc<dyn Files>, batches: &[WriteBatch], next: &AtomicUsize) {
    let Ok(mut store) = FileLogStore::open(files, SMALL).await else { return };
    for batch in &batches[next.load(Ordering::Relaxed)..] {
        if store.write(batch.clone()).await.is_err() {
            let again = store.write(batch.clone()).await;
            assert!(matches!(again, Err(StorageError::Poisoned)), "{again:?}");
            return;
        }
        next.fetch_add(1, Ordering::Relaxed);
    }
}

struct World {
    sim: Sim,
    script: Arc<Script>,
    /// How many batches were acknowledged.
    next: Arc<AtomicUsize>,
}

impl World {
    fn new(seed: u64, script: &Arc<Script>) -> Self {
        Self { sim: Sim::new(seed), script: Arc::clone(script), next: Arc::default() }
    }

    /// Plays until the fault; says whether it came to that.
    fn play(&self, at: u64, fault: Fault) -> bool {
        let files = Faulty::new(self.sim.process(1).files("log"), at, fault);
        let (script, next, kept) =
            (Arc::clone(&self.script), Arc::clone(&self.next), Arc::clone(&files));
        in_sim(&self.sim, async move { play(kept, &script.batches, &next).await });
        files.done.load(Ordering::Relaxed) > at
    }

    fn look(&self) -> String {
        let files = self.sim.process(1).files("log");
        in_sim(&self.sim, async move { look(files).await.unwrap() })
    }

    /// What is found is what was acknowledged, or that and the batch that was under way, and stays
    /// found; then the script goes on to its end.
    fn judge(&self, place: &str) {
        let found = self.look();
        let acked = self.next.load(Ordering::Relaxed);
        let states = &self.script.states;
        if found != states[acked] {
            assert_eq!(Some(&found), states.get(acked + 1), "{place}: {acked} acknowledged");
            self.next.fetch_add(1, Ordering::Relaxed);
        }
        self.sim.kill(1);
        assert_eq!(self.look(), found, "{place}: found once is found again");
        assert!(!self.play(u64::MAX, Fault::Once));
        self.sim.kill(1);
        assert_eq!(&self.look(), states.last().unwrap(), "{place}: at the end");
    }
}

#[test]
fn the_power_may_go_at_every_operation() {
    let script = Arc::new(script(100));
    for seed in 0..2 {
        for at in 0.. {
            let world = World::new(seed * 1000 + at, &script);
            let hit = world.play(at, Fault::Killed);
            world.sim.kill(1);
            // And once more while the log is opened again.
            world.play(at % 23, Fault::Killed);
            world.sim.kill(1);
            world.judge(&format!("seed {seed}, operation {at}"));
            if !hit {
                assert!(at > 300, "{at} operations");
                break;
            }
        }
    }
}

#[test]
fn the_process_may_end_at_every_operation_and_then_the_power_goes() {
    let script = Arc::new(script(100));
    for at in 0.. {
        let world = World::new(at, &script);
        let hit = world.play(at, Fault::Killed);
        world.judge(&format!("operation {at}"));
        if !hit {
            break;
        }
    }
}

#[test]
fn every_operation_may_fail_and_nothing_is_acknowledged_behind_it() {
    let script = Arc::new(script(100));
    for at in 0.. {
        let world = World::new(at, &script);
        let hit = world.play(at, Fault::Once);
        world.judge(&format!("operation {at}"));
        if !hit {
            break;
        }
    }
}
