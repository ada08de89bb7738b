//! State machines with a defect.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use kontiki::conformance::state_machine::CASES;
use kontiki::conformance::{Fixture, StateMachineFixture};
use kontiki::runtime::ByteReader;
use kontiki::storage::SnapshotMeta;
use kontiki::{BoxError, Command, Snapshot, StateMachine};

use super::{breaks, breaks_only};

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    AnswersByBatch,
    CapturesLater,
    ForgetsAnAnswer,
    HidesAFullSink,
    HidesABrokenSnapshot,
    Merges,
    None,
    OwnSalt,
    RefusesNothing,
    RestoresHalf,
    SnapshotsCount,
    WritesItsSalt,
}

/// Keeps all commands, and answers with how many bytes there are.
struct Machine {
    flaw: Flaw,
    salt: u64,
    all: Arc<Mutex<Vec<u8>>>,
}

struct Captured {
    flaw: Flaw,
    then: Vec<u8>,
    now: Arc<Mutex<Vec<u8>>>,
}

#[async_trait]
impl StateMachine for Machine {
    async fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<Bytes>, BoxError> {
        let mut all = self.all.lock().unwrap();
        let (mut answers, count) = (Vec::new(), commands.len());
        for command in commands {
            all.extend_from_slice(&command.data);
            let salt = match self.flaw {
                Flaw::OwnSalt => self.salt,
                Flaw::AnswersByBatch => count as u64,
                _ => 0,
            };
            answers.push(format!("{} {salt}", all.len()).into());
        }
        if self.flaw == Flaw::ForgetsAnAnswer && count > 50 {
            answers.pop();
        }
        Ok(answers)
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, BoxError> {
        let mut all = self.all.lock().unwrap();
        if self.flaw == Flaw::SnapshotsCount {
            all.push(b'!');
        }
        let mut then = all.clone();
        if self.flaw == Flaw::WritesItsSalt {
            then.extend(self.salt.to_le_bytes());
        }
        Ok(Box::new(Captured { flaw: self.flaw, then, now: Arc::clone(&self.all) }))
    }

    async fn restore(&mut self, _: &SnapshotMeta, mut from: ByteReader) -> Result<(), BoxError> {
        let mut bytes = Vec::new();
        let read = from.read_to_end(&mut bytes).await;
        if self.flaw != Flaw::HidesABrokenSnapshot {
            read?;
        }
        match self.flaw {
            Flaw::RefusesNothing if bytes.is_empty() => return Err("there is nothing".into()),
            Flaw::RestoresHalf => bytes.truncate(bytes.len() / 2),
            Flaw::WritesItsSalt => bytes.truncate(bytes.len().saturating_sub(8)),
            _ => {}
        }
        let mut all = self.all.lock().unwrap();
        if self.flaw != Flaw::Merges {
            all.clear();
        }
        all.extend(bytes);
        Ok(())
    }
}

#[async_trait]
impl Snapshot for Captured {
    async fn write_to(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BoxError> {
        let now = self.now.lock().unwrap().clone();
        let written =
            sink.write_all(if self.flaw == Flaw::CapturesLater { &now } else { &self.then });
        match written.await {
            Err(_) if self.flaw == Flaw::HidesAFullSink => Ok(()),
            written => Ok(written?),
        }
    }
}

struct Machines(Flaw, AtomicU64);

impl Fixture for Machines {}

impl StateMachineFixture for Machines {
    fn new_state_machine(&self) -> Box<dyn StateMachine> {
        let salt = self.1.fetch_add(1, Ordering::SeqCst);
        Box::new(Machine { flaw: self.0, salt, all: Arc::default() })
    }

    fn command(&self, number: u64) -> Bytes {
        vec![number as u8; 1 + number as usize % 7].into()
    }
}

fn with(flaw: Flaw) -> impl Fn() -> Arc<dyn StateMachineFixture> {
    move || Arc::new(Machines(flaw, AtomicU64::new(0)))
}

#[test]
fn each_flaw_is_caught_by_the_promise_it_breaks() {
    breaks_only(CASES, with(Flaw::None), &[]);
    for (flaw, name, how) in [
        (Flaw::AnswersByBatch, "batches_make_no_difference", "answers command"),
        (Flaw::CapturesLater, "a_snapshot_holds_the_moment_of_its_capture", "another snapshot"),
        (Flaw::ForgetsAnAnswer, "every_command_has_one_answer", "100 commands were given 99"),
        (Flaw::HidesAFullSink, "a_sink_that_fails_is_an_error", "counts as written"),
        (Flaw::HidesABrokenSnapshot, "a_broken_snapshot_is_an_error", "was restored"),
        (Flaw::Merges, "restoring_replaces_everything", "another snapshot"),
        (Flaw::OwnSalt, "replicas_give_the_same_answers", "replica 2 answers command 1"),
        (Flaw::RefusesNothing, "an_empty_state_can_be_restored", "there is nothing"),
        (Flaw::RestoresHalf, "a_restored_state_is_the_captured_one", "another snapshot"),
        (Flaw::SnapshotsCount, "taking_a_snapshot_changes_nothing", "another snapshot"),
        (Flaw::WritesItsSalt, "replicas_write_the_same_snapshot", "different snapshots"),
    ] {
        breaks(CASES, with(flaw), &[(name, how)]);
    }
}
