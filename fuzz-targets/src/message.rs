//! F2: the bytes of messages, memberships, changes and entries.

use bytes::Bytes;
use kontiki::fuzzing;
use kontiki::storage::{Entry, HardState};
use kontiki::transport::Message;

use crate::input::Input;
use crate::wire::{self, Body, Envelope, Members, Raft};
use crate::{Target, meter};

pub(crate) const TARGET: Target = Target { name: "message", run, seeds, words: &[] };

/// The first byte says what the rest is: the bytes themselves, or choices that make sound ones.
fn run(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else { return };
    let mut input = Input::new(rest);
    let (sound, bytes) = match kind % 12 {
        6 | 7 => (true, Bytes::from(envelope(&mut input).encode())),
        8 => (true, members(&mut input).encode().into()),
        9 => (true, record(&mut input)),
        10 => (true, change(&mut input)),
        11 => (true, entry(&mut input)),
        _ => (false, Bytes::copy_from_slice(rest)),
    };
    let allowed = 32 * bytes.len() + 4_096;
    let again = meter::within(allowed, || match kind % 12 {
        0 | 1 | 6 | 7 => message(&bytes),
        2 | 8 => fuzzing::decode_membership(bytes.clone())
            .ok()
            .map(|read| fuzzing::encode_membership(&read)),
        3 | 9 => fuzzing::rewrite_record(bytes.clone()).ok(),
        4 | 10 => fuzzing::rewrite_change(bytes.clone()).ok(),
        _ => Entry::decode(bytes.clone()).ok().map(|entry| entry.encode()),
    });
    // No bytes are the membership of nobody.
    let nobody = kind % 12 == 2 && bytes.is_empty();
    assert!(again.is_some() || !sound, "sound bytes were refused");
    assert!(nobody || again.is_none_or(|again| again == bytes), "one thing has two encodings");
    if let Ok(state) = HardState::decode(rest) {
        assert_eq!(state.encode(), rest);
    }
}

fn message(bytes: &Bytes) -> Option<Bytes> {
    let message = Message::decode(bytes.clone()).ok()?;
    let frame = message.encode();
    assert_eq!(frame.len(), bytes.len());
    assert_eq!(Message::decode(frame.clone().into_bytes()).as_ref(), Ok(&message));
    Some(frame.into_bytes())
}

fn envelope(input: &mut Input<'_>) -> Envelope {
    let flagged = input.byte();
    let body = match flagged % 4 {
        0 | 1 => Body::Raft(raft(input)),
        2 => Body::Other(1, request(input)),
        _ => Body::Other(2, answer(input)),
    };
    let to = if flagged & 0x10 != 0 { wire::id(input.number() | 1) } else { [0; 16] };
    Envelope {
        version: 1,
        cluster: wire::id(input.number()),
        group: input.number(),
        from: wire::id(input.number() | 1),
        to,
        address: text(input),
        body,
    }
}

fn raft(input: &mut Input<'_>) -> Raft {
    let kind = input.byte() % wire::KINDS;
    let mut raft = Raft { kind, reject: input.flag(), ..Raft::default() };
    raft.context = input.bytes(20).to_vec();
    for _ in 0..input.below(4) {
        let index = input.number() | 1;
        let data = if input.rarely(8) { vec![input.byte(); 1_100] } else { text(input) };
        let entry = wire::Entry { term: input.number(), index, kind: input.byte() % 4, data };
        raft.entries.push(entry);
    }
    if input.flag() {
        let (term, index, size) = (input.number(), input.number(), input.number());
        let system = members(input).encode();
        raft.snapshot = Some(wire::Snapshot { term, index, size, system });
    }
    for number in [
        &mut raft.term,
        &mut raft.log_term,
        &mut raft.index,
        &mut raft.commit,
        &mut raft.commit_term,
        &mut raft.reject_hint,
        &mut raft.request_snapshot,
    ] {
        *number = input.number();
    }
    raft
}

