//! The task that owns the state machine: applies, captures, restores, one thing at a time, and
//! answers the callers.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures::io::AsyncWriteExt as _;

use super::guard::{caught, spawn_job};
use super::mailbox::Mailbox;
use super::request::ProposeCaller;
use super::shared::Shared;
use crate::error::Fatal;
use crate::id::LogId;
use crate::node::{ApplyJob, Fetch};
use crate::raft::{Applied, ProposeError};
use crate::runtime::Runtime;
use crate::state_machine::{BoxError, Command, Snapshot, StateMachine};
use crate::storage::{Entry, EntryKind, LogReader, SnapshotMeta, SnapshotStore, StorageError};

/// What the state machine's task is given; the driver gives the next when the last is done.
#[derive(Debug)]
pub(super) enum ApplyTask {
    Apply {
        job: ApplyJob,
        /// Whether answers are wanted back, for callers that may still turn up.
        keep_answers: bool,
    },
    Capture(SnapshotMeta),
    Restore(SnapshotMeta),
    Stop,
}

/// The callers whose commands the state machine has, in order of index: its task answers them, the
/// driver ends those whose time is over.
#[derive(Debug, Default)]
pub(super) struct InHand(Mutex<Vec<(LogId, ProposeCaller)>>);

impl InHand {
    pub(super) fn put(&self, callers: Vec<(LogId, ProposeCaller)>) {
        self.lock().extend(callers);
    }

    fn take_up_to(&self, index: u64) -> Vec<(LogId, ProposeCaller)> {
        let mut callers = self.lock();
        let count = callers.partition_point(|(place, _)| place.index <= index);
        callers.drain(..count).collect()
    }

    pub(super) fn end_over(&self, now: Instant) {
        self.end(|caller| caller.is_over(now));
    }

    /// Ends everyone, since nobody is left to answer.
    pub(super) fn give_up(&self) {
        self.end(|_| true);
    }

