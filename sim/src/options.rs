//! What a run is made of, drawn from its seed: sizes, timings, rates, and which kinds of fault may
//! happen at all (swarm testing).

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use kontiki::Config;
use serde::{Deserialize, Serialize};

/// Everything about a run but its faults. A seed and this decide all that happens.
///
/// What a saved one leaves out is as in the default: three servers, four clients, no trouble.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
#[serde(default)]
pub struct Options {
    /// Where all chance comes from.
    pub seed: u64,
    /// How many servers vote at the beginning.
    pub voters: u64,
    /// How many more servers there are, which may join.
    pub spares: u64,
    /// How many clients write and read.
    pub clients: u64,
    /// How many keys they use.
    pub keys: u64,
    /// How long a client pauses between two operations, on average, in milliseconds.
    pub think_ms: u64,
    /// How many commands a client proposes at once, now and then.
    pub burst: usize,
    /// How long faults happen, in milliseconds of virtual time.
    pub faults_ms: u64,
    /// On what the servers keep their logs.
    pub disk: DiskKind,
    /// What carries their messages.
    pub network: NetworkKind,
    /// Whether operators use each server's HTTP API meanwhile.
    pub http: bool,
    /// The servers' tick, in milliseconds.
    pub tick_ms: u64,
    /// The election timeout in ticks; heartbeats come every tenth of it, or every tick.
    pub election_ticks: u64,
    /// After how many entries a snapshot is taken.
    pub snapshot_after: u64,
    /// How many entries stay before a snapshot.
    pub trailing: u64,
    /// How long a state machine takes to write or read a snapshot, in milliseconds.
    pub snapshot_ms: u64,
    /// How large a segment of the log is, in bytes.
    pub segment_bytes: u64,
    /// How many appends one follower may owe.
    pub appends_in_flight: usize,
    /// How many bytes of entries one append holds.
    pub append_bytes: u64,
    /// How many bytes of entries stay in memory.
    pub cache_bytes: u64,
    /// How many requests may wait at one server.
    pub waiting_requests: usize,
    /// How likely a message is lost, in millionths.
    pub loss_ppm: u32,
    /// How likely a message arrives twice, in millionths.
    pub duplication_ppm: u32,
    /// How likely a message arrives at another server, in millionths.
    pub misdelivery_ppm: u32,
    /// How likely a message arrives again much later, in millionths.
    pub echo_ppm: u32,
    /// How likely a chunk of a connection has a flipped bit, in millionths.
    pub flips_ppm: u32,
    /// How long a message is under way at most, in microseconds.
    pub delay_us: u64,
    /// The kinds of fault that happen.
    pub kinds: BTreeSet<Kind>,
    /// Fails one seed in a hundred on purpose, to see that a failure is told.
    pub canary: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            voters: 3,
            spares: 0,
            clients: 4,
            keys: 4,
            think_ms: 200,
            burst: 1,
            faults_ms: 60_000,
            disk: DiskKind::Objects,
            network: NetworkKind::Messages,
            http: false,
            tick_ms: 50,
            election_ticks: 10,
            snapshot_after: 100,
            trailing: 10,
            snapshot_ms: 0,
            segment_bytes: 64 << 10,
            appends_in_flight: 256,
            append_bytes: 1 << 20,
            cache_bytes: 1 << 20,
            waiting_requests: 512,
            loss_ppm: 0,
            duplication_ppm: 0,
            misdelivery_ppm: 0,
            echo_ppm: 0,
            flips_ppm: 0,
            delay_us: 5_000,
            kinds: BTreeSet::new(),
            canary: false,
        }
    }
}

/// On what logs and snapshots are kept.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub enum DiskKind {
    /// The durable log in segments, on simulated files.
    Bytes,
    /// Objects in memory that lose what was not synced; much faster.
    #[default]
    Objects,
}

/// What carries messages.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub enum NetworkKind {
    /// Whole messages, which are lost, doubled, delayed, and overtake each other.
    #[default]
    Messages,
    /// The TCP transport over simulated connections.
    Streams,
}

/// A kind of fault that a run may be without.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[non_exhaustive]
pub enum Kind {
    /// Crashes at the worst moments.
    AimedCrash,
    /// Bits flipped on a disk at rest.
    BitFlip,
    /// Clocks that run fast or slow, or jump.
    Clock,
    /// Crashes at any moment.
    Crash,
    /// Disks that are full, or fail to sync or read.
    DiskFailure,
    /// Servers that are added, promoted, demoted, removed, replaced.
    Membership,
    /// Lost, doubled, late messages.
    Message,
    /// Servers cut off from each other.
    Partition,
    /// Processes that stand still while time goes on.
    Pause,
    /// Disks that are slow.
    SlowDisk,
    /// Leadership that is handed over.
    Transfer,
    /// Servers that lose everything and come back with a new identity.
    Wipe,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::AimedCrash,
        Self::BitFlip,
        Self::Clock,
        Self::Crash,
        Self::DiskFailure,
        Self::Membership,
        Self::Message,
        Self::Partition,
        Self::Pause,
        Self::SlowDisk,
        Self::Transfer,
        Self::Wipe,
    ];
}

