//! A bounded queue with one taker, who takes everything at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::mutant::Mutant;

/// Many put in, one takes out, all that is there in one go: one lock and at most one wake-up a
/// batch, which is what ordinary channels cannot do. Never waits: what does not fit comes back.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    items_max: usize,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    waker: Option<Waker>,
    closed: bool,
}

/// What did not fit, and why.
#[derive(Debug)]
pub(crate) enum Rejected<T> {
    Closed(T),
    Full(T),
}

impl<T> Mailbox<T> {
    pub(crate) fn new(items_max: usize) -> Self {
        let state = State { items: Vec::new(), waker: None, closed: false };
        Self { state: Mutex::new(state), items_max }
    }

    pub(crate) fn items_max(&self) -> usize {
        self.items_max
    }

    pub(crate) fn push(&self, item: T) -> Result<(), Rejected<T>> {
        self.push_below(item, self.items_max)
    }

    /// Like [`push`](Self::push), but whatever the limit: for the one item that ends everything.
    pub(crate) fn push_last(&self, item: T) -> Result<(), Rejected<T>> {
        self.push_below(item, usize::MAX)
    }

    fn push_below(&self, item: T, items_max: usize) -> Result<(), Rejected<T>> {
        let mut state = self.lock();
        if state.closed {
            return Err(Rejected::Closed(item));
        }
        if state.items.len() >= items_max && !Mutant::QueueUnbounded.is_planted() {
            return Err(Rejected::Full(item));
        }
        state.items.push(item);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Swaps all that is there into `into`, which must be empty; pending if there is nothing.
    pub(crate) fn poll_take(&self, cx: &Context<'_>, into: &mut Vec<T>) -> Poll<()> {
        let mut state = self.lock();
        if state.items.is_empty() {
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        std::mem::swap(&mut state.items, into);
        Poll::Ready(())
    }

    /// Refuses everything from here on; gives back what was not taken.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        std::mem::take(&mut state.items)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code of others runs under the lock, so a poisoned one still holds whole values.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P42.
    #[test]
    fn what_does_not_fit_comes_back_and_what_does_is_taken_in_order() {
        let mailbox = Mailbox::new(2);
        let cx = Context::from_waker(Waker::noop());
        let mut taken = Vec::new();
        assert!(mailbox.poll_take(&cx, &mut taken).is_pending());
        assert!(mailbox.push(1).is_ok() && mailbox.push(2).is_ok());
        assert!(matches!(mailbox.push(3), Err(Rejected::Full(3))));
        assert!(mailbox.poll_take(&cx, &mut taken).is_ready());
        assert_eq!(taken, [1, 2]);
        assert!(mailbox.push(4).is_ok());
        assert_eq!(mailbox.close(), [4]);
        assert!(matches!(mailbox.push(5), Err(Rejected::Closed(5))));
    }
}
