//! Raft for services that already have an async stack.

#![forbid(unsafe_code)]

mod config;
mod driver;
mod error;
#[cfg(feature = "http")]
pub mod http;
mod id;
pub mod membership;
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
pub use self::raft::{
    Applied, BootstrapError, Consistency, JoinError, Parts, ProposeError, Raft, ReadError,
    ReadGuarantee, StartError, TransferError,
};
pub use self::state_machine::{BoxError, Command, Snapshot, StateMachine};
pub use self::status::{Counters, Progress, RaftRole, Status};
