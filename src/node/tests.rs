//! The core alone: several nodes, a wire and disks that the test moves by hand.

mod catching_up;
mod cluster;
mod inspect;
mod membership;
mod rules;
