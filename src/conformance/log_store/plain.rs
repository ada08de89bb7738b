//! What a log does while nothing goes wrong.

use std::sync::Arc;

use futures::future::join;

use super::model::{Model, at, base, change, entries, entry, identity};
use super::{LogStoreFixture, expect, look};
use crate::conformance::{Broken, KEPT, Outcome, Promised as _};
use crate::id::{ClusterId, GroupId};
use crate::storage::{Entry, HardState, Identity, LogReader, LogStore, StorageError, WriteBatch};

type Fixture = Arc<dyn LogStoreFixture>;

/// A store and what it must hold.
struct Judged {
    fixture: Fixture,
    store: Box<dyn LogStore>,
    model: Model,
}

impl Judged {
    async fn new(fixture: Fixture) -> Result<Self, Broken> {
        let model = Model::default();
        let store = expect(&*fixture, &model, "when it is new").await?;
        Ok(Self { fixture, store, model })
    }

    async fn write(&mut self, batch: WriteBatch) -> Result<(), Broken> {
        self.model.write(&batch);
        self.store.write(batch).await.promised("a write")
    }

    /// Opens the store anew, and compares.
    async fn reopen(self, when: &str) -> Result<Self, Broken> {
        let Self { fixture, store, model } = self;
        drop(store);
        let store = expect(&*fixture, &model, &format!("opened anew after {when}")).await?;
        Ok(Self { fixture, store, model })
    }
}

pub(super) async fn a_new_store_is_empty(fixture: Fixture) -> Outcome {
    let new = Judged::new(fixture).await?;
    new.reopen("it was opened and never written").await?;
    KEPT
}

pub(super) async fn everything_is_found_again(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    let first = WriteBatch {
        identity: Some(identity()),
        hard_state: Some(HardState::new(3, Some(7.into()), 2)),
        ..entries(3, 1..=5)
    };
    judged.write(first).await?;
    judged = judged.reopen("one batch with everything").await?;
    judged.write(entries(4, 6..=6)).await?;
    judged.write(entries(4, 7..=9)).await?;
    judged = judged.reopen("three batches").await?;
    judged.write(entries(5, 10..=10)).await?;
    judged.reopen("a batch behind a restart").await?;
    KEPT
}

pub(super) async fn entries_come_back_byte_for_byte(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    let mut all = Vec::new();
    for (index, len) in (1..).zip([0, 1, 2, 7, 8, 9, 255, 4_095, 4_096, 65_536, 1 << 20]) {
        let log_id = at(u64::MAX - 1, index);
        let one = if index % 3 == 0 { change(log_id, len) } else { entry(log_id, len) };
        all.push(one.clone());
        let batch = WriteBatch { entries: vec![one], sync: true, ..WriteBatch::default() };
        judged.write(batch).await?;
        let read = read(&*judged.store.reader(), index, index + 1).await?;
        ensure!(read == all[all.len() - 1..], "an entry of {len} bytes does not come back");
    }
    judged.reopen("entries of many lengths").await?;
    KEPT
}

pub(super) async fn the_last_hard_state_counts(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    for (term, vote) in [(1, None), (2, Some(9)), (2, Some(9)), (7, None), (8, Some(u64::MAX))] {
        let hard_state = HardState::new(term, vote.map(Into::into), term);
        let batch =
            WriteBatch { hard_state: Some(hard_state), sync: true, ..WriteBatch::default() };
        judged.write(batch).await?;
        judged = judged.reopen(&format!("a hard state of term {term} and vote {vote:?}")).await?;
    }
    judged.write(entries(8, 1..=2)).await?;
    judged.reopen("entries without a hard state").await?;
    KEPT
}

pub(super) async fn the_identity_stays(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    // A server that waits to join knows no cluster yet.
    let blank = Identity { cluster: ClusterId::NIL, node: 9.into(), group: GroupId(u64::MAX) };
    let identified =
        |identity| WriteBatch { identity: Some(identity), sync: true, ..WriteBatch::default() };
    judged.write(identified(blank)).await?;
    judged = judged.reopen("the identity of a blank server").await?;
    judged.write(identified(Identity { cluster: ClusterId::from_random(8, 8), ..blank })).await?;
    judged.write(entries(1, 1..=3)).await?;
    let reset = WriteBatch { reset_to: Some(base(at(2, 9), "")), ..entries(2, 10..=10) };
    judged.write(reset).await?;
    judged.reopen("an identity, and a reset behind it").await?;
    KEPT
}

