//! The kits on everything we ship, and on things with a defect, which they must catch.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod defects;
#[path = "../../examples/custom_log_store/ledger.rs"]
mod ledger;
mod machines;
mod runtimes;
mod stores;
mod transports;
