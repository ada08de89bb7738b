//! The one thing servers exchange, and its bytes.
//!
//! Opaque to transports, so that neither the codec nor the consensus engine leaks.
//! `docs/formats.md` has the layout.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut, TryGetError};

use crate::id::{ClusterId, GroupId, LogId, NodeId};
use crate::membership::{Change, Member};
use crate::storage::{Entry, SnapshotMeta};

/// A message from one server to another: who, whom, and something opaque.
#[derive(Clone, PartialEq)]
pub struct Message {
    pub(crate) cluster: ClusterId,
    pub(crate) group: GroupId,
    pub(crate) from: NodeId,
    /// Where the sender says that it can be reached.
    pub(crate) from_address: Arc<str>,
    /// `None` only in a join request: whoever answers.
    pub(crate) to: Option<NodeId>,
    pub(crate) body: MessageBody,
}

impl Message {
    /// The cluster of the sender; nil in a join request of a blank server.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The group it is for.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The sender. A transport that authenticates peers refuses a message whose sender is another.
    #[must_use]
    pub fn from(&self) -> NodeId {
        self.from
    }

    /// The receiver; `None` for whoever gets it.
    #[must_use]
    pub fn to(&self) -> Option<NodeId> {
        self.to
    }

    /// The bytes of the message, in parts: payloads are shared and not copied.
    #[must_use]
    pub fn encode(&self) -> Frame {
        let mut writer = Writer::default();
        writer.message(self);
        writer.finish()
    }

    /// Reads a message; payloads share `frame`. Never panics, whatever the bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] says what is wrong first.
    pub fn decode(frame: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader(frame);
        let message = reader.message()?;
        if !reader.0.is_empty() {
            return Err(DecodeError::TrailingBytes { bytes: reader.0.len() });
        }
        Ok(message)
    }

    /// A message with nothing but `payload`, as the tests of a transport need it. A node drops it.
    #[must_use]
    pub fn probe(
        cluster: ClusterId,
        group: GroupId,
        from: NodeId,
        to: NodeId,
        payload: Bytes,
    ) -> Self {
        let body = MessageBody::Probe(payload);
        Self { cluster, group, from, from_address: Arc::from(""), to: Some(to), body }
    }

    /// What it says of its sender's log, for whoever watches the traffic: tests, metrics, fault
    /// injectors. `None` of a request, an answer or a probe.
    #[must_use]
    pub fn glance(&self) -> Option<Glance> {
        let MessageBody::Raft(raft) = &self.body else { return None };
        Some(Glance {
            kind: raft.kind,
            term: raft.term,
            log_id: raft.log_id,
            last: raft.entries.last().map_or(raft.log_id, Entry::log_id),
            commit: raft.commit,
            reject: raft.reject,
        })
    }

    /// The payload of a [`probe`](Self::probe); `None` of any other message.
    #[must_use]
    pub fn probe_payload(&self) -> Option<&Bytes> {
        match &self.body {
            MessageBody::Probe(payload) => Some(payload),
            _ => None,
        }
    }
}

/// What a message of the consensus engine says, without its payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Glance {
    /// What it is.
    pub kind: RaftKind,
    /// The sender's term; of a pre-vote the one it would campaign in.
    pub term: u64,
    /// The entry before those it carries, or the one that an answer is about.
    pub log_id: LogId,
    /// The last entry it carries; `log_id` if none.
    pub last: LogId,
    /// The commit index it tells.
    pub commit: u64,
    /// Whether it says no.
    pub reject: bool,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->", self.from)?;
        match self.to {
            Some(to) => write!(f, "{to} {:?}", self.body),
            None => write!(f, "? {:?}", self.body),
        }
    }
}

/// The encoded form of a message.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "transports take it apart")]
pub struct Frame {
    /// The parts, to be written one behind the other.
    pub parts: Vec<Bytes>,
}

impl Frame {
    /// How many bytes all parts have together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Whether there is no byte at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All parts in one piece.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.len());
        self.parts.iter().for_each(|part| whole.put_slice(part));
        whole.freeze()
    }
}

