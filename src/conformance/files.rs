//! The kit for [`Files`]: the disk, as far as it can be judged while the power stays on.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::join;

use super::{Broken, Fixture, KEPT, Outcome, Promised as _};
use crate::runtime::{FileId, FileOp, Files, OpenMode};

/// Makes disks to be judged.
pub trait FilesFixture: Fixture {
    /// A directory, empty at first; the same one each time, with a lock of its own.
    fn files(&self) -> Arc<dyn Files>;
}

kit! {
    ($)
    /// Mounts one test for each promise of a [`Files`](crate::runtime::Files) that can be tried
    /// without a crash; takes an expression that makes a
    /// [`FilesFixture`](crate::conformance::FilesFixture).
    files_conformance, files, FilesFixture;

    self {
        /// `lock` takes the directory for one; another is refused as `WouldBlock` until the first
        /// is gone.
        a_directory_is_one_owners,
        /// Files are listed by name, with their lengths.
        files_are_listed_by_name,
        /// `Create` makes a file empty; `Read` and `Write` find only what is there.
        modes_are_kept,
        /// What was written is read, at any place; between, zeros; fewer bytes only at the end.
        what_was_written_is_read,
        /// The parts of a write stand one behind the other.
        parts_stand_one_behind_the_other,
        /// `SetLen` cuts a file off, and extends it by zeros.
        set_len_cuts_and_extends,
        /// `Rename` replaces what had the name, and an open file stays what it was.
        rename_replaces,
        /// `Remove` deletes the name; an open file stays readable.
        remove_leaves_open_files_readable,
        /// The operations of a run are done in order, up to the first that fails.
        a_run_stops_at_the_first_error,
        /// Runs are done one after the other, in the order they were asked for.
        runs_do_not_mix,
        /// A run whose future is dropped undoes nothing, and the next one comes after it.
        a_run_that_is_let_go_of_undoes_nothing,
        /// An id that is not open is refused as `InvalidInput`, and one that is only for reading
        /// takes no writes.
        ids_are_checked,
    }
}

async fn guarded(_: Arc<dyn FilesFixture>, case: impl Future<Output = Outcome> + Send) -> Outcome {
    case.await
}

async fn locked(fixture: &dyn FilesFixture) -> Result<Arc<dyn Files>, Broken> {
    let files = fixture.files();
    files.lock().await.promised("taking an empty directory")?;
    Ok(files)
}

async fn a_directory_is_one_owners(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let first = locked(&*fixture).await?;
    let second = fixture.files();
    for _ in 0..2 {
        let refused = second.lock().await.err().map(|error| error.kind());
        let wanted = Some(io::ErrorKind::WouldBlock);
        ensure!(refused == wanted, "a directory that is taken is refused as {refused:?}");
    }
    make(&*first, "a", b"x").await?;
    drop(first);
    second.lock().await.promised("taking a directory whose owner is gone")?;
    ensure!(read(&*second, "a").await? == b"x"[..], "the next owner finds another file");
    KEPT
}

async fn files_are_listed_by_name(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let files = locked(&*fixture).await?;
    let listed = files.list().await.promised("listing an empty directory")?;
    ensure!(listed.is_empty(), "in an empty directory {listed:?} is listed");
    for (name, len) in [("b-2", 5), ("a.seg", 0), ("B", 70_000), ("c_3", 1)] {
        make(&*files, name, &vec![7; len]).await?;
    }
    let listed = files.list().await.promised("listing")?;
    let wanted = [("B", 70_000), ("a.seg", 0), ("b-2", 5), ("c_3", 1)];
    let wanted: Vec<_> = wanted.iter().map(|(name, len)| (name.to_string(), *len)).collect();
    ensure!(listed == wanted, "of four files {listed:?} is listed");
    KEPT
}

