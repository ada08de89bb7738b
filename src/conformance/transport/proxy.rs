//! A wire in between, on which things go wrong.

use std::sync::{Arc, Mutex};

use futures::future::{AbortHandle, Abortable, join};
use futures::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::TransportFixture;
use crate::conformance::{Broken, Promised as _, lock};
use crate::runtime::{BoxStream, Listener, Net, Runtime};

/// Passes connections on to a server, until it is dropped.
pub(super) struct Proxy {
    pub(super) address: String,
    state: Arc<Mutex<State>>,
    /// Ends the acceptance of connections.
    accepting: AbortHandle,
}

struct State {
    upstream: String,
    mishap: Mishap,
    /// How many connections were made so far.
    connections: usize,
    /// Ends each of them.
    open: Vec<AbortHandle>,
}

/// What goes wrong with connections that are made from now on. Places are counted in bytes from the
/// beginning of the connection, from the dialer to the server unless it says otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mishap {
    /// It breaks at this place.
    Cut(usize),
    /// This bit of the byte at this place is another.
    Flip(usize, u8),
    /// The same on the way back.
    FlipBack(usize, u8),
    None,
    /// Nothing gets through any more, in either direction, from this place on.
    Stop(usize),
}

impl Proxy {
    pub(super) async fn new(
        fixture: &Arc<dyn TransportFixture>,
        net: Arc<dyn Net>,
        upstream: &str,
    ) -> Result<Self, Broken> {
        let listener = net.listen(&fixture.any_address()).await.promised("the kit's listening")?;
        let address = listener.local_address().promised("the kit's asking for its address")?;
        let state = Arc::new(Mutex::new(State {
            upstream: upstream.to_owned(),
            mishap: Mishap::None,
            connections: 0,
            open: Vec::new(),
        }));
        let (accepting, registration) = AbortHandle::new_pair();
        let runtime = fixture.runtime();
        let task = accept(Arc::clone(&runtime), net, listener, Arc::clone(&state));
        let task = Abortable::new(task, registration);
        runtime.spawn(Box::pin(async move {
            // Ended when the proxy is dropped.
            let _ = task.await;
        }));
        Ok(Self { address, state, accepting })
    }

    pub(super) fn set(&self, mishap: Mishap) {
        lock(&self.state).mishap = mishap;
    }

    /// Connections from now on go to another server.
    pub(super) fn lead_to(&self, upstream: &str) {
        upstream.clone_into(&mut lock(&self.state).upstream);
    }

    /// Breaks every connection.
    pub(super) fn break_all(&self) {
        lock(&self.state).open.drain(..).for_each(|connection| connection.abort());
    }

    pub(super) fn connections(&self) -> usize {
        lock(&self.state).connections
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.break_all();
    }
}

async fn accept(
    runtime: Arc<dyn Runtime>,
    net: Arc<dyn Net>,
    mut listener: Box<dyn Listener>,
    state: Arc<Mutex<State>>,
) {
    while let Ok((near, _)) = listener.accept().await {
        let (connection, registration) = AbortHandle::new_pair();
        let (upstream, mishap) = {
            let mut state = lock(&state);
            state.connections += 1;
            state.open.push(connection);
            (state.upstream.clone(), state.mishap)
        };
        let net = Arc::clone(&net);
        let task = async move {
            // Where nobody is, the connection is closed, as a dial would be refused.
            if let Ok(far) = net.dial(&upstream).await {
                carry(near, far, mishap).await;
            }
        };
        let task = Abortable::new(task, registration);
        runtime.spawn(Box::pin(async move {
            let _ = task.await;
        }));
    }
}

async fn carry(near: BoxStream, far: BoxStream, mishap: Mishap) {
    let stopped = Mutex::new(false);
    let (near_reads, near_writes) = near.split();
    let (far_reads, far_writes) = far.split();
    let there = pump(near_reads, far_writes, mishap, &stopped);
    let on_the_way_back = match mishap {
        Mishap::FlipBack(place, bit) => Mishap::Flip(place, bit),
        _ => Mishap::None,
    };
    let back = pump(far_reads, near_writes, on_the_way_back, &stopped);
    match mishap {
        // The first end breaks both directions.
        Mishap::Cut(_) => drop(futures::future::select(Box::pin(there), Box::pin(back)).await),
        _ => drop(join(there, back).await),
    }
}

/// Carries one direction to its end.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mishap: Mishap,
    stopped: &Mutex<bool>,
) {
    let (mut at, mut chunk) = (0, vec![0; 16 << 10]);
    loop {
        let len = match mishap {
            Mishap::Cut(place) | Mishap::Stop(place) => (place - at).min(chunk.len()),
            _ => chunk.len(),
        };
        if len == 0 {
            if let Mishap::Stop(_) = mishap {
                *lock(stopped) = true;
                std::future::pending::<()>().await;
            }
            return;
        }
        let read = match from.read(&mut chunk[..len]).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        if *lock(stopped) {
            std::future::pending::<()>().await;
        }
        if let Mishap::Flip(place, bit) = mishap
            && (at..at + read).contains(&place)
        {
            chunk[place - at] ^= 1 << bit;
        }
        at += read;
        if to.write_all(&chunk[..read]).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    // The end is passed on too; whoever is gone needs no end.
    let _ = to.close().await;
}
