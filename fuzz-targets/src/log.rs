//! F4: a log that the power or the disk has damaged, read again.
//!
//! What comes back is the log as it was after some write, never anything else: after a power cut,
//! after the last write that returned, or the one that was under way; after damage to what was
//! synced, only where nothing behind the damage is whole, and otherwise an error that says so.

use bytes::Bytes;
use futures::executor::block_on;
use kontiki::storage::{
    Base, Entry, FileLogStore, FileStoreConfig, HardState, Identity, LogStore as _, MemoryLogStore,
    Recovered, StorageError, WriteBatch,
};
use kontiki::{ClusterId, GroupId, LogId};

use crate::disk::{Disk, Image, Written};
use crate::input::Input;
use crate::{Target, meter};

pub(crate) const TARGET: Target = Target { name: "log", run, seeds, words: &[] };

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    meter::within(MEMORY_MAX, || match input.below(8) {
        0..=2 => power_cut(&mut input),
        7 => forgery(&mut input),
        _ => rot(&mut input),
    });
}

/// A store's content, but for what it says about its repair.
#[derive(Clone, Debug, PartialEq)]
struct Content {
    identity: Option<Identity>,
    base: Base,
    hard_state: HardState,
    last: LogId,
    terms: Vec<LogId>,
    changes: Vec<Entry>,
    entries: Vec<Entry>,
}

impl Content {
    fn of(store: &mut impl kontiki::storage::LogStore) -> Self {
        let recovered = block_on(store.recover()).expect("a store that is open is recovered once");
        let Recovered { identity, base, hard_state, last, terms, changes, .. } = recovered;
        let mut entries: Vec<Entry> = Vec::new();
        let reader = store.reader();
        for _ in base.log_id.index..last.index {
            let next = base.log_id.index + 1 + entries.len() as u64;
            if next > last.index {
                break;
            }
            let read = block_on(reader.read(next..last.index + 1, 500));
            entries.extend(read.expect("what was recovered can be read"));
        }
        Self { identity, base, hard_state, last, terms, changes, entries }
    }
}

/// A log that was written, and all it ever held.
struct History {
    disk: Disk,
    store: FileLogStore,
    model: MemoryLogStore,
    batches: Vec<WriteBatch>,
    /// The content after so many batches.
    contents: Vec<Content>,
    /// The write that holds each batch.
    writes: Vec<Written>,
    term: u64,
}

impl History {
    fn new() -> Self {
        let disk = Disk::default();
        let store = open(&disk).expect("an empty directory becomes a log");
        let mut model = MemoryLogStore::new();
        let contents = vec![Content::of(&mut model)];
        disk.take_writes();
        Self { disk, store, model, batches: Vec::new(), contents, writes: Vec::new(), term: 1 }
    }

    fn now(&self) -> &Content {
        self.contents.last().expect("there is always the first")
    }

    /// Writes a batch; `false` if the power went before it was done.
    fn write(&mut self, batch: WriteBatch) -> bool {
        let done = block_on(self.store.write(batch.clone())).is_ok();
        block_on(self.model.write(batch.clone())).expect("memory does not fail");
        self.contents.push(Content::of(&mut self.model));
        self.batches.push(batch);
        // Of all that a write does, the batch itself is the last that is no zeros and no mark.
        let mut writes = self.disk.take_writes();
        writes.retain(|written| written.bytes.len() > 16 && written.bytes.iter().any(|b| *b != 0));
        self.writes.extend(writes.pop());
        done
    }

