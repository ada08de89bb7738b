//! A disk in memory: every operation at once, a power cut after any of them, and files that can be
//! edited behind everybody's back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use kontiki::runtime::{FileId, FileOp, Files, OpenMode};

use crate::input::Input;

/// A disk; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

/// What the files hold, by name.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<u64, Node>,
    names: BTreeMap<String, u64>,
    /// The names as of the last sync of the directory, and what was done since.
    durable_names: BTreeMap<String, u64>,
    changes: Vec<(String, Option<u64>)>,
    open: BTreeMap<u64, u64>,
    count: u64,
    /// How many operations are still done before the power goes.
    power: Option<usize>,
    writes: Vec<Written>,
}

#[derive(Debug, Default)]
struct Node {
    data: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

/// One write as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    node: u64,
    pub(crate) at: usize,
    pub(crate) bytes: Vec<u8>,
}

impl Disk {
    /// A disk that holds `image`, all of it durable.
    pub(crate) fn of(image: &Image) -> Self {
        let disk = Self::default();
        let mut state = disk.lock();
        for (name, data) in image {
            let node = state.number();
            let (data, durable) = (data.clone(), data.clone());
            state.nodes.insert(node, Node { data, durable, dirty: BTreeSet::new() });
            state.names.insert(name.clone(), node);
        }
        state.durable_names = state.names.clone();
        drop(state);
        disk
    }

    pub(crate) fn files(&self) -> Arc<dyn Files> {
        Arc::new(self.clone())
    }

    pub(crate) fn image(&self) -> Image {
        let state = self.lock();
        let data = |node| state.nodes.get(node).map(|node| node.data.clone()).unwrap_or_default();
        state.names.iter().map(|(name, node)| (name.clone(), data(node))).collect()
    }

    /// Does `count` more operations, and then no other.
    pub(crate) fn stop_after(&self, count: usize) {
        self.lock().power = Some(count);
    }

    /// The power goes: names fall back to a moment since the last sync, each sector that was not
    /// synced is lost, kept or torn, as `input` says. Then it comes back.
    pub(crate) fn crash(&self, input: &mut Input<'_>) {
        let mut state = self.lock();
        let kept = input.below(state.changes.len() + 1);
        let mut names = std::mem::take(&mut state.durable_names);
        for (name, node) in state.changes.drain(..).take(kept) {
            match node {
                Some(node) => names.insert(name, node),
                None => names.remove(&name),
            };
        }
        state.durable_names = names.clone();
        state.names = names;
        state.nodes.values_mut().for_each(|node| node.crash(input));
        state.open.clear();
        state.power = None;
    }

    /// What was written since this was last asked.
    pub(crate) fn take_writes(&self) -> Vec<Written> {
        std::mem::take(&mut self.lock().writes)
    }

    /// The name of the file that `written` went to, if it has one.
    pub(crate) fn name_of(&self, written: &Written) -> Option<String> {
        let state = self.lock();
        let found = state.names.iter().find(|(_, node)| **node == written.node);
        found.map(|(name, _)| name.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn rename(&mut self, name: String, node: Option<u64>) {
        match node {
            Some(node) => self.names.insert(name.clone(), node),
            None => self.names.remove(&name),
        };
        self.changes.push((name, node));
    }

    fn spend(&mut self) -> io::Result<()> {
        let Some(power) = &mut self.power else { return Ok(()) };
        *power = power.checked_sub(1).ok_or_else(|| io::Error::other("the power is off"))?;
        Ok(())
    }

    fn node(&mut self, file: FileId) -> io::Result<&mut Node> {
        let node = *self.open.get(&file.0).ok_or(io::ErrorKind::InvalidInput)?;
        self.nodes.get_mut(&node).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn run(&mut self, op: FileOp) -> io::Result<()> {
        self.spend()?;
        match op {
            FileOp::Remove { name } => {
                self.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
                self.rename(name, None);
            }
            FileOp::Rename { from, to } => {
                let node = *self.names.get(&from).ok_or(io::ErrorKind::NotFound)?;
                self.rename(to, Some(node));
                self.rename(from, None);
            }
            FileOp::SetLen { file, len } => {
                let len = usize::try_from(len).map_err(io::Error::other)?;
                self.node(file)?.data.resize(len, 0);
            }
            FileOp::SyncData { file } => {
                let node = self.node(file)?;
                node.durable.clone_from(&node.data);
                node.dirty.clear();
            }
            FileOp::SyncDir => {
                self.changes.clear();
                self.durable_names = self.names.clone();
            }
            FileOp::Write { file, at, parts } => {
                let at = usize::try_from(at).map_err(io::Error::other)?;
                let bytes = parts.concat();
                self.node(file)?.write(at, &bytes);
                let node = self.open.get(&file.0).copied().unwrap_or_default();
                self.writes.push(Written { node, at, bytes });
            }
        }
        Ok(())
    }
}

impl Node {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        self.data.resize(self.data.len().max(end), 0);
        self.data[at..end].copy_from_slice(bytes);
        self.dirty.extend(at / SECTOR..end.div_ceil(SECTOR));
    }

    fn crash(&mut self, input: &mut Input<'_>) {
        let mut after = self.durable.clone();
        if after.len() != self.data.len() && input.flag() {
            after.resize(self.data.len(), 0);
        }
        for &sector in &self.dirty {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(self.data.len()).min(after.len());
            if start < end {
                let kept = input.pick(&[0, SECTOR, 1, 17, SECTOR / 2, SECTOR - 1]);
                let end = end.min(start + kept);
                after[start..end].copy_from_slice(&self.data[start..end]);
            }
        }
        self.dirty.clear();
        self.durable.clone_from(&after);
        self.data = after;
    }
}

#[async_trait]
impl Files for Disk {
    async fn lock(&self) -> io::Result<()> {
        Ok(())
    }

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let image = self.image();
        Ok(image.into_iter().map(|(name, data)| (name, data.len() as u64)).collect())
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<FileId> {
        let mut state = self.lock();
        let node = match (state.names.get(name).copied(), mode) {
            (Some(node), _) => node,
            (None, OpenMode::Create) => {
                state.spend()?;
                let node = state.number();
                state.nodes.insert(node, Node::default());
                state.rename(name.to_owned(), Some(node));
                node
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        if mode == OpenMode::Create
            && let Some(node) = state.nodes.get_mut(&node)
        {
            node.data.clear();
            node.dirty.clear();
        }
        let file = state.number();
        state.open.insert(file, node);
        Ok(FileId(file))
    }

    async fn run(&self, ops: Vec<FileOp>) -> io::Result<()> {
        let mut state = self.lock();
        ops.into_iter().try_for_each(|op| state.run(op))
    }

    async fn read(&self, file: FileId, at: u64, len: usize) -> io::Result<Bytes> {
        let mut state = self.lock();
        let data = &state.node(file)?.data;
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
        let end = start.saturating_add(len).min(data.len());
        Ok(Bytes::copy_from_slice(&data[start..end]))
    }

    fn close(&self, file: FileId) {
        self.lock().open.remove(&file.0);
    }
}

const SECTOR: usize = 512;
