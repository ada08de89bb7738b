//! The processor time of this thread, and a yardstick to hold it against: other work of the same
//! sort, so that a slow or busy machine is not taken for a slow simulator.

use std::collections::BTreeMap;
use std::time::Duration;

/// How long this thread has had a processor.
#[cfg(unix)]
pub(crate) fn time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let parts = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    let (Ok(seconds), Ok(nanos)) = parts else { return Duration::ZERO };
    Duration::new(seconds, nanos)
}

/// How long this thread has had a processor, or would have if it had been alone.
#[cfg(not(unix))]
#[expect(clippy::disallowed_methods, reason = "the runs are in virtual time, the tool is not")]
pub(crate) fn time() -> Duration {
    static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    BEGAN.get_or_init(std::time::Instant::now).elapsed()
}

/// The processor time that a fixed piece of work takes: maps that grow and shrink.
pub(crate) fn yardstick() -> Duration {
    let began = time();
    let mut dice = fastrand::Rng::with_seed(1);
    let mut map = BTreeMap::new();
    let mut sum = 0_usize;
    for turn in 0..600_000_u64 {
        map.insert(dice.u64(..50_000), vec![turn; 4]);
        sum += map.remove(&dice.u64(..50_000)).map_or(0, |value| value.len());
    }
    assert!(sum > 0, "the work is not to be left out");
    time().saturating_sub(began)
}
