//! The faults of a run, as data: drawn from the seed, printed, saved, edited, shrunk.

use fastrand::Rng;
use kontiki::transport::RaftKind;
use serde::{Deserialize, Serialize};

use crate::options::{Kind, NetworkKind, Options, Stream, stream};

/// What happens in a run, in order of time.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "plans are edited by hand")]
pub struct Plan {
    /// The faults.
    pub faults: Vec<Timed>,
}

/// A fault and its moment.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "plans are edited by hand")]
pub struct Timed {
    /// When, in milliseconds of virtual time after the cluster has first had a leader.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(clippy::exhaustive_enums, reason = "plans are edited by hand")]
pub enum Target {
    /// Whoever leads at that moment; nobody if nobody does.
    Leader,
    /// The server with this number.
    Server(u64),
}

/// The moment at which an aimed crash happens: just after the server has let others know.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[expect(clippy::exhaustive_enums, reason = "plans are edited by hand")]
pub enum Moment {
    /// It has acknowledged entries.
    Acknowledged,
    /// It has begun to campaign.
    Campaigned,
    /// It has written a batch that holds a configuration change.
    ChangedMembership,
    /// It has said for the first time that it leads.
    Elected,
    /// It has installed a snapshot.
    Installed,
    /// It has stored a leader's snapshot, and is about to let its log begin there.
    Installing,
    /// It has voted for another.
    Voted,
}

/// A kind of message that may be lost while others of the same server arrive.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[expect(clippy::exhaustive_enums, reason = "plans are edited by hand")]
pub enum Speech {
    /// A leader's entries.
    Appends,
    /// What became of them.
    AppendResponses,
    /// A leader's signs of life.
    Heartbeats,
    /// The answers to them.
    HeartbeatResponses,
    /// Votes asked for, real ones and those before.
    Votes,
    /// Votes given and refused.
    VoteResponses,
}

impl Speech {
    pub(crate) const ALL: [Self; 6] = [
        Self::Appends,
        Self::AppendResponses,
        Self::Heartbeats,
        Self::HeartbeatResponses,
        Self::Votes,
        Self::VoteResponses,
    ];

