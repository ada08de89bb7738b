//! The disk of this machine.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
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
            let lock = directory.join(LOCK_NAME);
            if !lock.exists() {
                make_directory(directory, sync_directory)?;
            }
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

/// Makes a directory, with those above it, and its name durable: what is synced in it is lost
/// otherwise, when the power goes.
///
/// Those that were there may have been made by a process that ended before it synced, so they are
/// synced too; but they may be of others, and then it is enough to try.
fn make_directory(
    directory: &Path,
    mut sync: impl FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let there = directory.ancestors().find(|path| path.exists()).map(Path::to_owned);
    std::fs::create_dir_all(directory)?;
    let mut made = true;
    for path in directory.ancestors() {
        made &= Some(path) != there.as_deref();
        let above = match path.parent() {
            None => break,
            Some(above) if above.as_os_str().is_empty() => Path::new("."),
            Some(above) => above,
        };
        match sync(above) {
            Err(error) if made => return Err(error),
            _ => {}
        }
    }
    Ok(())
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
#[cfg(windows)]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

fn read_at(file: &File, mut at: u64, mut into: &mut [u8]) -> io::Result<usize> {
    let whole = into.len();
    while !into.is_empty() {
        match read_some_at(file, into, at) {
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

fn write_at(file: &File, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write_some_at(file, bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                bytes = &bytes[written..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

// With the offset in each call: a file's position is one for all its handles, duplicated ones too,
// and the two threads would move it under each other.
#[cfg(unix)]
fn read_some_at(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, at)
}

#[cfg(unix)]
fn write_some_at(file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, at)
}

#[cfg(windows)]
fn read_some_at(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, into, at)
}

#[cfg(windows)]
fn write_some_at(file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, at)
}

fn lock_of(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // No code of others runs under the lock, so a poisoned one still holds a whole value.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOCK_NAME: &str = ".lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_made_is_made_durable_with_those_above_it() {
        let outside = tempfile::tempdir().unwrap();
        let mut synced = Vec::new();
        let directory = outside.path().join("a/b/log");
        make_directory(&directory, |path| {
            assert!(directory.is_dir());
            synced.push(path.to_owned());
            sync_directory(path)
        })
        .unwrap();
        let below = [outside.path().join("a/b"), outside.path().join("a")];
        assert_eq!(synced[..2], below);
        assert_eq!(synced[2], outside.path());
    }

    #[test]
    fn only_what_was_made_must_be_synced() {
        let outside = tempfile::tempdir().unwrap();
        let directory = outside.path().join("log");
        let fails = |at: PathBuf| {
            move |path: &Path| if path == at { Err(io::Error::other("planted")) } else { Ok(()) }
        };
        let above = outside.path().parent().unwrap().to_owned();
        make_directory(&directory, fails(above)).unwrap();
        std::fs::remove_dir(&directory).unwrap();
        make_directory(&directory, fails(outside.path().to_owned())).unwrap_err();
        make_directory(&directory, fails(outside.path().to_owned())).unwrap();
    }

    #[test]
    fn bytes_are_written_and_read_where_they_belong() {
        futures::executor::block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let files = OsFiles::new(directory.path().join("log")).unwrap();
            files.lock().await.unwrap();
            let file = files.open("file", OpenMode::Create).await.unwrap();
            let parts = vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")];
            files.run(vec![FileOp::Write { file, at: 2, parts }]).await.unwrap();
            assert_eq!(files.read(file, 0, 100).await.unwrap(), "\0\0abcdef");
            assert_eq!(files.read(file, 4, 2).await.unwrap(), "cd");
            assert_eq!(files.read(file, 8, 2).await.unwrap(), "");
            let read_only = files.open("file", OpenMode::Read).await.unwrap();
            let parts = vec![Bytes::from_static(b"x")];
            files.run(vec![FileOp::Write { file: read_only, at: 0, parts }]).await.unwrap_err();
            files.close(file);
            let closed = files.read(file, 0, 1).await.unwrap_err().kind();
            assert_eq!(closed, io::ErrorKind::InvalidInput);
        });
    }
}