impl Options {
    /// Draws a run. Half of the kinds of fault are off in each, so that some bugs are not hidden
    /// behind the noise of others.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut dice = stream(seed, Stream::Options);
        let mut kinds = Kind::ALL.into_iter().filter(|_| dice.bool()).collect::<BTreeSet<_>>();
        if kinds.contains(&Kind::Membership) {
            // A server that lost everything and another that an operator takes out would together
            // be a quorum lost, which the fault model excludes.
            kinds.retain(|kind| !matches!(kind, Kind::BitFlip | Kind::Wipe));
        }
        let messages = kinds.contains(&Kind::Message);
        let mut ppm = |max: u32| if messages { log_uniform(&mut dice, max) } else { 0 };
        let (loss_ppm, duplication_ppm) = (ppm(100_000), ppm(100_000));
        let (misdelivery_ppm, echo_ppm, flips_ppm) = (ppm(2_000), ppm(5_000), ppm(500));
        let voters = *dice.choice([1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 7].iter()).unwrap_or(&3);
        let pick = |dice: &mut Rng, from: &[u64]| from[dice.usize(..from.len())];
        Self {
            seed,
            voters,
            spares: dice.u64(0..=2),
            clients: dice.u64(2..=6),
            keys: dice.u64(1..=6),
            think_ms: pick(&mut dice, &[50, 100, 200]),
            faults_ms: dice.u64(40_000..120_000),
            disk: if dice.u8(..4) == 0 { DiskKind::Bytes } else { DiskKind::Objects },
            network: if dice.u8(..4) == 0 { NetworkKind::Streams } else { NetworkKind::Messages },
            http: dice.u8(..8) == 0,
            tick_ms: pick(&mut dice, &[20, 50, 50, 100]),
            election_ticks: pick(&mut dice, &[5, 10, 20]),
            snapshot_after: pick(&mut dice, &[0, 5, 20, 100, 1_000]),
            trailing: pick(&mut dice, &[0, 1, 10, 100]),
            segment_bytes: pick(&mut dice, &[4 << 10, 16 << 10, 64 << 10]),
            appends_in_flight: *dice.choice([1, 2, 8, 256].iter()).unwrap_or(&256),
            append_bytes: pick(&mut dice, &[1, 200, 1 << 20]),
            cache_bytes: pick(&mut dice, &[500, 5_000, 1 << 20]),
            loss_ppm,
            duplication_ppm,
            misdelivery_ppm,
            echo_ppm,
            flips_ppm,
            delay_us: pick(&mut dice, &[1_000, 5_000, 20_000]),
            burst: *dice.choice([1, 1, 4, 20].iter()).unwrap_or(&1),
            waiting_requests: *dice.choice([2, 10, 512, 512].iter()).unwrap_or(&512),
            snapshot_ms: pick(&mut dice, &[0, 0, 5, 100, 2_000]),
            kinds,
            canary: false,
        }
    }

    /// Leaves these kinds of fault out, and what they set.
    pub fn switch_off(&mut self, kinds: &[Kind]) {
        self.kinds.retain(|kind| !kinds.contains(kind));
        if kinds.contains(&Kind::Message) {
            (self.loss_ppm, self.duplication_ppm) = (0, 0);
            (self.misdelivery_ppm, self.echo_ppm, self.flips_ppm) = (0, 0, 0);
        }
    }

    /// The election timeout of the servers.
    #[must_use]
    pub fn election_timeout(&self) -> Duration {
        Duration::from_millis(self.tick_ms * self.election_ticks)
    }

    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// All servers that there may be, by number.
    pub(crate) fn servers(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.voters + self.spares
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = Config::default();
        config.tick = Duration::from_millis(self.tick_ms);
        config.heartbeat_interval =
            config.tick * u32::try_from(self.election_ticks / 10).unwrap_or(1).max(1);
        config.election_timeout = self.election_timeout();
        config.verb_timeout = 5 * self.election_timeout();
        config.snapshot_after_entries = self.snapshot_after;
        config.trailing_entries = self.trailing;
        config.appends_in_flight_max = self.appends_in_flight;
        config.append_bytes_max = self.append_bytes;
        config.log_cache_bytes_max = self.cache_bytes;
        config.waiting_requests_max = self.waiting_requests;
        config
    }
}

/// What a stream of chance is for; each is apart, so that taking a fault away shifts no other.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    Options = 1,
    Plan = 2,
    Wire = 3,
    Workload = 4,
    Loop = 5,
    Canary = 6,
}

pub(crate) fn stream(seed: u64, stream: Stream) -> Rng {
    Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((stream as u64) << 56))
}

/// Zero, or a rate up to `max` that is as likely small as large.
fn log_uniform(dice: &mut Rng, max: u32) -> u32 {
    let bits = 32 - max.leading_zeros();
    let top = 1_u32 << dice.u32(1..=bits).min(31);
    if dice.u8(..3) == 0 { 0 } else { dice.u32(..top).min(max) }
}