    pub(crate) fn of(kind: RaftKind) -> Option<Self> {
        Some(match kind {
            RaftKind::Append => Self::Appends,
            RaftKind::AppendResponse => Self::AppendResponses,
            RaftKind::Heartbeat => Self::Heartbeats,
            RaftKind::HeartbeatResponse => Self::HeartbeatResponses,
            RaftKind::PreVote | RaftKind::Vote => Self::Votes,
            RaftKind::PreVoteResponse | RaftKind::VoteResponse => Self::VoteResponses,
            _ => return None,
        })
    }
}

/// One thing that goes wrong, or that an operator does.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[expect(clippy::exhaustive_enums, reason = "plans are edited by hand")]
#[expect(missing_docs, reason = "the variants say what the fields are")]
pub enum Fault {
    /// A server is added, if it is no member.
    Add { server: u64 },
    /// A bit of what a server has stored flips while it is down.
    BitFlip { server: u64 },
    /// A server's bits move: one sector of what it has stored lies in the place of another.
    Misdirected { server: u64 },
    /// A file of a server's is gone, while it is down.
    FileVanishes { server: u64 },
    /// `b` sees `a` and `c`, which do not see each other.
    Bridge { a: u64, c: u64, ms: u64 },
    /// What `from` sends to `to` is held, and then comes all at once.
    Clog { from: u64, to: u64, ms: u64 },
    /// A server dies again and again, soon after each start.
    CrashLoop { server: u64, times: u64, period_ms: u64 },
    /// A server's clock runs fast or slow from here on.
    Drift { server: u64, ppm: i32 },
    /// A server dies, and comes back.
    Crash { target: Target, down_ms: u64 },
    /// A server dies the next time it does this.
    CrashAfter { server: u64, moment: Moment, down_ms: u64 },
    /// Every server dies.
    CrashAll { down_ms: u64 },
    /// A server dies in the middle of the `count`th file operation from now.
    CrashAtFileOperation { server: u64, count: u64, down_ms: u64 },
    /// A voter becomes a learner.
    Demote { server: u64 },
    /// A server's disk is full for a while.
    DiskFull { server: u64, ms: u64 },
    /// A server's disk answers nothing for a while.
    DiskStuck { server: u64, ms: u64 },
    /// A link comes and goes.
    Flap { a: u64, b: u64, period_ms: u64, ms: u64 },
    /// A server is cut off from all others.
    Isolate { target: Target, ms: u64 },
    /// What a server says in this way reaches nobody.
    Mute { server: u64, speech: Speech, ms: u64 },
    /// What `from` sends to `to` does not arrive.
    OneWay { from: u64, to: u64, ms: u64 },
    /// A server goes to another address, and its membership follows.
    Move { server: u64 },
    /// A server stands still.
    Pause { target: Target, ms: u64 },
    /// A learner becomes a voter.
    Promote { server: u64 },
    /// The next read of a server's disk fails.
    ReadFails { server: u64, down_ms: u64 },
    /// A member is taken out.
    Remove { server: u64 },
    /// A member is taken out and another server put in, in one step.
    Replace { old: u64, by: u64 },
    /// Every server sees only its two neighbours.
    Ring { ms: u64 },
    /// The servers are restarted one after the other.
    RollingRestart { pause_ms: u64 },
    /// A server's disk is slow.
    SlowDisk { server: u64, times: u32, ms: u64 },
    /// Servers on this side are cut off from those that are not.
    Split { side: Vec<u64>, ms: u64 },
    /// The next sync of a server's disk fails, and loses what it should have kept.
    SyncFails { server: u64, down_ms: u64 },
    /// Leadership is handed over, as asked at `via`.
    Transfer { via: u64, to: u64 },
    /// A server's wall clock jumps.
    WallClock { server: u64, ahead_ms: i64 },
    /// A server loses everything, and comes back as a new one in place of the old.
    Wipe { server: u64 },
}

impl Plan {
    /// Draws the faults of a run: one or two in five seconds.
    #[must_use]
    pub fn from_options(options: &Options) -> Self {
        let mut dice = stream(options.seed, Stream::Plan);
        let kinds: Vec<Kind> =
            options.kinds.iter().copied().filter(|kind| *kind != Kind::Message).collect();
        if kinds.is_empty() {
            return Self::default();
        }
        let count = options.faults_ms / 5_000 + dice.u64(..=options.faults_ms / 5_000);
        let mut faults: Vec<Timed> = (0..count)
            .map(|_| {
                let kind = kinds[dice.usize(..kinds.len())];
                Timed {
                    at_ms: dice.u64(..options.faults_ms),
                    fault: draw(kind, options, &mut dice),
                }
            })
            .collect();
        faults.sort_by_key(|timed| timed.at_ms);
        Self { faults }
    }
}

fn draw(kind: Kind, options: &Options, dice: &mut Rng) -> Fault {
    let server = any_server(options, dice);
    let down_ms = outage(dice);
    let ms = 200 + dice.u64(..10_000);
    match kind {
        Kind::AimedCrash => {
            let moment = MOMENTS[dice.usize(..MOMENTS.len())];
            // Back before the others have begun to campaign: that is when a forgotten vote counts.
            let down_ms = if dice.bool() { dice.u64(1..20) } else { down_ms };
            match dice.u8(..4) {
                0 => Fault::CrashAtFileOperation { server, count: dice.u64(1..=40), down_ms },
                _ => Fault::CrashAfter { server, moment, down_ms },
            }
        }
        Kind::BitFlip => match dice.u8(..4) {
            0 => Fault::Misdirected { server },
            1 => Fault::FileVanishes { server },
            _ => Fault::BitFlip { server },
        },
        Kind::Clock if dice.bool() => {
            Fault::WallClock { server, ahead_ms: dice.i64(-3_600_000..3_600_000) }
        }
        Kind::Clock => {
            let most = if dice.u8(..4) == 0 { 100_000 } else { 500 };
            Fault::Drift { server, ppm: dice.i32(-most..=most) }
        }
        Kind::Crash => match dice.u8(..8) {
            0 => Fault::CrashAll { down_ms },
            1 => Fault::RollingRestart { pause_ms: dice.u64(10..3_000) },
            2 => Fault::CrashLoop { server, times: dice.u64(2..6), period_ms: dice.u64(5..800) },
            3..=4 => Fault::Crash { target: Target::Leader, down_ms },
            _ => Fault::Crash { target: Target::Server(server), down_ms },
        },
        Kind::DiskFailure => match dice.u8(..3) {
            0 => Fault::DiskFull { server, ms },
            1 => Fault::ReadFails { server, down_ms },
            _ => Fault::SyncFails { server, down_ms },
        },
        Kind::Membership => membership(options, dice, server),
        Kind::Message | Kind::Partition => partition(options, dice, server, ms),
        Kind::Pause => {
            let target = if dice.bool() { Target::Leader } else { Target::Server(server) };
            Fault::Pause { target, ms: 10 + dice.u64(..20_000) }
        }
        Kind::SlowDisk if dice.u8(..4) == 0 => Fault::DiskStuck { server, ms },
        Kind::SlowDisk => Fault::SlowDisk { server, times: 1 << dice.u32(2..10), ms },
        Kind::Transfer => Fault::Transfer { via: any_server(options, dice), to: server },
        Kind::Wipe => Fault::Wipe { server },
    }
}

fn membership(options: &Options, dice: &mut Rng, server: u64) -> Fault {
    match dice.u8(..10) {
        0..=2 => Fault::Add { server },
        3 => Fault::Demote { server },
        4 => Fault::Promote { server },
        5 => Fault::Move { server },
        6..=7 => Fault::Replace { old: any_server(options, dice), by: server },
        _ => Fault::Remove { server },
    }
}

fn partition(options: &Options, dice: &mut Rng, server: u64, ms: u64) -> Fault {
    // Where there is only one server, it is cut off from itself, which is nothing.
    let others: Vec<u64> = options.servers().filter(|&other| other != server).collect();
    let other = others.get(dice.usize(..others.len().max(1))).copied().unwrap_or(server);
    match dice.u8(..9) {
        0 => Fault::Isolate { target: Target::Leader, ms },
        1 => Fault::Isolate { target: Target::Server(server), ms },
        2 => Fault::OneWay { from: server, to: other, ms },
        3 => Fault::Bridge { a: server, c: other, ms },
        4 => Fault::Flap { a: server, b: other, period_ms: 1 + dice.u64(..200), ms },
        5 => Fault::Ring { ms },
        6 => Fault::Clog { from: server, to: other, ms },
        7 => Fault::Mute { server, speech: Speech::ALL[dice.usize(..6)], ms },
        _ => Fault::Split { side: options.servers().filter(|_| dice.bool()).collect(), ms },
    }
}

fn any_server(options: &Options, dice: &mut Rng) -> u64 {
    dice.u64(options.servers())
}

fn outage(dice: &mut Rng) -> u64 {
    match dice.u8(..3) {
        0 => dice.u64(1..20),
        1 => dice.u64(20..1_000),
        _ => dice.u64(1_000..15_000),
    }
}

impl Fault {
    /// Whether the run's network can have it.
    pub(crate) fn needs_bytes(&self) -> bool {
        matches!(
            self,
            Self::CrashAtFileOperation { .. }
                | Self::DiskFull { .. }
                | Self::BitFlip { .. }
                | Self::FileVanishes { .. }
                | Self::Misdirected { .. }
                | Self::ReadFails { .. }
        )
    }
}

impl NetworkKind {
    pub(crate) fn is_streams(self) -> bool {
        self == Self::Streams
    }
}

const MOMENTS: [Moment; 7] = [
    Moment::Acknowledged,
    Moment::Campaigned,
    Moment::ChangedMembership,
    Moment::Elected,
    Moment::Installed,
    Moment::Installing,
    Moment::Voted,
];
