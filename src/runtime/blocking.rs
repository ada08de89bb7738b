//! Blocking work that nobody cancels.

use futures::channel::oneshot;

use super::BoxFuture;

/// Hands `work` to `start` and returns a future that ends when `work` has ended, by a panic too.
///
/// smol and async-std cancel a job whose handle is dropped, tokio does not; this way none does.
pub(super) fn detached(
    work: Box<dyn FnOnce() + Send>,
    start: impl FnOnce(Box<dyn FnOnce() + Send>),
) -> BoxFuture<'static> {
    let (ended, end) = oneshot::channel::<()>();
    start(Box::new(move || {
        // Dropped after the work, or by its panic.
        let _ended = ended;
        work();
    }));
    Box::pin(async move {
        let _ = end.await;
    })
}
