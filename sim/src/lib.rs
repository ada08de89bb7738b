//! Whole kontiki clusters in virtual time, under faults, judged at every event.
//!
//! One seed decides a run: how many servers there are and how they are set up ([`Options`]), what
//! goes wrong and when ([`Plan`]), what clients ask, in which order tasks run. The servers are
//! production code: core, driver, stores, transports, HTTP server. Around their parts stand
//! observers that tell a judge what is written, sent and applied; it holds everything against the
//! [`Invariant`]s at that moment, not only against what comes of it in the end.
//!
//! ```
//! use kontiki_sim::{Options, Plan, run};
//!
//! let options = Options::from_seed(7);
//! let plan = Plan::from_options(&options);
//! let report = run(&options, &plan);
//! assert_eq!(report.violation, None);
//! ```
//!
//! A plan is data: print it as JSON, edit it, run it again; [`shrink()`] makes it smaller.
//! For your own state machine, see [`kit`].

#![forbid(unsafe_code)]

mod client;
mod cluster;
pub mod history;
mod judge;
pub mod kit;
pub mod linearizable;
mod log;
mod machine;
mod operator;
mod options;
mod plan;
mod run;
mod shrink;
mod wire;

pub use self::judge::{Counts, Invariant, Violation};
pub use self::options::{DiskKind, Kind, NetworkKind, Options};
pub use self::plan::{Fault, Moment, Plan, Target, Timed};
pub use self::run::{Report, run, run_traced};
pub use self::shrink::{Case, shrink};