pub(super) async fn entries_replace_what_is_behind_them(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    judged.write(entries(1, 1..=20)).await?;
    for (term, first, last) in [(2, 20, 20), (3, 18, 25), (4, 10, 12), (5, 12, 12), (6, 1, 3)] {
        judged.write(entries(term, first..=last)).await?;
        let found = read_all(judged.store.reader(), &judged.model).await?;
        let expected = judged.model.contents().entries;
        ensure!(
            found == expected,
            "after {first} to {last} were written over a longer log it reads {} entries, not {}",
            found.len(),
            expected.len()
        );
        judged = judged.reopen(&format!("{first} to {last} over a longer log")).await?;
    }
    KEPT
}

pub(super) async fn compaction_forgets_what_is_before(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    judged.write(entries(1, 1..=10)).await?;
    judged.write(entries(2, 11..=20)).await?;
    for (term, index) in [(1, 1), (1, 7), (2, 11), (2, 19), (2, 20)] {
        let compact_to = Some(base(at(term, index), &format!("members at {index}")));
        judged.write(WriteBatch { compact_to, sync: true, ..WriteBatch::default() }).await?;
        judged = judged.reopen(&format!("compaction to {index}")).await?;
    }
    judged.write(entries(2, 21..=30)).await?;
    let large = "x".repeat(100_000);
    let compact_to = Some(base(at(2, 25), &large));
    judged.write(WriteBatch { compact_to, ..entries(3, 31..=31) }).await?;
    judged.reopen("compaction of everything, new entries, and a large base").await?;
    KEPT
}

pub(super) async fn a_reset_begins_anew(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    let reset = |term, index| WriteBatch {
        reset_to: Some(base(at(term, index), &format!("snapshot at {index}"))),
        sync: true,
        ..WriteBatch::default()
    };
    judged.write(reset(2, 1_000)).await?;
    judged = judged.reopen("a reset of an empty store").await?;
    judged.write(entries(3, 1_001..=1_010)).await?;
    judged.write(reset(5, 5_000)).await?;
    judged = judged.reopen("a reset far ahead").await?;
    judged.write(entries(5, 5_001..=5_003)).await?;
    judged.write(reset(6, 5_002)).await?;
    judged = judged.reopen("a reset into the middle of the log").await?;
    judged.write(entries(6, 5_003..=5_004)).await?;
    judged.write(reset(7, 10)).await?;
    judged = judged.reopen("a reset to before the log").await?;
    judged.write(entries(7, 11..=12)).await?;
    judged.reopen("entries behind the last reset").await?;
    KEPT
}

pub(super) async fn a_batch_takes_effect_in_order(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    judged.write(entries(1, 1..=9)).await?;
    let all = WriteBatch {
        identity: Some(identity()),
        reset_to: Some(base(at(4, 100), "reset")),
        compact_to: None,
        entries: entries(5, 101..=105).entries,
        hard_state: Some(HardState::new(5, None, 103)),
        sync: true,
    };
    judged.write(all).await?;
    judged = judged.reopen("a batch of reset, entries and hard state").await?;
    // What is compacted was there before; what is appended replaces its end.
    let both =
        WriteBatch { compact_to: Some(base(at(5, 102), "compacted")), ..entries(6, 104..=110) };
    judged.write(both).await?;
    judged = judged.reopen("a batch that compacts the beginning and replaces the end").await?;
    // Compacted before it is reset, it would begin behind 200, and these would leave a hole.
    let forward = WriteBatch {
        reset_to: Some(base(at(6, 200), "reset")),
        compact_to: Some(base(at(6, 201), "compacted")),
        ..entries(7, 202..=205)
    };
    judged.write(forward).await?;
    judged.reopen("a batch that resets, compacts behind that, and appends").await?;
    KEPT
}

