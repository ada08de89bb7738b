//! Snapshots in files: written beside, then renamed; each chunk with its checksum.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// How many were begun: two of the same place may be written at once.
    begun: AtomicU64,
    abandoned: Abandoned,
}

/// Files of sinks that were dropped, to be removed by whoever comes next: dropping cannot wait.
type Abandoned = Arc<Mutex<Vec<String>>>;

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
        // Also what is finished: the process that finished it may have ended before it synced.
        ops.push(FileOp::SyncDir);
        files.run(ops).await.map_err(StorageError::io("removing unfinished snapshots"))?;
        Ok(Self { files, begun: AtomicU64::new(0), abandoned: Abandoned::default() })
    }

    /// Removes what was begun and dropped.
    async fn sweep(&self) -> Result<(), StorageError> {
        let names = std::mem::take(&mut *lock(&self.abandoned));
        for name in names {
            match self.files.run(vec![FileOp::Remove { name }]).await {
                // Its commit was dropped too late to be undone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(StorageError::io("removing an unfinished snapshot"))?,
            }
        }
        Ok(())
    }

    /// The length of a file, if it is there.
    async fn len(&self, name: &str) -> Result<Option<u64>, StorageError> {
        let listed = self.files.list().await.map_err(StorageError::io("listing snapshots"))?;
        Ok(listed.into_iter().find(|(found, _)| found == name).map(|(_, len)| len))
    }

    /// A snapshot's file with what it says of itself; `None` if there is none of this name.
    async fn opened(&self, name: &str) -> Result<Option<(OpenFile, SnapshotMeta)>, StorageError> {
        while let Some(len) = self.len(name).await? {
            let file = match self.files.open(name, OpenMode::Read).await {
                // Removed since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                id => id.map_err(StorageError::io("opening a snapshot"))?,
            };
            let file = OpenFile { files: Arc::clone(&self.files), id: file };
            match read_meta(&file, name, len).await {
                Ok(meta) => return Ok(Some((file, meta))),
                // Replaced since; else it is damaged.
                Err(_) if self.len(name).await? != Some(len) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Reads what a snapshot says of itself, behind its chunks.
async fn read_meta(file: &OpenFile, name: &str, len: u64) -> Result<SnapshotMeta, StorageError> {
    let damaged = |offset, what: &str| StorageError::Corrupt {
        place: name.to_owned(),
        offset,
        what: what.to_owned(),
    };
    let read = |at, len| async move {
        let bytes = file.files.read(file.id, at, len).await;
        bytes.map_err(StorageError::io("reading a snapshot"))
    };
    let tail = len.saturating_sub(TAIL_LEN as u64);
    let mut end = read(tail, TAIL_LEN).await?;
    if end.len() != TAIL_LEN {
        return Err(damaged(0, "it is too short"));
    }
    let (footer_len, checksum) = (end.get_u32_le(), end.get_u32_le());
    let (magic, version) = end.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(damaged(tail, "it does not end as a snapshot does"));
    }
    if version != [VERSION] {
        let what = format!("version {} of the format is not known", version[0]);
        return Err(damaged(tail, &what));
    }
    let Some(at) = tail.checked_sub(u64::from(footer_len)) else {
        return Err(damaged(tail, "its description is longer than itself"));
    };
    let footer = read(at, footer_len as usize).await?;
    if footer.len() != footer_len as usize || crc32c::crc32c(&footer) != checksum {
        return Err(damaged(at, "its description fails its checksum"));
    }
    parse_footer(footer)
        .filter(|meta| self::name(meta.log_id) == name && chunks_len(meta.size_bytes) == Some(at))
        .ok_or_else(|| damaged(at, "its description is of something else"))
}

/// How long the chunks of a snapshot are.
fn chunks_len(size_bytes: u64) -> Option<u64> {
    let chunks = size_bytes.div_ceil(CHUNK_BYTES as u64);
    size_bytes.checked_add(chunks.checked_mul(CHUNK_HEAD as u64)?)
}

impl fmt::Debug for FileSnapshotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSnapshotStore").field("files", &self.files).finish()
    }
}

#[async_trait]
impl SnapshotStore for FileSnapshotStore {
    async fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotSink>, StorageError> {
        self.sweep().await?;
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let tmp = format!("tmp-{number}-{}", name(meta.log_id));
        let id = self.files.open(&tmp, OpenMode::Create).await;
        let id = id.map_err(StorageError::io("making a snapshot"))?;
        let file = OpenFile { files: Arc::clone(&self.files), id };
        Ok(Box::new(FileSink {
            file,
            meta,
            tmp: Some(tmp),
            abandoned: Arc::clone(&self.abandoned),
            buffer: BytesMut::with_capacity(CHUNK_BYTES),
            at: 0,
            size_bytes: 0,
            writing: None,
            failed: false,
        }))
    }

