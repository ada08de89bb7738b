//! Real time and real threads: the tests of real processes have no others.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "real processes in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn pause(ms: u64) {
    pause_for(Duration::from_millis(ms));
}

#[expect(clippy::disallowed_methods, reason = "real processes in real time")]
pub(crate) fn pause_for(time: Duration) {
    std::thread::sleep(time);
}

#[expect(clippy::disallowed_methods, reason = "clients of real processes are real threads")]
pub(crate) fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(run)
}

#[expect(clippy::disallowed_methods, reason = "a new seed each time; it is printed")]
pub(crate) fn new_seed() -> u64 {
    fastrand::u64(..)
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[expect(clippy::disallowed_methods, reason = "the clocks of servers are compared with this one")]
pub(crate) fn since_the_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}
