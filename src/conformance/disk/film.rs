//! What happened to a disk, step by step, and what a crash at any moment leaves of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

/// What is on a disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Image {
    /// Shared until written: a crash differs from the last one in a few files.
    pub(super) nodes: BTreeMap<u64, Arc<Vec<u8>>>,
    pub(super) names: BTreeMap<String, u64>,
}

/// Something that happened to the disk.
#[derive(Clone, Debug)]
pub(super) enum Step {
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
pub(crate) enum Survival {
    All,
    /// Each sector is lost, kept or torn, and the newest names are lost, as chance decides.
    Chance(u64),
    Nothing,
}

impl Image {
    /// The files and how long they are.
    pub(crate) fn list(&self) -> Vec<(String, usize)> {
        let len = |node| self.nodes.get(node).map_or(0, |bytes| bytes.len());
        self.names.iter().map(|(name, node)| (name.clone(), len(node))).collect()
    }

    /// How many bytes are in files that have a name.
    pub(crate) fn used(&self) -> usize {
        self.list().iter().map(|(_, len)| len).sum()
    }

    pub(crate) fn flip(&mut self, name: &str, at: usize, bits: u8) {
        if let Some(byte) = self.file(name).and_then(|bytes| bytes.get_mut(at)) {
            *byte ^= bits;
        }
    }

    pub(crate) fn cut(&mut self, name: &str, len: usize) {
        if let Some(bytes) = self.file(name) {
            bytes.truncate(len);
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.names.remove(name);
    }

    fn file(&mut self, name: &str) -> Option<&mut Vec<u8>> {
        let node = self.names.get(name)?;
        self.nodes.get_mut(node).map(Arc::make_mut)
    }

    pub(super) fn apply(&mut self, step: &Step) {
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

/// Every crash of a film, in order.
pub(crate) struct Crashes {
    projector: Projector,
    film: Vec<Step>,
    at: usize,
}

impl Crashes {
    pub(super) fn new(first: Image, film: Vec<Step>) -> Self {
        Self { projector: Projector::new(first), film, at: 0 }
    }

    /// The number of the next step, and what a crash right before it leaves; `None` after the crash
    /// behind the last step.
    pub(crate) fn next(&mut self) -> Option<(usize, &Projector)> {
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
pub(crate) struct Projector {
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
    pub(super) fn new(first: Image) -> Self {
        let (names, dirty) = (Vec::new(), BTreeMap::new());
        Self { durable: first.clone(), now: first, names, dirty }
    }

    pub(super) fn show(&mut self, step: &Step) {
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
    pub(crate) fn crash(&self, survival: Survival) -> Image {
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

const SECTOR: usize = 512;
