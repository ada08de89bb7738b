//! What waits to be sent to one peer.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use kontiki::transport::frame::frame_head;
use kontiki::transport::{Frame, TransportError};

use crate::TcpConfig;
use crate::handshake::KIND_MESSAGE;

/// A bounded queue: what does not fit is dropped, and whoever pushes is told.
pub(crate) struct Outbox {
    state: Mutex<State>,
    messages_max: usize,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Frame>,
    bytes: usize,
    waker: Option<Waker>,
    closed: bool,
}

impl Outbox {
    pub(crate) fn new(config: &TcpConfig) -> Self {
        Self {
            state: Mutex::default(),
            messages_max: config.queue_messages_max,
            bytes_max: config.queue_bytes_max,
        }
    }

    pub(crate) fn push(&self, frame: Frame) -> Result<(), TransportError> {
        let mut state = self.lock();
        let bytes = state.bytes + frame.len();
        let full = state.queue.len() >= self.messages_max || bytes > self.bytes_max;
        if state.closed || full {
            return Err(TransportError::Full);
        }
        state.bytes = bytes;
        state.queue.push_back(frame);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Takes what goes into one write, framed; `None` when the outbox is closed.
    pub(crate) fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<Vec<Bytes>>> {
        let mut state = self.lock();
        if state.closed {
            return Poll::Ready(None);
        }
        if state.queue.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (mut parts, mut taken) = (Vec::new(), 0);
        while taken < WRITE_BYTES
            && let Some(frame) = state.queue.pop_front()
        {
            taken += frame.len();
            parts.push(frame_head(KIND_MESSAGE, &frame.parts));
            parts.extend(frame.parts);
        }
        state.bytes -= taken;
        Poll::Ready(Some(parts))
    }

    /// Forgets what waits: it was meant for a connection that is gone.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        state.queue.clear();
        state.bytes = 0;
    }

    /// Ends the task that empties it.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a poisoned one still holds a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// About how much goes into one write.
const WRITE_BYTES: usize = 256 << 10;
