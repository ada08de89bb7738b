//! How long the other side of a connection may keep us waiting.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::BoxError;
use crate::runtime::{Runtime, Timer};

/// A budget of waiting: waiting uses it up, and every byte that moves gives a little back. So
/// neither a silent nor a dripping client is waited for much longer than `limit`, and a steady one
/// may take as long as it needs.
pub(super) struct Patience {
    runtime: Arc<dyn Runtime>,
    limit: Duration,
    left: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<dyn Timer>>>,
}

impl Patience {
    pub(super) fn new(runtime: Arc<dyn Runtime>, limit: Duration) -> Self {
        Self { runtime, limit, left: limit, since: None, timer: None }
    }

    /// Nothing moves: ready with an error when that has been so for too long.
    pub(super) fn poll_spent(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let began = self.since.is_none();
        let deadline = *self.since.get_or_insert_with(|| self.runtime.now()) + self.left;
        let timer = self.timer.get_or_insert_with(|| self.runtime.timer(deadline));
        if began {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    /// This many bytes have moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(self.runtime.now() - since);
        }
        let earned = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND_MIN);
        self.left = self.left.saturating_add(earned).min(self.limit);
    }
}

/// A request's body that fails when it does not come.
pub(super) struct PatientBody<B> {
    body: B,
    patience: Patience,
}

impl<B> PatientBody<B> {
    pub(super) fn new(body: B, patience: Patience) -> Self {
        Self { body, patience }
    }
}

impl<B> Body for PatientBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { body, patience } = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            patience.moved(data.map_or(0, Bytes::len));
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let spent = ready!(patience.poll_spent(cx));
        Poll::Ready(Some(Err(spent.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whoever is slower than this, in the long run, is given up.
const BYTES_PER_SECOND_MIN: f64 = 1_024.0;