    fn batch(&mut self, input: &mut Input<'_>) -> WriteBatch {
        let now = self.now();
        let (base, last) = (now.base.log_id.index, now.last.index);
        let mut batch = WriteBatch { sync: true, ..WriteBatch::default() };
        match input.below(16) {
            15 => batch.reset_to = Some(place(self.term, last + input.below(5) as u64, input)),
            12..=14 if last > base => {
                let to = last - input.below((last - base) as usize) as u64;
                let at = now.terms.partition_point(|run| run.index <= to) - 1;
                batch.compact_to = Some(place(now.terms[at].term, to, input));
            }
            11 => {
                let cluster = ClusterId::from_random(1, 2);
                batch.identity = Some(Identity { cluster, node: 7.into(), group: GroupId(0) });
            }
            _ => {
                self.term += u64::from(input.rarely(4));
                let replaced = if input.rarely(4) { (last - base).min(3) } else { 0 };
                let first = last + 1 - replaced;
                let count = 1 + input.below(4) as u64;
                let len = input.pick(&[0, 1, 40, 40, 200, 1_000, 1_500, 4_500]);
                let kind = u8::from(input.rarely(4));
                batch.entries = (first..first + count)
                    .map(|index| entry(self.term, index, kind, len))
                    .collect();
            }
        }
        batch.hard_state = input.flag().then(|| HardState::new(self.term, Some(3.into()), last));
        batch
    }

    fn grow(&mut self, input: &mut Input<'_>) {
        // Now and then so many that the mark of what was synced is written.
        let count = input.pick(&[1, 2, 3, 4, 5, 6, 8, 10, 10, 66]);
        for _ in 0..count {
            let batch = self.batch(input);
            assert!(self.write(batch), "nothing stands in the way");
        }
    }
}

/// The power goes in the middle of the last write, and once more while the log is read again.
fn power_cut(input: &mut Input<'_>) {
    let mut history = History::new();
    history.grow(input);
    let batch = history.batch(input);
    history.disk.stop_after(input.below(16));
    let done = history.write(batch);
    history.disk.crash(input);
    if input.flag() {
        history.disk.stop_after(input.below(8));
        // It may fail, or get done in time.
        drop(open(&history.disk));
        history.disk.crash(input);
    }
    let store = open(&history.disk);
    let mut store = store.unwrap_or_else(|error| panic!("a power cut is no damage: {error}"));
    let found = Content::of(&mut store);
    let count = history.batches.len();
    let whole = found == history.contents[count];
    let without = found == history.contents[count - 1];
    assert!(whole || without && !done, "done: {done}, but {found:?}\n{:?}", history.contents);
    go_on(history, store, if whole { count } else { count - 1 }, false, input);
}

/// A log that came back after `count` batches takes more, and still has them all when it is read
/// once more.
fn go_on(
    mut history: History,
    store: FileLogStore,
    count: usize,
    rotten: bool,
    input: &mut Input<'_>,
) {
    history.store = store;
    history.model = MemoryLogStore::new();
    history.contents.truncate(count + 1);
    history.term += 1;
    for batch in &history.batches[..count] {
        block_on(history.model.write(batch.clone())).expect("memory does not fail");
    }
    let more = input.below(4);
    for _ in 0..more {
        let batch = history.batch(input);
        assert!(history.write(batch), "nothing stands in the way");
    }
    for _ in 0..2 {
        let mut again = match open(&history.disk) {
            Ok(again) => again,
            // What came to a wrong place is met only when the log has grown up to it.
            Err(StorageError::Corrupt { .. }) if rotten && more > 0 => return,
            Err(error) => panic!("read once more: {error}"),
        };
        assert_eq!(&Content::of(&mut again), history.now());
    }
}