fn request(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = request_id(input);
    out.push(input.byte());
    out.extend(input.number().to_le_bytes());
    out.extend((input.number() as u32).to_le_bytes());
    let verb = input.byte() % 5;
    out.push(verb);
    match verb {
        0 => {
            let commands: Vec<_> = (0..input.below(4)).map(|_| text(input)).collect();
            wire::put_count(&mut out, commands.len());
            commands.iter().for_each(|command| wire::put(&mut out, command));
        }
        2 => {
            let planned = input.flag();
            out.push(u8::from(planned));
            out.extend(if planned { input.number() } else { 0 }.to_le_bytes());
            wire::put(&mut out, &change(input));
        }
        3 => out.extend(wire::id(input.number() | 1)),
        4 => {
            let mut bytes = Vec::new();
            member(input).write(&mut bytes);
            wire::put(&mut out, &bytes);
        }
        _ => {}
    }
    out
}

fn answer(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = request_id(input);
    let result = input.pick(&[0, 1, 2, 3, 4, 128, 129, 130, 131]);
    out.push(result);
    match result {
        0 => out.extend([input.number(), input.number()].map(u64::to_le_bytes).as_flattened()),
        1 => out.extend(input.number().to_le_bytes()),
        2 => wire::put(&mut out, &text(input)),
        4 => out.extend(wire::id(input.number())),
        131 => {
            out.push(input.byte());
            wire::put(&mut out, &text(input));
        }
        _ => {}
    }
    out
}

fn request_id(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = wire::id(input.number() | 1).to_vec();
    out.extend([input.number(), input.number()].map(u64::to_le_bytes).as_flattened());
    out
}

fn members(input: &mut Input<'_>) -> Members {
    let mut members = Members { version: 1, index: input.number(), ..Members::default() };
    for group in [&mut members.members, &mut members.outgoing] {
        *group = (0..input.below(4)).map(|_| member(input)).collect();
        group.sort_by_key(|member| member.id);
        group.dedup_by_key(|member| member.id);
    }
    members.staging = (0..input.below(3)).map(|_| wire::id(input.number() | 1)).collect();
    members.staging.sort_unstable();
    members.staging.dedup();
    members.tombstones = (0..input.below(3)).map(|_| input.number()).collect();
    members
}

fn member(input: &mut Input<'_>) -> wire::Member {
    let id = wire::id(input.number() | 1);
    wire::Member { id, role: input.byte() & 1, name: text(input), address: text(input) }
}

fn record(input: &mut Input<'_>) -> Bytes {
    let mut out = vec![0];
    for _ in 0..input.below(4) {
        out[0] += 1;
        out.push(input.byte() % 3);
        out.extend(input.number().to_le_bytes());
    }
    // A record says where the members go, not where they come from.
    let members = Members { index: 0, outgoing: Vec::new(), ..members(input) };
    out.extend(members.encode());
    out.into()
}

fn change(input: &mut Input<'_>) -> Bytes {
    let tag = input.byte() % 6;
    let new = member(input);
    let id = if tag == 0 { new.id } else { wire::id(input.number() | 1) };
    let mut out = vec![tag];
    out.extend(id);
    match tag {
        0 | 5 => new.write(&mut out),
        3 => wire::put(&mut out, &new.address),
        _ => {}
    }
    out.into()
}

fn entry(input: &mut Input<'_>) -> Bytes {
    let mut out = input.number().to_le_bytes().to_vec();
    out.extend((input.number() | 1).to_le_bytes());
    out.push(input.byte() % 4);
    out.extend(text(input));
    out.into()
}

/// Text that is UTF-8, as names and addresses must be.
fn text(input: &mut Input<'_>) -> Vec<u8> {
    String::from_utf8_lossy(input.bytes(24)).into_owned().into_bytes()
}

/// For each kind of bytes some that are sound, and choices that make such.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for choices in crate::corpus::choices(&[], 8, 200) {
        let make = |kind: u8| -> Vec<u8> {
            let input = &mut Input::new(&choices);
            let bytes = match kind {
                0 => envelope(input).encode(),
                2 => members(input).encode(),
                3 => record(input).to_vec(),
                4 => change(input).to_vec(),
                _ => entry(input).to_vec(),
            };
            [&[kind], &bytes[..]].concat()
        };
        seeds.extend([0, 2, 3, 4, 5].map(make));
        seeds.extend([6, 8, 10].map(|kind| [&[kind], &choices[..]].concat()));
    }
    seeds
}