    fn end(&self, which: impl Fn(&ProposeCaller) -> bool) {
        let ended: Vec<_> = self.lock().extract_if(.., |(_, caller)| which(caller)).collect();
        for (_, caller) in ended {
            caller.resolve(Err(ProposeError::Unknown));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(LogId, ProposeCaller)>> {
        // No code of others runs under the lock, so a poisoned one still holds whole values.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What jobs report.
#[derive(Debug)]
pub(super) enum JobDone {
    Applied {
        first: u64,
        last: LogId,
        answers: Option<Vec<(LogId, Bytes)>>,
    },
    Captured,
    Fatal(Fatal),
    Fetched(Fetch, Result<Vec<Entry>, StorageError>),
    /// What was to be applied is not in the log any more.
    Overtaken(StorageError),
    Restored(LogId),
    SnapshotSent {
        peer: u64,
        arrived: bool,
    },
    SnapshotTaken(Result<SnapshotMeta, Fatal>),
    /// The state machine's task has ended and let go of everything.
    Stopped,
}

pub(super) struct Applier {
    pub(super) machine: Box<dyn StateMachine>,
    pub(super) reader: Arc<dyn LogReader>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) snapshots: Arc<dyn SnapshotStore>,
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: Arc<Mailbox<ApplyTask>>,
}

impl Applier {
    pub(super) async fn run(mut self) {
        let mut taken = Vec::new();
        loop {
            poll_fn(|cx| self.tasks.poll_take(cx, &mut taken)).await;
            for task in taken.drain(..) {
                let done = match task {
                    ApplyTask::Apply { job, keep_answers } => self.apply(job, keep_answers).await,
                    ApplyTask::Capture(meta) => self.capture(meta).await,
                    ApplyTask::Restore(meta) => self.restore(meta).await,
                    ApplyTask::Stop => {
                        let Self { machine, reader, shared, .. } = self;
                        drop((machine, reader));
                        let _ = shared.jobs.push(JobDone::Stopped);
                        return;
                    }
                };
                // The driver may be gone; then nobody needs to know.
                let _ = self.shared.jobs.push(done.unwrap_or_else(JobDone::Fatal));
            }
        }
    }

    async fn apply(&mut self, job: ApplyJob, keep_answers: bool) -> Result<JobDone, Fatal> {
        let first = job.missing.start;
        let mut kept = Vec::new();
        let mut next = first;
        while next < job.missing.end {
            let missing = next..job.missing.end;
            let entries = match self.reader.read(missing, READ_BYTES_MAX).await {
                Err(error @ StorageError::Compacted { .. }) => {
                    self.shared.in_hand.give_up();
                    return Ok(JobDone::Overtaken(error));
                }
                read => read?,
            };
            let Some(last) = entries.last() else {
                let what = format!("entry {next} is missing");
                return Err(
                    StorageError::Corrupt { place: "the log".into(), offset: 0, what }.into()
                );
            };
            next = last.log_id().index + 1;
            kept.extend(self.apply_entries(entries, keep_answers).await?);
        }
        kept.extend(self.apply_entries(job.entries, keep_answers).await?);
        for (_, caller) in self.shared.in_hand.take_up_to(job.last.index) {
            caller.resolve(Err(ProposeError::Superseded));
        }
        Ok(JobDone::Applied { first, last: job.last, answers: keep_answers.then_some(kept) })
    }

    async fn apply_entries(
        &mut self,
        entries: Vec<Entry>,
        keep_answers: bool,
    ) -> Result<Vec<(LogId, Bytes)>, Fatal> {
        let ours = entries.into_iter().filter(|entry| entry.kind == EntryKind::Application);
        let commands: Vec<_> =
            ours.map(|entry| Command { log_id: entry.log_id, data: entry.data }).collect();
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let places: Vec<LogId> = commands.iter().map(|command| command.log_id).collect();
        let answers = caught(self.machine.apply(commands)).await.map_err(machine_panicked)?;
        let answers = answers.map_err(machine_failed)?;
        if answers.len() != places.len() {
            let reason = format!("{} commands, but {} answers", places.len(), answers.len());
            return Err(Fatal::StateMachine(reason.into()));
        }
        let last = places.last().map_or(0, |place| place.index);
        let mut callers = VecDeque::from(self.shared.in_hand.take_up_to(last));
        let mut kept = Vec::new();
        for (log_id, answer) in places.into_iter().zip(answers) {
            if keep_answers {
                kept.push((log_id, answer.clone()));
            }
            let mut answer = Some(answer);
            while let Some((place, _)) = callers.front()
                && place.index <= log_id.index
            {
                let Some((place, caller)) = callers.pop_front() else { break };
                let result = match answer.take_if(|_| place == log_id) {
                    Some(answer) => Ok(Applied { log_id, answer }),
                    None => Err(ProposeError::Superseded),
                };
                caller.resolve(result);
            }
        }
        Ok(kept)
    }

    async fn capture(&mut self, meta: SnapshotMeta) -> Result<JobDone, Fatal> {
        let snapshot = caught(self.machine.snapshot()).await.map_err(machine_panicked)?;
        let snapshot = snapshot.map_err(machine_failed)?;
        let snapshots = Arc::clone(&self.snapshots);
        spawn_job(&*self.runtime, &self.shared, async move {
            JobDone::SnapshotTaken(write_snapshot(&*snapshots, meta, snapshot).await)
        });
        Ok(JobDone::Captured)
    }

    async fn restore(&mut self, meta: SnapshotMeta) -> Result<JobDone, Fatal> {
        let reader = self.snapshots.open(&meta, 0).await?;
        let restored = caught(self.machine.restore(&meta, reader)).await;
        restored.map_err(machine_panicked)?.map_err(machine_failed)?;
        prune(&*self.snapshots, meta.log_id).await?;
        Ok(JobDone::Restored(meta.log_id))
    }
}

/// Writes a captured state out, and removes the snapshots it replaces.
pub(super) async fn write_snapshot(
    store: &dyn SnapshotStore,
    meta: SnapshotMeta,
    snapshot: Box<dyn Snapshot>,
) -> Result<SnapshotMeta, Fatal> {
    let mut sink = store.create(meta).await?;
    let written = caught(snapshot.write_to(&mut sink)).await;
    written.map_err(machine_panicked)?.map_err(machine_failed)?;
    sink.flush().await.map_err(StorageError::io("writing a snapshot"))?;
    let meta = sink.commit().await?;
    prune(store, meta.log_id).await?;
    Ok(meta)
}

/// Removes the snapshots that a newer one replaces.
async fn prune(store: &dyn SnapshotStore, newest: LogId) -> Result<(), StorageError> {
    for old in store.list().await?.into_iter().filter(|old| old.log_id < newest) {
        store.remove(&old).await?;
    }
    Ok(())
}

fn machine_panicked(text: String) -> Fatal {
    Fatal::StateMachine(format!("it panicked: {text}").into())
}

fn machine_failed(error: BoxError) -> Fatal {
    Fatal::StateMachine(error.to_string().into())
}

/// How much the state machine's task reads from the log at once, when memory does not hold it.
const READ_BYTES_MAX: u64 = 4 << 20;
