//! One driver in the simulator, between messages and requests that the test times by hand.

mod changes;
mod requests;
mod rules;
mod stage;
