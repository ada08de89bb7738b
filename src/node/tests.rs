//! The core alone: several nodes, a wire and disks that the test moves by hand.

mod cluster;
mod inspect;
mod membership;
mod rules;
