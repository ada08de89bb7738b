//! An inbox that writes down what it gets, and takes streams as it is told.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncRead, AsyncReadExt as _};

use super::pattern;
use crate::conformance::lock;
use crate::id::{ClusterId, NodeId};
use crate::runtime::ByteReader;
use crate::transport::{Inbox, Local, Message, StreamRefused};

/// An inbox as the library's, in so far as a transport can tell.
pub(super) struct Recorder {
    state: Mutex<State>,
}

struct State {
    local: Local,
    got: Got,
    taking: Taking,
    wakers: Vec<Waker>,
}

/// What has come in.
#[derive(Default)]
pub(super) struct Got {
    pub(super) messages: Vec<Message>,
    /// What heads streams that were taken, and their bytes.
    pub(super) streams: Vec<(Bytes, Vec<u8>)>,
    /// How many streams are being received.
    pub(super) open: usize,
    /// How many have begun.
    pub(super) begun: usize,
    /// How many failed while they were read.
    pub(super) broken: usize,
    /// Sends and streams that could not be.
    pub(super) unreachable: Vec<NodeId>,
}

/// How streams are taken.
#[derive(Clone)]
pub(super) enum Taking {
    /// To the end.
    All,
    /// Little by little; the source must not run ahead by more than this.
    Closely(Arc<Source>, usize),
    /// Not before it is told otherwise.
    NotYet,
    /// Some bytes, and then refused.
    Part(usize, StreamRefused),
}

impl Got {
    pub(super) fn payloads(&self) -> impl Iterator<Item = &Bytes> {
        self.messages.iter().filter_map(Message::probe_payload)
    }
}

impl Recorder {
    pub(super) fn new(local: Local) -> Arc<Self> {
        let (got, wakers) = (Got::default(), Vec::new());
        let state = State { local, got, taking: Taking::All, wakers };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Looks at what has come in so far.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Got) -> T) -> T {
        look(&self.lock().got)
    }

    /// Waits until what has come in is as it should be.
    pub(super) async fn until(&self, holds: &mut impl FnMut(&Got) -> bool) {
        poll_fn(|cx| {
            let mut state = self.lock();
            if holds(&state.got) {
                return Poll::Ready(());
            }
            state.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(super) fn take_streams(&self, how: Taking) {
        self.change(|state| state.taking = how);
    }

    /// The server has joined a cluster.
    pub(super) fn join(&self, cluster: ClusterId) {
        self.change(|state| state.local.cluster = cluster);
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        changed
    }

    /// How streams are taken, once that is known.
    async fn taking(&self) -> Taking {
        poll_fn(|cx| {
            let mut state = self.lock();
            match state.taking.clone() {
                Taking::NotYet => {
                    state.wakers.push(cx.waker().clone());
                    Poll::Pending
                }
                known => Poll::Ready(known),
            }
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[async_trait]
impl Inbox for Recorder {
    fn local(&self) -> Local {
        self.lock().local.clone()
    }

    fn deliver(&self, message: Message) {
        self.change(|state| state.got.messages.push(message));
    }

    fn unreachable(&self, peer: NodeId) {
        self.change(|state| state.got.unreachable.push(peer));
    }

    async fn receive_stream(
        &self,
        head: Message,
        mut body: ByteReader,
    ) -> Result<(), StreamRefused> {
        let _open = Open::new(self);
        let mut bytes = Vec::new();
        let read = match self.taking().await {
            Taking::Part(len, refused) => {
                bytes.resize(len, 0);
                // If even that fails, it is refused all the same.
                let _ = body.read_exact(&mut bytes).await;
                return Err(refused);
            }
            Taking::Closely(source, ahead_max) => closely(body, &source, ahead_max).await,
            Taking::All | Taking::NotYet => read_all(body, &mut bytes).await,
        };
        if let Err(error) = read {
            self.change(|state| state.got.broken += 1);
            return Err(StreamRefused::Failed(error.to_string()));
        }
        let head = head.probe_payload().cloned().unwrap_or_default();
        self.change(|state| state.got.streams.push((head, bytes)));
        Ok(())
    }

    fn accepts(&self, cluster: ClusterId, node: NodeId) -> bool {
        let local = self.local();
        node != local.node
            && (cluster == local.cluster || cluster.is_nil() || local.cluster.is_nil())
    }
}

/// Counts a stream as being received for as long as it is.
struct Open<'a>(&'a Recorder);

impl<'a> Open<'a> {
    fn new(recorder: &'a Recorder) -> Self {
        recorder.change(|state| {
            state.got.open += 1;
            state.got.begun += 1;
        });
        Self(recorder)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.got.open -= 1);
    }
}

/// Reads to the end. `AsyncReadExt::read_to_end` fills its whole buffer with zeros at each poll.
async fn read_all(mut body: ByteReader, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = vec![0; 64 << 10];
    loop {
        let read = body.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
}

/// Reads all of what a source gives, and fails where the source is too far ahead, or other bytes
/// come.
async fn closely(mut body: ByteReader, source: &Source, ahead_max: usize) -> io::Result<()> {
    let (mut at, mut chunk) = (0, vec![0; 64 << 10]);
    loop {
        let read = body.read(&mut chunk).await?;
        if read == 0 {
            break;
        }
        if !source.is_at(at, &chunk[..read]) {
            return Err(io::Error::other(format!("other bytes came at {at}")));
        }
        at += read;
        let ahead = source.given().saturating_sub(at);
        if ahead > ahead_max {
            return Err(io::Error::other(format!("{ahead} bytes were taken in ahead of these")));
        }
    }
    if at != source.len {
        return Err(io::Error::other(format!("it ended after {at} of {} bytes", source.len)));
    }
    Ok(())
}

/// The bytes of a stream, made as they are asked for.
pub(super) struct Source {
    block: Vec<u8>,
    len: usize,
    end: End,
    given: AtomicUsize,
}

/// What comes behind the bytes of a source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    Error,
    Never,
    Normal,
}

impl Source {
    pub(super) fn new(seed: u64, len: usize, end: End) -> Arc<Self> {
        // Of an odd length, so that no two chunks are alike wherever they are cut.
        let block = pattern(seed, 65_537);
        Arc::new(Self { block, len, end, given: AtomicUsize::new(0) })
    }

    pub(super) fn reader(self: &Arc<Self>) -> ByteReader {
        Box::pin(Reader { source: Arc::clone(self), at: 0 })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.fill(0, &mut bytes);
        bytes
    }

    /// How many bytes were asked for.
    pub(super) fn given(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }

    fn fill(&self, mut at: usize, mut into: &mut [u8]) {
        while !into.is_empty() {
            let from = &self.block[at % self.block.len()..];
            let len = from.len().min(into.len());
            into[..len].copy_from_slice(&from[..len]);
            at += len;
            into = &mut into[len..];
        }
    }

    fn is_at(&self, at: usize, bytes: &[u8]) -> bool {
        let mut wanted = vec![0; bytes.len()];
        self.fill(at, &mut wanted);
        wanted == bytes
    }
}

struct Reader {
    source: Arc<Source>,
    at: usize,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let len = into.len().min(self.source.len - self.at);
        if len == 0 && !into.is_empty() {
            return match self.source.end {
                End::Normal => Poll::Ready(Ok(0)),
                End::Error => Poll::Ready(Err(io::Error::other("planted: the source fails"))),
                // Whoever waits here waits until it is dropped.
                End::Never => Poll::Pending,
            };
        }
        self.source.fill(self.at, &mut into[..len]);
        self.at += len;
        self.source.given.store(self.at, Ordering::SeqCst);
        Poll::Ready(Ok(len))
    }
}
