//! The disk of this machine.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
#[cfg(not(unix))]
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use async_trait::async_trait;
use bytes::Bytes;
use fs4::fs_std::FileExt as _;
use futures::channel::oneshot;

use super::files::{FileId, FileOp, Files, OpenMode};

/// A directory of this machine's file system.
///
/// Two threads of its own do the work, one for everything that changes, one for reading, so that
/// reads never queue behind a sync, and so that syncs need no pool whose order is anybody's guess.
/// They end with the last handle. A call waits in a queue that holds as many as there are callers:
/// a store makes one change at a time.
pub struct OsFiles {
    directory: PathBuf,
    changes: mpsc::Sender<Job>,
    reads: mpsc::Sender<Job>,
    table: Arc<Mutex<Table>>,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Table {
    open: BTreeMap<u64, Arc<File>>,
    count: u64,
    lock: Option<File>,
}

impl OsFiles {
    /// The directory at `path`, which need not exist yet.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn new(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self {
            directory: path.as_ref().to_owned(),
            changes: worker("kontiki-files")?,
            reads: worker("kontiki-reads")?,
            table: Arc::default(),
        })
    }

    async fn on<T: Send + 'static>(
        &self,
        worker: &mpsc::Sender<Job>,
        work: impl FnOnce(&Path, &Mutex<Table>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        let (directory, table) = (self.directory.clone(), Arc::clone(&self.table));
        let job: Job = Box::new(move || {
            let result = work(&directory, &table);
            // Before the answer: whoever drops the last handle after it finds the lock free.
            drop(table);
            // Whoever asked may have gone; what was done stays done.
            let _ = answer.send(result);
        });
        let gone = || io::Error::other("a thread for files has ended");
        worker.send(job).map_err(|_| gone())?;
        // A panic inside drops the answer.
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// The one place that owns threads: a sync blocks.
fn worker(name: &str) -> io::Result<mpsc::Sender<Job>> {
    let (jobs, queue) = mpsc::channel::<Job>();
    let run = move || {
        for job in queue {
            // One job that panics answers nobody, and the next is done all the same.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(jobs)
}

/// The directory alone, as an error names it.
impl fmt::Debug for OsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.directory.display())
    }
}

#[async_trait]
impl Files for OsFiles {
    async fn lock(&self) -> io::Result<()> {
        self.on(&self.changes, |directory, table| {
            std::fs::create_dir_all(directory)?;
            let lock = directory.join(LOCK_NAME);
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(lock)?;
            if lock_of(table).lock.is_some() || !file.try_lock_exclusive()? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            lock_of(table).lock = Some(file);
            Ok(())
        })
        .await
    }

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.on(&self.changes, |directory, _| {
            let mut all = Vec::new();
            for entry in std::fs::read_dir(directory)? {
                let entry = entry?;
                let name = entry.file_name().into_string();
                let metadata = entry.metadata()?;
                // What has no plain name is not ours.
                if let Ok(name) = name
                    && metadata.is_file()
                    && name != LOCK_NAME
                {
                    all.push((name, metadata.len()));
                }
            }
            all.sort();
            Ok(all)
        })
        .await
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<FileId> {
        let name = name.to_owned();
        self.on(&self.changes, move |directory, table| {
            let path = path(directory, &name)?;
            let mut options = OpenOptions::new();
            options.read(true).write(mode != OpenMode::Read);
            options.create(mode == OpenMode::Create).truncate(mode == OpenMode::Create);
            let file = options.open(path)?;
            let mut table = lock_of(table);
            table.count += 1;
            let id = table.count;
            table.open.insert(id, Arc::new(file));
            Ok(FileId(id))
        })
        .await
    }

    async fn run(&self, ops: Vec<FileOp>) -> io::Result<()> {
        self.on(&self.changes, |directory, table| {
            ops.into_iter().try_for_each(|op| run(directory, table, op))
        })
        .await
    }

    async fn read(&self, file: FileId, at: u64, len: usize) -> io::Result<Bytes> {
        self.on(&self.reads, move |_, table| {
            let file = find(table, file)?;
            let mut bytes = vec![0; len];
            let read = read_at(&file, at, &mut bytes)?;
            bytes.truncate(read);
            Ok(bytes.into())
        })
        .await
    }

    fn close(&self, file: FileId) {
        lock_of(&self.table).open.remove(&file.0);
    }
}

fn run(directory: &Path, table: &Mutex<Table>, op: FileOp) -> io::Result<()> {
    match op {
        FileOp::Remove { name } => std::fs::remove_file(path(directory, &name)?),
        FileOp::Rename { from, to } => {
            std::fs::rename(path(directory, &from)?, path(directory, &to)?)
        }
        FileOp::SetLen { file, len } => find(table, file)?.set_len(len),
        FileOp::SyncData { file } => find(table, file)?.sync_data(),
        FileOp::SyncDir => sync_directory(directory),
        FileOp::Write { file, at, parts } => {
            let file = find(table, file)?;
            match &parts[..] {
                [part] => write_at(&file, at, part),
                _ => write_at(&file, at, &parts.concat()),
            }
        }
    }
}

fn find(table: &Mutex<Table>, file: FileId) -> io::Result<Arc<File>> {
    let table = lock_of(table);
    table.open.get(&file.0).cloned().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn path(directory: &Path, name: &str) -> io::Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(directory.join(name))
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Windows keeps names durable by itself, and cannot sync a directory.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn read_at(file: &File, at: u64, mut into: &mut [u8]) -> io::Result<usize> {
    use std::os::unix::fs::FileExt;
    let (mut at, whole) = (at, into.len());
    while !into.is_empty() {
        match FileExt::read_at(file, into, at) {
            Ok(0) => break,
            Ok(read) => {
                at += read as u64;
                into = &mut into[read..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(whole - into.len())
}

#[cfg(unix)]
fn write_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

/// Elsewhere a file has one position for all; a handle of its own has its own.
#[cfg(not(unix))]
fn read_at(file: &File, at: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(into.len() as u64).read_to_end(&mut bytes)?;
    into[..bytes.len()].copy_from_slice(&bytes);
    Ok(bytes.len())
}

#[cfg(not(unix))]
fn write_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}

fn lock_of(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // No code of others runs under the lock, so a poisoned one still holds a whole value.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOCK_NAME: &str = ".lock";
