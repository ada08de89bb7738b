//! Closed logs of several segments whose bytes are changed: what is found is what was written, or
//! the error says where it is damaged; never anything else.

use std::sync::Arc;

use super::crash::{Script, look, play, script};
use super::{entry, in_sim, open};
use crate::id::LogId;
use crate::runtime::sim::{Sim, SimFiles, SimProcess};
use crate::runtime::{FileOp, Files, OpenMode};
use crate::storage::file::{record, segment};
use crate::storage::{LogStore as _, StorageError, WriteBatch};

/// The files of a directory, with what is in them.
type Contents = Vec<(String, Vec<u8>)>;

async fn read_files(files: &SimFiles) -> Contents {
    let mut all = Vec::new();
    for (name, len) in files.list().await.unwrap() {
        let file = files.open(&name, OpenMode::Read).await.unwrap();
        let bytes = files.read(file, 0, usize::try_from(len).unwrap()).await.unwrap();
        all.push((name, bytes.to_vec()));
    }
    all
}

async fn write_files(files: &SimFiles, contents: Contents) {
    for (name, bytes) in contents {
        let file = files.open(&name, OpenMode::Create).await.unwrap();
        let write = FileOp::Write { file, at: 0, parts: vec![bytes.into()] };
        files.run(vec![write, FileOp::SyncData { file }, FileOp::SyncDir]).await.unwrap();
        files.close(file);
    }
}

/// A log that a script wrote, closed.
struct Closed {
    script: Arc<Script>,
    contents: Contents,
}

impl Closed {
    fn new() -> Self {
        let (sim, script) = (Sim::new(1), Arc::new(script(50)));
        let (files, same) = (sim.process(1).files("log"), Arc::clone(&script));
        let contents = in_sim(&sim, async move {
            play(Arc::clone(&files) as Arc<dyn Files>, &same.batches, &Default::default()).await;
            read_files(&files).await
        });
        let closed = Self { script, contents };
        assert!(closed.segments().len() >= 3, "{:?}", closed.segments());
        closed
    }

    fn segments(&self) -> Vec<usize> {
        let all = self.contents.iter().enumerate();
        all.filter(|(_, (name, _))| name.starts_with("log-")).map(|(at, _)| at).collect()
    }

