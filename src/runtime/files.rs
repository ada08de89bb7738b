//! The disk, as far as a store needs it.

use std::fmt::Debug;
use std::io;

use async_trait::async_trait;
use bytes::Bytes;

/// A directory of files, with the operations of which durability is made.
///
/// Names are plain file names within the one directory (letters, digits, `-`, `_`, `.`), never
/// paths. What is durable is exactly what POSIX promises, so that a simulated disk may lose the
/// rest: a file's bytes after `SyncData`; a name (created, renamed, removed) after `SyncDir`.
///
/// # To implement
///
/// Calls of [`run`](Files::run) are executed one after the other, in the order they were made, and
/// none returns before its operations are done. A future that is dropped does not undo what it
/// began.
#[async_trait]
pub trait Files: Debug + Send + Sync + 'static {
    /// Takes the directory for this process alone, making it first where it is missing; kept until
    /// all clones of the `Files` are gone or the process ends, however it ends.
    ///
    /// Fails with [`io::ErrorKind::WouldBlock`] if another process, or another `Files` of this one,
    /// has it.
    async fn lock(&self) -> io::Result<()>;

    /// The names of all files and their lengths in bytes, in order of name.
    async fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Opens a file; [`OpenMode`] says what if it is there or missing.
    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<FileId>;

    /// Does all of `ops` in order; stops at the first error, and what came before it stays done.
    async fn run(&self, ops: Vec<FileOp>) -> io::Result<()>;

    /// Reads `len` bytes at `at`; fewer only at the end of the file.
    async fn read(&self, file: FileId, at: u64, len: usize) -> io::Result<Bytes>;

    /// Forgets an open file; the id is invalid from here on. Syncs nothing.
    fn close(&self, file: FileId);
}

/// An open file; valid until closed. An id that is not open gives [`io::ErrorKind::InvalidInput`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "implementers make it")]
pub struct FileId(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "implementers match on it; a new mode would be their breaking change"
)]
pub enum OpenMode {
    /// For reading and writing; made empty if it is there already.
    Create,
    /// For reading only; [`io::ErrorKind::NotFound`] if it is missing.
    Read,
    /// For reading and writing; [`io::ErrorKind::NotFound`] if it is missing.
    Write,
}

/// One step of a [`Files::run`].
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_enums,
    reason = "implementers match on it; a new step would be their breaking change"
)]
pub enum FileOp {
    /// Deletes a name; an open file stays readable until it is closed.
    Remove {
        /// The name.
        name: String,
    },
    /// Gives a file another name, replacing what had it, atomically.
    Rename {
        /// The name it has.
        from: String,
        /// The name it gets.
        to: String,
    },
    /// Cuts a file off, or extends it by zeros.
    SetLen {
        /// The file.
        file: FileId,
        /// Its new length in bytes.
        len: u64,
    },
    /// Makes the bytes and the length of a file durable. Must reach the device, not just its cache.
    SyncData {
        /// The file.
        file: FileId,
    },
    /// Makes the names in the directory durable.
    SyncDir,
    /// Writes `parts` one behind the other at `at`, extending the file where needed.
    Write {
        /// The file.
        file: FileId,
        /// The offset of the first byte.
        at: u64,
        /// What to write; several, so that payloads need not be copied together.
        parts: Vec<Bytes>,
    },
}