/// The disk loses or changes what was synced.
fn rot(input: &mut Input<'_>) {
    let mut history = History::new();
    history.grow(input);
    let before = history.disk.image();
    let mut image = before.clone();
    for _ in 0..1 + input.below(3) {
        edit(&mut image, &history, input);
    }
    let names: Vec<_> = history.writes.iter().map(|one| history.disk.name_of(one)).collect();
    history.disk = Disk::of(&image);
    let store = match open(&history.disk) {
        Ok(store) => Ok(store),
        Err(StorageError::Corrupt { .. }) => Err(()),
        Err(error) => panic!("damage is an error of its own: {error}"),
    };
    let Ok(mut store) = store else {
        let again = open(&history.disk);
        assert!(matches!(again, Err(StorageError::Corrupt { .. })), "refused once, now {again:?}");
        return;
    };
    let found = Content::of(&mut store);
    let count = history.batches.len();
    let matches = (0..=count).rev().filter(|&at| history.contents[at] == found);
    let allowed: Vec<_> = matches
        .clone()
        .filter(|&at| may_end(at, &history.writes, &names, &before, &image))
        .collect();
    let Some(&at) = allowed.first() else {
        let all: Vec<_> = matches.collect();
        panic!("of {count} batches {all:?} came back, and whole ones are lost\n{found:?}");
    };
    go_on(history, store, at, true, input);
}

/// Whether the log may end after `at` batches: the next is damaged, none behind it is whole, and
/// the mark knows of none.
fn may_end(
    at: usize,
    writes: &[Written],
    names: &[Option<String>],
    before: &Image,
    image: &Image,
) -> bool {
    let sequence = |write: &Written| number(&write.bytes[8..16]);
    let whole = |(write, name): (&Written, &Option<String>)| {
        let Some(name) = name.as_ref().filter(|name| name.starts_with("log-")) else {
            return false;
        };
        let now = image.get(name).and_then(|data| data.get(write.at..write.at + write.bytes.len()));
        now == Some(&write.bytes[..])
    };
    let lost = writes.iter().zip(names).skip(at);
    let mark = image.get(MARK).filter(|mark| before.get(MARK) == Some(mark) && mark.len() == 12);
    let mark = mark.map_or(0, |mark| number(&mark[..8]));
    !lost.clone().any(whole) && !lost.clone().any(|(write, _)| sequence(write) <= mark)
}

fn edit(image: &mut Image, history: &History, input: &mut Input<'_>) {
    let names: Vec<String> = image.keys().cloned().collect();
    let Some(name) = names.get(input.below(names.len().max(1))) else { return };
    let other = image[&names[input.below(names.len())]].clone();
    let data = image.get_mut(name).expect("it was listed");
    // Aimed at a record, or anywhere.
    let aimed = input.below(history.writes.len() + 1);
    let near = history.writes.get(aimed).map_or(0, |write| write.at);
    let at = match input.below(4) {
        0 => input.number() as usize % data.len().max(1),
        1 => input.below(32),
        _ => near + input.below(64),
    };
    let at = at.min(data.len());
    let len = input.pick(&[1, 8, 16, 64, 512, 4_096]);
    let end = (at + len).min(data.len());
    match input.below(9) {
        0 => data.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << input.below(8)),
        1 => data[at..end].fill(0),
        2 => data.truncate(at),
        3 => data[at..].fill(0),
        4 => data[at..end].iter_mut().for_each(|byte| *byte = input.byte()),
        5 => {
            // A block that went to the wrong place.
            let from = input.pick(&[32, 512, 1_024, near, at / 2]).min(other.len());
            let copy = &other[from..(from + end - at).min(other.len())];
            data[at..at + copy.len()].copy_from_slice(copy);
        }
        6 => {
            let to = (input.pick(&[0, 512, 1_024, 2_048, near])).min(data.len());
            let len = (end - at).min(at.abs_diff(to)).min(data.len() - to);
            (0..len).for_each(|n| data.swap(at + n, to + n));
        }
        7 => data.extend_from_slice(&other[..len.min(other.len())]),
        _ => *data = other,
    }
}

