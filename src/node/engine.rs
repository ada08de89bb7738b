//! The border to the consensus engine: its configuration, its types in our terms, its log lines.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::MessageType;
use raft::eraftpb::{self, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, EntryType};

use crate::config::{Config, Ticks};
use crate::id::LogId;
use crate::membership::{ChangeRecord, Membership, Role, StepKind};
use crate::storage::{Entry, EntryKind, HardState, SnapshotMeta};
use crate::transport::{RaftKind, RaftMessage};

/// The engine's configuration; all of its unsafe defaults are replaced here (D15).
pub(super) fn config(id: u64, applied: u64, config: &Config, ticks: Ticks) -> raft::Config {
    raft::Config {
        id,
        applied,
        election_tick: ticks.election,
        heartbeat_tick: ticks.heartbeat,
        pre_vote: true,
        check_quorum: true,
        batch_append: true,
        max_size_per_msg: config.append_bytes_max,
        max_inflight_msgs: config.appends_in_flight_max,
        // Our own counters bound these bytes: with header-only entries the engine's would never go
        // down.
        max_uncommitted_size: raft::NO_LIMIT,
        max_committed_size_per_ready: COMMITTED_BYTES_PER_READY,
        read_only_option: raft::ReadOnlyOption::Safe,
        ..raft::Config::default()
    }
}

/// An entry that the leader is about to propose; the engine gives it its place.
pub(super) fn application_entry(command: Bytes) -> eraftpb::Entry {
    entry_to_engine(Entry { log_id: LogId::default(), kind: EntryKind::Application, data: command })
}

pub(super) fn entry_to_engine(entry: Entry) -> eraftpb::Entry {
    let mut out = eraftpb::Entry::default();
    out.term = entry.log_id.term;
    out.index = entry.log_id.index;
    match entry.kind {
        EntryKind::Application => {
            out.data = entry.data;
            out.context = Bytes::from_static(CONTEXT_APPLICATION);
        }
        EntryKind::System => {
            out.data = entry.data;
            out.context = Bytes::from_static(CONTEXT_SYSTEM);
        }
        EntryKind::Change => {
            out.entry_type = EntryType::EntryConfChangeV2;
            out.data = change_to_engine(entry.data);
        }
        EntryKind::Empty => {}
    }
    out
}

pub(super) fn entry_from_engine(entry: &eraftpb::Entry) -> Entry {
    with_payload(entry, entry.data.clone())
}

/// The same, where the engine's entry is not needed any more.
fn entry_out_of_engine(entry: &mut eraftpb::Entry) -> Entry {
    let data = std::mem::take(&mut entry.data);
    with_payload(entry, data)
}

fn with_payload(entry: &eraftpb::Entry, data: Bytes) -> Entry {
    let log_id = LogId { term: entry.term, index: entry.index };
    let (kind, data) = match (entry.entry_type, &entry.context[..]) {
        (EntryType::EntryConfChange | EntryType::EntryConfChangeV2, _) => {
            (EntryKind::Change, change_from_engine(&data))
        }
        (EntryType::EntryNormal, CONTEXT_APPLICATION) => (EntryKind::Application, data),
        (EntryType::EntryNormal, CONTEXT_SYSTEM) => (EntryKind::System, data),
        (EntryType::EntryNormal, _) => (EntryKind::Empty, Bytes::new()),
    };
    Entry { log_id, kind, data }
}

/// What the engine is told of a change. Bytes that are no change record become an empty change,
/// which the engine refuses; the inbound checks let none through.
pub(super) fn change_to_engine(record: Bytes) -> Bytes {
    let Ok(parsed) = ChangeRecord::decode(record.clone()) else {
        return Bytes::new();
    };
    let mut change = ConfChangeV2::default();
    for step in &parsed.steps {
        let mut single = ConfChangeSingle::default();
        single.node_id = step.id;
        single.change_type = match step.kind {
            StepKind::Learner => ConfChangeType::AddLearnerNode,
            StepKind::Remove => ConfChangeType::RemoveNode,
            StepKind::Voter => ConfChangeType::AddNode,
        };
        change.changes.push(single);
    }
    change.context = record;
    change.write_to_bytes().expect("a change has no required fields").into()
}

/// Our record inside the engine's payload, which we wrote ourselves.
pub(super) fn change_from_engine(data: &Bytes) -> Bytes {
    parse_change(data).map(|change| change.context).unwrap_or_default()
}

pub(super) fn parse_change(data: &Bytes) -> Option<ConfChangeV2> {
    ConfChangeV2::parse_from_bytes(data).ok()
}

pub(super) fn message_to_engine(from: u64, to: u64, message: RaftMessage) -> eraftpb::Message {
    let mut out = eraftpb::Message::default();
    out.msg_type = kind_to_engine(message.kind);
    out.from = from;
    out.to = to;
    out.term = message.term;
    out.log_term = message.log_id.term;
    out.index = message.log_id.index;
    out.commit = message.commit;
    out.commit_term = message.commit_term;
    out.reject = message.reject;
    out.reject_hint = message.reject_hint;
    out.request_snapshot = message.request_snapshot;
    out.context = message.context;
    out.entries = message.entries.into_iter().map(entry_to_engine).collect::<Vec<_>>().into();
    if let Some(meta) = message.snapshot {
        let membership = Membership::decode(meta.system).unwrap_or_default();
        out.snapshot = Some(snapshot_to_engine(meta.log_id, &membership)).into();
    }
    out
}

