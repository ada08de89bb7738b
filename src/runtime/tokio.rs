use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use async_trait::async_trait;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep_until};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::socket::tune;
use super::{BoxFuture, BoxStream, Listener, Net, Runtime, Timer};

/// tokio: the tasks, timers, TCP sockets and blocking threads of one of its runtimes.
///
/// The runtime must have its timers and sockets switched on (`enable_all`), and must be kept alive
/// and driven by the application. Works from any thread, also from one outside the runtime. The
/// clock is tokio's, so that a paused one is obeyed.
#[derive(Clone, Debug)]
pub struct Tokio(Handle);

impl Tokio {
    /// Uses the runtime behind `handle`; `Handle::current()` inside of one.
    pub fn new(handle: Handle) -> Self {
        Self(handle)
    }
}

impl Runtime for Tokio {
    fn spawn(&self, task: BoxFuture<'static>) {
        // A dropped handle leaves the task running.
        drop(self.0.spawn(task));
    }

    fn now(&self) -> Instant {
        let _guard = self.0.enter();
        tokio::time::Instant::now().into_std()
    }

    fn timer(&self, deadline: Instant) -> Pin<Box<dyn Timer>> {
        let _guard = self.0.enter();
        Box::pin(sleep_until(deadline.into()))
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static> {
        let job = self.0.spawn_blocking(work);
        Box::pin(async move {
            // A panic is printed by the runtime; it ends the work like its return.
            let _ = job.await;
        })
    }
}

#[async_trait]
impl Net for Tokio {
    async fn dial(&self, address: &str) -> io::Result<BoxStream> {
        let stream = self.inside(TcpStream::connect(address)).await?;
        tune(SockRef::from(&stream))?;
        Ok(Box::new(stream.compat()))
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let listener = self.inside(TcpListener::bind(address)).await?;
        Ok(Box::new(TokioListener { runtime: self.clone(), listener }))
    }
}

impl Tokio {
    fn inside<F>(&self, future: F) -> Inside<'_, F> {
        Inside { runtime: &self.0, future: Box::pin(future) }
    }
}

struct TokioListener {
    runtime: Tokio,
    listener: TcpListener,
}

#[async_trait]
impl Listener for TokioListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, String)> {
        let (stream, from) = self.runtime.inside(self.listener.accept()).await?;
        tune(SockRef::from(&stream))?;
        Ok((Box::new(stream.compat()), from.to_string()))
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.listener.local_addr()?.to_string())
    }
}

/// Polls a future inside a runtime: a new socket registers itself with the runtime it finds around
/// it.
struct Inside<'a, F> {
    runtime: &'a Handle,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Inside<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _guard = self.runtime.enter();
        self.future.as_mut().poll(cx)
    }
}

impl Timer for Sleep {
    fn reset(self: Pin<&mut Self>, deadline: Instant) {
        Self::reset(self, deadline.into());
    }
}
