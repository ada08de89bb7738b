//! What a snapshot store does while nothing goes wrong.

use std::sync::Arc;

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{SnapshotStoreFixture, begin, commit, list, meta, pattern, read};
use crate::conformance::{Broken, KEPT, Outcome, Promised as _};
use crate::storage::{SnapshotMeta, SnapshotStore};

type Fixture = Arc<dyn SnapshotStoreFixture>;

async fn open(fixture: &Fixture) -> Result<Arc<dyn SnapshotStore>, Broken> {
    fixture.open().await.promised("opening the store")
}

pub(super) async fn a_new_store_lists_nothing(fixture: Fixture) -> Outcome {
    for _ in 0..2 {
        let listed = list(&*open(&fixture).await?).await?;
        ensure!(listed.is_empty(), "a new store lists {listed:?}");
    }
    KEPT
}

pub(super) async fn a_commit_makes_it_visible_and_durable(fixture: Fixture) -> Outcome {
    let bytes = pattern(1, 100_000);
    let mut large = meta(3, 8);
    large.system = pattern(2, 100_000).into();
    let store = open(&fixture).await?;
    let first = commit(&*store, meta(2, 7), &bytes).await?;
    let second = commit(&*store, large, b"").await?;
    let wanted = [second.clone(), first.clone()];
    let listed = list(&*store).await?;
    ensure!(listed == wanted, "after two commits {listed:?} is listed");
    drop(store);
    for crash in [false, true] {
        if crash {
            fixture.crash().await;
        }
        let store = open(&fixture).await?;
        let (listed, when) = (list(&*store).await?, if crash { "a crash" } else { "a restart" });
        ensure!(listed == wanted, "after {when} {listed:?} is listed, and not {wanted:?}");
        let (one, two) = (read(&*store, &first, 0).await?, read(&*store, &second, 0).await?);
        ensure!(one == bytes && two.is_empty(), "after {when} a snapshot has other bytes");
    }
    KEPT
}

pub(super) async fn bytes_come_back_as_they_were_written(fixture: Fixture) -> Outcome {
    let store = open(&fixture).await?;
    let lengths = [0, 1, 2, 511, 512, 4_096, 65_535, 65_536, 65_537, 131_072, 3 << 20];
    for (index, len) in (1..).zip(lengths) {
        let bytes = pattern(index, len);
        let whole = commit(&*store, meta(1, index), &bytes).await?;
        ensure!(read(&*store, &whole, 0).await? == bytes, "{len} bytes do not come back");
        let mut sink = store.create(meta(2, index)).await.promised("beginning a snapshot")?;
        for (number, piece) in bytes.chunks(len / 7 + 1).enumerate() {
            sink.write_all(piece).await.promised("writing a piece of a snapshot")?;
            if number % 2 == 0 {
                sink.flush().await.promised("flushing a snapshot")?;
            }
        }
        sink.close().await.promised("closing a snapshot before its commit")?;
        let pieces = sink.commit().await.promised("committing a snapshot")?;
        let back = read(&*store, &pieces, 0).await?;
        ensure!(back == bytes, "{len} bytes that were written in pieces do not come back");
    }
    KEPT
}

pub(super) async fn nothing_is_visible_before_the_commit(fixture: Fixture) -> Outcome {
    let store = open(&fixture).await?;
    let old = commit(&*store, meta(1, 5), b"old").await?;
    let mut sink = begin(&*store, meta(1, 9), &pattern(1, 200_000)).await?;
    sink.flush().await.promised("flushing a snapshot")?;
    sink.close().await.promised("closing a snapshot")?;
    let listed = list(&*store).await?;
    ensure!(listed == [old], "before the commit {listed:?} is listed");
    let opened = store.open(&meta(1, 9), 0).await.is_err();
    ensure!(opened, "a snapshot can be read before its commit");
    sink.commit().await.promised("committing a snapshot")?;
    ensure!(list(&*store).await?.len() == 2, "a committed snapshot is not listed");
    KEPT
}

