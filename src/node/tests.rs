//! The core alone: several nodes, a wire and disks that the test moves by hand.

mod catching_up;
mod cluster;
mod elections;
mod inspect;
mod limits;
mod membership;
mod rules;
mod snapshots;
