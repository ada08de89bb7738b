//! Simulated disks: what was not synced may be lost, kept or torn, sector by sector; names that
//! were not synced too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;

use super::SimProcess;
use crate::runtime::{FileId, FileOp, Files, OpenMode, Runtime as _};

#[derive(Default)]
pub(super) struct Disk {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) names: BTreeMap<String, u64>,
    /// The names as of the last sync of the directory, and what was done since.
    pub(super) durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    open: BTreeMap<u64, (u64, bool)>,
    count: u64,
    locked: bool,
    /// Ends when the last [`Files::run`] that was asked for is done.
    last_run: Option<oneshot::Receiver<()>>,
    fail_next_sync: bool,
    fail_next_read: bool,
    /// How many times slower than usual it is.
    slowness: u32,
    stuck: bool,
    bytes_max: Option<u64>,
}

#[derive(Default)]
pub(super) struct Node {
    pub(super) data: Vec<u8>,
    pub(super) durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// The shortest it has been since the last sync, if its length changed: what was cut off reads
    /// as zeros when it grows again.
    shortest: Option<usize>,
}

#[derive(Clone)]
enum NameChange {
    Remove(String),
    Rename { from: String, to: String, node: u64 },
    Set(String, u64),
}

impl Disk {
    /// The power goes. Names fall back to some moment since the last sync, as on a disk with a
    /// journal, or any of their changes is lost, as without one; each sector that was not synced is
    /// lost, kept, or torn.
    pub(super) fn crash(&mut self, dice: &mut fastrand::Rng) {
        let journal = dice.bool();
        let kept = dice.usize(..=self.name_changes.len());
        let mut names = std::mem::take(&mut self.durable_names);
        for (at, change) in self.name_changes.drain(..).enumerate() {
            if if journal { at < kept } else { dice.bool() } {
                change.apply(&mut names);
            }
        }
        self.durable_names = names.clone();
        self.names = names;
        self.nodes.values_mut().for_each(|node| node.crash(dice));
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.nodes.retain(|id, _| named.contains(id));
        self.open.clear();
        self.locked = false;
        self.disarm();
    }

    /// What was to fail does not.
    pub(super) fn disarm(&mut self) {
        self.fail_next_sync = false;
        self.fail_next_read = false;
    }

    fn change_name(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.name_changes.push(change);
    }

    fn node(&mut self, file: FileId, writing: bool) -> io::Result<&mut Node> {
        let (node, writable) = *self.open.get(&file.0).ok_or(io::ErrorKind::InvalidInput)?;
        if writing && !writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.nodes.get_mut(&node).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        self.nodes.values().map(|node| node.data.len() as u64).sum()
    }

