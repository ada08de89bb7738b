use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use async_trait::async_trait;
use smol::net::{TcpListener, TcpStream};
use socket2::SockRef;

use super::blocking::detached;
use super::socket::tune;
use super::{BoxFuture, BoxStream, Listener, Net, Runtime, Timer};

/// smol: its global executor, timers, TCP sockets and threads for blocking work.
///
/// Nothing needs to be started: the first task starts the executor's thread (`SMOL_THREADS` says
/// how many).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Smol;

impl Smol {
    /// The one there is.
    pub fn new() -> Self {
        Self
    }
}

impl Runtime for Smol {
    fn spawn(&self, task: BoxFuture<'static>) {
        smol::spawn(task).detach();
    }

    #[expect(clippy::disallowed_methods, reason = "the adapter is where the clock comes from")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn timer(&self, deadline: Instant) -> Pin<Box<dyn Timer>> {
        Box::pin(SmolTimer(smol::Timer::at(deadline)))
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static> {
        detached(work, |work| smol::unblock(work).detach())
    }
}

#[async_trait]
impl Net for Smol {
    async fn dial(&self, address: &str) -> io::Result<BoxStream> {
        let stream = TcpStream::connect(address).await?;
        tune(SockRef::from(&stream))?;
        Ok(Box::new(stream))
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(SmolListener(TcpListener::bind(address).await?)))
    }
}

struct SmolListener(TcpListener);

#[async_trait]
impl Listener for SmolListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, String)> {
        let (stream, from) = self.0.accept().await?;
        tune(SockRef::from(&stream))?;
        Ok((Box::new(stream), from.to_string()))
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }
}

struct SmolTimer(smol::Timer);

impl Timer for SmolTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.0.set_at(deadline);
    }
}

impl Future for SmolTimer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}