/// Bytes that are no message.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A field has a value that it cannot have.
    #[error("{field} has an impossible value")]
    Invalid {
        /// Which.
        field: &'static str,
    },
    /// More follows where the message should end.
    #[error("{bytes} bytes behind the message")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// It ends in the middle.
    #[error("the message is cut off")]
    Truncated,
    /// It is of a version this server does not speak.
    #[error("version {found} of the format is not known")]
    Version {
        /// Which.
        found: u8,
    },
}

impl From<TryGetError> for DecodeError {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MessageBody {
    Answer(Answer),
    Probe(Bytes),
    Raft(RaftMessage),
    Request(Request),
}

/// A message of the consensus engine, in our own terms.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct RaftMessage {
    pub(crate) kind: RaftKind,
    pub(crate) term: u64,
    /// Term and index of the entry before `entries`, or what an answer is about.
    pub(crate) log_id: LogId,
    pub(crate) commit: u64,
    pub(crate) commit_term: u64,
    pub(crate) reject: bool,
    pub(crate) reject_hint: u64,
    pub(crate) request_snapshot: u64,
    pub(crate) context: Bytes,
    pub(crate) entries: Vec<Entry>,
    pub(crate) snapshot: Option<SnapshotMeta>,
}

impl fmt::Debug for RaftMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} t{} at {} c{}", self.kind, self.term, self.log_id, self.commit)?;
        if self.reject {
            write!(f, " reject")?;
        }
        if !self.entries.is_empty() {
            write!(f, " e{}", self.entries.len())?;
        }
        Ok(())
    }
}

/// The kinds of messages that the consensus engine exchanges. All others of its are local, or
/// travel as requests.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum RaftKind {
    /// A leader's entries, or none, and how far it has committed.
    #[default]
    Append = 0,
    /// What became of an append.
    AppendResponse = 1,
    /// A leader's sign of life.
    Heartbeat = 2,
    /// The answer to a heartbeat.
    HeartbeatResponse = 3,
    /// Would you vote for me?
    PreVote = 4,
    /// I would, or would not.
    PreVoteResponse = 5,
    /// The head of a snapshot.
    Snapshot = 6,
    /// Leadership is handed over: campaign at once.
    TimeoutNow = 7,
    /// Vote for me.
    Vote = 8,
    /// I do, or do not.
    VoteResponse = 9,
}

impl RaftKind {
    const ALL: [Self; 10] = [
        Self::Append,
        Self::AppendResponse,
        Self::Heartbeat,
        Self::HeartbeatResponse,
        Self::PreVote,
        Self::PreVoteResponse,
        Self::Snapshot,
        Self::TimeoutNow,
        Self::Vote,
        Self::VoteResponse,
    ];
}

/// What a server asks of another (D9): sent once, never again; the answer may be lost.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    /// How often it may still be passed on.
    pub(crate) hops: u8,
    /// The term in which the asker takes somebody for the leader; 0 if it knows of none. Whoever
    /// leads in another term refuses: so a copy that turns up late changes nothing.
    pub(crate) term: u64,
    /// How long the asker still waits, in milliseconds.
    pub(crate) patience_ms: u32,
    pub(crate) verb: Verb,
}

impl Request {
    /// Whether it was meant for the leader of another term, and would change something. A server
    /// that leads again after a restart does so in a new term, so no copy of an old request is ever
    /// carried out, whatever the receiver has forgotten.
    pub(crate) fn is_late(&self, term: u64) -> bool {
        match self.verb {
            Verb::Change { .. } | Verb::Propose { .. } | Verb::Transfer { .. } => self.term != term,
            // Joining twice is joining, and reading changes nothing.
            Verb::Join { .. } | Verb::ReadIndex => false,
        }
    }
}

/// Which request: the asker's, of this start of its process, and which of those.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct RequestId {
    pub(crate) origin: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) number: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verb {
    Change { change: Change, planned_on: Option<u64> },
    Join { member: Member },
    Propose { commands: Vec<Bytes> },
    ReadIndex,
    Transfer { to: NodeId },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) id: RequestId,
    pub(crate) result: Result<Reply, Refusal>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// The commands stand in the leader's log from here on; not committed yet.
    Appended {
        first: LogId,
    },
    /// The membership is changed, by the entry at this index, to what these bytes say.
    Changed {
        membership: Bytes,
    },
    /// Joined as a learner of this cluster.
    Joined {
        cluster: ClusterId,
    },
    /// Reading is linearizable once this index is applied.
    ReadAt {
        index: u64,
    },
    Transferred,
}