/// A message to a peer in our terms, its entries taken out; `None` for the kinds that never leave
/// this node (D9).
pub(super) fn message_from_engine(
    message: &mut eraftpb::Message,
    snapshot: Option<&SnapshotMeta>,
) -> Option<RaftMessage> {
    let kind = kind_from_engine(message.msg_type)?;
    let mut entries = Vec::with_capacity(message.entries.len());
    entries.extend(message.entries.iter_mut().map(entry_out_of_engine));
    Some(RaftMessage {
        kind,
        term: message.term,
        log_id: LogId { term: message.log_term, index: message.index },
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint: message.reject_hint,
        request_snapshot: message.request_snapshot,
        context: std::mem::take(&mut message.context),
        entries,
        snapshot: snapshot.filter(|_| kind == RaftKind::Snapshot).cloned(),
    })
}

pub(super) fn snapshot_to_engine(log_id: LogId, membership: &Membership) -> eraftpb::Snapshot {
    let mut snapshot = eraftpb::Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = log_id.index;
    metadata.term = log_id.term;
    metadata.conf_state = Some(conf_state(membership)).into();
    snapshot
}

/// The membership as the engine writes it.
pub(super) fn conf_state(membership: &Membership) -> ConfState {
    let mut state = ConfState::default();
    for member in membership.members() {
        let id = member.id.raft_id();
        match member.role {
            Role::Voter => state.voters.push(id),
            Role::Learner if membership.outgoing.contains_key(&member.id) => {
                state.learners_next.push(id);
            }
            Role::Learner => state.learners.push(id),
        }
    }
    state.voters_outgoing = membership.outgoing.keys().map(|id| id.raft_id()).collect();
    state.auto_leave = membership.is_joint();
    state
}

/// Whether the engine's configuration is what our records say.
pub(super) fn same_conf_state(ours: &Membership, b: &ConfState) -> bool {
    let a = &conf_state(ours);
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    a.auto_leave == b.auto_leave
        && [
            (&a.voters, &b.voters),
            (&a.learners, &b.learners),
            (&a.voters_outgoing, &b.voters_outgoing),
            (&a.learners_next, &b.learners_next),
        ]
        .into_iter()
        .all(|(a, b)| sorted(a) == sorted(b))
}

pub(super) fn hard_state_to_engine(state: HardState) -> eraftpb::HardState {
    let mut out = eraftpb::HardState::default();
    out.term = state.term;
    out.vote = state.vote;
    out.commit = state.commit;
    out
}

pub(super) fn hard_state_from_engine(state: &eraftpb::HardState) -> HardState {
    HardState { term: state.term, vote: state.vote, commit: state.commit }
}

/// The engine's logger, passed on to `tracing`.
pub(super) fn logger(id: u64) -> slog::Logger {
    slog::Logger::root(slog::Fuse(ToTracing { id }), slog::o!())
}

struct ToTracing {
    id: u64,
}

impl slog::Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
        let text = record.msg();
        match record.level() {
            slog::Level::Critical | slog::Level::Error => {
                tracing::error!(target: "kontiki::engine", node = self.id, "{text}");
            }
            slog::Level::Warning => {
                tracing::warn!(target: "kontiki::engine", node = self.id, "{text}");
            }
            // What the engine tells at info is a conversation with itself; ours says the same in
            // fewer lines.
            slog::Level::Info => {
                tracing::debug!(target: "kontiki::engine", node = self.id, "{text}")
            }
            slog::Level::Debug | slog::Level::Trace => {}
        }
        Ok(())
    }
}

fn kind_to_engine(kind: RaftKind) -> MessageType {
    KINDS.iter().find(|(ours, _)| *ours == kind).expect("every kind is in the table").1
}

fn kind_from_engine(kind: MessageType) -> Option<RaftKind> {
    KINDS.iter().find(|(_, theirs)| *theirs == kind).map(|(ours, _)| *ours)
}

const KINDS: [(RaftKind, MessageType); 10] = [
    (RaftKind::Append, MessageType::MsgAppend),
    (RaftKind::AppendResponse, MessageType::MsgAppendResponse),
    (RaftKind::Heartbeat, MessageType::MsgHeartbeat),
    (RaftKind::HeartbeatResponse, MessageType::MsgHeartbeatResponse),
    (RaftKind::PreVote, MessageType::MsgRequestPreVote),
    (RaftKind::PreVoteResponse, MessageType::MsgRequestPreVoteResponse),
    (RaftKind::Snapshot, MessageType::MsgSnapshot),
    (RaftKind::TimeoutNow, MessageType::MsgTimeoutNow),
    (RaftKind::Vote, MessageType::MsgRequestVote),
    (RaftKind::VoteResponse, MessageType::MsgRequestVoteResponse),
];
const CONTEXT_APPLICATION: &[u8] = &[0];
const CONTEXT_SYSTEM: &[u8] = &[1];
/// Committed entries are handed out header-only; this bounds how many at once (a header counts as
/// 24 bytes or so).
const COMMITTED_BYTES_PER_READY: u64 = 256 << 10;
