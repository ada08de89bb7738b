//! Ending tasks: a flag that each of them watches, and a count of those that still run.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use kontiki::runtime::Runtime;

/// Clones are the same signal.
#[derive(Clone, Default)]
pub(crate) struct Signal {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    set: bool,
    running: usize,
    /// Who must hear of it, by number. None stays behind.
    watchers: BTreeMap<u64, Waker>,
    count: u64,
}

impl Signal {
    pub(crate) fn set(&self) {
        self.lock().set = true;
        self.wake();
    }

    /// Counts as running for as long as what is given back is kept.
    pub(crate) fn enter(&self) -> Running {
        self.lock().running += 1;
        Running(self.clone())
    }

    /// Runs `task` until it is done or the signal is set; `None` in the latter case.
    pub(crate) async fn until<T>(&self, task: impl Future<Output = T>) -> Option<T> {
        let watching = self.watching();
        let mut task = Box::pin(task);
        let done = poll_fn(|cx| {
            let mut state = self.lock();
            if state.set {
                return Poll::Ready(None);
            }
            state.watchers.insert(watching.number, cx.waker().clone());
            drop(state);
            task.as_mut().poll(cx).map(Some)
        })
        .await;
        drop(task);
        drop(watching);
        done
    }

    /// Waits until nothing that has [`enter`](Self::enter)ed runs any more.
    pub(crate) async fn all_ended(&self) {
        let watching = self.watching();
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.running == 0 {
                return Poll::Ready(());
            }
            state.watchers.insert(watching.number, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn watching(&self) -> Watching<'_> {
        let mut state = self.lock();
        state.count += 1;
        Watching { signal: self, number: state.count }
    }

    fn wake(&self) {
        let watchers = std::mem::take(&mut self.lock().watchers);
        watchers.into_values().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a poisoned one still holds a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Watching<'a> {
    signal: &'a Signal,
    number: u64,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let waker = self.signal.lock().watchers.remove(&self.number);
        // Not under the lock: it may be the last that holds its task.
        drop(waker);
    }
}

/// Something that the signal is to end.
pub(crate) struct Running(Signal);

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        let last = state.running == 0;
        drop(state);
        if last {
            self.0.wake();
        }
    }
}

/// Runs `task` for at most `limit`; `None` if it took longer.
pub(crate) async fn within<T>(
    runtime: &Arc<dyn Runtime>,
    limit: Duration,
    task: impl Future<Output = T>,
) -> Option<T> {
    let mut task = pin!(task);
    let mut timer = runtime.timer(runtime.now() + limit);
    poll_fn(|cx| {
        if let Poll::Ready(done) = task.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use smol::block_on;

    use super::*;

    /// Pending once, so that whoever waits for it is watching meanwhile.
    async fn once_pending() {
        let mut first = true;
        poll_fn(|cx| {
            if std::mem::take(&mut first) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    #[test]
    fn a_task_that_has_ended_leaves_nothing_behind() {
        let signal = Signal::default();
        let mut waiting = Box::pin(signal.until(std::future::pending::<()>()));
        let ends = async {
            poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_ready())).await;
            for _ in 0..10 {
                signal.until(once_pending()).await;
            }
        };
        block_on(ends);
        assert_eq!(signal.lock().watchers.len(), 1, "the one that still runs");
        let running = signal.enter();
        signal.set();
        assert_eq!(block_on(waiting), None);
        let mut all = Box::pin(signal.all_ended());
        let poll = poll_fn(|cx| Poll::Ready(all.as_mut().poll(cx).is_pending()));
        assert!(block_on(poll), "one still runs");
        drop(running);
        block_on(all);
        assert!(signal.lock().watchers.is_empty());
    }
}
