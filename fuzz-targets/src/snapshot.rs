//! F5: snapshots in files, and installing one that streams in. What is there is there whole, what
//! is read is what was written or an error, and a server has the old state or the new.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::executor::block_on;
use futures::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use kontiki::runtime::sim::Sim;
use kontiki::storage::{
    FileSnapshotStore, MemoryLogStore, SnapshotMeta, SnapshotSink, SnapshotStore, StorageError,
};
use kontiki::transport::Message;
use kontiki::{Config, GroupId, LogId, Member, Parts, Raft, fuzzing};

use crate::disk::{Disk, Image};
use crate::input::Input;
use crate::stub::{State, Wire, lock};
use crate::{Target, meter, wire};

pub(crate) const TARGET: Target = Target { name: "snapshot", run, seeds, words: &[] };

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    meter::within(MEMORY_MAX, || match input.below(4) {
        0 | 1 => write(&mut input),
        2 => rot(&mut input),
        _ => install(&mut input),
    });
}

/// A store, and what must be in it.
struct Store {
    disk: Disk,
    store: FileSnapshotStore,
    model: BTreeMap<LogId, Vec<u8>>,
}

impl Store {
    fn new() -> Self {
        let disk = Disk::default();
        let store = open(&disk);
        Self { disk, store, model: BTreeMap::new() }
    }

    fn check(&self) {
        let listed = block_on(self.store.list()).expect("nothing is damaged");
        let expected = self.model.iter().rev().map(|(at, content)| meta(*at, content.len()));
        assert!(listed.iter().cloned().eq(expected), "{listed:?}");
        for meta in &listed {
            let whole = &self.model[&meta.log_id];
            assert_eq!(&read(&self.store, meta, 0).0, whole);
        }
    }
}

/// Snapshots are written side by side, removed and read, and the power goes now and then.
fn write(input: &mut Input<'_>) {
    let mut store = Store::new();
    let mut sinks: Vec<(LogId, Vec<u8>, Box<dyn SnapshotSink>)> = Vec::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0 | 1 if sinks.len() < 3 => {
                let at = place(input);
                let sink =
                    block_on(store.store.create(meta(at, 0))).expect("nothing is in the way");
                sinks.push((at, Vec::new(), sink));
            }
            2 | 3 if !sinks.is_empty() => {
                let which = input.below(sinks.len());
                let (at, content, sink) = &mut sinks[which];
                let more = pattern(*at, content.len(), input.pick(&SIZES));
                block_on(sink.write_all(&more)).expect("nothing is in the way");
                content.extend_from_slice(&more);
            }
            4 if !sinks.is_empty() => {
                let (at, content, sink) = sinks.swap_remove(input.below(sinks.len()));
                let done = block_on(sink.commit()).expect("nothing is in the way");
                assert_eq!(done, meta(at, content.len()));
                store.model.insert(at, content);
            }
            5 if !sinks.is_empty() => drop(sinks.swap_remove(input.below(sinks.len()))),
            6 => {
                let at = place(input);
                block_on(store.store.remove(&meta(at, 0))).expect("one that is not there is fine");
                store.model.remove(&at);
            }
            _ => power_cut(&mut store, &mut sinks, input),
        }
        store.check();
    }
}

/// The power goes while a snapshot is committed or removed, or while nothing is done.
fn power_cut(
    store: &mut Store,
    sinks: &mut Vec<(LogId, Vec<u8>, Box<dyn SnapshotSink>)>,
    input: &mut Input<'_>,
) {
    store.disk.stop_after(input.below(6));
    let mut without = store.model.clone();
    let mut with = store.model.clone();
    match input.below(3) {
        0 if !sinks.is_empty() => {
            let (at, content, sink) = sinks.swap_remove(input.below(sinks.len()));
            let done = block_on(sink.commit()).is_ok();
            with.insert(at, content);
            without = if done { with.clone() } else { without };
        }
        1 => {
            let at = place(input);
            let done = block_on(store.store.remove(&meta(at, 0))).is_ok();
            with.remove(&at);
            without = if done { with.clone() } else { without };
        }
        _ => {}
    }
    sinks.clear();
    store.disk.crash(input);
    store.store = open(&store.disk);
    let listed = block_on(store.store.list()).expect("a power cut is no damage");
    let found: BTreeMap<_, _> =
        listed.iter().map(|meta| (meta.log_id, read(&store.store, meta, 0).0)).collect();
    assert!(found == with || found == without, "neither before nor after: {listed:?}");
    store.model = found;
    let left = store.disk.image().into_keys().filter(|name| name.starts_with("tmp-")).count();
    assert_eq!(left, 0, "what was not finished is removed");
}

