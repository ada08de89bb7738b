//! The parts of a node that targets do not look at.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use kontiki::runtime::ByteReader;
use kontiki::storage::SnapshotMeta;
use kontiki::transport::{Inbox, Message, Peer, StreamRefused, Transport, TransportError};
use kontiki::{BoxError, Command, GroupId, LogId, NodeId, Snapshot, StateMachine};

/// A transport that only takes in.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) inbox: Mutex<Option<Arc<dyn Inbox>>>,
}

#[async_trait]
impl Transport for Wire {
    fn attach(&self, inbox: Arc<dyn Inbox>) {
        *lock(&self.inbox) = Some(inbox);
    }

    fn send(&self, _: &Peer, _: Message) -> Result<(), TransportError> {
        Ok(())
    }

    async fn send_stream(&self, _: &Peer, _: Message, _: ByteReader) -> Result<(), TransportError> {
        Err(TransportError::Refused(StreamRefused::Stopped))
    }

    fn disconnect(&self, _: GroupId, _: NodeId) {}

    async fn detach(&self, _: GroupId) {}
}

/// A state that is nothing but the bytes of a snapshot.
#[derive(Clone, Default)]
pub(crate) struct State(pub(crate) Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl StateMachine for State {
    async fn applied(&mut self) -> Result<LogId, BoxError> {
        Ok(LogId::default())
    }

    async fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<Bytes>, BoxError> {
        Ok(vec![Bytes::new(); commands.len()])
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, BoxError> {
        Ok(Box::new(Captured(lock(&self.0).clone())))
    }

    async fn restore(&mut self, _: &SnapshotMeta, mut from: ByteReader) -> Result<(), BoxError> {
        let mut content = Vec::new();
        from.read_to_end(&mut content).await?;
        *lock(&self.0) = content;
        Ok(())
    }
}

struct Captured(Vec<u8>);

#[async_trait]
impl Snapshot for Captured {
    async fn write_to(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BoxError> {
        Ok(sink.write_all(&self.0).await?)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
