//! The files of the log: their names, their beginnings, making them.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{Current, Spare, record};
use crate::runtime::{FileOp, Files, OpenMode};
use crate::storage::{StorageError, WriteBatch};

pub(super) fn name(number: u64) -> String {
    format!("log-{number:020}.seg")
}

pub(super) fn spare_name(number: u64) -> String {
    format!("spare-{number:020}.seg")
}

/// The number of a segment, by its name; numbers begin at 1.
pub(super) fn parse_name(text: &str) -> Option<u64> {
    let number = text.strip_prefix("log-")?.strip_suffix(".seg")?.parse().ok()?;
    (number > 0 && number < u64::MAX && text == name(number)).then_some(number)
}

pub(super) async fn new_spare(files: &dyn Files, number: u64) -> Result<Spare, StorageError> {
    let name = spare_name(number);
    let file = files.open(&name, OpenMode::Create).await;
    let file = file.map_err(StorageError::io("making a segment"))?;
    Ok(Spare { name, file, filled: 0 })
}

/// Writes zeros, at most `bytes_max` of them, and syncs them when the segment is full.
pub(super) async fn fill(
    files: &dyn Files,
    spare: &mut Spare,
    len: u64,
    bytes_max: u64,
) -> Result<(), StorageError> {
    if spare.filled >= len {
        return Ok(());
    }
    let end = len.min(spare.filled.saturating_add(bytes_max));
    let mut ops = Vec::new();
    while spare.filled < end {
        let bytes = (end - spare.filled).min(ZEROS.len() as u64);
        let part = &ZEROS[..usize::try_from(bytes).expect("at most the zeros there are")];
        let parts = vec![Bytes::from_static(part)];
        ops.push(FileOp::Write { file: spare.file, at: spare.filled, parts });
        spare.filled += bytes;
    }
    if spare.filled >= len {
        ops.push(FileOp::SyncData { file: spare.file });
    }
    files.run(ops).await.map_err(StorageError::io("filling a segment"))
}

/// Makes a spare the segment `number`. Its beginning restates the facts, and is synced before
/// anything follows it: so what comes first in a segment is never lost while what comes later is
/// kept.
pub(super) async fn begin(
    files: &dyn Files,
    spare: Spare,
    number: u64,
    begins: Begins,
    facts: &WriteBatch,
) -> Result<Current, StorageError> {
    let file = spare.file;
    let payload = record::encode(facts);
    let mut parts = vec![header(number, begins)];
    parts.extend(record::frame(&payload, number, begins.sequence));
    let offset = HEADER_LEN as u64 + record::framed_len(payload.len());
    let mut current = Current { number, file, offset, len: spare.filled, last_index: 0 };
    let mut ops = vec![
        FileOp::Rename { from: spare.name, to: name(number) },
        FileOp::SyncDir,
        FileOp::Write { file, at: 0, parts },
    ];
    ops.push(FileOp::SyncData { file });
    if offset > current.len {
        current.len = offset;
    }
    files.run(ops).await.map_err(StorageError::io("beginning a segment"))?;
    Ok(current)
}

/// Makes room for a batch that is longer than a segment.
pub(super) async fn extend(
    files: &dyn Files,
    current: &mut Current,
    len: u64,
) -> Result<(), StorageError> {
    let ops =
        vec![FileOp::SetLen { file: current.file, len }, FileOp::SyncData { file: current.file }];
    files.run(ops).await.map_err(StorageError::io("extending a segment"))?;
    current.len = len;
    Ok(())
}

fn header(number: u64, begins: Begins) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_LEN);
    bytes.put_slice(MAGIC);
    bytes.put_u32_le(VERSION);
    bytes.put_u64_le(number);
    bytes.put_u64_le(begins.sequence);
    bytes.put_u64_le(begins.last_index);
    let checksum = crc32c::crc32c(&bytes);
    bytes.put_u32_le(checksum);
    bytes.freeze()
}

/// How a segment follows on those before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Begins {
    /// The number of its first record.
    pub(super) sequence: u64,
    /// The last entry of the log when it was begun.
    pub(super) last_index: u64,
}

impl Begins {
    /// No log gets that long: whoever counts on from here must not overflow.
    fn is_possible(self) -> bool {
        self.sequence.max(self.last_index) < u64::MAX / 2
    }
}

/// What the beginning of a segment says.
#[derive(Debug, PartialEq)]
pub(super) enum Header {
    /// It was begun.
    Begins(Begins),
    /// It is torn, or was never written.
    Torn,
    /// It is of a version we do not know.
    Version(u32),
}

pub(super) fn read_header(segment: &Bytes, number: u64) -> Header {
    if segment.len() < HEADER_LEN {
        return Header::Torn;
    }
    let mut bytes = segment.slice(..HEADER_LEN);
    let checksum = crc32c::crc32c(&bytes[..HEADER_LEN - 4]);
    let mut magic = [0; 8];
    bytes.copy_to_slice(&mut magic);
    let (version, found) = (bytes.get_u32_le(), bytes.get_u64_le());
    let begins = Begins { sequence: bytes.get_u64_le(), last_index: bytes.get_u64_le() };
    // A write that was torn behind the name leaves zeros.
    if magic != *MAGIC || version == 0 {
        return Header::Torn;
    }
    // Before anything else: of another version not even the checksum's place is known.
    if version != VERSION {
        return Header::Version(version);
    }
    // Another number: recycled, and not begun again before the crash.
    let sound = checksum == bytes.get_u32_le() && found == number && begins.is_possible();
    if sound { Header::Begins(begins) } else { Header::Torn }
}

pub(super) const HEADER_LEN: usize = 40;
const MAGIC: &[u8; 8] = b"kontiki\0";
const VERSION: u32 = 1;
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];
