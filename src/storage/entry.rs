//! Entries of the log and the hard state.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::id::{LogId, NodeId};

/// An entry of the log.
///
/// Opaque but for its place: a store keeps [`encode`](Self::encode)d bytes and gives them back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    pub(crate) log_id: LogId,
    pub(crate) kind: EntryKind,
    /// The application's command; the library's own record for [`EntryKind::System`]; an encoded
    /// change record for [`EntryKind::Change`], empty for the one that leaves a joint
    /// configuration.
    pub(crate) data: Bytes,
}

/// Whose an entry is. The byte is part of the log format for good (D17).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EntryKind {
    Application = 0,
    Change = 1,
    /// The library's own state; none is written yet, and it is skipped by whoever does not know it.
    System = 2,
    /// Nobody's: what a new leader begins with.
    Empty = 3,
}

impl Entry {
    /// Makes an entry that holds an application's command, as stores and their tests need it.
    #[must_use]
    pub fn application(log_id: LogId, command: &[u8]) -> Self {
        Self { log_id, kind: EntryKind::Application, data: Bytes::copy_from_slice(command) }
    }

    /// Its place in the log.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.log_id
    }

    /// Whether it changes the membership; a store must report these when it recovers.
    #[must_use]
    pub fn is_change(&self) -> bool {
        self.kind == EntryKind::Change
    }

    /// How long its encoded form is, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        Self::HEAD_LEN + self.data.len()
    }

    /// The first [`HEAD_LEN`](Self::HEAD_LEN) bytes of the encoded form; [`payload`](Self::payload)
    /// is the rest.
    #[must_use]
    pub fn head(&self) -> [u8; Self::HEAD_LEN] {
        let mut head = [0; Self::HEAD_LEN];
        head[..8].copy_from_slice(&self.log_id.term.to_le_bytes());
        head[8..16].copy_from_slice(&self.log_id.index.to_le_bytes());
        head[16] = self.kind as u8;
        head
    }

    /// The rest of the encoded form, shared and not copied.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.data
    }

    /// The encoded form: term and index (little-endian `u64` each), kind (one byte), payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.encoded_len());
        bytes.put_slice(&self.head());
        bytes.put_slice(&self.data);
        bytes.freeze()
    }

    /// Reads an encoded form; the payload shares `bytes`.
    ///
    /// # Errors
    ///
    /// [`MalformedRecord`] if it is too short, of an unknown kind, or at index 0.
    pub fn decode(mut bytes: Bytes) -> Result<Self, MalformedRecord> {
        if bytes.len() < Self::HEAD_LEN {
            return Err(MalformedRecord);
        }
        let data = bytes.split_off(Self::HEAD_LEN);
        let log_id = LogId { term: number(&bytes[..8]), index: number(&bytes[8..16]) };
        let kind = match bytes[16] {
            0 => EntryKind::Application,
            1 => EntryKind::Change,
            2 => EntryKind::System,
            3 => EntryKind::Empty,
            _ => return Err(MalformedRecord),
        };
        if log_id.index == 0 {
            return Err(MalformedRecord);
        }
        Ok(Self { log_id, kind, data })
    }

    /// The length of [`head`](Self::head) in bytes.
    pub const HEAD_LEN: usize = 17;
}

/// What a server promised: the term it knows, whom it voted for in it, how far it knows the log
/// committed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HardState {
    pub(crate) term: u64,
    /// The engine's name of the candidate, or 0.
    pub(crate) vote: u64,
    pub(crate) commit: u64,
}

impl HardState {
    /// Makes a hard state, as the tests of a store need it.
    #[must_use]
    pub fn new(term: u64, vote: Option<NodeId>, commit: u64) -> Self {
        Self { term, vote: vote.map_or(0, NodeId::raft_id), commit }
    }

    /// The encoded form: term, vote and commit index, little-endian `u64` each.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.term.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.vote.to_le_bytes());
        bytes[16..].copy_from_slice(&self.commit.to_le_bytes());
        bytes
    }

    /// Reads an encoded form.
    ///
    /// # Errors
    ///
    /// [`MalformedRecord`] if it has not exactly [`LEN`](Self::LEN) bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedRecord> {
        if bytes.len() != Self::LEN {
            return Err(MalformedRecord);
        }
        Ok(Self {
            term: number(&bytes[..8]),
            vote: number(&bytes[8..16]),
            commit: number(&bytes[16..]),
        })
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The index up to which the log is known to be committed.
    #[must_use]
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// The length of the encoded form in bytes.
    pub const LEN: usize = 24;
}

/// Bytes that are no entry or hard state.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed record")]
#[expect(clippy::exhaustive_structs, reason = "it has nothing to say")]
pub struct MalformedRecord;

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte))
}
