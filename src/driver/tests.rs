//! One driver in the simulator, between messages and requests that the test times by hand.

mod changes;
mod ends;
mod installs;
mod limits;
mod requests;
mod rules;
mod stage;
