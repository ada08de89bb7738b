//! Snapshots in files: written beside, then renamed; each chunk with its checksum.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::TryStreamExt as _;
use futures::io::AsyncWrite;
use futures::stream;

use crate::id::LogId;
use crate::runtime::{BoxFuture, ByteReader, FileId, FileOp, Files, OpenMode};
use crate::storage::{SnapshotMeta, SnapshotSink, SnapshotStore, StorageError};

/// Snapshots in a directory of their own.
pub struct FileSnapshotStore {
    files: Arc<dyn Files>,
    unfinished: Arc<Unfinished>,
}

/// The names under which snapshots are written before they have their own.
#[derive(Default)]
struct Unfinished(Mutex<(u64, Vec<String>)>);

impl Unfinished {
    /// A name that no other has, so that two of the same place do not write into each other.
    fn begin(&self, at: LogId) -> String {
        let mut state = self.lock();
        state.0 += 1;
        format!("tmp-{}-{}", name(at), state.0)
    }

    /// What was dropped; whoever begins another one makes room first.
    fn take_dropped(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().1)
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Vec<String>)> {
        // No code of others runs under the lock, so a poisoned one still holds a whole value.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileSnapshotStore {
    /// Opens the snapshots in a directory, takes it for this process alone, and removes what a
    /// crash left unfinished.
    ///
    /// # Errors
    ///
    /// [`StorageError::Busy`] if another process has it.
    pub async fn open(files: Arc<dyn Files>) -> Result<Self, StorageError> {
        files.lock().await.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StorageError::Busy { place: format!("{files:?}") },
            _ => StorageError::io("locking the snapshots' directory")(error),
        })?;
        let listed = files.list().await.map_err(StorageError::io("listing snapshots"))?;
        let left = listed.into_iter().filter(|(name, _)| name.starts_with("tmp-"));
        let mut ops: Vec<_> = left.map(|(name, _)| FileOp::Remove { name }).collect();
        if !ops.is_empty() {
            ops.push(FileOp::SyncDir);
            files.run(ops).await.map_err(StorageError::io("removing unfinished snapshots"))?;
        }
        Ok(Self { files, unfinished: Arc::default() })
    }

    async fn read_meta(&self, name: &str, len: u64) -> Result<SnapshotMeta, StorageError> {
        let file = self.opened(name).await?;
        let tail = len.saturating_sub(TAIL_LEN as u64);
        let read = StorageError::io("reading a snapshot");
        let mut end = self.files.read(file.id, tail, TAIL_LEN).await.map_err(read)?;
        let damaged = |offset, what: &str| StorageError::Corrupt {
            place: name.to_owned(),
            offset,
            what: what.to_owned(),
        };
        if end.len() != TAIL_LEN {
            return Err(damaged(0, "it is too short"));
        }
        let (footer_len, checksum) = (end.get_u32_le(), end.get_u32_le());
        if end[..] != MAGIC[..] {
            return Err(damaged(tail, "it does not end as a snapshot does"));
        }
        let at = tail.saturating_sub(u64::from(footer_len));
        let read = StorageError::io("reading a snapshot");
        let footer = self.files.read(file.id, at, footer_len as usize).await.map_err(read)?;
        if footer.len() != footer_len as usize || crc32c::crc32c(&footer) != checksum {
            return Err(damaged(at, "its description fails its checksum"));
        }
        parse_footer(footer).ok_or_else(|| damaged(at, "its description says nothing sensible"))
    }

    async fn opened(&self, name: &str) -> Result<OpenFile, StorageError> {
        let id = self.files.open(name, OpenMode::Read).await;
        let id = id.map_err(StorageError::io("opening a snapshot"))?;
        Ok(OpenFile { files: Arc::clone(&self.files), id })
    }
}

impl fmt::Debug for FileSnapshotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSnapshotStore").field("files", &self.files).finish()
    }
}

#[async_trait]
impl SnapshotStore for FileSnapshotStore {
    async fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotSink>, StorageError> {
        for name in self.unfinished.take_dropped() {
            match self.files.run(vec![FileOp::Remove { name }]).await {
                // It had got its own name before it failed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(StorageError::io("removing an unfinished snapshot"))?,
            }
        }
        let name = self.unfinished.begin(meta.log_id);
        let id = self.files.open(&name, OpenMode::Create).await;
        let id = id.map_err(StorageError::io("making a snapshot"))?;
        let tmp = Tmp { name: Some(name), unfinished: Arc::clone(&self.unfinished) };
        let file = OpenFile { files: Arc::clone(&self.files), id };
        let buffer = BytesMut::with_capacity(CHUNK_BYTES);
        Ok(Box::new(FileSink { file, meta, tmp, buffer, at: 0, size_bytes: 0, writing: None }))
    }

    async fn list(&self) -> Result<Vec<SnapshotMeta>, StorageError> {
        let listed = self.files.list().await.map_err(StorageError::io("listing snapshots"))?;
        let mut all = Vec::new();
        for (name, len) in listed.into_iter().filter(|(name, _)| name.starts_with("snapshot-")) {
            all.push(self.read_meta(&name, len).await?);
        }
        all.sort_by_key(|meta| std::cmp::Reverse(meta.log_id));
        Ok(all)
    }

