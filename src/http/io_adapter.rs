//! What hyper needs of a runtime, made of ours.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::io::{AsyncRead as _, AsyncWrite as _};
use hyper::rt;

use super::patience::Patience;
use crate::runtime::{BoxStream, Runtime, Timer};

pub(super) struct HyperIo {
    stream: BoxStream,
    buffer: Box<[u8]>,
    /// With a client that does not read. One that does not write is waited for as long as its head
    /// or its body may take, which hyper and the body know.
    patience: Patience,
}

impl HyperIo {
    pub(super) fn new(stream: BoxStream, patience: Patience) -> Self {
        Self { stream, buffer: vec![0; READ_BYTES].into(), patience }
    }

    fn poll_out<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut BoxStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = poll(Pin::new(&mut self.stream), cx) {
            self.patience.moved(done.as_ref().map_or(0, bytes));
            return Poll::Ready(done);
        }
        self.patience.poll_spent(cx).map(Err)
    }
}

impl rt::Read for HyperIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, buffer, .. } = &mut *self;
        let len = into.remaining().min(buffer.len());
        let read = ready!(Pin::new(stream).poll_read(cx, &mut buffer[..len]))?;
        into.put_slice(&buffer[..read]);
        Poll::Ready(Ok(()))
    }
}

impl rt::Write for HyperIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_out(cx, |stream, cx| stream.poll_write(cx, bytes), |written| *written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_out(cx, |stream, cx| stream.poll_flush(cx), |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_out(cx, |stream, cx| stream.poll_close(cx), |()| 0)
    }
}

/// hyper's clock and timers; without it hyper would look at the machine's.
#[derive(Clone)]
pub(super) struct HyperTimer(pub(super) Arc<dyn Runtime>);

impl rt::Timer for HyperTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(self.0.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(HyperSleep(Mutex::new(self.0.timer(deadline))))
    }

    fn now(&self) -> Instant {
        self.0.now()
    }
}

/// hyper wants its sleeps `Sync`, though it never shares one: the mutex is only ever opened with
/// `get_mut`.
struct HyperSleep(Mutex<Pin<Box<dyn Timer>>>);

impl rt::Sleep for HyperSleep {}

impl Future for HyperSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }
}

const READ_BYTES: usize = 16 << 10;