/// A record that nobody wrote, with a sound checksum: any answer will do, and no panic.
fn forgery(input: &mut Input<'_>) {
    let mut history = History::new();
    history.grow(input);
    let mut image = history.disk.image();
    let Some(last) = history.writes.last() else { return };
    let Some(name) = history.disk.name_of(last) else { return };
    let at = last.at + last.bytes.len();
    let sequence = number(&last.bytes[8..16]) + 1;
    let payload = forged_payload(&history, input);
    let segment =
        name.bytes().filter(u8::is_ascii_digit).fold(0, |n, d| n * 10 + u64::from(d - b'0'));
    let mut record = (payload.len() as u32).to_le_bytes().to_vec();
    let mut checked = record.clone();
    checked.extend(segment.to_le_bytes());
    checked.extend(sequence.to_le_bytes());
    checked.extend(&payload);
    record.extend(crc32c::crc32c(&checked).to_le_bytes());
    record.extend(sequence.to_le_bytes());
    record.extend(&payload);
    let data = image.get_mut(&name).expect("the last write went there");
    data.resize(data.len().max(at + record.len()), 0);
    data[at..at + record.len()].copy_from_slice(&record);
    let disk = Disk::of(&image);
    let Ok(mut store) = open(&disk) else {
        assert!(matches!(open(&disk), Err(StorageError::Corrupt { .. })));
        return;
    };
    let found = Content::of(&mut store);
    drop(store);
    assert_eq!(Content::of(&mut open(&disk).expect("it was read before")), found);
}

fn forged_payload(history: &History, input: &mut Input<'_>) -> Vec<u8> {
    let now = history.now();
    let last = now.last.index;
    let edge = |input: &mut Input<'_>| {
        let near = [last, last + 1, last.saturating_sub(1), now.base.log_id.index];
        let far = [0, 1, u64::MAX, u64::MAX - 1, 1 << 63];
        if input.flag() { input.pick(&near) } else { input.pick(&far) }
    };
    let flags = input.byte() & if input.flag() { 0x0f } else { 0xff };
    let mut out = vec![flags];
    if flags & 1 != 0 {
        out.extend([input.byte(); 40]);
    }
    for flag in [2, 4] {
        if flags & flag != 0 {
            out.extend([edge(input), edge(input)].map(u64::to_le_bytes).as_flattened());
            crate::wire::put(&mut out, input.bytes(8));
        }
    }
    if flags & 8 != 0 {
        out.extend([edge(input), edge(input), edge(input)].map(u64::to_le_bytes).as_flattened());
    }
    let count = input.below(4);
    let lie = if input.rarely(8) { input.number() as usize & 0xffff_ffff } else { count };
    out.extend((lie as u32).to_le_bytes());
    let mut index = edge(input);
    for _ in 0..count {
        let mut bytes = edge(input).to_le_bytes().to_vec();
        bytes.extend(index.to_le_bytes());
        bytes.push(input.byte() % 5);
        bytes.extend(input.bytes(8));
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(crc32c::crc32c(&bytes).to_le_bytes());
        out.extend(&bytes);
        index = if input.rarely(4) { edge(input) } else { index.wrapping_add(1) };
    }
    out
}

fn open(disk: &Disk) -> Result<FileLogStore, StorageError> {
    let mut config = FileStoreConfig::default();
    config.segment_bytes = 4_096;
    block_on(FileLogStore::open(disk.files(), config))
}

fn place(term: u64, index: u64, input: &mut Input<'_>) -> Base {
    let system = input.pick(&[&b""[..], b"system", &[7; 600]]);
    Base { log_id: LogId { term, index }, system: Bytes::copy_from_slice(system) }
}

fn entry(term: u64, index: u64, kind: u8, len: usize) -> Entry {
    let mut bytes = term.to_le_bytes().to_vec();
    bytes.extend(index.to_le_bytes());
    bytes.push(kind);
    bytes.resize(bytes.len() + len, (index ^ term) as u8 | 1);
    Entry::decode(bytes.into()).expect("an entry as the format says")
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn seeds() -> Vec<Vec<u8>> {
    crate::corpus::choices(&[], 32, 120)
}

const MARK: &str = "watermark";
/// Far above what a dozen small segments and their copies take.
const MEMORY_MAX: usize = 16 << 20;
