//! F7: whatever peers send, the engine behind the inbound checks never panics, and what it made
//! durable starts again.

use bytes::Bytes;
use kontiki::{Change, Member, fuzzing};

use crate::input::Input;
use crate::server::{Server, agree};
use crate::wire::{self, Members, Raft, Snapshot};
use crate::{Target, meter};

pub(crate) const TARGET: Target = Target { name: "engine", run, seeds, words: &[] };

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    meter::within(MEMORY_MAX, || {
        let mut server = Server::new(1, members(input.below(4)));
        let mut steps = 0;
        while !input.is_empty() && steps < STEPS_MAX {
            step(&mut server, &mut input);
            steps += 1;
            server.turn();
            if server.core.fatal().is_some() {
                return;
            }
        }
        server.settle();
        if server.core.fatal().is_none() {
            server.crash(true);
        }
    });
}

/// Alone, with two others, with two others and a learner, or in no cluster yet.
fn members(kind: usize) -> Vec<Member> {
    let count = [3, 1, 3, 0][kind];
    let mut members: Vec<Member> = (1..=count).map(member).collect();
    if kind == 2 {
        members.push(Member { role: kontiki::Role::Learner, ..member(4) });
    }
    members
}

fn member(number: u64) -> Member {
    Member::voter(number.into(), format!("n{number}"), format!("a{number}"))
}

fn step(server: &mut Server, input: &mut Input<'_>) {
    match input.below(32) {
        0..=8 => reply(server, input),
        9..=15 => {
            let (from, raft) = (peer(input), message(server, input));
            server.message(from, raft);
        }
        16..=17 => (0..1 + input.below(40)).for_each(|_| server.core.tick()),
        18..=20 => server.finish_write(),
        21 => drop(server.begin_write()),
        22..=23 => drop(server.apply()),
        24 => {
            let command = Bytes::from(vec![7; input.below(100)]);
            server.core.propose(vec![command; 1 + input.below(4)]);
        }
        25 => {
            let change = change(input);
            // It may be refused.
            let _ = server.core.change(&change);
        }
        26 => {
            let (from, raft) = (peer(input), snapshot(server, input));
            // What comes too late is not even taken, but for the moment until that is known.
            let index = raft.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
            if index > server.core.commit() || input.rarely(4) {
                server.snapshot(from, raft);
            }
        }
        27 => server.take_snapshot(input.below(4) as u64),
        28 => server.crash(input.flag()),
        29 => other(server, input),
        30 => elect(server, input.flag()),
        _ => server.settle(),
    }
}

fn other(server: &mut Server, input: &mut Input<'_>) {
    let peer = peer(input);
    match input.below(4) {
        0 => drop(server.core.read(input.number())),
        1 => server.core.transfer(peer),
        2 => server.core.unreachable(peer),
        _ => {
            server.snapshot_sends.clear();
            server.core.snapshot_sent(peer, input.flag());
        }
    }
}

/// Everybody votes for it and takes its first entry, or only one other does.
fn elect(server: &mut Server, all: bool) {
    for _ in 0..60 {
        if server.core.is_established() || server.core.fatal().is_some() {
            return;
        }
        server.core.tick();
        server.settle();
        for (to, message) in std::mem::take(&mut server.sent) {
            let answer = agree(&message).filter(|_| all || to == 2);
            if let Some(answer) = answer {
                server.message(to, answer);
            }
        }
    }
}

/// A peer answers something that was sent, mostly as it should.
fn reply(server: &mut Server, input: &mut Input<'_>) {
    if server.sent.is_empty() {
        return;
    }
    let at = server.sent.len() - 1 - input.below(server.sent.len());
    let (to, sent) = server.sent[at].clone();
    let Some(mut answer) = agree(&sent) else { return };
    if input.rarely(4) {
        answer.reject = true;
        answer.index = edge(server, input);
        answer.reject_hint = edge(server, input);
        answer.log_term = term(server, input);
    }
    if input.rarely(8) {
        bend(&mut answer, server, input);
    }
    server.message(to, answer);
}

/// Changes one field to anything.
fn bend(raft: &mut Raft, server: &Server, input: &mut Input<'_>) {
    match input.below(10) {
        0 => raft.kind = input.byte() % wire::KINDS,
        1 => raft.reject = !raft.reject,
        2 => raft.term = term(server, input),
        3 => raft.log_term = term(server, input),
        4 => raft.index = edge(server, input),
        5 => raft.commit = edge(server, input),
        6 => raft.commit_term = term(server, input),
        7 => raft.reject_hint = edge(server, input),
        8 => raft.request_snapshot = edge(server, input),
        _ => raft.context = input.bytes(17).to_vec(),
    }
}

/// A message of any kind, more or less as a peer might send it.
fn message(server: &Server, input: &mut Input<'_>) -> Raft {
    let mut raft = Raft { kind: input.byte() % wire::KINDS, ..Raft::default() };
    raft.term = server.core.term() + u64::from(input.rarely(3));
    match raft.kind {
        wire::APPEND => {
            let last = server.core.last();
            (raft.index, raft.log_term) = (last.index, last.term);
            if input.flag() {
                raft.index = edge(server, input);
                raft.log_term = term(server, input);
            }
            raft.commit = edge(server, input);
            raft.entries = entries(&raft, server, input);
        }
        wire::HEARTBEAT => raft.commit = server.core.commit(),
        wire::SNAPSHOT => return snapshot(server, input),
        _ => {
            let last = server.core.last();
            (raft.index, raft.log_term) = (last.index, last.term);
        }
    }
    if input.rarely(3) {
        bend(&mut raft, server, input);
    }
    if input.rarely(16) {
        raft.entries = entries(&raft, server, input);
    }
    raft
}

