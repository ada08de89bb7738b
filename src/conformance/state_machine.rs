//! The kit for [`StateMachine`]: the application's state.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::io::{AsyncRead, AsyncWrite, Cursor};

use super::{Broken, Fixture, KEPT, Outcome, not_applicable};
use crate::id::LogId;
use crate::runtime::ByteReader;
use crate::state_machine::{BoxError, Command, StateMachine};
use crate::storage::SnapshotMeta;

/// Makes state machines to be judged, and commands for them.
///
/// ```
/// use bytes::Bytes;
/// use kontiki::conformance::{Fixture, StateMachineFixture};
/// use kontiki::typed::{self, State};
/// use kontiki::{LogId, StateMachine};
///
/// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// struct Sum(u64);
///
/// impl State for Sum {
///     type Command = u64;
///     type Answer = u64;
///     fn apply(&mut self, _at: LogId, add: u64) -> u64 {
///         self.0 = self.0.wrapping_add(add);
///         self.0
///     }
/// }
///
/// struct Sums;
///
/// impl Fixture for Sums {}
///
/// impl StateMachineFixture for Sums {
///     fn new_state_machine(&self) -> Box<dyn StateMachine> {
///         typed::machine(Sum::default()).0
///     }
///
///     fn command(&self, number: u64) -> Bytes {
///         number.wrapping_mul(number).to_string().into()
///     }
/// }
///
/// kontiki::state_machine_conformance!(Sums);
/// ```
pub trait StateMachineFixture: Fixture {
    /// A state machine that has applied nothing yet, sharing nothing with those before.
    fn new_state_machine(&self) -> Box<dyn StateMachine>;

    /// A command; the same one for the same number, and as different ones as possible for
    /// different numbers.
    fn command(&self, number: u64) -> Bytes;

    /// Whether equal states write equal snapshots, byte for byte. Then replicas are compared by
    /// their snapshots too. Default: they do.
    fn snapshots_are_equal(&self) -> bool {
        true
    }
}

kit! {
    ($)
    /// Mounts one test for each promise of a [`StateMachine`](crate::StateMachine); takes an
    /// expression that makes a [`StateMachineFixture`](crate::conformance::StateMachineFixture).
    state_machine_conformance, state_machine, StateMachineFixture;

    self {
        /// Every command has one answer, in order; no commands have none.
        every_command_has_one_answer,
        /// The same commands in the same order give the same answers on every replica.
        replicas_give_the_same_answers,
        /// The same commands in the same order give the same snapshot on every replica.
        replicas_write_the_same_snapshot,
        /// How the commands are cut into batches makes no difference.
        batches_make_no_difference,
        /// A state that was restored from a snapshot is the state that was captured.
        a_restored_state_is_the_captured_one,
        /// A snapshot holds the state at its capture, whatever is applied before it is written.
        a_snapshot_holds_the_moment_of_its_capture,
        /// Taking a snapshot changes nothing.
        taking_a_snapshot_changes_nothing,
        /// Restoring replaces all of the state there was.
        restoring_replaces_everything,
        /// The state of a machine that has applied nothing can be captured and restored.
        an_empty_state_can_be_restored,
        /// A snapshot that cannot be read to its end is an error, not a state.
        a_broken_snapshot_is_an_error,
        /// A snapshot that cannot be written to its end is an error.
        a_sink_that_fails_is_an_error,
    }
}

async fn guarded(
    _: Arc<dyn StateMachineFixture>,
    case: impl Future<Output = Outcome> + Send,
) -> Outcome {
    case.await
}

type Machine = Box<dyn StateMachine>;

async fn every_command_has_one_answer(fixture: Arc<dyn StateMachineFixture>) -> Outcome {
    let mut machine = fixture.new_state_machine();
    let at = promised(machine.applied().await, "asking how far it got")?;
    ensure!(at == LogId::default(), "a machine that has applied nothing says it got to {at}");
    for count in [0, 1, 2, 100, 0, 3] {
        let answers = promised(machine.apply(commands(&*fixture, 1, count)).await, "applying")?;
        let found = answers.len() as u64;
        ensure!(found == count, "{count} commands were given {found} answers");
    }
    KEPT
}

async fn replicas_give_the_same_answers(fixture: Arc<dyn StateMachineFixture>) -> Outcome {
    let mut one = fixture.new_state_machine();
    let wanted = play(&*fixture, &mut one, 1..=COMMANDS, 50).await?;
    for replica in 2..=5 {
        let mut other = fixture.new_state_machine();
        let answers = play(&*fixture, &mut other, 1..=COMMANDS, 50).await?;
        same_answers(&answers, &wanted, 1, &format!("replica {replica}"))?;
    }
    KEPT
}

async fn replicas_write_the_same_snapshot(fixture: Arc<dyn StateMachineFixture>) -> Outcome {
    if !fixture.snapshots_are_equal() {
        return not_applicable("equal states need not write equal snapshots here");
    }
    let mut snapshots = Vec::new();
    for _ in 0..5 {
        let mut machine = fixture.new_state_machine();
        play(&*fixture, &mut machine, 1..=COMMANDS, 50).await?;
        snapshots.push(capture(&mut machine).await?);
    }
    let same = snapshots.iter().all(|snapshot| *snapshot == snapshots[0]);
    ensure!(same, "five replicas that applied the same commands write different snapshots");
    KEPT
}

