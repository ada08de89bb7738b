//! Raft for services that already have an async stack: a replicated, fault-tolerant state machine
//! on any runtime, transport and store.
//!
//! A node is made of [`Parts`] and reached through a [`Raft`] handle: [`propose`](Raft::propose)
//! commands, [`read`](Raft::read) linearizably, change the [`membership`], look at the [`Status`].
//! The application's state is a [`StateMachine`], or, simplest, a
//! [`typed::State`](https://docs.rs/kontiki).
//!
//! # Features
//!
//! None is on by default. They add, none chooses: the application passes the values it wants.
//!
//! - `runtime-smol`: [`runtime`] adapter for smol.
//! - `runtime-tokio`: adapter for tokio; holds a handle on one of its runtimes.
//! - `runtime-async-std`: adapter for async-std, for applications that are on it already (it was
//!   discontinued in 2025).
//! - `runtime-sim`: a simulated world that one seed decides, for tests.
//! - `storage-file`: the durable log and snapshots, and the real disk.
//! - `transport-stream`: framing, for transports over byte streams.
//! - `typed`: commands and answers as types.
//! - `http`: the trait for HTTP serving.
//! - `http-server`: an HTTP/1.1 server over any runtime.
//! - `tower`: the mount for axum and everything else that takes tower services.
//! - `mutants`: defects to be planted on purpose; for the simulator, never for a release.
//! - `operator`: Nomad's Raft operator HTTP API.
//! - `conformance`: kits that judge your own runtime, sockets, disk, transport, stores and state
//!   machine.
//! - `fuzzing`: inner parts for this repository's fuzz targets, without any promise.
//!
//! # Limits
//!
//! Every queue has one, named in [`Config`] or beside the queue; what does not fit is refused with
//! a typed error or, between servers, dropped and sent again. A command is at most
//! [`Config::command_bytes_max`] long.

#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../docs/writing-a-runtime.md")]
struct WritingARuntime;

#[cfg(doctest)]
#[doc = include_str!("../docs/writing-a-transport.md")]
struct WritingATransport;

mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod driver;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "http")]
pub mod http;
mod id;
pub mod membership;
#[cfg_attr(
    not(feature = "mutants"),
    expect(dead_code, unreachable_pub, reason = "without the feature nobody can plant any")
)]
mod mutant;
mod node;
#[cfg(feature = "operator")]
pub mod operator;
mod raft;
pub mod runtime;
mod state_machine;
mod status;
pub mod storage;
pub mod transport;
#[cfg(feature = "typed")]
pub mod typed;

pub use self::config::{Config, ConfigError};
pub use self::driver::StatusWatch;
pub use self::error::{Error, Fatal, NoLeader};
pub use self::id::{ClusterId, GroupId, InvalidId, LogId, NodeId};
pub use self::membership::{Change, Member, Membership, MembershipError, Role};
#[cfg(feature = "mutants")]
pub use self::mutant::Mutant;
pub use self::raft::{
    Applied, BootstrapError, Consistency, JoinError, Parts, ProposeError, Raft, ReadError,
    ReadGuarantee, StartError, TransferError,
};
pub use self::state_machine::{BoxError, Command, Snapshot, StateMachine};
pub use self::status::{Counters, Progress, RaftRole, Status};
