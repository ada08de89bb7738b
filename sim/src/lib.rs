//! Whole clusters in virtual time, under faults, judged at every event.

pub mod history;
pub mod linearizable;