async fn batches_make_no_difference(fixture: Arc<dyn StateMachineFixture>) -> Outcome {
    let mut all = fixture.new_state_machine();
    let wanted = play(&*fixture, &mut all, 1..=COMMANDS, COMMANDS).await?;
    for batch in [1, 2, 7, 64] {
        let mut machine = fixture.new_state_machine();
        let answers = play(&*fixture, &mut machine, 1..=COMMANDS, batch).await?;
        same_answers(&answers, &wanted, 1, &format!("a replica that applies {batch} at a time"))?;
        let what = format!("one that applied {batch} at a time");
        same_state(&*fixture, &mut machine, &mut all_again(&*fixture).await?, &what).await?;
    }
    KEPT
}

async fn all_again(fixture: &dyn StateMachineFixture) -> Result<Machine, Broken> {
    let mut machine = fixture.new_state_machine();
    play(fixture, &mut machine, 1..=COMMANDS, COMMANDS).await?;
    Ok(machine)
}

async fn a_restored_state_is_the_captured_one(fixture: Arc<dyn StateMachineFixture>) -> Outcome {
    let mut machine = all_again(&*fixture).await?;
    let snapshot = capture(&mut machine).await?;
    for piece in [usize::MAX, 1_000, 1] {
        let mut restored = fixture.new_state_machine();
        restore(&mut restored, &snapshot, piece).await?;
        let mut wanted = all_again(&*fixture).await?;
        same_state(&*fixture, &mut restored, &mut wanted, "one that was restored").await?;
    }
    KEPT
}

async fn a_snapshot_holds_the_moment_of_its_capture(
    fixture: Arc<dyn StateMachineFixture>,
) -> Outcome {
    let mut machine = all_again(&*fixture).await?;
    let captured = promised(machine.snapshot().await, "capturing the state")?;
    play(&*fixture, &mut machine, COMMANDS + 1..=2 * COMMANDS, 10).await?;
    let mut sink = Sink::default();
    promised(captured.write_to(&mut sink).await, "writing a snapshot out")?;
    let mut restored = fixture.new_state_machine();
    restore(&mut restored, &sink.bytes, usize::MAX).await?;
    let what = "one restored from a snapshot that was written later than it was captured";
    same_state(&*fixture, &mut restored, &mut all_again(&*fixture).await?, what).await?;
    KEPT
}

async fn taking_a_snapshot_changes_nothing(fixture: Arc<dyn StateMachineFixture>) -> Outcome {
    let mut machine = fixture.new_state_machine();
    for first in (1..=COMMANDS).step_by(50) {
        play(&*fixture, &mut machine, first..=first + 49, 50).await?;
        capture(&mut machine).await?;
        // One that is never written out.
        drop(promised(machine.snapshot().await, "capturing the state")?);
    }
    let mut wanted = all_again(&*fixture).await?;
    same_state(&*fixture, &mut machine, &mut wanted, "one that took snapshots").await?;
    KEPT
}

async fn restoring_replaces_everything(fixture: Arc<dyn StateMachineFixture>) -> Outcome {
    let snapshot = capture(&mut all_again(&*fixture).await?).await?;
    let mut machine = fixture.new_state_machine();
    play(&*fixture, &mut machine, 5_000..=5_200, 9).await?;
    restore(&mut machine, &snapshot, usize::MAX).await?;
    let what = "one that had another state before it was restored";
    same_state(&*fixture, &mut machine, &mut all_again(&*fixture).await?, what).await?;
    KEPT
}

async fn an_empty_state_can_be_restored(fixture: Arc<dyn StateMachineFixture>) -> Outcome {
    let snapshot = capture(&mut fixture.new_state_machine()).await?;
    let mut machine = all_again(&*fixture).await?;
    restore(&mut machine, &snapshot, usize::MAX).await?;
    let mut wanted = fixture.new_state_machine();
    same_state(&*fixture, &mut machine, &mut wanted, "one that was restored to nothing").await?;
    KEPT
}

async fn a_broken_snapshot_is_an_error(fixture: Arc<dyn StateMachineFixture>) -> Outcome {
    let snapshot = capture(&mut all_again(&*fixture).await?).await?;
    for len in [0, snapshot.len() / 2, snapshot.len()] {
        let mut machine = fixture.new_state_machine();
        let reader = Pieces { bytes: snapshot[..len].to_vec(), piece: 100, broken: true };
        let restored = machine.restore(&meta(snapshot.len()), Box::pin(reader)).await;
        ensure!(
            restored.is_err(),
            "the reader failed after {len} of {} bytes, and the state was restored",
            snapshot.len()
        );
    }
    KEPT
}