    fn run(&mut self, op: FileOp) -> io::Result<()> {
        match op {
            FileOp::Remove { name } => {
                self.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
                self.change_name(NameChange::Remove(name));
            }
            FileOp::Rename { from, to } => {
                let node = *self.names.get(&from).ok_or(io::ErrorKind::NotFound)?;
                self.change_name(NameChange::Rename { from, to, node });
            }
            FileOp::SetLen { file, len } => {
                if self.room(file, 0, len)? < len {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let len = usize::try_from(len).map_err(io::Error::other)?;
                self.node(file, true)?.set_len(len);
            }
            FileOp::SyncData { file } => {
                let fails = std::mem::take(&mut self.fail_next_sync);
                let node = self.node(file, false)?;
                if fails {
                    // As the kernel does: what could not be written counts as written, and stays
                    // readable until the power goes. A second sync would find nothing to do.
                    node.dirty.clear();
                    return Err(io::Error::other("planted failure of a sync"));
                }
                node.sync();
            }
            FileOp::SyncDir => {
                self.name_changes.clear();
                self.durable_names.clone_from(&self.names);
            }
            FileOp::Write { file, at, parts } => {
                let bytes = parts.concat();
                let room = self.room(file, at, bytes.len() as u64)?;
                let fits = usize::try_from(room).map_err(io::Error::other)?;
                let at = usize::try_from(at).map_err(io::Error::other)?;
                self.node(file, true)?.write(at, &bytes[..fits]);
                if fits < bytes.len() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
        }
        Ok(())
    }

    /// How many of `len` bytes at `at` the disk still takes.
    fn room(&mut self, file: FileId, at: u64, len: u64) -> io::Result<u64> {
        let Some(max) = self.bytes_max else { return Ok(len) };
        let free = max.saturating_sub(self.used());
        let end = self.node(file, true)?.data.len() as u64 + free;
        Ok(len.min(end.saturating_sub(at)))
    }
}

impl Node {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        if self.data.len() < end {
            self.set_len(end);
        }
        self.data[at..end].copy_from_slice(bytes);
        self.dirty.extend(at / SECTOR..=(end - 1) / SECTOR);
    }

    fn set_len(&mut self, len: usize) {
        self.shortest = Some(self.shortest.unwrap_or(self.data.len()).min(len));
        self.data.resize(len, 0);
    }

    fn sync(&mut self) {
        if let Some(shortest) = self.shortest.take() {
            self.durable.truncate(shortest);
            self.durable.resize(self.data.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.data.len());
            if range.start < range.end {
                self.durable[range.clone()].copy_from_slice(&self.data[range]);
            }
        }
    }

    fn crash(&mut self, dice: &mut fastrand::Rng) {
        let mut after = std::mem::take(&mut self.durable);
        if let Some(shortest) = self.shortest.take()
            && dice.bool()
        {
            after.truncate(shortest);
            after.resize(self.data.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let end = ((sector + 1) * SECTOR).min(self.data.len()).min(after.len());
            let start = sector * SECTOR;
            if start >= end {
                continue;
            }
            let written = match dice.u8(..3) {
                0 => 0,
                1 => end - start,
                _ => dice.usize(..=end - start),
            };
            after[start..start + written].copy_from_slice(&self.data[start..start + written]);
        }
        self.durable.clone_from(&after);
        self.data = after;
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Remove(name) => drop(names.remove(&name)),
            Self::Rename { from, to, node } => {
                names.remove(&from);
                names.insert(to, node);
            }
            Self::Set(name, node) => drop(names.insert(name, node)),
        }
    }
}

/// One directory of a simulated process's disk. Opened again, also in a later life, it is the same
/// directory.
pub struct SimFiles {
    directory: Directory,
    held: Mutex<Option<Arc<Held>>>,
}

/// A lock that is held; runs under way keep it too, as they can still change files.
struct Held(Directory);

impl Drop for Held {
    fn drop(&mut self) {
        // After a kill the lock is gone with the process.
        let _ = self.0.with(|disk| {
            disk.locked = false;
            Ok(())
        });
    }
}

impl SimFiles {
    pub(super) fn open(process: Arc<SimProcess>, directory: &str) -> Arc<Self> {
        let directory = Directory { process, name: directory.to_owned() };
        let key = (directory.process.id, directory.name.clone());
        directory.process.sim.lock().disks.entry(key).or_default();
        Arc::new(Self { directory, held: Mutex::default() })
    }

    /// Makes the next sync fail.
    pub fn fail_next_sync(&self) {
        // A dead process's disk is not reached any more; then there is nothing to fail.
        let _ = self.with(|disk| {
            disk.fail_next_sync = true;
            Ok(())
        });
    }

    /// Makes the next read of a file fail.
    pub fn fail_next_read(&self) {
        let _ = self.with(|disk| {
            disk.fail_next_read = true;
            Ok(())
        });
    }

    /// Makes every operation take this many times as long as usual; 1 is usual.
    pub fn set_slowness(&self, times: u32) {
        let _ = self.with(|disk| {
            disk.slowness = times;
            Ok(())
        });
    }

    /// Lets no operation come to an end as long as it is set.
    pub fn set_stuck(&self, stuck: bool) {
        let _ = self.with(|disk| {
            disk.stuck = stuck;
            Ok(())
        });
    }

