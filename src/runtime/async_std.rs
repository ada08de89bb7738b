use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use async_std::net::{TcpListener, TcpStream};
use async_std::task;
use async_trait::async_trait;
use futures::io::{AsyncRead, AsyncWrite};
use socket2::SockRef;

use super::blocking::detached;
use super::socket::tune;
use super::{BoxFuture, BoxStream, Listener, Net, Runtime, Timer};

/// async-std: its global executor, timers, TCP sockets and threads for blocking work.
///
/// For applications that are on async-std already. It was discontinued in 2025 (RUSTSEC-2025-0052);
/// a new application takes `Smol`, which async-std's authors point to.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct AsyncStd;

impl AsyncStd {
    /// The one there is.
    pub fn new() -> Self {
        Self
    }
}

impl Runtime for AsyncStd {
    fn spawn(&self, task: BoxFuture<'static>) {
        // A dropped handle leaves the task running.
        drop(task::spawn(task));
    }

    #[expect(clippy::disallowed_methods, reason = "the adapter is where the clock comes from")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn timer(&self, deadline: Instant) -> Pin<Box<dyn Timer>> {
        Box::pin(AsyncStdTimer(async_io::Timer::at(deadline)))
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static> {
        detached(work, |work| drop(task::spawn_blocking(work)))
    }
}

#[async_trait]
impl Net for AsyncStd {
    async fn dial(&self, address: &str) -> io::Result<BoxStream> {
        let stream = TcpStream::connect(address).await?;
        tune(SockRef::from(&stream))?;
        Ok(Box::new(AsyncStdStream(stream)))
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(AsyncStdListener(TcpListener::bind(address).await?)))
    }
}

struct AsyncStdListener(TcpListener);

#[async_trait]
impl Listener for AsyncStdListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, String)> {
        let (stream, from) = self.0.accept().await?;
        tune(SockRef::from(&stream))?;
        Ok((Box::new(AsyncStdStream(stream)), from.to_string()))
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }
}

/// async-std's stream takes a close for a flush, and its peer would wait for the end for ever.
struct AsyncStdStream(TcpStream);

impl AsyncRead for AsyncStdStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for AsyncStdStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.shutdown(Shutdown::Write) {
            // The peer has let go already; there is nothing left to end.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}

/// async-std has no timer that can be moved; async-io is what its own timers are made of.
struct AsyncStdTimer(async_io::Timer);

impl Timer for AsyncStdTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.0.set_at(deadline);
    }
}

impl Future for AsyncStdTimer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}