pub(super) async fn changes_are_reported(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    let mixed = |term, indexes: std::ops::RangeInclusive<u64>| WriteBatch {
        entries: indexes
            .map(|index| match index % 4 {
                0 => change(at(term, index), 50),
                _ => entry(at(term, index), 10),
            })
            .collect(),
        sync: true,
        ..WriteBatch::default()
    };
    judged.write(mixed(1, 1..=21)).await?;
    judged = judged.reopen("five changes").await?;
    judged.write(entries(2, 16..=17)).await?;
    judged = judged.reopen("two changes were replaced").await?;
    judged.write(mixed(3, 18..=24)).await?;
    let compact_to = Some(base(at(1, 8), "the second change is in here"));
    judged.write(WriteBatch { compact_to, sync: true, ..WriteBatch::default() }).await?;
    judged.reopen("two changes were compacted").await?;
    KEPT
}

pub(super) async fn runs_of_terms_are_reported(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    let mut first = 1;
    for (term, count) in [(1, 3), (2, 1), (5, 4), (6, 1), (9, 2)] {
        judged.write(entries(term, first..=first + count - 1)).await?;
        first += count;
    }
    judged = judged.reopen("five terms").await?;
    judged.write(entries(10, 7..=8)).await?;
    judged = judged.reopen("a term cut short by another").await?;
    let compact_to = Some(base(at(5, 5), ""));
    judged.write(WriteBatch { compact_to, sync: true, ..WriteBatch::default() }).await?;
    judged.reopen("compaction into the middle of a run").await?;
    KEPT
}

pub(super) async fn a_read_keeps_to_its_limits(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    judged.write(entries(1, 1..=9)).await?;
    let reader = judged.store.reader();
    let one = (Entry::HEAD_LEN + 20) as u64;
    let limits = [(0, 1), (1, 1), (one, 1), (2 * one - 1, 1), (2 * one, 2), (100 * one, 5)];
    for (bytes_max, expected) in limits {
        let read = reader.read(3..8, bytes_max).await.promised("a read")?;
        let places: Vec<u64> = read.iter().map(|entry| entry.log_id().index).collect();
        ensure!(
            places == (3..3 + expected).collect::<Vec<_>>(),
            "of 3 to 7, of {one} bytes each, a read of {bytes_max} bytes gives {places:?}"
        );
    }
    let read = reader.read(9..10, u64::MAX).await.promised("a read")?;
    ensure!(read.len() == 1, "a read of the last entry gives {} entries", read.len());
    KEPT
}

pub(super) async fn a_reader_sees_what_is_written_later(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    let (reader, second) = (judged.store.reader(), judged.store.reader());
    for index in 1..=50 {
        judged.write(entries(1, index..=index)).await?;
        let read = read(&*reader, index, index + 1).await?;
        ensure!(read == [entry(at(1, index), 20)], "an entry is not read that was just written");
    }
    // Read while the end is replaced: the old or the new, but each entry one of them.
    let writing = judged.store.write(entries(2, 30..=60));
    let (written, beside) = join(writing, second.read(25..51, u64::MAX)).await;
    written.promised("a write while something is read")?;
    for found in beside.promised("a read while something is written")? {
        let log_id = found.log_id();
        let known = (log_id.term == 1 || log_id.index >= 30) && found == entry(log_id, 20);
        ensure!(known, "a read beside a write gives an entry {log_id} that nobody wrote");
    }
    let read = read(&*reader, 25, 61).await?;
    let terms: Vec<u64> = read.iter().map(|entry| entry.log_id().term).collect();
    let expected: Vec<u64> = (25..61).map(|index| 1 + u64::from(index >= 30)).collect();
    ensure!(terms == expected, "an old reader reads what has been replaced");
    KEPT
}

pub(super) async fn reading_what_is_compacted_says_so(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    judged.write(entries(1, 1..=20)).await?;
    let reader = judged.store.reader();
    let compact_to = Some(base(at(1, 12), ""));
    judged.write(WriteBatch { compact_to, sync: true, ..WriteBatch::default() }).await?;
    says_so(reader, "by a reader from before").await?;
    judged = judged.reopen("compaction").await?;
    says_so(judged.store.reader(), "after a restart").await?;
    KEPT
}

