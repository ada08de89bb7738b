//! One batch as bytes, and its checksum.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::id::{ClusterId, GroupId, LogId, NodeId};
use crate::mutant::Mutant;
use crate::storage::{Base, Entry, HardState, Identity, WriteBatch};

/// The payload of a record, in parts so that entries are not copied.
pub(super) struct Payload {
    parts: Vec<Bytes>,
    len: usize,
}

impl Payload {
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

pub(super) fn encode(batch: &WriteBatch) -> Payload {
    let mut head = BytesMut::new();
    let flags = [
        (batch.identity.is_some(), HAS_IDENTITY),
        (batch.reset_to.is_some(), HAS_RESET),
        (batch.compact_to.is_some(), HAS_COMPACT),
        (batch.hard_state.is_some(), HAS_HARD_STATE),
    ];
    let flags = flags.iter().filter(|(has, _)| *has).fold(0, |flags, (_, flag)| flags | flag);
    head.put_u8(flags);
    if let Some(identity) = &batch.identity {
        head.put_slice(&identity.cluster.to_bytes());
        head.put_slice(&identity.node.to_bytes());
        head.put_u64_le(identity.group.0);
    }
    for base in [&batch.reset_to, &batch.compact_to].into_iter().flatten() {
        head.put_u64_le(base.log_id.term);
        head.put_u64_le(base.log_id.index);
        head.put_u32_le(count(base.system.len()));
        head.put_slice(&base.system);
    }
    if let Some(hard_state) = &batch.hard_state {
        head.put_slice(&hard_state.encode());
    }
    head.put_u32_le(count(batch.entries.len()));
    let mut parts = Vec::new();
    for entry in &batch.entries {
        let bytes = entry.head();
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), entry.payload());
        head.put_u32_le(count(entry.encoded_len()));
        head.put_u32_le(checksum);
        head.put_slice(&bytes);
        if entry.payload().len() < COPY_BELOW {
            head.put_slice(entry.payload());
        } else {
            parts.push(head.split().freeze());
            parts.push(entry.payload().clone());
        }
    }
    parts.push(head.freeze());
    let len = parts.iter().map(Bytes::len).sum();
    Payload { parts, len }
}

/// Reads what `encode` wrote; `None` if it is anything else.
pub(super) fn decode(mut bytes: Bytes) -> Option<WriteBatch> {
    let flags = bytes.try_get_u8().ok()?;
    if flags & !(HAS_IDENTITY | HAS_RESET | HAS_COMPACT | HAS_HARD_STATE) != 0 {
        return None;
    }
    let mut batch = WriteBatch { sync: true, ..WriteBatch::default() };
    if flags & HAS_IDENTITY != 0 {
        let cluster = ClusterId::from_bytes(take_id(&mut bytes)?);
        let node = NodeId::from_bytes(take_id(&mut bytes)?).ok()?;
        let group = GroupId(bytes.try_get_u64_le().ok()?);
        batch.identity = Some(Identity { cluster, node, group });
    }
    if flags & HAS_RESET != 0 {
        batch.reset_to = Some(take_base(&mut bytes)?);
    }
    if flags & HAS_COMPACT != 0 {
        batch.compact_to = Some(take_base(&mut bytes)?);
    }
    if flags & HAS_HARD_STATE != 0 {
        let state = take(&mut bytes, HardState::LEN)?;
        batch.hard_state = Some(HardState::decode(&state).ok()?);
    }
    for _ in 0..bytes.try_get_u32_le().ok()? {
        let len = usize::try_from((&bytes[..]).try_get_u32_le().ok()?).ok()?;
        let framed = take(&mut bytes, len.checked_add(ENTRY_HEAD)?)?;
        batch.entries.push(entry(framed)?);
    }
    bytes.is_empty().then_some(batch)
}

/// One entry with its length and checksum in front.
pub(super) fn entry(mut framed: Bytes) -> Option<Entry> {
    let len = usize::try_from(framed.try_get_u32_le().ok()?).ok()?;
    let checksum = framed.try_get_u32_le().ok()?;
    let sound = crc32c::crc32c(&framed) == checksum || Mutant::ChecksumIgnored.is_planted();
    let sound = framed.len() == len && sound;
    if sound { Entry::decode(framed).ok() } else { None }
}

pub(super) fn entry_len(entry: &Entry) -> usize {
    ENTRY_HEAD + entry.encoded_len()
}

/// Where each entry of a batch is, if the batch's record begins at `record_at`.
pub(super) fn entry_offsets(
    batch: &WriteBatch,
    record_at: u64,
) -> impl Iterator<Item = (u64, &Entry)> {
    let identity = batch.identity.map_or(0, |_| 40);
    let bases = [&batch.reset_to, &batch.compact_to].into_iter().flatten();
    let bases: usize = bases.map(|base| 20 + base.system.len()).sum();
    let hard_state = batch.hard_state.map_or(0, |_| HardState::LEN);
    let head = RECORD_HEAD + 1 + identity + bases + hard_state + 4;
    let mut at = record_at + head as u64;
    batch.entries.iter().map(move |entry| {
        let offset = at;
        at += entry_len(entry) as u64;
        (offset, entry)
    })
}

