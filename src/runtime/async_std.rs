use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use async_std::net::{TcpListener, TcpStream};
use async_std::task;
use async_trait::async_trait;
use socket2::SockRef;

use super::socket::{detached, tune};
use super::{BoxFuture, BoxStream, Listener, Net, Runtime, Timer};

/// async-std: its global executor, timers, TCP sockets and threads for blocking work.
///
/// For applications that are on async-std already. It was discontinued in 2025 (RUSTSEC-2025-0052); a new
/// application takes [`Smol`](https://docs.rs/smol), which is what async-std's authors point to.
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
        Ok(Box::new(stream))
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
        Ok((Box::new(stream), from.to_string()))
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
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
