//! Runs of the simulator itself: clean ones, one that is repeated, one that a planted bug fails,
//! and one that shrinks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use kontiki::runtime::ByteReader;
use kontiki::storage::SnapshotMeta;
use kontiki::{BoxError, Command, Snapshot, StateMachine};
use kontiki_sim::kit::{self, Workload};
use kontiki_sim::{Case, DiskKind, Invariant, NetworkKind, run};

/// A short run, so that the tests stay quick without optimization.
fn short(seed: u64, disk: DiskKind, network: NetworkKind) -> Case {
    let mut case = Case::from_seed(seed);
    (case.options.disk, case.options.network) = (disk, network);
    case.options.faults_ms = 20_000;
    case.plan.faults.retain(|timed| timed.at_ms < 20_000);
    case
}

#[test]
fn runs_on_objects_and_messages_break_nothing() {
    for seed in 1..=6 {
        let case = short(seed, DiskKind::Objects, NetworkKind::Messages);
        let report = run(&case.options, &case.plan);
        assert_eq!(report.violation, None, "seed {seed}");
        assert!(report.counts.operations > 0 && report.counts.elections > 0, "seed {seed}");
    }
}

#[test]
fn runs_on_files_and_connections_break_nothing() {
    for seed in 7..=10 {
        let mut case = short(seed, DiskKind::Bytes, NetworkKind::Streams);
        case.options.http = true;
        assert_eq!(run(&case.options, &case.plan).violation, None, "seed {seed}");
    }
}

#[test]
fn a_saved_case_is_the_same_run() {
    let case = short(11, DiskKind::Bytes, NetworkKind::Streams);
    let saved = serde_json::to_string(&case).unwrap();
    let read: Case = serde_json::from_str(&saved).unwrap();
    assert_eq!(read, case);
    let (a, b) = (run(&case.options, &case.plan), run(&read.options, &read.plan));
    assert_eq!((a.trace, a.virtual_time), (b.trace, b.virtual_time));
    let other = short(12, DiskKind::Bytes, NetworkKind::Streams);
    assert_ne!(run(&other.options, &other.plan).trace, a.trace);
}

/// Answers how many commands all replicas of all processes have seen: no function of the log.
struct Divergent;

struct Counting(Arc<AtomicU64>);

impl Workload for Divergent {
    fn machine(&self) -> Box<dyn StateMachine> {
        static SEEN: std::sync::OnceLock<Arc<AtomicU64>> = std::sync::OnceLock::new();
        Box::new(Counting(Arc::clone(SEEN.get_or_init(Arc::default))))
    }

    fn command(&self, dice: &mut fastrand::Rng) -> Bytes {
        Bytes::copy_from_slice(&dice.u64(..).to_le_bytes())
    }
}

#[async_trait]
impl StateMachine for Counting {
    async fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<Bytes>, BoxError> {
        let count = || self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        Ok(commands.iter().map(|_| Bytes::copy_from_slice(&count())).collect())
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, BoxError> {
        Ok(Box::new(Nothing))
    }

    async fn restore(&mut self, _: &SnapshotMeta, _: ByteReader) -> Result<(), BoxError> {
        Ok(())
    }
}

struct Nothing;

#[async_trait]
impl Snapshot for Nothing {
    async fn write_to(
        self: Box<Self>,
        _: &mut (dyn futures::io::AsyncWrite + Send + Unpin),
    ) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn a_state_machine_that_is_no_function_of_its_commands_is_caught() {
    let failure = kit::check(Arc::new(Divergent), 1..4).unwrap_err();
    assert_eq!(failure.violation.invariant, Invariant::StateMachineSafety, "{failure}");
}
