//! One driver in the simulator, between messages and requests that the test times by hand.

mod answers;
mod changes;
mod ends;
mod gate;
mod installs;
mod limits;
mod requests;
mod rules;
mod stage;
mod stalls;
mod strangers;