async fn says_so(reader: Arc<dyn LogReader>, when: &str) -> Result<(), Broken> {
    for first in [1, 12] {
        let what = match reader.read(first..15, u64::MAX).await {
            Err(StorageError::Compacted { first: 13 }) => continue,
            Err(error) => format!("fails with: {error}"),
            Ok(read) => format!("gives {} entries", read.len()),
        };
        return Err(Broken::new(format!("reading {first} to 14, compacted to 12, {when} {what}")));
    }
    let read = read(&*reader, 13, 21).await?;
    ensure!(read.len() == 8, "of eight entries behind a compaction {} are read", read.len());
    Ok(())
}

pub(super) async fn large_batches_are_batches_like_others(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    judged.write(entries(1, 1..=10_000)).await?;
    let long = (10_001..=10_008).map(|index| entry(at(1, index), 1 << 20)).collect();
    judged.write(WriteBatch { entries: long, sync: true, ..WriteBatch::default() }).await?;
    judged.write(entries(2, 10_009..=10_009)).await?;
    judged.reopen("a batch of ten thousand entries and one of eight megabytes").await?;
    KEPT
}

pub(super) async fn a_batch_that_does_not_fit_is_refused(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    judged.write(entries(1, 1..=20)).await?;
    let compact_to = Some(base(at(1, 10), ""));
    judged.write(WriteBatch { compact_to, sync: true, ..WriteBatch::default() }).await?;
    let mut hole = entries(2, 21..=25);
    hole.entries.remove(2);
    let back = WriteBatch { compact_to: Some(base(at(1, 4), "")), ..entries(2, 21..=21) };
    let behind_reset = WriteBatch { reset_to: Some(base(at(2, 50), "")), ..entries(2, 52..=53) };
    let compacted = WriteBatch { compact_to: Some(base(at(1, 15), "")), ..entries(2, 14..=16) };
    for (batch, what) in [
        (entries(2, 22..=23), "that leaves a hole behind the log"),
        (hole, "with a hole in it"),
        (entries(2, 9..=12), "that brings back what is compacted"),
        (back, "that moves the base back"),
        (behind_reset, "that leaves a hole behind its own reset"),
        (compacted, "that brings back what it compacts"),
    ] {
        let refused = judged.store.write(batch).await.is_err();
        ensure!(refused, "a batch {what} was written");
        // Whether the store goes on after it or not, nothing of it may be there.
        judged = judged.reopen(&format!("a batch {what} was refused")).await?;
    }
    judged.write(entries(2, 21..=22)).await?;
    judged.reopen("a batch that does fit").await?;
    KEPT
}

pub(super) async fn two_openers_never_both_write(fixture: Fixture) -> Outcome {
    let mut judged = Judged::new(fixture).await?;
    judged.write(entries(1, 1..=3)).await?;
    let second = match look(&*judged.fixture).await {
        // Refused: the first goes on.
        Err(_) => None,
        Ok((store, _)) => Some(store),
    };
    let first = judged.store.write(entries(2, 4..=4)).await;
    match second {
        None => first.promised("a write of the first opener, after the second was refused")?,
        Some(_) => {
            ensure!(first.is_err(), "two stores are open on one log, and the first still writes");
            return KEPT;
        }
    }
    judged.model.write(&entries(2, 4..=4));
    judged.reopen("a second opener was refused").await?;
    KEPT
}

async fn read(reader: &dyn LogReader, first: u64, end: u64) -> Result<Vec<Entry>, Broken> {
    reader.read(first..end, u64::MAX).await.promised("a read")
}

async fn read_all(reader: Arc<dyn LogReader>, model: &Model) -> Result<Vec<Entry>, Broken> {
    let contents = model.contents();
    let (first, last) = (contents.base.log_id.index + 1, contents.last.index);
    let mut all = read(&*reader, first, last + 1).await?;
    // What stands behind the end must be gone too.
    if let Ok(more) = reader.read(last + 1..last + 30, u64::MAX).await {
        all.extend(more);
    }
    Ok(all)
}