/// A record as it stands in segment `segment`: length, checksum, sequence number, payload, padding.
pub(super) fn frame(payload: &Payload, segment: u64, sequence: u64) -> Vec<Bytes> {
    let len = count(payload.len);
    let checksum = checksum(len, segment, sequence, payload.parts.iter().map(|part| &part[..]));
    let mut head = BytesMut::with_capacity(RECORD_HEAD);
    head.put_u32_le(len);
    head.put_u32_le(checksum);
    head.put_u64_le(sequence);
    let padding = framed_len(payload.len) - (RECORD_HEAD + payload.len) as u64;
    let mut parts = vec![head.freeze()];
    parts.extend(payload.parts.iter().cloned());
    let padding = usize::try_from(padding).expect("less than the alignment");
    parts.push(Bytes::from_static(&[0; ALIGNMENT][..padding]));
    parts
}

/// How long a record with a payload of this length is in its segment.
pub(super) fn framed_len(payload: usize) -> u64 {
    ((RECORD_HEAD + payload) as u64).next_multiple_of(ALIGNMENT as u64)
}

/// What stands at `at` in a segment: a sound record and its sequence number, or nothing.
pub(super) fn read(segment: &Bytes, number: u64, at: usize) -> Option<(u64, Bytes)> {
    let head = segment.get(at..at + RECORD_HEAD)?;
    let (len, found, sequence) = parse_head(head);
    let payload = at + RECORD_HEAD;
    let end = payload.checked_add(usize::try_from(len).ok()?)?;
    if len == 0 || end > segment.len() {
        return None;
    }
    let bytes = segment.slice(payload..end);
    let sound = checksum(len, number, sequence, std::iter::once(&bytes[..])) == found
        || Mutant::ChecksumIgnored.is_planted() && sequence > 0;
    sound.then_some((sequence, bytes))
}

/// The sequence number and the length that the bytes at `at` claim, sound or not.
pub(super) fn claim(segment: &Bytes, at: usize) -> Option<(u64, u64)> {
    let head = segment.get(at..at + RECORD_HEAD)?;
    let (len, _, sequence) = parse_head(head);
    (len > 0).then(|| (sequence, framed_len(len as usize)))
}

/// The first sound record at `from` or behind it, if one should begin there with the number
/// `sequence`: where it is and its number.
pub(super) fn find(
    segment: &Bytes,
    number: u64,
    from: usize,
    sequence: u64,
) -> Option<(usize, u64)> {
    let end = segment.len().saturating_sub(RECORD_HEAD);
    (from..=end).step_by(ALIGNMENT).find_map(|at| {
        // Most of what stands there by chance is told by the number: so many records and no more
        // can be in between.
        let between = ((at - from) / LEN_MIN) as u64;
        let (found, _) = claim(segment, at)?;
        let possible = found >= sequence && found - sequence <= between;
        (possible && read(segment, number, at).is_some()).then_some((at, found))
    })
}

fn parse_head(mut head: &[u8]) -> (u32, u32, u64) {
    (head.get_u32_le(), head.get_u32_le(), head.get_u64_le())
}

/// The file that says how far the log was synced for certain.
pub(super) fn watermark(sequence: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(WATERMARK_LEN);
    bytes.put_u64_le(sequence);
    bytes.put_u32_le(crc32c::crc32c(&sequence.to_le_bytes()));
    bytes.freeze()
}

pub(super) fn read_watermark(mut bytes: Bytes) -> Option<u64> {
    let sequence = bytes.try_get_u64_le().ok()?;
    let checksum = bytes.try_get_u32_le().ok()?;
    (checksum == crc32c::crc32c(&sequence.to_le_bytes())).then_some(sequence)
}

fn checksum<'a>(
    len: u32,
    segment: u64,
    sequence: u64,
    parts: impl Iterator<Item = &'a [u8]>,
) -> u32 {
    let sum = crc32c::crc32c(&len.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &segment.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &sequence.to_le_bytes());
    parts.fold(sum, crc32c::crc32c_append)
}

fn take(bytes: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

fn take_id(bytes: &mut Bytes) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    bytes.try_copy_to_slice(&mut id).ok()?;
    Some(id)
}

fn take_base(bytes: &mut Bytes) -> Option<Base> {
    let term = bytes.try_get_u64_le().ok()?;
    let index = bytes.try_get_u64_le().ok()?;
    let len = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    // Copied: it is kept for long, and must not keep the whole segment in memory.
    let system = Bytes::copy_from_slice(&take(bytes, len)?);
    Some(Base { log_id: LogId { term, index }, system })
}

fn count(count: usize) -> u32 {
    u32::try_from(count).expect("a batch is limited far below 4 GiB")
}

pub(super) const RECORD_HEAD: usize = 16;
pub(super) const ENTRY_HEAD: usize = 8;
/// How long the shortest record is: head, flags, number of entries, padding.
const LEN_MIN: usize = 24;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;
pub(super) const WATERMARK_LEN: usize = 12;
const COPY_BELOW: usize = 4096;
const HAS_IDENTITY: u8 = 1;
const HAS_RESET: u8 = 2;
const HAS_COMPACT: u8 = 4;
const HAS_HARD_STATE: u8 = 8;
