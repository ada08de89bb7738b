//! Ending tasks: a flag that each of them watches, and a count of those that still run.

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
    wakers: Vec<Waker>,
}

impl Signal {
    pub(crate) fn set(&self) {
        self.lock().set = true;
        self.wake();
    }

    /// Runs `task` until it is done or the signal is set; `None` in the latter case. Counts as
    /// running meanwhile.
    pub(crate) async fn until<T>(&self, task: impl Future<Output = T>) -> Option<T> {
        self.lock().running += 1;
        let running = Running(self);
        let mut task = Box::pin(task);
        let done = poll_fn(|cx| {
            let mut state = self.lock();
            if state.set {
                return Poll::Ready(None);
            }
            state.watch(cx.waker());
            drop(state);
            task.as_mut().poll(cx).map(Some)
        })
        .await;
        // What the task holds is let go of before it counts as ended.
        drop(task);
        drop(running);
        done
    }

    /// Waits until nothing runs under this signal any more.
    pub(crate) async fn all_ended(&self) {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.running == 0 {
                return Poll::Ready(());
            }
            state.watch(cx.waker());
            Poll::Pending
        })
        .await;
    }

    fn wake(&self) {
        let wakers = std::mem::take(&mut self.lock().wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a poisoned one still holds a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn watch(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|known| known.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
    }
}

struct Running<'a>(&'a Signal);

impl Drop for Running<'_> {
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
