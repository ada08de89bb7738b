//! An HTTP/1.1 server over any [`Runtime`] and [`Net`].

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use http::header::{DATE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::io_adapter::{HyperIo, HyperTimer};
use super::{Body, Handler, from_foreign};
use crate::runtime::{BoxStream, Listener, Net, Runtime};

/// How a [`Server`] behaves.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ServerConfig {
    /// How many connections are open at once. Default 1,024; more are closed at once.
    pub connections_max: usize,
    /// How many of them come from one address. Default 100; more are closed at once.
    pub connections_per_client_max: usize,
    /// How long the head of a request may take. Default 10 s.
    pub head_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            connections_per_client_max: 100,
            head_timeout: Duration::from_secs(10),
        }
    }
}

/// Serves a [`Handler`]. Dropping it closes the listener at once and every connection after its
/// present request.
pub struct Server {
    shared: Arc<Shared>,
    address: String,
}

struct Shared {
    runtime: Arc<dyn Runtime>,
    handler: Arc<dyn Handler>,
    config: ServerConfig,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closing: bool,
    running: usize,
    clients: BTreeMap<String, usize>,
    wakers: Vec<Waker>,
}

impl Server {
    /// Listens on `address` (port 0 takes a free one) and serves from there on.
    ///
    /// # Errors
    ///
    /// What the system says, such as that the port is taken.
    pub async fn bind(
        runtime: Arc<dyn Runtime>,
        net: Arc<dyn Net>,
        address: &str,
        handler: Arc<dyn Handler>,
        config: ServerConfig,
    ) -> io::Result<Self> {
        let listener = net.listen(address).await?;
        let address = listener.local_address()?;
        let state = Mutex::new(State { running: 1, ..State::default() });
        let shared = Arc::new(Shared { runtime, handler, config, state });
        shared.runtime.spawn(Box::pin(accept(Arc::clone(&shared), listener)));
        Ok(Self { shared, address })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn local_address(&self) -> &str {
        &self.address
    }

    /// Takes no more requests, and returns when those under way have been answered.
    pub async fn shutdown(self) {
        self.shared.close();
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.running == 0 {
                return Poll::Ready(());
            }
            state.watch(cx.waker());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn accept(shared: Arc<Shared>, mut listener: Box<dyn Listener>) {
    loop {
        let accepted = {
            let mut accepting = listener.accept();
            poll_fn(|cx| {
                let mut state = shared.lock();
                if state.closing {
                    return Poll::Ready(None);
                }
                state.watch(cx.waker());
                drop(state);
                accepting.as_mut().poll(cx).map(Some)
            })
            .await
        };
        match accepted {
            Some(Ok((stream, from))) => shared.admit(stream, &from),
            Some(Err(error)) => {
                tracing::debug!(%error, "a connection failed before it began");
                let pause = shared.runtime.timer(shared.runtime.now() + ACCEPT_PAUSE);
                pause.await;
            }
            None => break,
        }
    }
    drop(listener);
    shared.ended(None);
}

impl Shared {
    fn admit(self: &Arc<Self>, stream: BoxStream, from: &str) {
        let client = from.rsplit_once(':').map_or(from, |(host, _)| host).to_owned();
        let mut state = self.lock();
        let of_client = state.clients.get(&client).copied().unwrap_or(0);
        if of_client >= self.config.connections_per_client_max
            || state.running > self.config.connections_max
        {
            tracing::debug!(%from, "too many connections");
            return;
        }
        state.clients.insert(client.clone(), of_client + 1);
        state.running += 1;
        drop(state);
        let shared = Arc::clone(self);
        self.runtime.spawn(Box::pin(async move {
            let guard = Ended(Arc::clone(&shared), client);
            shared.serve(stream).await;
            drop(guard);
        }));
    }

    async fn serve(self: &Arc<Self>, stream: BoxStream) {
        let io = HyperIo { stream, buffer: vec![0; READ_BYTES].into() };
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            let shared = Arc::clone(self);
            async move {
                Ok::<_, std::convert::Infallible>(shared.answer(request.map(from_foreign)).await)
            }
        });
        let connection = http1::Builder::new()
            .timer(HyperTimer(Arc::clone(&self.runtime)))
            .header_read_timeout(self.config.head_timeout)
            .auto_date_header(false)
            .serve_connection(io, service);
        let mut connection = pin!(connection);
        let mut told = false;
        let served = poll_fn(|cx| {
            let mut state = self.lock();
            let closing = state.closing;
            state.watch(cx.waker());
            drop(state);
            if closing && !told {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        })
        .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended badly");
        }
    }

    async fn answer(&self, request: http::Request<Body>) -> http::Response<Body> {
        // A handler that panics answers 500; the process and the other requests go on.
        let handled = AssertUnwindSafe(self.handler.handle(request)).catch_unwind().await;
        let mut response = handled.unwrap_or_else(|_| {
            let mut response = http::Response::new(Body::from("internal error"));
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        });
        let date = httpdate::fmt_http_date(self.runtime.wall_clock());
        if let Ok(date) = HeaderValue::try_from(date) {
            response.headers_mut().insert(DATE, date);
        }
        response
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn ended(&self, client: Option<&str>) {
        let mut state = self.lock();
        state.running -= 1;
        if let Some(client) = client
            && let Some(count) = state.clients.get_mut(client)
        {
            *count -= 1;
            if *count == 0 {
                state.clients.remove(client);
            }
        }
        let wakers =
            if state.running == 0 { std::mem::take(&mut state.wakers) } else { Vec::new() };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a poisoned one still holds a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn watch(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|known| known.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
    }
}

struct Ended(Arc<Shared>, String);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended(Some(&self.1));
    }
}

const READ_BYTES: usize = 16 << 10;
/// How long the listener rests after a failure that would repeat itself at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