async fn modes_are_kept(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let files = locked(&*fixture).await?;
    for mode in [OpenMode::Read, OpenMode::Write] {
        let refused = files.open("a", mode).await.err().map(|error| error.kind());
        let wanted = Some(io::ErrorKind::NotFound);
        ensure!(refused == wanted, "{mode:?} of a file that is not there gives {refused:?}");
    }
    make(&*files, "a", b"something").await?;
    let writing = files.open("a", OpenMode::Write).await.promised("opening to write")?;
    files.run(vec![write(writing, 0, b"S")]).await.promised("a write")?;
    ensure!(read(&*files, "a").await? == b"Something"[..], "`Write` does not keep what is there");
    files.open("a", OpenMode::Create).await.promised("making a file that is there")?;
    ensure!(read(&*files, "a").await?.is_empty(), "`Create` keeps what is there");
    KEPT
}

async fn what_was_written_is_read(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let files = locked(&*fixture).await?;
    let file = files.open("a", OpenMode::Create).await.promised("making a file")?;
    let ops = vec![write(file, 0, b"begin"), write(file, 100_000, b"end"), write(file, 2, b"GI")];
    files.run(ops).await.promised("three writes")?;
    for (at, len, wanted) in [
        (0, 5, &b"beGIn"[..]),
        (3, 4, b"In\0\0"),
        (99_998, 5, b"\0\0end"),
        (100_001, 1_000, b"nd"),
        (100_003, 10, b""),
        (1 << 40, 10, b""),
    ] {
        let found = files.read(file, at, len).await.promised("a read")?;
        ensure!(found == wanted, "{len} bytes at {at} are {found:?}, and not {wanted:?}");
    }
    KEPT
}

async fn parts_stand_one_behind_the_other(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let files = locked(&*fixture).await?;
    let file = files.open("a", OpenMode::Create).await.promised("making a file")?;
    let parts = ["one ", "", "two ", "three"].map(|part| Bytes::from_static(part.as_bytes()));
    let ops = vec![FileOp::Write { file, at: 1, parts: parts.to_vec() }];
    files.run(ops).await.promised("a write of parts")?;
    let found = read(&*files, "a").await?;
    ensure!(
        found == b"\0one two three"[..],
        "parts that were written one behind the other: {found:?}"
    );
    KEPT
}

async fn set_len_cuts_and_extends(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let files = locked(&*fixture).await?;
    make(&*files, "a", b"abcdef").await?;
    let file = files.open("a", OpenMode::Write).await.promised("opening to write")?;
    let set = |len| FileOp::SetLen { file, len };
    files.run(vec![set(3), set(5)]).await.promised("cutting and extending a file")?;
    let found = read(&*files, "a").await?;
    ensure!(found == b"abc\0\0"[..], "cut to 3 bytes and extended to 5 it is {found:?}");
    KEPT
}

async fn rename_replaces(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let files = locked(&*fixture).await?;
    make(&*files, "a", b"new").await?;
    make(&*files, "b", b"old").await?;
    let open = files.open("b", OpenMode::Read).await.promised("opening to read")?;
    let rename = FileOp::Rename { from: "a".into(), to: "b".into() };
    files.run(vec![rename, FileOp::SyncDir]).await.promised("a rename")?;
    ensure!(read(&*files, "b").await? == b"new"[..], "the new name shows other bytes");
    let gone = files.open("a", OpenMode::Read).await.is_err();
    ensure!(gone, "the old name is still there");
    let found = files.read(open, 0, 10).await.promised("reading a file that was replaced")?;
    ensure!(found == b"old"[..], "an open file changes when its name goes to another");
    KEPT
}

async fn remove_leaves_open_files_readable(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let files = locked(&*fixture).await?;
    make(&*files, "a", b"bytes").await?;
    let open = files.open("a", OpenMode::Read).await.promised("opening to read")?;
    let remove = || FileOp::Remove { name: "a".into() };
    files.run(vec![remove()]).await.promised("a removal")?;
    let listed = files.list().await.promised("listing")?;
    ensure!(listed.is_empty(), "after the only file was removed {listed:?} is listed");
    let found = files.read(open, 0, 10).await.promised("reading a file that was removed")?;
    ensure!(found == b"bytes"[..], "an open file changes when its name is removed");
    let again = files.run(vec![remove()]).await.err().map(|error| error.kind());
    let wanted = Some(io::ErrorKind::NotFound);
    ensure!(again == wanted, "removing what is not there gives {again:?}");
    KEPT
}

