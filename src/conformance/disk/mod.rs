//! A disk in memory that promises exactly what [`Files`] promises, and can be asked for everything
//! else that could have happened: a crash at any step, a failing step, a flipped bit.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;

mod film;

use self::film::{Crashes, Projector, Step};
pub(crate) use self::film::{Image, Survival};
use super::lock;
use crate::runtime::{FileId, FileOp, Files, OpenMode};

/// A disk with one directory. A clone is the same disk.
///
/// It keeps a film of every step since it was made or last crashed, of which the kits make every
/// crash that was possible.
#[derive(Clone, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
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
    crashes: u64,
    fail_at: Option<usize>,
    holding: bool,
    waiting: VecDeque<(VecDeque<FileOp>, oneshot::Sender<io::Result<()>>)>,
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

    /// The power goes and comes back: of what was not synced, chance decides, each time anew.
    pub fn crash(&self) {
        let seed = {
            let mut state = self.lock();
            state.crashes += 1;
            state.crashes
        };
        self.crash_by(seed);
    }

    /// The same, with a chance that is given.
    pub(crate) fn crash_by(&self, seed: u64) {
        let (first, film) = self.film();
        let mut projector = Projector::new(first);
        film.iter().for_each(|step| projector.show(step));
        self.insert(projector.crash(Survival::Chance(seed)));
    }

    /// Puts in what another disk held; whoever had opened this one is cut off.
    pub(crate) fn insert(&self, image: Image) {
        let mut state = self.lock();
        let (life, count, crashes) = (state.life + 1, state.count, state.crashes);
        let first = image.clone();
        *state = State { first, now: image, life, count, crashes, ..State::default() };
    }

    /// What is on it now, synced or not.
    pub(crate) fn image(&self) -> Image {
        self.lock().now.clone()
    }

    /// Every crash that is possible: for each step the disks that it may leave behind, seen from
    /// the state before the step; the last is after all of them.
    pub(crate) fn crashes(&self) -> Crashes {
        let (first, film) = self.film();
        Crashes::new(first, film)
    }

    /// How many steps there were.
    pub(crate) fn steps(&self) -> usize {
        self.lock().film.len()
    }

    /// Makes one step fail, counted from the beginning of the film. A sync that fails lets go of
    /// what it should have kept.
    pub(crate) fn fail_at(&self, step: usize) {
        self.lock().fail_at = Some(step);
    }

    /// Whether the step that was to fail has come.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().fail_at.is_none()
    }

    /// Holds every sync back, and what was asked for behind it.
    pub(crate) fn hold_syncs(&self) {
        self.lock().holding = true;
    }

    /// Does what was held back.
    pub(crate) fn release_syncs(&self) {
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