pub(super) async fn dropped_without_commit_is_as_if_never_begun(fixture: Fixture) -> Outcome {
    let store = open(&fixture).await?;
    let old = commit(&*store, meta(1, 5), b"old").await?;
    for index in [5, 9] {
        drop(begin(&*store, meta(1, index), &pattern(index, 200_000)).await?);
        let listed = list(&*store).await?;
        ensure!(listed == [old.clone()], "after one was dropped {listed:?} is listed");
    }
    ensure!(read(&*store, &old, 0).await? == b"old", "a snapshot was changed by one dropped");
    let again = commit(&*store, meta(1, 9), b"again").await?;
    ensure!(read(&*store, &again, 0).await? == b"again", "one begun again has other bytes");
    drop(store);
    let listed = list(&*open(&fixture).await?).await?;
    ensure!(listed == [again, old], "after a restart {listed:?} is listed");
    KEPT
}

pub(super) async fn what_a_crash_interrupted_is_not_there(fixture: Fixture) -> Outcome {
    let mut wanted: Vec<SnapshotMeta> = Vec::new();
    for index in 1..=10 {
        let store = open(&fixture).await?;
        let listed = list(&*store).await?;
        ensure!(listed == wanted, "after a crash {listed:?} is listed, and not {wanted:?}");
        wanted.insert(0, commit(&*store, meta(1, index), &pattern(index, 70_000)).await?);
        let mut sink = begin(&*store, meta(1, index + 1), &pattern(0, 150_000)).await?;
        sink.flush().await.promised("flushing a snapshot")?;
        drop((sink, store));
        fixture.crash().await;
    }
    KEPT
}

pub(super) async fn the_newest_is_listed_first(fixture: Fixture) -> Outcome {
    let store = open(&fixture).await?;
    let places = [(2, 10), (1, 30), (3, 9), (3, 100), (10, 20), (2, 9), (2, 1_000_000_000_000)];
    for (term, index) in places {
        commit(&*store, meta(term, index), b"x").await?;
    }
    drop(store);
    let listed = list(&*open(&fixture).await?).await?;
    let mut wanted = places.to_vec();
    wanted.sort_unstable();
    wanted.reverse();
    let found: Vec<_> = listed.iter().map(|meta| (meta.log_id.term, meta.log_id.index)).collect();
    ensure!(found == wanted, "they are listed in the order {found:?}");
    KEPT
}

pub(super) async fn the_same_place_is_replaced_on_commit(fixture: Fixture) -> Outcome {
    let store = open(&fixture).await?;
    let old = commit(&*store, meta(1, 5), &pattern(1, 100_000)).await?;
    let mut other = meta(1, 5);
    other.system = "others".into();
    let sink = begin(&*store, other, b"new").await?;
    ensure!(list(&*store).await? == [old.clone()], "it is replaced before the commit");
    let back = read(&*store, &old, 0).await?;
    ensure!(back == pattern(1, 100_000), "it is overwritten before the commit");
    let new = sink.commit().await.promised("committing a snapshot of a place that has one")?;
    drop(store);
    let store = open(&fixture).await?;
    let listed = list(&*store).await?;
    ensure!(listed == [new.clone()], "after it was replaced {listed:?} is listed");
    ensure!(read(&*store, &new, 0).await? == b"new", "after it was replaced it has other bytes");
    KEPT
}

pub(super) async fn two_at_once_do_not_mix(fixture: Fixture) -> Outcome {
    let store = open(&fixture).await?;
    for indexes in [[1, 2], [3, 3]] {
        let (one, two) = (pattern(1, 200_000), pattern(2, 150_000));
        let mut first = begin(&*store, meta(1, indexes[0]), &one[..70_000]).await?;
        let mut second = begin(&*store, meta(1, indexes[1]), &two[..100_000]).await?;
        first.write_all(&one[70_000..]).await.promised("writing the first of two at once")?;
        second.write_all(&two[100_000..]).await.promised("writing the second of two at once")?;
        let first = first.commit().await.promised("committing the first of two at once")?;
        let back = read(&*store, &first, 0).await?;
        ensure!(back == one, "of two at once the first has bytes that nobody wrote to it");
        let second = second.commit().await.promised("committing the second of two at once")?;
        let back = read(&*store, &second, 0).await?;
        ensure!(back == two, "of two at once the second has bytes that nobody wrote to it");
        if first.log_id != second.log_id {
            let back = read(&*store, &first, 0).await?;
            ensure!(back == one, "the second of two at once has changed the first");
        }
    }
    KEPT
}

