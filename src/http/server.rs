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
use futures::io::AsyncWriteExt as _;
use http::header::{DATE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::io_adapter::{HyperIo, HyperTimer};
use super::patience::{Patience, PatientBody};
use super::{Body, Handler, from_foreign};
use crate::runtime::{BoxStream, Listener, Net, Runtime};

/// How a [`Server`] behaves. Make one with [`ServerConfig::default`] and change what you must.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ServerConfig {
    /// How many connections are open at once. Default 1,024; more are answered 429 and closed.
    pub connections_max: usize,
    /// How many of them come from one address. Default 100; more are answered 429 and closed.
    pub connections_per_client_max: usize,
    /// How many bytes the head of a request may have, at most. Default 128 KiB; at least 8 KiB.
    /// More than that, or more than 100 headers, is answered 431.
    pub head_bytes_max: usize,
    /// How long the head of a request may take, and how long a connection may idle. Default 10 s.
    pub head_timeout: Duration,
    /// How long a body may not come, or an answer not be taken. Default 30 s. Every byte that moves
    /// gives a little of it back, so that a client must keep up 1 KiB a second in the long run.
    pub stall_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            connections_per_client_max: 100,
            head_bytes_max: 128 << 10,
            head_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
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
    /// Who must hear of the end, by number: the task that accepts, each connection, and whoever
    /// waits for the end. None stays behind.
    watchers: BTreeMap<u64, Waker>,
    connections: u64,
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
            state.watchers.insert(THE_END, cx.waker().clone());
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
                state.watchers.insert(ACCEPTING, cx.waker().clone());
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
    shared.ended(ACCEPTING, None);
}

impl Shared {
    fn admit(self: &Arc<Self>, mut stream: BoxStream, from: &str) {
        let client = from.rsplit_once(':').map_or(from, |(host, _)| host).to_owned();
        let mut state = self.lock();
        let of_client = state.clients.get(&client).copied().unwrap_or(0);
        if of_client >= self.config.connections_per_client_max
            || state.running > self.config.connections_max
        {
            drop(state);
            tracing::debug!(%from, "too many connections");
            // Once, and without waiting: a new connection has room for it.
            let _ = stream.write(TOO_MANY.as_bytes()).now_or_never();
            let _ = stream.close().now_or_never();
            return;
        }
        state.clients.insert(client.clone(), of_client + 1);
        state.running += 1;
        state.connections += 1;
        let number = ACCEPTING + state.connections;
        drop(state);
        let shared = Arc::clone(self);
        self.runtime.spawn(Box::pin(async move {
            let guard = Ended { shared: Arc::clone(&shared), number, client };
            shared.serve(stream, number).await;
            drop(guard);
        }));
    }

    async fn serve(self: &Arc<Self>, stream: BoxStream, number: u64) {
        let patience = || Patience::new(Arc::clone(&self.runtime), self.config.stall_timeout);
        let io = HyperIo::new(stream, patience());
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            let shared = Arc::clone(self);
            let request = request.map(|body| from_foreign(PatientBody::new(body, patience())));
            async move { Ok::<_, std::convert::Infallible>(shared.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(HyperTimer(Arc::clone(&self.runtime)))
            .header_read_timeout(self.config.head_timeout)
            .max_buf_size(self.config.head_bytes_max.max(HEAD_BYTES_MIN))
            .max_headers(HEADERS_MAX)
            .auto_date_header(false)
            .serve_connection(io, service);
        let mut connection = pin!(connection);
        let mut told = false;
        let served = poll_fn(|cx| {
            let mut state = self.lock();
            let closing = state.closing;
            state.watchers.insert(number, cx.waker().clone());
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
        let watchers = std::mem::take(&mut state.watchers);
        drop(state);
        watchers.into_values().for_each(Waker::wake);
    }

    fn ended(&self, number: u64, client: Option<&str>) {
        let mut state = self.lock();
        state.running -= 1;
        state.watchers.remove(&number);
        if let Some(client) = client
            && let Some(count) = state.clients.get_mut(client)
        {
            *count -= 1;
            if *count == 0 {
                state.clients.remove(client);
            }
        }
        let last = if state.running == 0 { state.watchers.remove(&THE_END) } else { None };
        drop(state);
        if let Some(waker) = last {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a poisoned one still holds a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Ended {
    shared: Arc<Shared>,
    number: u64,
    client: String,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.shared.ended(self.number, Some(&self.client));
    }
}

/// What Nomad tells a client that has too many connections.
const TOO_MANY: &str = "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\n\
    Connection: close\r\n\r\nYour IP is issuing too many concurrent connections, \
    please rate limit your calls\n";
/// Numbers of watchers; those of connections follow.
const THE_END: u64 = 0;
const ACCEPTING: u64 = 1;
const HEADERS_MAX: usize = 100;
/// hyper panics below this.
const HEAD_BYTES_MIN: usize = 8 << 10;
/// How long the listener rests after a failure that would repeat itself at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use futures::io::AsyncReadExt as _;

    use super::*;
    use crate::runtime::sim::Sim;

    struct Hello;

    #[async_trait]
    impl Handler for Hello {
        async fn handle(&self, _: http::Request<Body>) -> http::Response<Body> {
            http::Response::new(Body::from("hello"))
        }
    }

    #[test]
    fn a_connection_that_has_ended_leaves_nothing_behind() {
        let sim = Sim::new(1);
        let (server, client) = (sim.process(1), sim.process(2));
        let talk = async move {
            let (runtime, config) = (server.clone(), ServerConfig::default());
            let server = Server::bind(runtime, server, "a:1", Arc::new(Hello), config).await;
            let server = server.unwrap();
            for _ in 0..50 {
                let mut stream = client.dial("a:1").await.unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
                stream.read_to_end(&mut Vec::new()).await.unwrap();
            }
            client.timer(client.now() + Duration::from_secs(1)).await;
            let state = server.shared.lock();
            assert_eq!(state.watchers.len(), 1, "the task that accepts");
            assert_eq!((state.running, state.clients.len()), (1, 0));
        };
        sim.run_until(Duration::from_secs(60), talk).unwrap();
    }
}
