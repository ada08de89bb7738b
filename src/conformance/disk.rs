//! A disk in memory that promises exactly what [`Files`] promises, and can be asked for everything
//! else that could have happened: a crash at any step, a failing step, a flipped bit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;

use super::lock;
use crate::runtime::{FileId, FileOp, Files, OpenMode};

/// A disk with one directory. A clone is the same disk.
///
/// It keeps a film of every step since it was last [`insert`](Self::insert)ed, of which the kits
/// make every crash.
#[derive(Clone, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

/// What is on a disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Image {
    /// Shared until written: a crash differs from the last one in a few files.
    nodes: BTreeMap<u64, Arc<Vec<u8>>>,
    names: BTreeMap<String, u64>,
}

#[derive(Default)]
struct State {
    /// How the film begins: all of it durable.
    first: Image,
    film: Vec<Step>,
    now: Image,
    open: BTreeMap<u64, (u64, bool)>,
    count: u64,
    /// Who has the directory, by the number of its `Files`.
    locked: Option<u64>,
    /// Openings from before the disk was last inserted are dead.
    life: u64,
    fail_at: Option<usize>,
    holding: bool,
    waiting: VecDeque<(VecDeque<FileOp>, oneshot::Sender<io::Result<()>>)>,
}

/// Something that happened to the disk.
#[derive(Clone, Debug)]
enum Step {
    Create {
        name: String,
        node: u64,
    },
    Empty {
        node: u64,
    },
    Remove {
        name: String,
    },
    Rename {
        from: String,
        to: String,
    },
    SetLen {
        node: u64,
        len: usize,
    },
    Sync {
        node: u64,
    },
    /// A sync that failed, and whose bytes the system has let go of.
    SyncFailed {
        node: u64,
    },
    SyncNames,
    Write {
        node: u64,
        at: usize,
        bytes: Bytes,
    },
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Survival {
    All,
    /// Each sector is lost, kept or torn, and the newest names are lost, as chance decides.
    Chance(u64),
    Nothing,
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as a store sees it, with a lock of its own: each opening of a store takes a new
    /// one.
    #[must_use]
    pub fn files(&self) -> Arc<dyn Files> {
        let mut state = self.lock();
        state.count += 1;
        let (number, life) = (state.count, state.life);
        drop(state);
        Arc::new(DiskFiles { disk: self.clone(), number, life })
    }

    /// The power goes and comes back: of what was not synced, chance (`seed`) decides.
    pub fn crash(&self, seed: u64) {
        let (first, film) = self.film();
        let mut projector = Projector::new(first);
        film.iter().for_each(|step| projector.show(step));
        self.insert(projector.crash(Survival::Chance(seed)));
    }

    /// Puts in what another disk held; whoever had opened this one is cut off.
    pub(super) fn insert(&self, image: Image) {
        let mut state = self.lock();
        let life = state.life + 1;
        let count = state.count;
        *state = State { first: image.clone(), now: image, life, count, ..State::default() };
    }

    /// What is on it now, synced or not.
    pub(super) fn image(&self) -> Image {
        self.lock().now.clone()
    }

    /// Every crash that is possible: for each step the disks that it may leave behind, seen from
    /// the state before the step; the last is after all of them.
    pub(super) fn crashes(&self) -> Crashes {
        let (first, film) = self.film();
        Crashes { projector: Projector::new(first), film, at: 0 }
    }

    /// How many steps there were.
    pub(super) fn steps(&self) -> usize {
        self.lock().film.len()
    }

    /// Makes one step fail, counted from the beginning of the film. A sync that fails lets go of
    /// what it should have kept.
    pub(super) fn fail_at(&self, step: usize) {
        self.lock().fail_at = Some(step);
    }

    /// Whether the step that was to fail has come.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().fail_at.is_none()
    }

    /// Holds every sync back, and what was asked for behind it.
    pub(super) fn hold_syncs(&self) {
        self.lock().holding = true;
    }