    /// Makes the disk full at this many bytes; `None` for never.
    pub fn set_bytes_max(&self, bytes_max: Option<u64>) {
        let _ = self.with(|disk| {
            disk.bytes_max = bytes_max;
            Ok(())
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        self.directory.with(act)
    }

    /// The disk of a process that is dead can be reached too, as its damage happens at rest.
    pub(super) fn at_rest<T>(&self, act: impl FnOnce(&mut Disk, &mut fastrand::Rng) -> T) -> T {
        let mut world = self.directory.process.sim.lock();
        let key = (self.directory.process.id, self.directory.name.clone());
        let super::World { disks, dice, .. } = &mut *world;
        act(disks.entry(key).or_default(), dice)
    }
}

/// Where the operations happen; a run keeps it while nobody waits for it any more.
#[derive(Clone)]
struct Directory {
    process: Arc<SimProcess>,
    name: String,
}

impl Directory {
    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.process.sim.lock();
        if !self.process.is_alive(&world) {
            return Err(killed());
        }
        let key = (self.process.id, self.name.clone());
        act(world.disks.entry(key).or_default())
    }

    async fn pause(&self, nanos: std::ops::Range<u64>) {
        let nanos = {
            let mut world = self.process.sim.lock();
            let key = (self.process.id, self.name.clone());
            let slowness = world.disks.get(&key).map_or(1, |disk| u64::from(disk.slowness.max(1)));
            world.dice.u64(nanos) * slowness
        };
        self.process.timer(self.process.now() + Duration::from_nanos(nanos)).await;
        while self.with(|disk| Ok(disk.stuck)).unwrap_or(false) {
            self.process.timer(self.process.now() + STUCK_LOOK).await;
        }
    }

    fn trace(&self, kind: &str, numbers: &[u64]) {
        let mut world = self.process.sim.lock();
        let mut all = vec![self.process.id];
        all.extend(numbers);
        world.trace.event(kind, &all);
    }

    async fn run(&self, ops: Vec<FileOp>) -> io::Result<()> {
        for op in ops {
            let sync = matches!(op, FileOp::SyncData { .. } | FileOp::SyncDir);
            self.pause(if sync { SYNC_NANOS } else { WRITE_NANOS }).await;
            self.trace("file", &op_numbers(&op));
            let (dies, done) = {
                let mut world = self.process.sim.lock();
                (world.faults.dies_now(self.process.id), world.dice.bool())
            };
            if !dies || done {
                self.with(|disk| disk.run(op))?;
            }
            if dies {
                self.process.sim.kill(self.process.id);
                return Err(killed());
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SimFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFiles({}/{})", self.directory.process.id, self.directory.name)
    }
}

#[async_trait]
impl Files for SimFiles {
    async fn lock(&self) -> io::Result<()> {
        self.with(|disk| {
            if std::mem::replace(&mut disk.locked, true) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        })?;
        *super::lock(&self.held) = Some(Arc::new(Held(self.directory.clone())));
        Ok(())
    }

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.with(|disk| {
            let len = |node| disk.nodes.get(node).map_or(0, |node| node.data.len() as u64);
            Ok(disk.names.iter().map(|(name, node)| (name.clone(), len(node))).collect())
        })
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<FileId> {
        self.directory.pause(WRITE_NANOS).await;
        self.directory.trace("open", &[super::trace::Trace::digest(name.as_bytes())]);
        self.with(|disk| {
            let node = match (disk.names.get(name).copied(), mode) {
                (Some(node), _) => node,
                (None, OpenMode::Create) => {
                    disk.count += 1;
                    let node = disk.count;
                    disk.nodes.insert(node, Node::default());
                    disk.change_name(NameChange::Set(name.to_owned(), node));
                    node
                }
                (None, _) => return Err(io::ErrorKind::NotFound.into()),
            };
            if mode == OpenMode::Create
                && let Some(node) = disk.nodes.get_mut(&node)
            {
                node.set_len(0);
                node.dirty.clear();
            }
            disk.count += 1;
            disk.open.insert(disk.count, (node, mode != OpenMode::Read));
            Ok(FileId(disk.count))
        })
    }

    /// In a task of its own, after the run that was asked for before: a caller that lets go undoes
    /// nothing.
    async fn run(&self, ops: Vec<FileOp>) -> io::Result<()> {
        let (ended, end) = oneshot::channel::<()>();
        let before = self.with(|disk| Ok(disk.last_run.replace(end)))?;
        let (done, result) = oneshot::channel();
        let (directory, held) = (self.directory.clone(), super::lock(&self.held).clone());
        self.directory.process.spawn(Box::pin(async move {
            if let Some(before) = before {
                // It ends by being dropped.
                let _ = before.await;
            }
            // The caller may have let go.
            let _ = done.send(directory.run(ops).await);
            drop((ended, held));
        }));
        // A kill drops the task.
        result.await.unwrap_or_else(|_| Err(killed()))
    }

    async fn read(&self, file: FileId, at: u64, len: usize) -> io::Result<Bytes> {
        self.directory.pause(WRITE_NANOS).await;
        self.with(|disk| {
            if std::mem::take(&mut disk.fail_next_read) {
                return Err(io::Error::other("planted failure of a read"));
            }
            let data = &disk.node(file, false)?.data;
            let start = usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
            let end = start.saturating_add(len).min(data.len());
            Ok(Bytes::copy_from_slice(&data[start..end]))
        })
    }

    fn close(&self, file: FileId) {
        // Closing what a kill has closed already is fine.
        let _ = self.with(|disk| Ok(disk.open.remove(&file.0)));
    }
}

fn killed() -> io::Error {
    io::Error::other("the process was killed")
}

fn op_numbers(op: &FileOp) -> [u64; 3] {
    match op {
        FileOp::Remove { name } => [0, name.len() as u64, 0],
        FileOp::Rename { from, to } => [1, from.len() as u64, to.len() as u64],
        FileOp::SetLen { file, len } => [2, file.0, *len],
        FileOp::SyncData { file } => [3, file.0, 0],
        FileOp::SyncDir => [4, 0, 0],
        FileOp::Write { at, parts, .. } => {
            let digest = parts.iter().fold(0, |d, part| d ^ super::trace::Trace::digest(part));
            [5, *at, digest]
        }
    }
}

pub(super) const SECTOR: usize = 512;
/// How often a stuck operation looks whether it may go on.
const STUCK_LOOK: Duration = Duration::from_millis(10);
const WRITE_NANOS: std::ops::Range<u64> = 2_000..20_000;
const SYNC_NANOS: std::ops::Range<u64> = 100_000..2_000_000;