/// Why a request was not carried out. All but `Unknown` promise that it had no effect.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Refusal {
    /// A membership or transfer error, encoded by the room that owns it.
    Because {
        code: u8,
        detail: Bytes,
    },
    NotLeader,
    Overloaded,
    Unknown,
}

#[derive(Default)]
struct Writer {
    parts: Vec<Bytes>,
    open: BytesMut,
}

impl Writer {
    fn message(&mut self, message: &Message) {
        self.open.put_u8(VERSION);
        self.open.put_slice(&message.cluster.to_bytes());
        self.open.put_u64_le(message.group.0);
        self.open.put_slice(&message.from.to_bytes());
        self.open.put_slice(&message.to.map_or([0; 16], NodeId::to_bytes));
        self.bytes(message.from_address.as_bytes());
        match &message.body {
            MessageBody::Raft(raft) => self.raft(raft),
            MessageBody::Request(request) => self.request(request),
            MessageBody::Answer(answer) => self.answer(answer),
            MessageBody::Probe(payload) => {
                self.open.put_u8(BODY_PROBE);
                self.payload(payload);
            }
        }
    }

    fn raft(&mut self, raft: &RaftMessage) {
        self.open.put_u8(BODY_RAFT);
        self.open.put_u8(raft.kind as u8);
        let flags = u8::from(raft.reject) | (u8::from(raft.snapshot.is_some()) << 1);
        self.open.put_u8(flags);
        let numbers = [
            raft.term,
            raft.log_id.term,
            raft.log_id.index,
            raft.commit,
            raft.commit_term,
            raft.reject_hint,
            raft.request_snapshot,
        ];
        numbers.iter().for_each(|&number| self.open.put_u64_le(number));
        self.bytes(&raft.context);
        self.count(raft.entries.len());
        for entry in &raft.entries {
            self.open.put_slice(&entry.head());
            self.payload(entry.payload());
        }
        if let Some(snapshot) = &raft.snapshot {
            self.open.put_u64_le(snapshot.log_id.term);
            self.open.put_u64_le(snapshot.log_id.index);
            self.open.put_u64_le(snapshot.size_bytes);
            self.bytes(&snapshot.system);
        }
    }

    fn request(&mut self, request: &Request) {
        self.open.put_u8(BODY_REQUEST);
        self.request_id(request.id);
        self.open.put_u8(request.hops);
        self.open.put_u64_le(request.term);
        self.open.put_u32_le(request.patience_ms);
        match &request.verb {
            Verb::Propose { commands } => {
                self.open.put_u8(0);
                self.count(commands.len());
                commands.iter().for_each(|command| self.payload(command));
            }
            Verb::ReadIndex => self.open.put_u8(1),
            Verb::Change { change, planned_on } => {
                self.open.put_u8(2);
                self.open.put_u8(u8::from(planned_on.is_some()));
                self.open.put_u64_le(planned_on.unwrap_or_default());
                self.bytes(&change.encode());
            }
            Verb::Transfer { to } => {
                self.open.put_u8(3);
                self.open.put_slice(&to.to_bytes());
            }
            Verb::Join { member } => {
                self.open.put_u8(4);
                self.bytes(&member.encode());
            }
        }
    }

    fn answer(&mut self, answer: &Answer) {
        self.open.put_u8(BODY_ANSWER);
        self.request_id(answer.id);
        match &answer.result {
            Ok(Reply::Appended { first }) => {
                self.open.put_u8(0);
                self.open.put_u64_le(first.term);
                self.open.put_u64_le(first.index);
            }
            Ok(Reply::ReadAt { index }) => {
                self.open.put_u8(1);
                self.open.put_u64_le(*index);
            }
            Ok(Reply::Changed { membership }) => {
                self.open.put_u8(2);
                self.bytes(membership);
            }
            Ok(Reply::Transferred) => self.open.put_u8(3),
            Ok(Reply::Joined { cluster }) => {
                self.open.put_u8(4);
                self.open.put_slice(&cluster.to_bytes());
            }
            Err(Refusal::NotLeader) => self.open.put_u8(REFUSED),
            Err(Refusal::Overloaded) => self.open.put_u8(REFUSED + 1),
            Err(Refusal::Unknown) => self.open.put_u8(REFUSED + 2),
            Err(Refusal::Because { code, detail }) => {
                self.open.put_u8(REFUSED + 3);
                self.open.put_u8(*code);
                self.bytes(detail);
            }
        }
    }

