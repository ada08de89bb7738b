//! The floor: three engines in one thread, which hand each other messages without a copy.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType, Snapshot};
use raft::{GetEntriesContext, RaftState, RawNode, Storage};

use crate::load::{Load, Run, Watch};

/// As many commands in one proposal as there are clients, and everything done before the next.
pub(crate) fn run(load: Load) -> Run {
    let mut nodes: Vec<RawNode<Memory>> = (1..=3).map(raw_node).collect();
    nodes[0].campaign().expect("a voter may campaign");
    pump(&mut nodes);
    let entry = |_| {
        let mut entry = Entry::default();
        entry.data = load.command();
        entry
    };
    let mut commands = 0;
    let watch = Watch::start();
    while watch.elapsed() < load.time {
        let mut message = Message::default();
        message.msg_type = MessageType::MsgPropose;
        message.from = 1;
        message.entries = (0..load.clients).map(entry).collect::<Vec<_>>().into();
        nodes[0].step(message).expect("the leader proposes");
        pump(&mut nodes);
        commands += load.clients;
    }
    watch.stop(commands, Vec::new())
}

fn raw_node(id: u64) -> RawNode<Memory> {
    let config = raft::Config {
        id,
        election_tick: 10,
        heartbeat_tick: 1,
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 256,
        ..raft::Config::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, Memory::default(), &logger).expect("the configuration is valid")
}

/// Until nobody has anything to do or to say.
fn pump(nodes: &mut [RawNode<Memory>]) {
    let mut wire = VecDeque::new();
    loop {
        for node in nodes.iter_mut() {
            while node.has_ready() {
                turn(node, &mut wire);
            }
        }
        if wire.is_empty() {
            return;
        }
        for message in wire.drain(..) {
            let to = usize::try_from(message.to).expect("three nodes") - 1;
            nodes[to].step(message).expect("nodes know each other");
        }
    }
}

fn turn(node: &mut RawNode<Memory>, wire: &mut VecDeque<Message>) {
    let mut ready = node.ready();
    wire.extend(ready.take_messages());
    let committed = ready.take_committed_entries().last().map(|entry| entry.index);
    node.mut_store().append(&ready.take_entries());
    wire.extend(ready.take_persisted_messages());
    let number = ready.number();
    node.advance_append_async(ready);
    node.on_persist_ready(number);
    if let Some(index) = committed {
        node.advance_apply_to(index);
        node.mut_store().compact(index.saturating_sub(TRAILING_ENTRIES));
    }
}

/// The engine's log, in memory and without locks.
#[derive(Default)]
struct Memory {
    entries: VecDeque<Entry>,
    /// Index and term before the first entry.
    base: (u64, u64),
}

impl Memory {
    fn append(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            self.entries.truncate(self.position(first.index));
        }
        self.entries.extend(entries.iter().cloned());
    }

    fn compact(&mut self, to: u64) {
        while self.base.0 < to
            && let Some(gone) = self.entries.pop_front()
        {
            self.base = (gone.index, gone.term);
        }
    }

    fn position(&self, index: u64) -> usize {
        usize::try_from(index - self.base.0 - 1).expect("it is in memory")
    }
}

impl Storage for Memory {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let voters = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
        Ok(RaftState::new(HardState::default(), voters))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        _: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        Ok(self.entries.range(self.position(low)..self.position(high)).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        let entry = self.entries.get(self.position(index));
        entry.map(|entry| entry.term).ok_or_else(|| raft::StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + self.entries.len() as u64)
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        Err(raft::StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

const TRAILING_ENTRIES: u64 = 1_024;
