//! What the test holds up and lets go.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// Something that the test may hold up: whoever passes waits while it is shut.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    shut: bool,
    waiting: Vec<Waker>,
}

impl Gate {
    pub(super) fn shut(&self) {
        lock(&self.0).shut = true;
    }

    pub(super) fn open(&self) {
        let mut held = lock(&self.0);
        held.shut = false;
        std::mem::take(&mut held.waiting).into_iter().for_each(Waker::wake);
    }

    pub(super) async fn pass(&self) {
        std::future::poll_fn(|cx| {
            let mut held = lock(&self.0);
            if !held.shut {
                return Poll::Ready(());
            }
            held.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