/// The disk changes what was synced.
fn rot(input: &mut Input<'_>) {
    let mut store = Store::new();
    for _ in 0..1 + input.below(2) {
        let at = place(input);
        let content = pattern(at, 0, input.pick(&SIZES));
        let mut sink = block_on(store.store.create(meta(at, 0))).expect("nothing is in the way");
        block_on(sink.write_all(&content)).expect("nothing is in the way");
        block_on(sink.commit()).expect("nothing is in the way");
        store.model.insert(at, content);
    }
    let mut image = store.disk.image();
    for _ in 0..1 + input.below(2) {
        edit(&mut image, input);
    }
    let damaged = open(&Disk::of(&image));
    let listed = match block_on(damaged.list()) {
        Ok(listed) => listed,
        Err(StorageError::Corrupt { .. }) => return,
        Err(error) => panic!("damage is an error of its own: {error}"),
    };
    let different: BTreeSet<_> = listed.iter().map(|meta| meta.log_id).collect();
    assert_eq!(different.len(), listed.len(), "one snapshot is there twice: {listed:?}");
    for found in listed {
        let whole = store.model.get(&found.log_id).expect("one that was written");
        assert_eq!(found, meta(found.log_id, whole.len()));
        let from = input.pick(&[0, 0, 1, 65_535, 65_536, 70_000]).min(whole.len());
        let (bytes, sound) = read(&damaged, &found, from);
        assert!(whole[from..].starts_with(&bytes), "other bytes than were written");
        assert!(!sound || from + bytes.len() == whole.len(), "an end that is none");
    }
}

fn edit(image: &mut Image, input: &mut Input<'_>) {
    let names: Vec<String> = image.keys().cloned().collect();
    let name = &names[input.below(names.len())];
    let other = image[&names[input.below(names.len())]].clone();
    let data = image.get_mut(name).expect("it was listed");
    let at = match input.below(4) {
        0 => input.number() as usize % data.len().max(1),
        1 => data.len().saturating_sub(1 + input.below(64)),
        _ => CHUNK * input.below(3) + input.below(8),
    };
    let at = at.min(data.len());
    let len = input.pick(&[1, 4, 16, 512, 65_536, CHUNK]).min(data.len() - at);
    match input.below(8) {
        0 => data.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << input.below(8)),
        1 => data[at..at + len].fill(0),
        2 => data.truncate(at),
        3 => drop(data.drain(at..at + len)),
        4 => {
            // A block that went to the wrong place.
            let from = (CHUNK * input.below(3)).min(other.len());
            let len = len.min(other.len() - from);
            data[at..at + len].copy_from_slice(&other[from..from + len]);
        }
        5 => {
            let to = (CHUNK * input.below(3)).min(data.len());
            let len = len.min(at.abs_diff(to)).min(data.len() - to);
            (0..len).for_each(|n| data.swap(at + n, to + n));
        }
        6 => {
            let copy = data[at..at + len].to_vec();
            drop(data.splice(at..at, copy));
        }
        _ => *data = other,
    }
}

/// All from `from` on, as far as it goes; and whether it ends well.
fn read(store: &FileSnapshotStore, meta: &SnapshotMeta, from: usize) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let Ok(mut reader) = block_on(store.open(meta, from as u64)) else { return (bytes, false) };
    let sound = block_on(reader.read_to_end(&mut bytes)).is_ok();
    (bytes, sound)
}

fn open(disk: &Disk) -> FileSnapshotStore {
    block_on(FileSnapshotStore::open(disk.files())).expect("a directory can be opened")
}

fn place(input: &mut Input<'_>) -> LogId {
    LogId { term: 1 + input.below(2) as u64, index: 2 + input.below(3) as u64 }
}

fn meta(log_id: LogId, len: usize) -> SnapshotMeta {
    SnapshotMeta { log_id, system: Bytes::from_static(b"system"), size_bytes: len as u64 }
}

/// Bytes that tell whose they are and where they belong.
fn pattern(at: LogId, from: usize, len: usize) -> Vec<u8> {
    let seed = (at.term * 31 + at.index * 7) as usize;
    (from..from + len).map(|n| (n / 251 + n * 3 + seed) as u8).collect()
}

/// A running server is sent snapshots by a leader that makes mistakes.
fn install(input: &mut Input<'_>) {
    let sim = Sim::new(1);
    let disk = Disk::default();
    let log = MemoryLogStore::new();
    let (wire, state) = (Arc::new(Wire::default()), State::default());
    let raft = start(&sim, &disk, log.clone(), &wire, &state);
    let mut bodies: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for _ in 0..1 + input.below(3) {
        let inbox = lock(&wire.inbox).clone().expect("a node attaches when it starts");
        let cluster = inbox.local().cluster.to_bytes();
        let streams = (0..1 + input.below(2)).map(|_| stream(cluster, input));
        let streams: Vec<(u64, Message, Broken)> = streams.collect();
        // What stands at its own first place is not needed.
        for (index, _, body) in streams.iter().filter(|(index, ..)| *index > 1) {
            bodies.entry(*index).or_default().push(body.content.clone());
        }
        let receiving = streams.into_iter().map(|(_, head, body)| {
            let inbox = Arc::clone(&inbox);
            async move { inbox.receive_stream(head, Box::pin(body)).await }
        });
        let receiving = futures::future::join_all(receiving.collect::<Vec<_>>());
        let received = sim.run_until(Duration::from_secs(60), receiving);
        received.unwrap_or_else(|stuck| panic!("a stream never ends: {stuck}"));
        sim.run_for(Duration::from_millis(100));
        check(&raft, &state, &bodies);
    }
    // It dies and starts again.
    let before = lock(&state.0).clone();
    sim.kill(1);
    drop(raft);
    let after = State::default();
    let raft = start(&sim, &disk, log.crash(0), &wire, &after);
    sim.run_for(Duration::from_millis(100));
    check(&raft, &after, &bodies);
    assert_eq!(*lock(&after.0), before, "what was installed is there after a restart");
}