    fn request_id(&mut self, id: RequestId) {
        self.open.put_slice(&id.origin.to_bytes());
        self.open.put_u64_le(id.incarnation);
        self.open.put_u64_le(id.number);
    }

    fn count(&mut self, count: usize) {
        let count = u32::try_from(count).expect("frames are limited far below 4 GiB");
        self.open.put_u32_le(count);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.open.put_slice(bytes);
    }

    /// Like `bytes`, but a long payload becomes a part of its own instead of being copied.
    fn payload(&mut self, payload: &Bytes) {
        if payload.len() < COPY_BELOW {
            return self.bytes(payload);
        }
        self.count(payload.len());
        self.parts.push(self.open.split().freeze());
        self.parts.push(payload.clone());
    }

    fn finish(mut self) -> Frame {
        if !self.open.is_empty() {
            self.parts.push(self.open.freeze());
        }
        Frame { parts: self.parts }
    }
}

struct Reader(Bytes);

impl Reader {
    fn message(&mut self) -> Result<Message, DecodeError> {
        let version = self.0.try_get_u8()?;
        if version != VERSION {
            return Err(DecodeError::Version { found: version });
        }
        let cluster = ClusterId::from_bytes(self.id()?);
        let group = GroupId(self.0.try_get_u64_le()?);
        let from = self.node()?;
        let to = match self.id()? {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => None,
            bytes => Some(NodeId::from_bytes(bytes).map_err(|_| invalid("receiver"))?),
        };
        let address = self.bytes()?;
        let from_address = std::str::from_utf8(&address).map_err(|_| invalid("address"))?.into();
        let body = match self.0.try_get_u8()? {
            BODY_RAFT => MessageBody::Raft(self.raft()?),
            BODY_REQUEST => MessageBody::Request(self.request()?),
            BODY_ANSWER => MessageBody::Answer(self.answer()?),
            BODY_PROBE => MessageBody::Probe(self.bytes()?),
            _ => return Err(invalid("kind of message")),
        };
        Ok(Message { cluster, group, from, from_address, to, body })
    }

