//! Messages that are under way.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use kontiki::runtime::Runtime;
use kontiki::transport::{Inbox, Message};

/// One task delivers what is under way, in the order of arrival; it ends with the network.
pub(crate) struct Queue {
    runtime: Arc<dyn Runtime>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    under_way: BTreeMap<(Instant, u64), (Arc<dyn Inbox>, Message)>,
    count: u64,
    waker: Option<Waker>,
}

impl Queue {
    pub(crate) fn start(runtime: &Arc<dyn Runtime>) -> Arc<Self> {
        let queue = Arc::new(Self { runtime: Arc::clone(runtime), state: Mutex::default() });
        let weak = Arc::downgrade(&queue);
        let mut timer = runtime.timer(runtime.now());
        runtime.spawn(Box::pin(poll_fn(move |cx| {
            let Some(queue) = weak.upgrade() else { return Poll::Ready(()) };
            loop {
                queue.deliver_due();
                let Some(next) = queue.next(cx.waker()) else { return Poll::Pending };
                timer.as_mut().reset(next);
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })));
        queue
    }

    /// Sends a message on its way; `false` if too many are, and it is lost.
    pub(crate) fn push(&self, delay: Duration, inbox: Arc<dyn Inbox>, message: Message) -> bool {
        let mut state = self.lock();
        if state.under_way.len() >= UNDER_WAY_MAX {
            return false;
        }
        state.count += 1;
        let key = (self.runtime.now() + delay, state.count);
        state.under_way.insert(key, (inbox, message));
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Forgets what is under way to `inbox`.
    pub(crate) fn forget(&self, inbox: &Arc<dyn Inbox>) {
        let mut state = self.lock();
        let ours =
            |there: &Arc<dyn Inbox>| std::ptr::addr_eq(Arc::as_ptr(there), Arc::as_ptr(inbox));
        let all = std::mem::take(&mut state.under_way).into_iter();
        let (gone, stays): (BTreeMap<_, _>, _) = all.partition(|(_, (there, _))| ours(there));
        state.under_way = stays;
        drop(state);
        // Not under the lock: it may be the last that holds what it names.
        drop(gone);
    }

    fn deliver_due(&self) {
        let now = self.runtime.now();
        loop {
            let mut state = self.lock();
            let due = state.under_way.first_entry().filter(|entry| entry.key().0 <= now);
            let Some((inbox, message)) = due.map(|entry| entry.remove()) else { return };
            drop(state);
            inbox.deliver(message);
        }
    }

    /// When the next message arrives; the waker is woken if one is pushed.
    fn next(&self, waker: &Waker) -> Option<Instant> {
        let mut state = self.lock();
        state.waker = Some(waker.clone());
        state.under_way.first_key_value().map(|((at, _), _)| *at)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a poisoned one still holds a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // The task holds no strong reference; woken once more, it sees that and ends.
        if let Some(waker) = self.lock().waker.take() {
            waker.wake();
        }
    }
}

/// How many messages are under way at most; more are lost.
const UNDER_WAY_MAX: usize = 1 << 20;
