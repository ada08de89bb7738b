//! How a node behaves: durations and sizes, with defaults that are safe.

use std::time::Duration;

use crate::id::NodeId;

/// How a node behaves. Make one with [`Config::default`] and change what you must.
///
/// All nodes of a cluster should have the same `tick`, `heartbeat_interval` and `election_timeout`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Who this server is, when it first starts; later the store knows. Default `None`: a random
    /// id, which is right for every real server.
    pub id: Option<NodeId>,
    /// What people call this server. Default: empty.
    pub name: String,
    /// Where other servers reach this one, in the transport's terms. Needed to bootstrap or join.
    pub address: String,
    /// The grain of all times below. Default 50 ms; at least 1 ms.
    pub tick: Duration,
    /// How often a leader is heard from. Default 100 ms; at least one tick.
    pub heartbeat_interval: Duration,
    /// After how long without a leader a server campaigns: drawn anew each time from here to twice
    /// this. Default 1 s; more than the heartbeat interval, and much more than a round trip and a
    /// sync.
    pub election_timeout: Duration,
    /// How long a verb waits before it ends as refused or unknown. Default 10 s.
    pub verb_timeout: Duration,
    /// The longest command in bytes. Default 1 MiB.
    pub command_bytes_max: usize,
    /// The most bytes of entries in one append message; a single longer entry still goes. Default 1
    /// MiB.
    pub append_bytes_max: u64,
    /// The most append messages that one follower has not acknowledged. Default 256.
    pub appends_in_flight_max: usize,
    /// The most bytes of commands that wait to be proposed or to be applied; each counts 256 bytes
    /// more than it is long. A leader takes no more either while so much is not durable yet.
    /// Default 64 MiB.
    pub waiting_bytes_max: usize,
    /// The most requests (of any kind) that wait to be taken up, the most reads that wait to be
    /// confirmed and applied, and the most requests to other servers that wait for an answer.
    /// Default 65,536.
    pub waiting_requests_max: usize,
    /// The most messages of peers that wait to be taken up; more are dropped. Default 4,096.
    pub inbound_messages_max: usize,
    /// How many bytes of the newest entries stay in memory. Default 64 MiB.
    pub log_cache_bytes_max: u64,
    /// A snapshot is taken when this many entries were applied since the last. Default 8,192; 0 for
    /// never.
    pub snapshot_after_entries: u64,
    /// How many entries before a snapshot stay in the log, for followers that are a little behind.
    /// Default 10,240.
    pub trailing_entries: u64,
    /// What chance is derived from; `None` asks the runtime. Set it for reproducible tests.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: None,
            name: String::new(),
            address: String::new(),
            tick: Duration::from_millis(50),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            verb_timeout: Duration::from_secs(10),
            command_bytes_max: 1 << 20,
            append_bytes_max: 1 << 20,
            appends_in_flight_max: 256,
            waiting_bytes_max: 64 << 20,
            waiting_requests_max: 65_536,
            inbound_messages_max: 4_096,
            log_cache_bytes_max: 64 << 20,
            snapshot_after_entries: 8_192,
            trailing_entries: 10_240,
            seed: None,
        }
    }
}

/// What a waiting command takes besides its own bytes, as
/// [`waiting_bytes_max`](Config::waiting_bytes_max) counts it: a limit on bytes alone would be none
/// for short commands.
pub(crate) const COMMAND_OVERHEAD_BYTES: usize = 256;

/// A value in a [`Config`] that cannot work.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("config: {field} {rule}")]
#[non_exhaustive]
pub struct ConfigError {
    /// Which field.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

/// A checked config, in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    pub(crate) heartbeat: usize,
    pub(crate) election: usize,
}

impl Config {
    pub(crate) fn ticks(&self) -> Result<Ticks, ConfigError> {
        let rules = [
            ("tick", "must be at least 1 ms", self.tick >= Duration::from_millis(1)),
            (
                "heartbeat_interval",
                "must be at least one tick",
                self.heartbeat_interval >= self.tick,
            ),
            (
                "election_timeout",
                "must be at least two ticks more than heartbeat_interval",
                self.election_timeout >= self.heartbeat_interval + 2 * self.tick,
            ),
            (
                "election_timeout",
                "must be at most an hour",
                self.election_timeout.as_secs() <= 3600,
            ),
            ("append_bytes_max", "must not be zero", self.append_bytes_max > 0),
            ("appends_in_flight_max", "must not be zero", self.appends_in_flight_max > 0),
            ("inbound_messages_max", "must not be zero", self.inbound_messages_max > 0),
            ("waiting_requests_max", "must not be zero", self.waiting_requests_max > 0),
            ("command_bytes_max", "must be 1 byte to 1 GiB", {
                (1..=1 << 30).contains(&self.command_bytes_max)
            }),
            (
                "waiting_bytes_max",
                "must be at least command_bytes_max",
                self.waiting_bytes_max >= self.command_bytes_max,
            ),
        ];
        if let Some((field, rule, _)) = rules.into_iter().find(|(_, _, holds)| !holds) {
            return Err(ConfigError { field, rule });
        }
        let in_ticks = |duration: Duration| {
            usize::try_from(duration.as_nanos().div_ceil(self.tick.as_nanos()))
                .unwrap_or(usize::MAX)
        };
        Ok(Ticks {
            heartbeat: in_ticks(self.heartbeat_interval),
            election: in_ticks(self.election_timeout),
        })
    }
}