fn entries(raft: &Raft, server: &Server, input: &mut Input<'_>) -> Vec<wire::Entry> {
    let mut entries = Vec::new();
    let mut term = raft.log_term.min(raft.term);
    for next in 1..=input.below(5) as u64 {
        if input.rarely(3) {
            term = raft.term;
        }
        let mut entry =
            wire::Entry { term, index: raft.index.wrapping_add(next), ..Default::default() };
        entry.kind = input.pick(&[0, 0, 0, wire::CHANGE, wire::CHANGE, 2, wire::EMPTY]);
        entry.data = match entry.kind {
            wire::CHANGE => record(server, input),
            wire::EMPTY => Vec::new(),
            _ => vec![7; input.below(60)],
        };
        if input.rarely(16) {
            entry.index = edge(server, input);
        }
        if input.rarely(16) {
            entry.term = self::term(server, input);
        }
        entries.push(entry);
    }
    entries
}

/// The record of a change: one that was planned, none (to leave a joint configuration), or
/// anything.
fn record(server: &Server, input: &mut Input<'_>) -> Vec<u8> {
    match input.below(4) {
        0 => Vec::new(),
        1 => {
            let mut out = vec![input.below(4) as u8];
            for _ in 0..out[0] {
                out.push(input.byte() % 3);
                out.extend((input.below(6) as u64).to_le_bytes());
            }
            out.extend(Members { index: 0, outgoing: Vec::new(), ..any_members(input) }.encode());
            out
        }
        _ => {
            let planned = fuzzing::plan(server.core.membership(), &change(input));
            planned.ok().flatten().map(|record| record.to_vec()).unwrap_or_default()
        }
    }
}

/// The head of a snapshot: of a membership that could be, or of any.
fn snapshot(server: &Server, input: &mut Input<'_>) -> Raft {
    let mut raft = Raft { kind: wire::SNAPSHOT, term: server.core.term(), ..Raft::default() };
    raft.term += u64::from(input.rarely(3));
    let last = server.core.last();
    let (mut index, mut term) = (last.index + input.below(8) as u64, raft.term);
    if input.rarely(4) {
        index = edge(server, input);
        term = self::term(server, input);
    }
    let system = match input.below(4) {
        0 => any_members(input).encode(),
        1 => fuzzing::encode_membership(server.core.membership()).to_vec(),
        _ => {
            let members = (1..=1 + input.below(5) as u64).map(member).collect();
            fuzzing::encode_membership(&fuzzing::first_membership(members)).to_vec()
        }
    };
    raft.snapshot = Some(Snapshot { term, index, size: 0, system });
    raft
}

/// A membership that need not make sense: twins, nobody, voters of a past that are nowhere else.
fn any_members(input: &mut Input<'_>) -> Members {
    let mut members = Members { version: 1, index: input.below(8) as u64, ..Members::default() };
    for group in [&mut members.members, &mut members.outgoing] {
        for _ in 0..input.below(4) {
            let mut id = wire::id(1 + input.below(6) as u64);
            id[15] = u8::from(input.rarely(8));
            let address = vec![b'a', id[7]];
            group.push(wire::Member { id, role: input.byte() & 1, name: Vec::new(), address });
        }
        group.sort_by_key(|member| member.id);
        group.dedup_by_key(|member| member.id);
    }
    members
}

fn change(input: &mut Input<'_>) -> Change {
    let (one, two) = (1 + input.below(6) as u64, 1 + input.below(6) as u64);
    match input.below(6) {
        0 => Change::Add(member(one)),
        1 => Change::Demote(one.into()),
        2 => Change::Promote(one.into()),
        3 => Change::Remove(one.into()),
        4 => Change::Replace { old: one.into(), new: member(two) },
        _ => Change::Add(Member { role: kontiki::Role::Learner, ..member(one) }),
    }
}

fn peer(input: &mut Input<'_>) -> u64 {
    input.pick(&[2, 2, 2, 3, 3, 4, 5, 1, u64::MAX])
}

/// An index near something, or far from everything.
fn edge(server: &Server, input: &mut Input<'_>) -> u64 {
    let core = &server.core;
    let near = [
        core.last().index,
        core.commit(),
        core.applied_to().index,
        core.newest_snapshot().map_or(0, |meta| meta.log_id.index),
        core.membership().index(),
    ];
    match input.below(16) {
        15 => input.pick(&[u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1, u64::from(u32::MAX)]),
        14 => input.number(),
        13 => 0,
        12 => core.last().index.saturating_add(input.below(256) as u64),
        _ => input.pick(&near).saturating_add(input.below(5) as u64).saturating_sub(2),
    }
}

fn term(server: &Server, input: &mut Input<'_>) -> u64 {
    let now = server.core.term();
    match input.below(16) {
        15 => input.pick(&[u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1]),
        14 => 0,
        13 => input.number(),
        10..=12 => now.saturating_add(input.below(4) as u64),
        8..=9 => now.saturating_sub(input.below(4) as u64),
        6..=7 => server.core.last().term,
        _ => now,
    }
}

fn seeds() -> Vec<Vec<u8>> {
    crate::corpus::choices(&[], 48, 400)
}

/// How many steps one input takes at most.
const STEPS_MAX: usize = 400;
const MEMORY_MAX: usize = 16 << 20;