fn check(raft: &Raft, state: &State, bodies: &BTreeMap<u64, Vec<Vec<u8>>>) {
    let status = raft.status();
    assert_eq!(status.stopped, None);
    let content = lock(&state.0).clone();
    let whole = match bodies.get(&status.applied) {
        Some(bodies) => bodies.contains(&content),
        None => content.is_empty() && status.applied <= 1,
    };
    assert!(whole, "at {} it has {} bytes of no snapshot", status.applied, content.len());
}

fn start(sim: &Sim, disk: &Disk, log: MemoryLogStore, wire: &Arc<Wire>, state: &State) -> Raft {
    let process = sim.process(1);
    let (files, wire, state) = (disk.files(), Arc::clone(wire), state.clone());
    let starting = async move {
        let mut config = Config::default();
        config.id = Some(1.into());
        config.address = "a1".to_owned();
        config.snapshot_after_entries = 0;
        // It never campaigns: the leader is the one that makes the mistakes.
        config.election_timeout = Duration::from_secs(3_000);
        config.seed = Some(1);
        let parts = Parts {
            config,
            group: GroupId(0),
            runtime: process,
            transport: wire,
            log: Box::new(log),
            snapshots: Arc::new(FileSnapshotStore::open(files).await.expect("it can be opened")),
            state_machine: Box::new(state),
        };
        let raft = Raft::start(parts).await.expect("it starts on what it wrote");
        // It is in a cluster already when it starts again.
        let _ = raft.bootstrap(members()).await;
        raft
    };
    let started = sim.run_until(Duration::from_secs(60), starting);
    started.unwrap_or_else(|stuck| panic!("it never starts: {stuck}"))
}

fn members() -> Vec<Member> {
    (1..=3).map(|n| Member::voter(n.into(), format!("n{n}"), format!("a{n}"))).collect()
}

/// A stream as a leader sends it, more or less.
fn stream(cluster: [u8; 16], input: &mut Input<'_>) -> (u64, Message, Broken) {
    let index = input.pick(&[2, 3, 4, 5, 1]);
    let content = pattern(LogId { term: 1, index }, input.below(4), input.pick(&SIZES));
    let size = match input.below(8) {
        6 => content.len() as u64 + 1,
        7 => (content.len() as u64).saturating_sub(1),
        _ => content.len() as u64,
    };
    let system = fuzzing::encode_membership(&fuzzing::first_membership(members()));
    let term = 5 + u64::from(input.rarely(4));
    let snapshot = wire::Snapshot { term: 1, index, size, system: system.to_vec() };
    let raft = wire::Raft {
        kind: wire::SNAPSHOT,
        term,
        snapshot: Some(snapshot),
        ..wire::Raft::default()
    };
    let mut envelope = wire::Envelope::raft(2 + u64::from(input.flag()), 1, raft);
    envelope.cluster = cluster;
    let head = Message::decode(envelope.encode().into()).expect("a head as it should be");
    let breaks = input.rarely(4).then(|| input.number() as usize % (content.len() + 1));
    let step = 1 + input.pick(&[0, 99, 65_535, 100_000]);
    (index, head, Broken { content, at: 0, step, breaks })
}

/// A body that comes in pieces and may break off.
struct Broken {
    content: Vec<u8>,
    at: usize,
    step: usize,
    breaks: Option<usize>,
}

impl AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let end = self.breaks.unwrap_or(usize::MAX).min(self.content.len());
        let len = into.len().min(self.step).min(end - self.at);
        if len == 0 && self.breaks.is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let at = self.at;
        into[..len].copy_from_slice(&self.content[at..at + len]);
        self.at += len;
        Poll::Ready(Ok(len))
    }
}

fn seeds() -> Vec<Vec<u8>> {
    crate::corpus::choices(&[], 48, 60)
}

const SIZES: [usize; 6] = [0, 1, 100, 65_536, 65_537, 140_000];
/// How long a chunk is in its file.
const CHUNK: usize = 65_540;
const STEPS_MAX: usize = 12;
const MEMORY_MAX: usize = 24 << 20;