    /// Changes the files and opens the log: how many batches are in it. Without a watermark the
    /// last write may not have been acknowledged.
    fn after(&self, watermark: bool, change: impl FnOnce(&mut Contents)) -> Option<usize> {
        let mut contents = self.contents.clone();
        change(&mut contents);
        contents.retain(|(name, _)| watermark || name != "watermark");
        let sim = Sim::new(1);
        let files = sim.process(1).files("log");
        let found = in_sim(&sim, async move {
            write_files(&files, contents).await;
            look(files).await
        });
        match found {
            Ok(found) => Some(self.script.states.iter().rposition(|state| *state == found))
                .map(|number| number.expect("a state that the log once had")),
            Err(StorageError::Corrupt { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn all(&self) -> Option<usize> {
        Some(self.script.batches.len())
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let closed = Closed::new();
    let (all, mut refused, mut flips) = (closed.all(), 0, 0);
    let mut dice = fastrand::Rng::with_seed(1);
    for number in closed.segments() {
        let used = closed.contents[number].1.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for at in (0..used).filter(|at| *at < 200 || at % 7 == 0) {
            let (bit, watermark) = (1 << dice.u8(..8), dice.bool());
            let found = closed.after(watermark, |files| files[number].1[at] ^= bit);
            let last = (!watermark).then_some(closed.script.batches.len() - 1);
            let place = &closed.contents[number].0;
            assert!(found == all || found.is_none() || found == last, "{place}, {at}: {found:?}");
            refused += u32::from(found.is_none());
            flips += 1;
        }
    }
    // The rest is padding, what is compacted away, and the last record without a watermark.
    assert!(refused > flips / 2, "{refused} of {flips} refused");
}

#[test]
fn a_lost_end_of_a_segment_is_found() {
    let closed = Closed::new();
    let segments = closed.segments();
    for &number in &segments {
        let whole = closed.contents[number].1.len();
        for at in (0..whole).step_by(8) {
            for cut in [true, false] {
                let lose = |files: &mut Contents| match cut {
                    true => files[number].1.truncate(at),
                    false => files[number].1[at..].fill(0),
                };
                let found = closed.after(true, lose);
                assert!(found == closed.all() || found.is_none(), "{number}, {at}: {found:?}");
                let found = closed.after(false, lose);
                // Without a watermark an end that is missing looks like one never written.
                let fine = Some(&number) == segments.last() || found == closed.all();
                assert!(fine || found.is_none(), "{number}, {at}, no watermark: {found:?}");
            }
        }
    }
}

#[test]
fn a_missing_segment_is_found() {
    let closed = Closed::new();
    let segments = closed.segments();
    let mut refused = 0;
    for &number in &segments {
        let found = closed.after(true, |files| drop(files.remove(number)));
        assert!(found.is_none() || found == closed.all(), "{number}: {found:?}");
        refused += u32::from(found.is_none());
        if Some(&number) != segments.last() {
            let found = closed.after(false, |files| drop(files.remove(number)));
            assert!(found.is_none() || found == closed.all(), "{number}, no mark: {found:?}");
        }
        if number > segments[0] {
            let found = closed.after(true, |files| {
                let (a, b) = (files[number - 1].1.clone(), files[number].1.clone());
                (files[number - 1].1, files[number].1) = (b, a);
            });
            assert_eq!(found, None, "{number} in the place of the one before");
        }
    }
    assert!(refused > 1, "{refused} of {} refused", segments.len());
    let found = closed.after(true, |files| files.retain(|(name, _)| name == "watermark"));
    assert_eq!(found, None, "no segment at all");
}

#[test]
fn a_missing_segment_is_found_when_no_entry_follows_it() {
    let sim = Sim::new(1);
    let process = sim.process(1);
    let outcome = in_sim(&sim, async move {
        let mut store = open(&process.files("log")).await.unwrap();
        for index in 1..=3 {
            let entries = vec![entry(1, index, 1_000)];
            store.write(WriteBatch { entries, ..WriteBatch::default() }).await.unwrap();
        }
        let identity = crate::storage::Identity {
            cluster: crate::id::ClusterId::from_random(1, 1),
            node: 7.into(),
            group: crate::id::GroupId(0),
        };
        while store.current.number == 1 {
            let identity = Some(identity);
            store.write(WriteBatch { identity, ..WriteBatch::default() }).await.unwrap();
        }
        drop(store);
        let files = process.files("log");
        files.run(vec![FileOp::Remove { name: segment::name(1) }]).await.unwrap();
        open(&files).await.map(|_| ())
    });
    assert!(matches!(outcome, Err(StorageError::Corrupt { .. })), "{outcome:?}");
}

/// Adds what a crash leaves of a segment that was being begun.
fn being_begun(bytes: Vec<u8>) -> impl FnOnce(&mut Contents) {
    move |files| {
        let last = files.iter().filter_map(|(name, _)| segment::parse_name(name)).max().unwrap();
        files.push((segment::name(last + 1), bytes));
    }
}

#[test]
fn a_segment_that_was_being_begun_is_no_damage() {
    let closed = Closed::new();
    let recycled = closed.contents[closed.segments()[0]].1.clone();
    for bytes in [Vec::new(), vec![0; 10], vec![0; 4096], recycled.clone()] {
        assert_eq!(closed.after(true, being_begun(bytes)), closed.all());
    }
    // A header of which the first bytes were written.
    for len in 0..segment::HEADER_LEN {
        let mut bytes = vec![0; 4096];
        bytes[..len].copy_from_slice(&recycled[..len]);
        assert_eq!(closed.after(true, being_begun(bytes)), closed.all(), "{len}");
    }
}

#[test]
fn a_segment_that_was_begun_but_is_all_that_is_left_is_damage() {
    let closed = Closed::new();
    let found = closed.after(false, |files| {
        files.clear();
        files.push((segment::name(2), vec![0; 4096]));
    });
    assert_eq!(found, None);
}

#[test]
fn files_that_are_not_of_the_log_are_left_alone() {
    let closed = Closed::new();
    let others = ["log-7.seg", "log-00000000000000000000.seg", "log-x.seg", "notes.txt"];
    let found = closed.after(true, |files| {
        files.extend(others.map(|name| (name.to_owned(), b"of others".to_vec())));
    });
    assert_eq!(found, closed.all());
}

#[test]
fn an_unknown_version_is_refused_by_name_and_nothing_is_touched() {
    let closed = Closed::new();
    // Of a later version nothing but the name and the version's place is known.
    let mut later = closed.contents;
    for (name, bytes) in &mut later {
        if name.starts_with("log-") {
            bytes[8..12].copy_from_slice(&9_u32.to_le_bytes());
            bytes[12..].fill(0xa5);
        }
    }
    later.push((segment::spare_name(99), b"of the later version".to_vec()));
    later.sort();
    let sim = Sim::new(1);
    let files = sim.process(1).files("log");
    let expected = later.clone();
    let (error, left) = in_sim(&sim, async move {
        write_files(&files, later).await;
        let error = look(Arc::clone(&files) as Arc<dyn Files>).await.unwrap_err().to_string();
        (error, read_files(&files).await)
    });
    assert!(error.contains("version 9"), "{error}");
    assert_eq!(left, expected);
}

#[test]
fn numbers_that_no_log_reaches_are_refused() {
    let closed = Closed::new();
    let last = *closed.segments().last().unwrap();
    let header = 8 + 4 + 8;
    for at in [header, header + 8] {
        let found = closed.after(false, |files| {
            let bytes = &mut files[last].1;
            bytes[at..at + 8].fill(0xff);
            let checksum = crc32c::crc32c(&bytes[..segment::HEADER_LEN - 4]).to_le_bytes();
            bytes[segment::HEADER_LEN - 4..segment::HEADER_LEN].copy_from_slice(&checksum);
        });
        assert_eq!(found, None, "{at}");
    }
    let bases = [u64::MAX, u64::MAX - 1];
    for (index, reset) in bases.into_iter().flat_map(|index| [(index, true), (index, false)]) {
        let found = closed.after(false, |files| {
            let entries = vec![entry(9, u64::MAX, 1)];
            let mut batch = WriteBatch { entries, ..WriteBatch::default() };
            *if reset { &mut batch.reset_to } else { &mut batch.compact_to } =
                super::base(9, index);
            add_record(&mut files[last], |number, sequence| {
                record::frame(&record::encode(&batch), number, sequence).concat()
            });
        });
        assert_eq!(found, None, "{index}, {reset}");
    }
}

#[test]
fn a_record_of_which_not_all_is_known_is_refused() {
    let closed = Closed::new();
    let last = *closed.segments().last().unwrap();
    let found = closed.after(false, |files| {
        add_record(&mut files[last], |number, sequence| {
            let (len, payload) = (5_u32.to_le_bytes(), [16, 0, 0, 0, 0]);
            let number = number.to_le_bytes();
            let parts = [&len[..], &number, &sequence.to_le_bytes(), &payload];
            let checksum = crc32c::crc32c(&parts.concat()).to_le_bytes();
            [&len[..], &checksum, &sequence.to_le_bytes(), &payload, &[0; 3]].concat()
        });
    });
    assert_eq!(found, None);
}

/// Puts a record behind the last one, given the numbers of the segment and of the record.
fn add_record(file: &mut (String, Vec<u8>), record: impl Fn(u64, u64) -> Vec<u8>) {
    let (name, bytes) = file;
    let number = segment::parse_name(name).unwrap();
    let (mut at, mut sequence) = (segment::HEADER_LEN, 0);
    while let Some((found, payload)) = record::read(&bytes.clone().into(), number, at) {
        at += usize::try_from(record::framed_len(payload.len())).unwrap();
        sequence = found + 1;
    }
    bytes.truncate(at);
    bytes.extend(record(number, sequence));
}

/// Writes one more record behind a log, or only the first bytes of one.
async fn tear(process: &Arc<SimProcess>, keep: usize) -> LogId {
    let store = open(&process.files("log")).await.unwrap();
    let (current, sequence, last) = (store.current, store.sequence, store.shared.lock().last());
    let log_id = LogId { term: 99, index: last + 1 };
    let entries = vec![entry(log_id.term, log_id.index, 200)];
    let payload = record::encode(&WriteBatch { entries, ..WriteBatch::default() });
    let mut bytes = record::frame(&payload, current.number, sequence).concat();
    assert!(current.offset + bytes.len() as u64 <= current.len);
    bytes.truncate(keep);
    let (file, at) = (current.file, current.offset);
    store.files.run(vec![FileOp::Write { file, at, parts: vec![bytes.into()] }]).await.unwrap();
    log_id
}

#[test]
fn a_torn_last_record_is_dropped_and_the_log_goes_on() {
    for keep in (8..240).step_by(3) {
        let sim = Sim::new(2);
        let process = sim.process(1);
        in_sim(&sim, async move {
            let again = || async { open(&process.files("log")).await.unwrap() };
            let mut store = again().await;
            let entries = vec![entry(1, 1, 40)];
            store.write(WriteBatch { entries, ..WriteBatch::default() }).await.unwrap();
            drop(store);
            let torn = tear(&process, keep).await;
            let mut store = again().await;
            let recovered = store.recover().await.unwrap();
            assert_eq!(recovered.last, LogId { term: 1, index: 1 }, "{keep} bytes of {torn}");
            assert_eq!(recovered.dropped_bytes > 0, keep > 8, "{keep} bytes");
            drop(store);
            let mut store = again().await;
            assert_eq!(store.recover().await.unwrap().dropped_bytes, 0, "repaired");
            let entries = vec![entry(2, 2, 10)];
            store.write(WriteBatch { entries, ..WriteBatch::default() }).await.unwrap();
            drop(store);
            let last = again().await.recover().await.unwrap().last;
            assert_eq!(last, LogId { term: 2, index: 2 });
        });
    }
}
