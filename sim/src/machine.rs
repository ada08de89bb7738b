//! A state machine around the application's that tells the judge what is applied, and the machine
//! that the simulator's own clients use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use kontiki::runtime::sim::SimProcess;
use kontiki::runtime::{ByteReader, Runtime as _};
use kontiki::storage::SnapshotMeta;
use kontiki::{BoxError, Command, NodeId, Snapshot, StateMachine};

use crate::judge::{Judge, hash};

/// Takes the number off each command, and tells the judge of it.
pub(crate) struct WatchedMachine {
    pub(crate) inner: Box<dyn StateMachine>,
    pub(crate) watch: Watch,
    /// The last command applied, and the hash of all up to it and their answers.
    pub(crate) at: u64,
    pub(crate) chain: u64,
}

/// Whose machine it is, who is told, and how long a snapshot takes.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) id: NodeId,
    pub(crate) judge: Judge,
    pub(crate) process: Arc<SimProcess>,
    pub(crate) snapshot_ms: u64,
}

impl Watch {
    /// What a larger state would take.
    async fn busy(&self, with: &'static str) {
        self.judge.busy(self.id, Some(with));
        if self.snapshot_ms > 0 {
            let until = self.process.now() + Duration::from_millis(self.snapshot_ms);
            self.process.timer(until).await;
        }
    }
}

/// A command with its number.
pub(crate) fn numbered(number: u64, command: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8 + command.len());
    bytes.put_u64_le(number);
    bytes.put_slice(command);
    bytes.freeze()
}

#[async_trait]
impl StateMachine for WatchedMachine {
    async fn apply(&mut self, mut commands: Vec<Command>) -> Result<Vec<Bytes>, BoxError> {
        let mut heads = Vec::with_capacity(commands.len());
        for command in &mut commands {
            let number = command.data.try_get_u64_le()?;
            heads.push((command.log_id, number, hash(number, &command.data)));
        }
        let answers = self.inner.apply(commands).await?;
        for ((log_id, number, what), answer) in heads.into_iter().zip(&answers) {
            let link = hash(what, answer);
            self.chain = hash(self.chain, &link.to_le_bytes());
            self.at = log_id.index;
            self.watch.judge.applied(self.watch.id, log_id, number, self.chain);
        }
        Ok(answers)
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, BoxError> {
        // Each server of a new cluster takes one of nothing.
        if self.at > 0 {
            self.watch.judge.sometimes("a snapshot was taken");
        }
        let inner = self.inner.snapshot().await?;
        let watch = self.watch.clone();
        Ok(Box::new(WatchedSnapshot { inner, at: self.at, chain: self.chain, watch }))
    }

    async fn restore(
        &mut self,
        meta: &SnapshotMeta,
        mut snapshot: ByteReader,
    ) -> Result<(), BoxError> {
        let mut head = [0; 16];
        snapshot.read_exact(&mut head).await?;
        let mut head = &head[..];
        (self.at, self.chain) = (head.get_u64_le(), head.get_u64_le());
        let Watch { judge, id, .. } = &self.watch;
        judge.restored(*id, self.at, self.chain, meta.log_id);
        self.watch.busy("a server died while it restored a snapshot").await;
        let restored = self.inner.restore(meta, snapshot).await;
        judge.busy(*id, None);
        restored
    }
}

struct WatchedSnapshot {
    inner: Box<dyn Snapshot>,
    at: u64,
    chain: u64,
    watch: Watch,
}

#[async_trait]
impl Snapshot for WatchedSnapshot {
    async fn write_to(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BoxError> {
        sink.write_all(&self.at.to_le_bytes()).await?;
        sink.write_all(&self.chain.to_le_bytes()).await?;
        self.watch.busy("a server died while it took a snapshot").await;
        let written = self.inner.write_to(sink).await;
        self.watch.judge.busy(self.watch.id, None);
        written
    }
}

/// Numbers under numbers, as the simulator's own clients write and read them. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registers(Arc<Mutex<Values>>);

#[derive(Clone, Debug, Default)]
struct Values {
    values: BTreeMap<u64, u64>,
    /// The last command applied.
    at: u64,
}

/// What a write found: the value that was there before.
pub(crate) fn found(answer: &[u8]) -> Option<u64> {
    let mut answer = answer;
    let some = answer.try_get_u8().ok()? == 1;
    answer.try_get_u64_le().ok().filter(|_| some)
}

/// What a client asks of the registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Write {
    CompareAndSet { key: u64, expected: Option<u64>, value: u64 },
    Delete { key: u64 },
    Put { key: u64, value: u64 },
}

impl Write {
    pub(crate) fn encode(self) -> Bytes {
        let (tag, key, value, expected) = match self {
            Self::CompareAndSet { key, expected, value } => (0, key, value, expected),
            Self::Delete { key } => (1, key, 0, None),
            Self::Put { key, value } => (2, key, value, None),
        };
        let mut bytes = BytesMut::with_capacity(26);
        bytes.put_u8(tag);
        bytes.put_u64_le(key);
        bytes.put_u64_le(value);
        bytes.put_u8(u8::from(expected.is_some()));
        bytes.put_u64_le(expected.unwrap_or_default());
        bytes.freeze()
    }

