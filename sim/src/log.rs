//! A log store around the real one that tells the judge what is begun, acknowledged, and found.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use kontiki::NodeId;
use kontiki::runtime::Runtime as _;
use kontiki::runtime::sim::SimProcess;
use kontiki::storage::{LogReader, LogStore, Recovered, StorageError, WriteBatch};

use crate::judge::Judge;
use crate::plan::Moment;
use crate::wire::Links;

pub(crate) struct WatchedLog {
    pub(crate) inner: Box<dyn LogStore>,
    pub(crate) process: Arc<SimProcess>,
    pub(crate) id: NodeId,
    pub(crate) judge: Judge,
    pub(crate) links: Arc<Links>,
    /// For a store of objects, which takes no time of its own.
    pub(crate) pace: Option<Arc<Pace>>,
    pub(crate) dice: Rng,
}

impl WatchedLog {
    /// What a disk would take, before or after the fact: a crash meanwhile leaves all or nothing.
    async fn pause(&mut self) {
        let Some(pace) = &self.pace else { return };
        while pace.stuck.load(Ordering::Relaxed) {
            self.process.timer(self.process.now() + Duration::from_millis(10)).await;
        }
        let times = pace.times.load(Ordering::Relaxed).max(1);
        let pause = Duration::from_micros(self.dice.u64(50..1_000)) * times;
        self.process.timer(self.process.now() + pause).await;
    }
}

/// How fast a disk of objects is.
#[derive(Default)]
pub(crate) struct Pace {
    /// How many times slower than usual; 0 and 1 are usual.
    pub(crate) times: AtomicU32,
    /// Whether nothing comes to an end at all.
    pub(crate) stuck: AtomicBool,
}

#[async_trait]
impl LogStore for WatchedLog {
    async fn recover(&mut self) -> Result<Recovered, StorageError> {
        let recovered = self.inner.recover().await?;
        let reader = self.inner.reader();
        let (mut next, end) = (recovered.base.log_id.index + 1, recovered.last.index + 1);
        let mut entries = Vec::new();
        while next < end {
            let more = reader.read(next..end, 1 << 20).await?;
            next += more.len() as u64;
            entries.extend(more);
        }
        if !self.judge.recovered(self.id, &recovered, &entries) {
            // Damage at the very end cannot be told from a write that was torn: whoever runs a
            // server on a disk that has lost what was synced must give it a new identity.
            let what = "the end is missing".to_owned();
            return Err(StorageError::Corrupt { place: "the log".to_owned(), offset: 0, what });
        }
        Ok(recovered)
    }

    async fn write(&mut self, batch: WriteBatch) -> Result<(), StorageError> {
        let installs = batch.reset_to.is_some() && !batch.entries.is_empty();
        let installs = installs || batch.reset_to.as_ref().is_some_and(|b| b.log_id.index > 1);
        let changes = batch.entries.iter().any(kontiki::storage::Entry::is_change);
        let synced = batch.sync || self.pace.is_none();
        if installs && self.links.strike(self.process.id(), Moment::Installing) {
            return Err(StorageError::Poisoned);
        }
        self.judge.write_begun(self.id, &batch);
        let late = self.dice.bool();
        if !late {
            self.pause().await;
        }
        self.inner.write(batch).await?;
        if late {
            self.pause().await;
        }
        if !self.process.lives() {
            return Err(StorageError::Poisoned);
        }
        self.judge.write_done(self.id, synced);
        let moments = [(installs, Moment::Installed), (changes, Moment::ChangedMembership)];
        for (_, moment) in moments.into_iter().filter(|(did, _)| *did) {
            self.links.strike(self.process.id(), moment);
        }
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.inner.reader()
    }
}