async fn a_run_stops_at_the_first_error(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let files = locked(&*fixture).await?;
    let file = files.open("a", OpenMode::Create).await.promised("making a file")?;
    let failing = FileOp::Rename { from: "nothing".into(), to: "b".into() };
    let ops = vec![write(file, 0, b"before"), failing, write(file, 0, b"behind")];
    let done = files.run(ops).await;
    ensure!(done.is_err(), "a run succeeds of which one operation cannot");
    let found = read(&*files, "a").await?;
    ensure!(found == b"before"[..], "after a run that stopped in the middle there is {found:?}");
    files
        .run(vec![write(file, 0, b"after ")])
        .await
        .promised("a run after one that failed")
        .map(|()| super::Verdict::Kept)
}

async fn runs_do_not_mix(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let files = locked(&*fixture).await?;
    let file = files.open("a", OpenMode::Create).await.promised("making a file")?;
    for _ in 0..20 {
        let sync = || FileOp::SyncData { file };
        let first = vec![write(file, 0, b"1111"), sync(), write(file, 4, b"1111"), sync()];
        let second = vec![write(file, 2, b"2222")];
        let (first, second) = join(files.run(first), files.run(second)).await;
        first.and(second).promised("two runs at once")?;
        let found = read(&*files, "a").await?;
        ensure!(found == b"11222211"[..], "two runs that were asked for one by one left {found:?}");
    }
    KEPT
}

async fn a_run_that_is_let_go_of_undoes_nothing(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let files = locked(&*fixture).await?;
    let file = files.open("a", OpenMode::Create).await.promised("making a file")?;
    for _ in 0..20 {
        let first = vec![write(file, 0, b"1111"), FileOp::SyncData { file }];
        let mut run = files.run(first);
        // Begun, and then nobody waits any more.
        poll_fn(|cx| Poll::Ready(run.poll_unpin(cx).is_ready())).await;
        drop(run);
        files.run(vec![write(file, 2, b"2222")]).await.promised("a run behind one let go of")?;
        let found = read(&*files, "a").await?;
        ensure!(
            found == b"112222"[..],
            "a run that was let go of, and one behind it, left {found:?}"
        );
        files.run(vec![FileOp::SetLen { file, len: 0 }]).await.promised("cutting a file")?;
    }
    KEPT
}

async fn ids_are_checked(fixture: Arc<dyn FilesFixture>) -> Outcome {
    let files = locked(&*fixture).await?;
    make(&*files, "a", b"bytes").await?;
    let reading = files.open("a", OpenMode::Read).await.promised("opening to read")?;
    let written = files.run(vec![write(reading, 0, b"B")]).await;
    ensure!(written.is_err(), "a file that was opened to read can be written");
    files.close(reading);
    for id in [reading, FileId(u64::MAX)] {
        let kinds = [
            files.read(id, 0, 1).await.err().map(|error| error.kind()),
            files.run(vec![FileOp::SyncData { file: id }]).await.err().map(|error| error.kind()),
        ];
        let wanted = [Some(io::ErrorKind::InvalidInput); 2];
        ensure!(kinds == wanted, "reading and syncing a file that is not open give {kinds:?}");
        files.close(id);
    }
    ensure!(read(&*files, "a").await? == b"bytes"[..], "a write that was refused has been done");
    KEPT
}

async fn make(files: &dyn Files, name: &str, bytes: &[u8]) -> Result<(), Broken> {
    let file = files.open(name, OpenMode::Create).await.promised("making a file")?;
    let ops = vec![write(file, 0, bytes), FileOp::SyncData { file }, FileOp::SyncDir];
    files.run(ops).await.promised("writing and syncing a file")?;
    files.close(file);
    Ok(())
}

async fn read(files: &dyn Files, name: &str) -> Result<Bytes, Broken> {
    let file = files.open(name, OpenMode::Read).await.promised("opening to read")?;
    let bytes = files.read(file, 0, 1 << 20).await.promised("a read")?;
    files.close(file);
    Ok(bytes)
}

fn write(file: FileId, at: u64, bytes: &[u8]) -> FileOp {
    FileOp::Write { file, at, parts: vec![Bytes::copy_from_slice(bytes)] }
}