    fn raft(&mut self) -> Result<RaftMessage, DecodeError> {
        let kind = usize::from(self.0.try_get_u8()?);
        let kind = *RaftKind::ALL.get(kind).ok_or_else(|| invalid("kind of engine message"))?;
        let flags = self.0.try_get_u8()?;
        if flags > 3 {
            return Err(invalid("flags"));
        }
        let mut numbers = [0; 7];
        for number in &mut numbers {
            *number = self.0.try_get_u64_le()?;
        }
        let [term, log_term, index, commit, commit_term, reject_hint, request_snapshot] = numbers;
        let context = self.bytes()?;
        let count = self.count(Entry::HEAD_LEN + 4)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(self.entry()?);
        }
        let snapshot = if flags & 2 == 0 { None } else { Some(self.snapshot()?) };
        Ok(RaftMessage {
            kind,
            term,
            log_id: LogId { term: log_term, index },
            commit,
            commit_term,
            reject: flags & 1 != 0,
            reject_hint,
            request_snapshot,
            context,
            entries,
            snapshot,
        })
    }

    fn entry(&mut self) -> Result<Entry, DecodeError> {
        if self.0.len() < Entry::HEAD_LEN {
            return Err(DecodeError::Truncated);
        }
        let head = self.0.split_to(Entry::HEAD_LEN);
        let mut entry = Entry::decode(head).map_err(|_| invalid("entry"))?;
        entry.data = self.bytes()?;
        Ok(entry)
    }

    fn snapshot(&mut self) -> Result<SnapshotMeta, DecodeError> {
        let log_id = self.log_id()?;
        let size_bytes = self.0.try_get_u64_le()?;
        Ok(SnapshotMeta { log_id, system: self.bytes()?, size_bytes })
    }

    fn request(&mut self) -> Result<Request, DecodeError> {
        let id = self.request_id()?;
        let hops = self.0.try_get_u8()?;
        let term = self.0.try_get_u64_le()?;
        let patience_ms = self.0.try_get_u32_le()?;
        let verb = match self.0.try_get_u8()? {
            0 => {
                let count = self.count(4)?;
                let commands = (0..count).map(|_| self.bytes()).collect::<Result<_, _>>()?;
                Verb::Propose { commands }
            }
            1 => Verb::ReadIndex,
            2 => {
                let planned_on = match (self.0.try_get_u8()?, self.0.try_get_u64_le()?) {
                    (0, 0) => None,
                    (1, index) => Some(index),
                    _ => return Err(invalid("planned on")),
                };
                Verb::Change { change: Change::decode(self.bytes()?)?, planned_on }
            }
            3 => Verb::Transfer { to: self.node()? },
            4 => {
                let mut bytes = self.bytes()?;
                let member = Member::decode(&mut bytes)?;
                if !bytes.is_empty() {
                    return Err(DecodeError::TrailingBytes { bytes: bytes.len() });
                }
                Verb::Join { member }
            }
            _ => return Err(invalid("request")),
        };
        Ok(Request { id, hops, term, patience_ms, verb })
    }

    fn answer(&mut self) -> Result<Answer, DecodeError> {
        let id = self.request_id()?;
        let result = match self.0.try_get_u8()? {
            0 => Ok(Reply::Appended { first: self.log_id()? }),
            1 => Ok(Reply::ReadAt { index: self.0.try_get_u64_le()? }),
            2 => Ok(Reply::Changed { membership: self.bytes()? }),
            3 => Ok(Reply::Transferred),
            4 => Ok(Reply::Joined { cluster: ClusterId::from_bytes(self.id()?) }),
            REFUSED => Err(Refusal::NotLeader),
            129 => Err(Refusal::Overloaded),
            130 => Err(Refusal::Unknown),
            131 => Err(Refusal::Because { code: self.0.try_get_u8()?, detail: self.bytes()? }),
            _ => return Err(invalid("answer")),
        };
        Ok(Answer { id, result })
    }

    fn request_id(&mut self) -> Result<RequestId, DecodeError> {
        Ok(RequestId {
            origin: self.node()?,
            incarnation: self.0.try_get_u64_le()?,
            number: self.0.try_get_u64_le()?,
        })
    }

    fn log_id(&mut self) -> Result<LogId, DecodeError> {
        Ok(LogId { term: self.0.try_get_u64_le()?, index: self.0.try_get_u64_le()? })
    }

    fn node(&mut self) -> Result<NodeId, DecodeError> {
        NodeId::from_bytes(self.id()?).map_err(|_| invalid("server"))
    }

    fn id(&mut self) -> Result<[u8; 16], DecodeError> {
        let mut bytes = [0; 16];
        self.0.try_copy_to_slice(&mut bytes)?;
        Ok(bytes)
    }

    /// A count of things of at least `least` bytes each, so that a lie cannot make us reserve
    /// memory.
    fn count(&mut self, least: usize) -> Result<usize, DecodeError> {
        let count = self.0.try_get_u32_le()? as usize;
        if count > self.0.len() / least {
            return Err(DecodeError::Truncated);
        }
        Ok(count)
    }

    fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.count(1)?;
        Ok(self.0.split_to(len))
    }
}

pub(crate) fn invalid(field: &'static str) -> DecodeError {
    DecodeError::Invalid { field }
}

const VERSION: u8 = 1;
const BODY_RAFT: u8 = 0;
const BODY_REQUEST: u8 = 1;
const BODY_ANSWER: u8 = 2;
const BODY_PROBE: u8 = 3;
const REFUSED: u8 = 128;
/// Payloads shorter than this are copied into the frame: a part of its own costs more.
const COPY_BELOW: usize = 1024;