    /// Does what was held back.
    pub(super) fn release_syncs(&self) {
        let mut state = self.lock();
        state.holding = false;
        let waiting = std::mem::take(&mut state.waiting);
        for (ops, answer) in waiting {
            let done = ops.into_iter().try_for_each(|op| state.run(op));
            // Whoever asked may have let go; it is done all the same.
            let _ = answer.send(done);
        }
    }

    fn film(&self) -> (Image, Vec<Step>) {
        let state = self.lock();
        (state.first.clone(), state.film.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Image {
    /// The files and how long they are.
    pub(super) fn list(&self) -> Vec<(String, usize)> {
        let len = |node| self.nodes.get(node).map_or(0, |bytes| bytes.len());
        self.names.iter().map(|(name, node)| (name.clone(), len(node))).collect()
    }

    /// How many bytes are in files that have a name.
    pub(super) fn used(&self) -> usize {
        self.list().iter().map(|(_, len)| len).sum()
    }

    pub(super) fn flip(&mut self, name: &str, at: usize, bits: u8) {
        if let Some(byte) = self.file(name).and_then(|bytes| bytes.get_mut(at)) {
            *byte ^= bits;
        }
    }

    pub(super) fn cut(&mut self, name: &str, len: usize) {
        if let Some(bytes) = self.file(name) {
            bytes.truncate(len);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.names.remove(name);
    }

    fn file(&mut self, name: &str) -> Option<&mut Vec<u8>> {
        let node = self.names.get(name)?;
        self.nodes.get_mut(node).map(Arc::make_mut)
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Create { name, node } => {
                self.nodes.insert(*node, Arc::default());
                self.names.insert(name.clone(), *node);
            }
            Step::Remove { name } => drop(self.names.remove(name)),
            Step::Rename { from, to } => {
                if let Some(node) = self.names.remove(from) {
                    self.names.insert(to.clone(), node);
                }
            }
            Step::Empty { node } => self.node(*node).clear(),
            Step::SetLen { node, len } => self.node(*node).resize(*len, 0),
            Step::Write { node, at, bytes } => {
                let (end, file) = (at + bytes.len(), self.node(*node));
                file.resize(file.len().max(end), 0);
                file[*at..end].copy_from_slice(bytes);
            }
            Step::Sync { .. } | Step::SyncFailed { .. } | Step::SyncNames => {}
        }
    }

    fn node(&mut self, node: u64) -> &mut Vec<u8> {
        Arc::make_mut(self.nodes.entry(node).or_default())
    }
}

impl State {
    fn run(&mut self, op: FileOp) -> io::Result<()> {
        let step = match op {
            FileOp::Remove { name } => {
                self.now.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
                Step::Remove { name }
            }
            FileOp::Rename { from, to } => {
                self.now.names.get(&from).ok_or(io::ErrorKind::NotFound)?;
                Step::Rename { from, to }
            }
            FileOp::SetLen { file, len } => {
                let len = usize::try_from(len).map_err(io::Error::other)?;
                Step::SetLen { node: self.opened(file, true)?, len }
            }
            FileOp::SyncData { file } => Step::Sync { node: self.opened(file, false)? },
            FileOp::SyncDir => Step::SyncNames,
            FileOp::Write { file, at, parts } => {
                let at = usize::try_from(at).map_err(io::Error::other)?;
                Step::Write { node: self.opened(file, true)?, at, bytes: parts.concat().into() }
            }
        };
        self.step(step)
    }

    fn step(&mut self, step: Step) -> io::Result<()> {
        if self.fail_at == Some(self.film.len()) {
            self.fail_at = None;
            if let Step::Sync { node } = step {
                self.film.push(Step::SyncFailed { node });
            }
            return Err(io::Error::other("a planted failure of the disk"));
        }
        self.now.apply(&step);
        self.film.push(step);
        Ok(())
    }

    fn opened(&self, file: FileId, writing: bool) -> io::Result<u64> {
        let (node, writable) = *self.open.get(&file.0).ok_or(io::ErrorKind::InvalidInput)?;
        if writing && !writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(node)
    }

    fn open(&mut self, name: &str, mode: OpenMode) -> io::Result<FileId> {
        let node = match (self.now.names.get(name).copied(), mode) {
            (Some(node), OpenMode::Create) => {
                self.step(Step::Empty { node })?;
                node
            }
            (Some(node), _) => node,
            (None, OpenMode::Create) => {
                self.count += 1;
                let node = self.count;
                self.step(Step::Create { name: name.to_owned(), node })?;
                node
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        self.count += 1;
        self.open.insert(self.count, (node, mode != OpenMode::Read));
        Ok(FileId(self.count))
    }
}

/// Every crash of a film, in order.
pub(super) struct Crashes {
    projector: Projector,
    film: Vec<Step>,
    at: usize,
}

impl Crashes {
    /// The number of the next step, and what a crash right before it leaves; `None` after the crash
    /// behind the last step.
    pub(super) fn next(&mut self) -> Option<(usize, &Projector)> {
        let at = self.at;
        if at > self.film.len() {
            return None;
        }
        if let Some(before) = at.checked_sub(1).and_then(|before| self.film.get(before)) {
            self.projector.show(before);
        }
        self.at += 1;
        Some((at, &self.projector))
    }
}

/// What is durable at a moment of a film, and what is not yet.
pub(super) struct Projector {
    durable: Image,
    now: Image,
    /// Changes of names since they were last synced.
    names: Vec<Step>,
    /// What happened to each file since it was last synced.
    dirty: BTreeMap<u64, Dirty>,
}

#[derive(Default)]
struct Dirty {
    sectors: BTreeSet<usize>,
    resized: bool,
    /// The shortest that it was: what stood behind it is gone.
    len_min: Option<usize>,
}

impl Dirty {
    fn cut(&mut self, len: usize) {
        self.resized = true;
        self.len_min = Some(self.len_min.map_or(len, |before| before.min(len)));
    }

    fn resize(&self, file: &mut Vec<u8>, len: usize) {
        file.truncate(self.len_min.unwrap_or(usize::MAX));
        file.resize(len, 0);
    }
}

impl Projector {
    fn new(first: Image) -> Self {
        let (names, dirty) = (Vec::new(), BTreeMap::new());
        Self { durable: first.clone(), now: first, names, dirty }
    }

    fn show(&mut self, step: &Step) {
        match step {
            Step::Create { node, .. } => {
                self.durable.nodes.entry(*node).or_default();
                self.names.push(step.clone());
            }
            Step::Remove { .. } | Step::Rename { .. } => self.names.push(step.clone()),
            Step::Empty { node } => self.dirty.entry(*node).or_default().cut(0),
            Step::SetLen { node, len } => self.dirty.entry(*node).or_default().cut(*len),
            Step::Write { node, at, bytes } if !bytes.is_empty() => {
                let (len, end) = (self.now.node(*node).len(), at + bytes.len());
                let dirty = self.dirty.entry(*node).or_default();
                dirty.sectors.extend(at / SECTOR..=(end - 1) / SECTOR);
                dirty.resized |= end > len;
            }
            Step::Write { .. } => {}
            Step::Sync { node } => self.keep(*node),
            Step::SyncFailed { node } => drop(self.dirty.remove(node)),
            Step::SyncNames => {
                for step in std::mem::take(&mut self.names) {
                    self.durable.name(&step);
                }
            }
        }
        self.now.apply(step);
    }

    /// Makes durable what was written to a file and not let go of.
    fn keep(&mut self, node: u64) {
        let Some(dirty) = self.dirty.remove(&node) else { return };
        let (now, durable) = (self.now.node(node), self.durable.node(node));
        if dirty.resized {
            dirty.resize(durable, now.len());
        }
        for sector in dirty.sectors {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(now.len()).min(durable.len());
            if range.start < range.end {
                durable[range.clone()].copy_from_slice(&now[range]);
            }
        }
    }

    /// What a crash at this moment leaves.
    pub(super) fn crash(&self, survival: Survival) -> Image {
        let mut after = self.durable.clone();
        let mut dice = match survival {
            Survival::Nothing => return after.swept(),
            Survival::All => None,
            Survival::Chance(seed) => Some(fastrand::Rng::with_seed(seed)),
        };
        let kept = dice.as_mut().map_or(self.names.len(), |dice| dice.usize(..=self.names.len()));
        self.names[..kept].iter().for_each(|step| after.name(step));
        for (node, dirty) in &self.dirty {
            let Some(now) = self.now.nodes.get(node) else { continue };
            let file = after.node(*node);
            if dirty.resized && dice.as_mut().is_none_or(fastrand::Rng::bool) {
                dirty.resize(file, now.len());
            }
            for sector in &dirty.sectors {
                let start = sector * SECTOR;
                let end = (start + SECTOR).min(now.len()).min(file.len());
                if start >= end {
                    continue;
                }
                let written = match &mut dice {
                    None => end - start,
                    Some(dice) => match dice.u8(..3) {
                        0 => 0,
                        1 => end - start,
                        _ => dice.usize(..=end - start),
                    },
                };
                file[start..start + written].copy_from_slice(&now[start..start + written]);
            }
        }
        after.swept()
    }
}

impl Image {
    /// Applies a change of names alone.
    fn name(&mut self, step: &Step) {
        match step {
            Step::Create { name, node } => drop(self.names.insert(name.clone(), *node)),
            step => self.apply(step),
        }
    }

    /// Without the files that have no name any more.
    fn swept(mut self) -> Self {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.nodes.retain(|node, _| named.contains(node));
        self
    }
}

struct DiskFiles {
    disk: Disk,
    number: u64,
    life: u64,
}

impl DiskFiles {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.life != self.life {
            return Err(io::Error::other("the power has gone since this was opened"));
        }
        act(&mut state)
    }
}

#[async_trait]
impl Files for DiskFiles {
    async fn lock(&self) -> io::Result<()> {
        self.with(|state| match state.locked {
            Some(_) => Err(io::ErrorKind::WouldBlock.into()),
            None => {
                state.locked = Some(self.number);
                Ok(())
            }
        })
    }

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let listed = self.with(|state| Ok(state.now.list()))?;
        Ok(listed.into_iter().map(|(name, len)| (name, len as u64)).collect())
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<FileId> {
        self.with(|state| state.open(name, mode))
    }

    async fn run(&self, ops: Vec<FileOp>) -> io::Result<()> {
        let held = self.with(|state| {
            let mut ops = VecDeque::from(ops);
            while let Some(op) = ops.front() {
                let sync = matches!(op, FileOp::SyncData { .. } | FileOp::SyncDir);
                if !state.waiting.is_empty() || (state.holding && sync) {
                    let (answer, answered) = oneshot::channel();
                    state.waiting.push_back((ops, answer));
                    return Ok(Some(answered));
                }
                ops.pop_front().into_iter().try_for_each(|op| state.run(op))?;
            }
            Ok(None)
        })?;
        match held {
            None => Ok(()),
            Some(answered) => answered
                .await
                .unwrap_or_else(|_| Err(io::Error::other("the power went before this was done"))),
        }
    }

    async fn read(&self, file: FileId, at: u64, len: usize) -> io::Result<Bytes> {
        self.with(|state| {
            let node = state.opened(file, false)?;
            let data = state.now.nodes.get(&node).ok_or(io::ErrorKind::NotFound)?;
            let start = usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
            let end = start.saturating_add(len).min(data.len());
            Ok(Bytes::copy_from_slice(&data[start..end]))
        })
    }

    fn close(&self, file: FileId) {
        // What a crash has closed already needs no closing.
        let _ = self.with(|state| Ok(state.open.remove(&file.0)));
    }
}

impl Drop for DiskFiles {
    fn drop(&mut self) {
        let number = self.number;
        let _ = self.with(|state| {
            state.locked = state.locked.filter(|holder| *holder != number);
            Ok(())
        });
    }
}

impl fmt::Debug for DiskFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskFiles({})", self.number)
    }
}

const SECTOR: usize = 512;