pub(super) async fn reading_begins_at_any_byte(fixture: Fixture) -> Outcome {
    let store = open(&fixture).await?;
    let bytes = pattern(1, 200_000);
    let meta = commit(&*store, meta(1, 1), &bytes).await?;
    for from in [0, 1, 511, 65_535, 65_536, 65_537, 131_072, 199_999, 200_000] {
        let back = read(&*store, &meta, from as u64).await?;
        ensure!(back == bytes[from..], "from byte {from} on it has other bytes");
    }
    KEPT
}

pub(super) async fn several_read_at_once(fixture: Fixture) -> Outcome {
    let store = open(&fixture).await?;
    let bytes = pattern(1, 200_000);
    let meta = commit(&*store, meta(1, 1), &bytes).await?;
    let mut readers = Vec::new();
    for from in [0, 100_000, 0, 50_000] {
        let reader = store.open(&meta, from as u64).await.promised("opening a snapshot")?;
        readers.push((reader, bytes[from..].to_vec()));
    }
    for _ in 0..10 {
        for (reader, rest) in &mut readers {
            let mut piece = vec![0; rest.len().min(10_000)];
            reader.read_exact(&mut piece).await.promised("one of several reading at once")?;
            let wanted: Vec<u8> = rest.drain(..piece.len()).collect();
            ensure!(piece == wanted, "one of several that read at once reads other bytes");
        }
    }
    KEPT
}

pub(super) async fn a_reader_outlives_its_snapshot(fixture: Fixture) -> Outcome {
    let store = open(&fixture).await?;
    let bytes = pattern(1, 300_000);
    for replaced in [false, true] {
        let snapshot = commit(&*store, meta(1, 1), &bytes).await?;
        let mut reader = store.open(&snapshot, 0).await.promised("opening a snapshot")?;
        let mut back = vec![0; 1_000];
        reader.read_exact(&mut back).await.promised("reading a snapshot")?;
        let what = match replaced {
            true => {
                commit(&*store, meta(1, 1), &pattern(2, 300_000)).await?;
                "replaced"
            }
            false => {
                store.remove(&snapshot).await.promised("removing a snapshot that is read")?;
                "removed"
            }
        };
        let rest = reader.read_to_end(&mut back).await;
        rest.promised(&format!("reading on when the snapshot was {what}"))?;
        ensure!(back == bytes, "when a snapshot is {what}, who reads it reads other bytes");
    }
    KEPT
}

pub(super) async fn what_is_removed_is_gone(fixture: Fixture) -> Outcome {
    let store = open(&fixture).await?;
    let one = commit(&*store, meta(1, 1), b"one").await?;
    let two = commit(&*store, meta(1, 2), b"two").await?;
    for _ in 0..2 {
        store.remove(&two).await.promised("removing a snapshot, also one that is gone already")?;
        let listed = list(&*store).await?;
        ensure!(listed == [one.clone()], "after one of two was removed {listed:?} is listed");
    }
    let gone = store.open(&two, 0).await.is_err();
    ensure!(gone, "a snapshot that was removed can be opened");
    drop(store);
    fixture.crash().await;
    let store = open(&fixture).await?;
    let listed = list(&*store).await?;
    ensure!(
        listed == [one.clone()],
        "after a crash {listed:?} is listed, of which one was removed"
    );
    ensure!(read(&*store, &one, 0).await? == b"one", "the one that was left has other bytes");
    KEPT
}

pub(super) async fn opening_what_is_not_there_is_an_error(fixture: Fixture) -> Outcome {
    let store = open(&fixture).await?;
    commit(&*store, meta(1, 1), b"one").await?;
    for (term, index) in [(1, 2), (2, 1)] {
        let opened = store.open(&meta(term, index), 0).await.is_err();
        ensure!(opened, "a snapshot that is not there can be opened");
    }
    KEPT
}