    async fn open(&self, meta: &SnapshotMeta, from: u64) -> Result<ByteReader, StorageError> {
        let file = self.opened(&name(meta.log_id)).await?;
        let chunk = from / CHUNK_BYTES as u64;
        let skip = usize::try_from(from % CHUNK_BYTES as u64).expect("less than a chunk");
        let size = meta.size_bytes;
        let chunks =
            stream::try_unfold((file, chunk, skip), move |(file, chunk, skip)| async move {
                let start = chunk * CHUNK_BYTES as u64;
                if start >= size {
                    return Ok(None);
                }
                let len = (size - start).min(CHUNK_BYTES as u64);
                let bytes = read_chunk(&file, chunk, len).await?;
                let bytes = bytes.slice(skip.min(bytes.len())..);
                Ok::<_, io::Error>(Some((bytes, (file, chunk + 1, 0))))
            });
        Ok(Box::pin(Box::pin(chunks).into_async_read()))
    }

    async fn remove(&self, meta: &SnapshotMeta) -> Result<(), StorageError> {
        let ops = vec![FileOp::Remove { name: name(meta.log_id) }, FileOp::SyncDir];
        match self.files.run(ops).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(StorageError::io("removing a snapshot")),
        }
    }
}

/// A file that is closed when nobody uses it any more.
struct OpenFile {
    files: Arc<dyn Files>,
    id: FileId,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.files.close(self.id);
    }
}

async fn read_chunk(file: &OpenFile, chunk: u64, len: u64) -> io::Result<Bytes> {
    let at = chunk * (CHUNK_HEAD + CHUNK_BYTES) as u64;
    let whole = CHUNK_HEAD + usize::try_from(len).expect("at most a chunk");
    let mut bytes = file.files.read(file.id, at, whole).await?;
    if bytes.len() != whole || bytes.get_u32_le() != crc32c::crc32c(&bytes[..]) {
        let what = format!("a snapshot is damaged at byte {at}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(bytes)
}

/// The name of an unfinished snapshot, which is to go if that is dropped.
struct Tmp {
    name: Option<String>,
    unfinished: Arc<Unfinished>,
}

impl Drop for Tmp {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.unfinished.lock().1.push(name);
        }
    }
}

struct FileSink {
    file: OpenFile,
    meta: SnapshotMeta,
    tmp: Tmp,
    buffer: BytesMut,
    at: u64,
    size_bytes: u64,
    writing: Option<BoxFuture<'static, io::Result<()>>>,
}

impl FileSink {
    fn start(&mut self) {
        let data = self.buffer.split().freeze();
        self.buffer.reserve(CHUNK_BYTES);
        self.size_bytes += data.len() as u64;
        let checksum = Bytes::copy_from_slice(&crc32c::crc32c(&data).to_le_bytes());
        let (file, at) = (self.file.id, self.at);
        self.at += (CHUNK_HEAD + data.len()) as u64;
        let write = FileOp::Write { file, at, parts: vec![checksum, data] };
        let files = Arc::clone(&self.file.files);
        self.writing = Some(Box::pin(async move { files.run(vec![write]).await }));
    }

    fn poll_writing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(writing) = &mut self.writing else { return Poll::Ready(Ok(())) };
        writing.as_mut().poll(cx).map(|done| {
            self.writing = None;
            done
        })
    }
}

impl AsyncWrite for FileSink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Err(error)) = self.poll_writing(cx) {
            return Poll::Ready(Err(error));
        }
        if self.writing.is_some() {
            return Poll::Pending;
        }
        let len = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.put_slice(&bytes[..len]);
        if self.buffer.len() == CHUNK_BYTES {
            self.start();
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writing(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[async_trait]
impl SnapshotSink for FileSink {
    async fn commit(mut self: Box<Self>) -> Result<SnapshotMeta, StorageError> {
        let failed = StorageError::io("writing a snapshot");
        std::future::poll_fn(|cx| self.poll_writing(cx)).await.map_err(failed)?;
        if !self.buffer.is_empty() {
            self.start();
            let failed = StorageError::io("writing a snapshot");
            std::future::poll_fn(|cx| self.poll_writing(cx)).await.map_err(failed)?;
        }
        let meta = SnapshotMeta { size_bytes: self.size_bytes, ..self.meta.clone() };
        let file = self.file.id;
        let tmp = self.tmp.name.clone().expect("it has its name until it is committed");
        let ops = vec![
            FileOp::Write { file, at: self.at, parts: vec![footer(&meta)] },
            FileOp::SyncData { file },
            FileOp::Rename { from: tmp, to: name(meta.log_id) },
            FileOp::SyncDir,
        ];
        self.file.files.run(ops).await.map_err(StorageError::io("finishing a snapshot"))?;
        self.tmp.name = None;
        Ok(meta)
    }
}

fn name(at: LogId) -> String {
    format!("snapshot-{:020}-{:020}", at.term, at.index)
}

fn footer(meta: &SnapshotMeta) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(VERSION);
    bytes.put_u64_le(meta.log_id.term);
    bytes.put_u64_le(meta.log_id.index);
    bytes.put_u64_le(meta.size_bytes);
    bytes.put_slice(&meta.system);
    let (len, checksum) = (bytes.len(), crc32c::crc32c(&bytes));
    bytes.put_u32_le(u32::try_from(len).expect("a membership is far below 4 GiB"));
    bytes.put_u32_le(checksum);
    bytes.put_slice(MAGIC);
    bytes.freeze()
}

fn parse_footer(mut bytes: Bytes) -> Option<SnapshotMeta> {
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    let (term, index) = (bytes.try_get_u64_le().ok()?, bytes.try_get_u64_le().ok()?);
    let size_bytes = bytes.try_get_u64_le().ok()?;
    Some(SnapshotMeta { log_id: LogId { term, index }, system: bytes, size_bytes })
}

const VERSION: u8 = 1;
const MAGIC: &[u8; 8] = b"kontiki\x01";
const TAIL_LEN: usize = 16;
const CHUNK_HEAD: usize = 4;
const CHUNK_BYTES: usize = 64 << 10;