    fn decode(mut bytes: Bytes) -> Result<Self, BoxError> {
        let (tag, key, value) =
            (bytes.try_get_u8()?, bytes.try_get_u64_le()?, bytes.try_get_u64_le()?);
        let some = bytes.try_get_u8()? == 1;
        let expected = Some(bytes.try_get_u64_le()?).filter(|_| some);
        Ok(match tag {
            0 => Self::CompareAndSet { key, expected, value },
            1 => Self::Delete { key },
            _ => Self::Put { key, value },
        })
    }
}

impl Registers {
    /// The value under a key, and the last command that this server has applied.
    pub(crate) fn read(&self, key: u64) -> (Option<u64>, u64) {
        let values = self.lock();
        (values.values.get(&key).copied(), values.at)
    }

    fn lock(&self) -> MutexGuard<'_, Values> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StateMachine for Registers {
    async fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<Bytes>, BoxError> {
        let mut values = self.lock();
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            values.at = command.log_id.index;
            let write = Write::decode(command.data)?;
            let (key, set) = match write {
                Write::CompareAndSet { key, value, .. } | Write::Put { key, value } => {
                    (key, Some(value))
                }
                Write::Delete { key } => (key, None),
            };
            let found = values.values.get(&key).copied();
            let fits = !matches!(write, Write::CompareAndSet { expected, .. } if expected != found);
            match set {
                Some(value) if fits => drop(values.values.insert(key, value)),
                None => drop(values.values.remove(&key)),
                Some(_) => {}
            }
            let mut answer = BytesMut::with_capacity(9);
            answer.put_u8(u8::from(found.is_some()));
            answer.put_u64_le(found.unwrap_or_default());
            answers.push(answer.freeze());
        }
        Ok(answers)
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, BoxError> {
        Ok(Box::new(self.lock().clone()))
    }

    async fn restore(&mut self, _: &SnapshotMeta, mut from: ByteReader) -> Result<(), BoxError> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).await?;
        let mut bytes = Bytes::from(bytes);
        let mut restored = Values { at: bytes.try_get_u64_le()?, ..Values::default() };
        while !bytes.is_empty() {
            restored.values.insert(bytes.try_get_u64_le()?, bytes.try_get_u64_le()?);
        }
        *self.lock() = restored;
        Ok(())
    }
}

#[async_trait]
impl Snapshot for Values {
    async fn write_to(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BoxError> {
        sink.write_all(&self.at.to_le_bytes()).await?;
        for (key, value) in self.values {
            sink.write_all(&key.to_le_bytes()).await?;
            sink.write_all(&value.to_le_bytes()).await?;
        }
        Ok(())
    }
}
