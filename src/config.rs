//! How a node behaves: durations and sizes, with defaults that are safe.

use std::time::Duration;

use crate::id::NodeId;
use crate::membership::MEMBERSHIP_BYTES_MAX;
use crate::storage::Entry;

/// How a node behaves. Make one with [`Config::default`] and change what you must.
///
/// All nodes of a cluster should have the same `tick`, `heartbeat_interval` and `election_timeout`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Who this server is, when it first starts; later the store knows. Default `None`: a random
    /// id, which is right for every real server: one that lost its store must not come back under
    /// the id it had, since it would vote against what it has forgotten.
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
    /// How long a verb waits before it ends as refused or unknown. Default 10 s; at most a day.
    pub verb_timeout: Duration,
    /// The longest command in bytes. Default 1 MiB.
    pub command_bytes_max: usize,
    /// The most bytes of entries in one append message; a single longer entry still goes. Default 1
    /// MiB. Very short entries take up to three times as much in the message as they count here,
    /// and the transport must carry that.
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

/// What a message holds besides entries or commands: the members, of two configurations at most,
/// and who sends it to whom.
const MESSAGE_OVERHEAD_BYTES: u64 = 2 * MEMBERSHIP_BYTES_MAX as u64 + (4 << 10);

/// What an entry without payload takes in a message: its head, and the length.
const ENTRY_BYTES: u64 = Entry::HEAD_LEN as u64 + 4;

/// The least that the engine counts for a command: tag and value of its term and of its index, and
/// its context. Without them come only a leader's first entries, of which each has another term.
const ENTRY_COUNTED_BYTES: u64 = 7;

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
    /// How long a message can get, so that the transport may be asked whether it carries that. The
    /// engine counts in another encoding than the message has.
    pub(crate) fn message_bytes(&self) -> u64 {
        let appends = self.append_bytes_max.saturating_mul(ENTRY_BYTES / ENTRY_COUNTED_BYTES);
        appends.saturating_add(self.command_bytes_max as u64).saturating_add(MESSAGE_OVERHEAD_BYTES)
    }

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
            ("verb_timeout", "must be one tick to a day", {
                (self.tick..=Duration::from_secs(24 * 3600)).contains(&self.verb_timeout)
            }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_names_the_field_that_breaks_it() {
        type Break = fn(&mut Config);
        let breaks: [(&str, Break); 13] = [
            ("tick", |c| c.tick = Duration::from_micros(999)),
            ("heartbeat_interval", |c| c.heartbeat_interval = Duration::from_millis(49)),
            ("election_timeout", |c| c.election_timeout = Duration::from_millis(199)),
            ("election_timeout", |c| c.election_timeout = Duration::from_secs(3601)),
            ("verb_timeout", |c| c.verb_timeout = Duration::from_millis(49)),
            ("verb_timeout", |c| c.verb_timeout = Duration::MAX),
            ("append_bytes_max", |c| c.append_bytes_max = 0),
            ("appends_in_flight_max", |c| c.appends_in_flight_max = 0),
            ("inbound_messages_max", |c| c.inbound_messages_max = 0),
            ("waiting_requests_max", |c| c.waiting_requests_max = 0),
            ("command_bytes_max", |c| c.command_bytes_max = 0),
            ("command_bytes_max", |c| c.command_bytes_max = (1 << 30) + 1),
            ("waiting_bytes_max", |c| c.waiting_bytes_max = c.command_bytes_max - 1),
        ];
        assert!(Config::default().ticks().is_ok());
        for (field, break_it) in breaks {
            let mut config = Config::default();
            break_it(&mut config);
            assert_eq!(config.ticks().unwrap_err().field, field);
        }
    }

    /// P50.
    #[test]
    fn what_is_accepted_holds_together_whatever_it_is() {
        let mut dice = fastrand::Rng::with_seed(1);
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut config = Config::default();
            let mut draw = |field: &mut u64| {
                let bits = dice.u32(..36);
                if dice.u8(..3) == 0 {
                    *field = dice.u64(..1 << bits) * u64::from(dice.bool());
                }
            };
            for time in
                [&mut config.tick, &mut config.heartbeat_interval, &mut config.election_timeout]
            {
                let mut micros = u64::try_from(time.as_micros()).unwrap();
                draw(&mut micros);
                *time = Duration::from_micros(micros);
            }
            for size in [
                &mut config.appends_in_flight_max,
                &mut config.inbound_messages_max,
                &mut config.waiting_requests_max,
                &mut config.command_bytes_max,
                &mut config.waiting_bytes_max,
            ] {
                let mut any = *size as u64;
                draw(&mut any);
                *size = usize::try_from(any).unwrap();
            }
            draw(&mut config.append_bytes_max);
            let Ok(ticks) = config.ticks() else {
                refused += 1;
                continue;
            };
            accepted += 1;
            assert!(ticks.heartbeat >= 1 && ticks.election > ticks.heartbeat, "{config:?}");
            let engine = crate::node::check_engine(&config, ticks);
            assert_eq!(engine, Ok(()), "{config:?}");
            assert!(config.waiting_bytes_max >= config.command_bytes_max, "{config:?}");
            let least = [
                config.append_bytes_max,
                config.appends_in_flight_max as u64,
                config.inbound_messages_max as u64,
                config.waiting_requests_max as u64,
                config.command_bytes_max as u64,
            ];
            assert!(least.into_iter().all(|limit| limit > 0), "{config:?}");
        }
        assert!(accepted > 1_000 && refused > 1_000, "{accepted}, {refused}");
    }
}