    async fn list(&self) -> Result<Vec<SnapshotMeta>, StorageError> {
        self.sweep().await?;
        let listed = self.files.list().await.map_err(StorageError::io("listing snapshots"))?;
        let mut all = Vec::new();
        for (name, _) in listed.into_iter().filter(|(name, _)| name.starts_with("snapshot-")) {
            all.extend(self.opened(&name).await?.map(|(_, meta)| meta));
        }
        all.sort_by_key(|meta| std::cmp::Reverse(meta.log_id));
        Ok(all)
    }

    async fn open(&self, meta: &SnapshotMeta, from: u64) -> Result<ByteReader, StorageError> {
        let found = self.opened(&name(meta.log_id)).await?;
        // One of another length has replaced it.
        let Some((file, _)) = found.filter(|(_, found)| found.size_bytes == meta.size_bytes) else {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err(StorageError::io("opening a snapshot")(missing));
        };
        let place = meta.log_id;
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
                let bytes = read_chunk(&file, place, chunk, len).await?;
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

async fn read_chunk(file: &OpenFile, place: LogId, chunk: u64, len: u64) -> io::Result<Bytes> {
    let at = chunk * (CHUNK_HEAD + CHUNK_BYTES) as u64;
    let whole = CHUNK_HEAD + usize::try_from(len).expect("at most a chunk");
    let mut bytes = file.files.read(file.id, at, whole).await?;
    if bytes.len() != whole || bytes.get_u32_le() != checksum(place, chunk, &bytes) {
        let what = format!("a snapshot is damaged at byte {at}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(bytes)
}

/// With its place, so that a chunk that stands where another should is not taken for it.
fn checksum(place: LogId, chunk: u64, bytes: &[u8]) -> u32 {
    let numbers = [place.term, place.index, chunk];
    let sum = numbers.iter().fold(0, |sum, n| crc32c::crc32c_append(sum, &n.to_le_bytes()));
    crc32c::crc32c_append(sum, bytes)
}

struct FileSink {
    file: OpenFile,
    meta: SnapshotMeta,
    /// Its name until it is committed.
    tmp: Option<String>,
    abandoned: Abandoned,
    buffer: BytesMut,
    at: u64,
    size_bytes: u64,
    writing: Option<BoxFuture<'static, io::Result<()>>>,
    /// A write has failed: what it should have written is missing.
    failed: bool,
}

impl FileSink {
    fn start(&mut self) {
        let data = self.buffer.split().freeze();
        self.buffer.reserve(CHUNK_BYTES);
        let chunk = self.size_bytes / CHUNK_BYTES as u64;
        self.size_bytes += data.len() as u64;
        let checksum = checksum(self.meta.log_id, chunk, &data).to_le_bytes();
        let checksum = Bytes::copy_from_slice(&checksum);
        let (file, at) = (self.file.id, self.at);
        self.at += (CHUNK_HEAD + data.len()) as u64;
        let write = FileOp::Write { file, at, parts: vec![checksum, data] };
        let files = Arc::clone(&self.file.files);
        self.writing = Some(Box::pin(async move { files.run(vec![write]).await }));
    }

    fn poll_writing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed {
            return Poll::Ready(Err(io::Error::other("a write before has failed")));
        }
        let Some(writing) = &mut self.writing else { return Poll::Ready(Ok(())) };
        writing.as_mut().poll(cx).map(|done| {
            self.writing = None;
            self.failed = done.is_err();
            done
        })
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        lock(&self.abandoned).extend(self.tmp.take());
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
        let from = self.tmp.clone().expect("it is committed once");
        let ops = vec![
            FileOp::Write { file, at: self.at, parts: vec![footer(&meta)] },
            FileOp::SyncData { file },
            FileOp::Rename { from, to: name(meta.log_id) },
            FileOp::SyncDir,
        ];
        self.file.files.run(ops).await.map_err(StorageError::io("finishing a snapshot"))?;
        self.tmp = None;
        Ok(meta)
    }
}

fn lock(names: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    // No code of others runs under the lock, so a poisoned one still holds a whole value.
    names.lock().unwrap_or_else(PoisonError::into_inner)
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
    bytes.put_u8(VERSION);
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
const MAGIC: &[u8; 7] = b"kontiki";
const TAIL_LEN: usize = 16;
const CHUNK_HEAD: usize = 4;
const CHUNK_BYTES: usize = 64 << 10;
