//! Counts what is allocated.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Runs `work`, which may hold at most `bytes_max` more than there was before.
///
/// The count is that of the process: whoever runs targets runs one at a time.
pub(crate) fn within<T>(bytes_max: usize, work: impl FnOnce() -> T) -> T {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let done = work();
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(peak <= bytes_max, "{peak} bytes were allocated, {bytes_max} are allowed");
    done
}