async fn a_sink_that_fails_is_an_error(fixture: Arc<dyn StateMachineFixture>) -> Outcome {
    let mut machine = all_again(&*fixture).await?;
    let whole = capture(&mut machine).await?;
    for room in [0, whole.len() / 2, whole.len().saturating_sub(1)] {
        if whole.is_empty() {
            return not_applicable("its snapshots are empty");
        }
        let captured = promised(machine.snapshot().await, "capturing the state")?;
        let mut sink = Sink { bytes: Vec::new(), room: Some(room) };
        let written = captured.write_to(&mut sink).await;
        ensure!(
            written.is_err(),
            "the sink failed after {room} of {} bytes, and the snapshot counts as written",
            whole.len()
        );
    }
    KEPT
}

/// Compares two machines by what they answer from here on, and by their snapshots.
async fn same_state(
    fixture: &dyn StateMachineFixture,
    found: &mut Machine,
    wanted: &mut Machine,
    what: &str,
) -> Result<(), Broken> {
    if fixture.snapshots_are_equal() {
        let (one, two) = (capture(found).await?, capture(wanted).await?);
        ensure!(one == two, "{what} writes another snapshot than one that applied every command");
    }
    let next = 10_000..=10_000 + COMMANDS;
    let answers = play(fixture, found, next.clone(), 30).await?;
    let expected = play(fixture, wanted, next, 30).await?;
    same_answers(&answers, &expected, 10_000, what)
}

fn same_answers(found: &[Bytes], wanted: &[Bytes], first: u64, who: &str) -> Result<(), Broken> {
    ensure!(
        found.len() == wanted.len(),
        "{who} gives {} answers, not {}",
        found.len(),
        wanted.len()
    );
    let different = (first..).zip(found.iter().zip(wanted)).find(|(_, (one, two))| one != two);
    match different {
        None => Ok(()),
        Some((number, (found, wanted))) => Err(Broken::new(format!(
            "{who} answers command {number} with {found:?}, another with {wanted:?}"
        ))),
    }
}

/// Applies the commands of some numbers, `batch` at a time; gives the answers.
async fn play(
    fixture: &dyn StateMachineFixture,
    machine: &mut Machine,
    numbers: std::ops::RangeInclusive<u64>,
    batch: u64,
) -> Result<Vec<Bytes>, Broken> {
    let (mut next, end) = numbers.into_inner();
    let mut all = Vec::new();
    while next <= end {
        let count = batch.min(end - next + 1);
        let answers = machine.apply(commands(fixture, next, count)).await;
        all.extend(promised(answers, "applying commands")?);
        next += count;
    }
    Ok(all)
}

fn commands(fixture: &dyn StateMachineFixture, first: u64, count: u64) -> Vec<Command> {
    let command =
        |index| Command { log_id: LogId { term: 1, index }, data: fixture.command(index) };
    (first..first + count).map(command).collect()
}

async fn capture(machine: &mut Machine) -> Result<Vec<u8>, Broken> {
    let captured = promised(machine.snapshot().await, "capturing the state")?;
    let mut sink = Sink::default();
    promised(captured.write_to(&mut sink).await, "writing a snapshot out")?;
    Ok(sink.bytes)
}

async fn restore(machine: &mut Machine, snapshot: &[u8], piece: usize) -> Result<(), Broken> {
    let reader: ByteReader = match piece {
        usize::MAX => Box::pin(Cursor::new(snapshot.to_vec())),
        piece => Box::pin(Pieces { bytes: snapshot.to_vec(), piece, broken: false }),
    };
    let restored = machine.restore(&meta(snapshot.len()), reader).await;
    promised(restored, "restoring a state from its snapshot")
}

fn meta(len: usize) -> SnapshotMeta {
    let log_id = LogId { term: 1, index: COMMANDS };
    SnapshotMeta { log_id, system: Bytes::new(), size_bytes: len as u64 }
}

fn promised<T>(result: Result<T, BoxError>, what: &str) -> Result<T, Broken> {
    result.map_err(|error| Broken::new(format!("{what} failed: {error}")))
}

/// Bytes that come a few at a time, with a pause after each, and may end in an error.
struct Pieces {
    bytes: Vec<u8>,
    piece: usize,
    broken: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.bytes.is_empty() && self.broken {
            return Poll::Ready(Err(io::Error::other("planted: the snapshot is cut off")));
        }
        let len = self.piece.min(into.len()).min(self.bytes.len());
        let taken: Vec<u8> = self.bytes.drain(..len).collect();
        into[..len].copy_from_slice(&taken);
        Poll::Ready(Ok(len))
    }
}

/// Takes bytes a few at a time, and may be full.
#[derive(Default)]
struct Sink {
    bytes: Vec<u8>,
    room: Option<usize>,
}

impl AsyncWrite for Sink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let room = self.room.map_or(usize::MAX, |room| room - self.bytes.len());
        if room == 0 && !bytes.is_empty() {
            return Poll::Ready(Err(io::Error::other("planted: the sink is full")));
        }
        let len = bytes.len().min(room).min(1_000);
        self.bytes.extend_from_slice(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const COMMANDS: u64 = 300;
